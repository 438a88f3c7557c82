//! Random programs on the whole manager, against an oracle that knows pages only.
//!
//! Several processes map, unmap, protect, move, touch, fork and end, on two CPUs whose MMU and TLBs are the simulated
//! machine's. The oracle keeps, for each page of each process, what may be done with it and what it holds. Everything is
//! audited after each step.
#![allow(missing_docs, reason = "names of tests say what they prove")]

#[path = "scripts/touch.rs"]
mod touch;

use core::ops::Range;
use std::collections::{BTreeMap, HashMap};

use kmm::frame::{Gfp, Order, Pfn, VirtAddr};
use kmm::host::PageBlock;
use kmm::vma::{
    Limits, MapFlags, MmLayout, MmapReq, Prot, RemapFlags, RemapReq, VmFlags, VmaError,
};
use kmm::{AddressSpace, MmError};
use kmm_sim::{Config, Machine, Rng, seeded};
use kmm_tests::{Booted, MemFile, boot};

const PAGE: u64 = 4096;
/// All that processes may use: a few pages around a border between leaf tables, so that everything collides.
const FIRST: u64 = 0x3c0;
const END: u64 = 0x450;
const MMAP_TOP: u64 = 0x440;
const HEAP: u64 = 0x3c8;
const FILE_PAGES: u64 = 12;
const MAX_PROCESSES: usize = 5;

/// What a page holds: one number.
#[derive(Clone, Debug)]
enum Data {
    Anon(u64),
    File {
        file: usize,
        page: u64,
        shared: bool,
        /// The private copy, once written.
        own: Option<u64>,
    },
}

#[derive(Clone, Debug)]
struct Page {
    prot: Prot,
    data: Data,
}

struct Process {
    space: AddressSpace<Machine, MemFile>,
    pages: BTreeMap<u64, Page>,
    brk: u64,
}

struct World {
    booted: Booted,
    processes: Vec<Process>,
    files: Vec<MemFile>,
    contents: HashMap<(usize, u64), u64>,
    scarce: bool,
    next_value: u64,
    nr_done: HashMap<&'static str, u64>,
}

fn va(page: u64) -> VirtAddr {
    VirtAddr::new(page * PAGE)
}

fn layout() -> MmLayout {
    MmLayout {
        min_addr: va(FIRST),
        task_size: va(END),
        mmap_base: va(MMAP_TOP),
        ..MmLayout::default()
    }
}

impl World {
    fn new(config: Config, nr_files: usize) -> Self {
        let booted = boot(config).unwrap_or_else(|error| panic!("{error}"));
        let files = (0..nr_files)
            .map(|_| MemFile::new(booted.manager, FILE_PAGES))
            .collect();
        let mut world = Self {
            booted,
            processes: Vec::new(),
            files,
            contents: HashMap::new(),
            scarce: false,
            next_value: 1,
            nr_done: HashMap::new(),
        };
        world.spawn();
        world
    }

    fn spawn(&mut self) {
        let space = AddressSpace::with_layout(self.booted.manager, layout(), Limits::default());
        let Ok(mut space) = space else {
            assert!(self.scarce, "a process could not start");
            return;
        };
        space.set_brk_start(va(HEAP));
        self.processes.push(Process {
            space,
            pages: BTreeMap::new(),
            brk: HEAP * PAGE,
        });
    }

    fn audit(&self) {
        let held =
            |f: &mut dyn FnMut(Pfn)| self.files.iter().for_each(|file| file.for_each_frame(f));
        let spaces = self.processes.iter().map(|process| &process.space);
        let report = self.booted.manager.audit(spaces, held);
        report.unwrap_or_else(|error| panic!("{error}"));
    }

    fn step(&mut self, rng: &mut Rng) {
        if self.processes.is_empty() {
            return self.spawn();
        }
        let p = rng.index(self.processes.len());
        match rng.below(100) {
            0..15 => self.mmap(rng, p),
            15..23 => self.munmap(rng, p),
            23..31 => self.mprotect(rng, p),
            31..37 => self.brk(rng, p),
            37..43 => self.mremap(rng, p),
            43..47 => self.discard(rng, p),
            47..91 => self.touch(rng, p),
            91..96 => self.fork(p),
            96..98 => self.exit(p),
            _ => self.bad_arguments(rng, p),
        }
    }

    fn done(&mut self, what: &'static str) {
        *self.nr_done.entry(what).or_default() += 1;
    }

    /// Only where memory is scarce may an operation fail for want of it.
    fn refused(&mut self, error: MmError) {
        let out_of_memory = matches!(error, MmError::Alloc(_) | MmError::Vma(VmaError::NoMemory));
        assert!(out_of_memory && self.scarce, "refused: {error}");
        self.done("out of memory");
    }

    fn mmap(&mut self, rng: &mut Rng, p: usize) {
        let range = some_range(rng, 20);
        let nr_pages = range.end - range.start;
        let prot = some_prot(rng);
        let fixed = rng.below(3);
        let file = rng
            .one_in(2)
            .then(|| (rng.index(self.files.len()), rng.below(FILE_PAGES)));
        let shared = file.is_some() && rng.one_in(2);
        let mut flags = if shared {
            MapFlags::SHARED
        } else {
            MapFlags::PRIVATE
        };
        flags |= match fixed {
            0 => MapFlags::FIXED,
            1 => MapFlags::FIXED_NOREPLACE,
            _ => MapFlags::empty(),
        };
        if file.is_none() {
            flags |= MapFlags::ANONYMOUS;
        }
        let req = MmapReq {
            addr: va(range.start),
            len_bytes: nr_pages * PAGE - rng.below(PAGE),
            prot,
            flags,
            file: file.map(|(file, page)| (self.files[file].clone(), page)),
            may: VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC,
        };
        let process = &mut self.processes[p];
        let taken = process.pages.range(range.clone()).next().is_some();
        let room = largest_hole(&process.pages) >= nr_pages;
        let start = match process.space.mmap(req) {
            Ok(start) => start.as_u64() / PAGE,
            Err(MmError::Vma(VmaError::Exists)) => {
                assert!(fixed == 1 && taken);
                return;
            }
            Err(MmError::Vma(VmaError::NoMemory)) if fixed == 2 && !room => return,
            Err(error) => return self.refused(error),
        };
        match fixed {
            0 => assert_eq!(start, range.start),
            1 => assert!(start == range.start && !taken, "NOREPLACE replaced"),
            _ => assert!(
                process
                    .pages
                    .range(start..start + nr_pages)
                    .next()
                    .is_none()
                    && start + nr_pages <= END
                    && start >= FIRST,
                "mmap chose what was taken: {start:#x}"
            ),
        }
        for nr in 0..nr_pages {
            let data = match file {
                Some((file, page)) => Data::File {
                    file,
                    page: page + nr,
                    shared,
                    own: None,
                },
                None => Data::Anon(0),
            };
            process.pages.insert(start + nr, Page { prot, data });
        }
        self.done("mmap");
    }

    fn munmap(&mut self, rng: &mut Rng, p: usize) {
        let range = some_range(rng, 16);
        let process = &mut self.processes[p];
        match process
            .space
            .munmap(va(range.start), (range.end - range.start) * PAGE)
        {
            Ok(()) => process.pages.retain(|page, _| !range.contains(page)),
            Err(error) => return self.refused(error),
        }
        self.done("munmap");
    }

    fn mprotect(&mut self, rng: &mut Rng, p: usize) {
        let range = some_range(rng, 12);
        let prot = some_prot(rng);
        let process = &mut self.processes[p];
        let whole = range.clone().all(|page| process.pages.contains_key(&page));
        match process
            .space
            .mprotect(va(range.start), (range.end - range.start) * PAGE, prot)
        {
            Ok(()) => {
                assert!(whole, "mprotect over a hole");
                process
                    .pages
                    .range_mut(range)
                    .for_each(|(_, page)| page.prot = prot);
            }
            Err(MmError::Vma(VmaError::NoMemory)) if !whole => return,
            Err(error) => return self.refused(error),
        }
        self.done("mprotect");
    }

    fn brk(&mut self, rng: &mut Rng, p: usize) {
        let new = (HEAP - 1) * PAGE + rng.below(24 * PAGE);
        let scarce = self.scarce;
        let process = &mut self.processes[p];
        let (old_end, new_end) = (process.brk.div_ceil(PAGE), new.div_ceil(PAGE));
        // Linux wants one page more than it takes.
        let wanted = old_end..if new_end > old_end {
            new_end + 1
        } else {
            old_end
        };
        let dropped = new_end..old_end.max(new_end);
        let nothing_to_drop = new_end < old_end && process.pages.range(dropped).next().is_none();
        let blocked =
            new < HEAP * PAGE || process.pages.range(wanted).next().is_some() || nothing_to_drop;
        let end = process.space.brk(VirtAddr::new(new)).as_u64();
        if end == process.brk && end != new {
            assert!(blocked || scarce, "brk to {new:#x} refused");
            return;
        }
        assert!(end == new && !blocked, "brk {new:#x} gave {end:#x}");
        process
            .pages
            .retain(|page, _| !(new_end..old_end).contains(page));
        for page in old_end..new_end {
            process.pages.insert(
                page,
                Page {
                    prot: Prot::READ | Prot::WRITE,
                    data: Data::Anon(0),
                },
            );
        }
        process.brk = new;
        self.done("brk");
    }

    fn mremap(&mut self, rng: &mut Rng, p: usize) {
        let old = some_range(rng, 8);
        let new_pages = 1 + rng.below(10);
        let old_pages = old.end - old.start;
        let target = some_range(rng, 8).start;
        let flags = match rng.below(3) {
            0 => RemapFlags::empty(),
            1 => RemapFlags::MAYMOVE,
            _ => RemapFlags::MAYMOVE | RemapFlags::FIXED,
        };
        let fixed = flags.contains(RemapFlags::FIXED);
        if fixed && target + new_pages > END {
            return;
        }
        let req = RemapReq {
            old_addr: va(old.start),
            old_len_bytes: old_pages * PAGE,
            new_len_bytes: new_pages * PAGE,
            flags,
            new_addr: va(target),
        };
        let process = &mut self.processes[p];
        let to = match process.space.mremap(&req) {
            Ok(addr) => addr.as_u64() / PAGE,
            // Whether the old range is one area is not for this oracle to know.
            Err(MmError::Vma(_)) => return,
            Err(error) => return self.refused(error),
        };
        if to == old.start && new_pages <= old_pages {
            // Linux does not ask whether what stays is one area, or is mapped at all.
            process
                .pages
                .retain(|page, _| !(old.start + new_pages..old.end).contains(page));
            return self.done("mremap in place");
        }
        let kept = old_pages.min(new_pages);
        let mut moved = Vec::new();
        for page in old.start..old.start + kept {
            moved.extend(process.pages.remove(&page));
        }
        process.pages.retain(|page, _| !old.contains(page));
        assert_eq!(moved.len() as u64, kept, "mremap of a hole");
        assert!(!fixed || to == target);
        let taken = process.pages.range(to..to + new_pages).next().is_some();
        assert!(fixed || !taken, "mremap chose what was taken");
        let (first, prot) = (moved[0].data.clone(), moved[0].prot);
        moved.truncate(usize::try_from(new_pages).unwrap_or(usize::MAX));
        for nr in moved.len() as u64..new_pages {
            let data = match &first {
                Data::Anon(_) => Data::Anon(0),
                &Data::File {
                    file, page, shared, ..
                } => Data::File {
                    file,
                    page: page + nr,
                    shared,
                    own: None,
                },
            };
            moved.push(Page { prot, data });
        }
        for (nr, page) in (0..).zip(moved) {
            process.pages.insert(to + nr, page);
        }
        self.done(if to == old.start {
            "mremap in place"
        } else {
            "mremap move"
        });
    }

    fn discard(&mut self, rng: &mut Rng, p: usize) {
        let range = some_range(rng, 8);
        let process = &mut self.processes[p];
        let whole = range.clone().all(|page| process.pages.contains_key(&page));
        let result = process
            .space
            .discard(va(range.start), (range.end - range.start) * PAGE);
        assert_eq!(result.is_ok(), whole, "{result:?}");
        if whole {
            for (_, page) in process.pages.range_mut(range) {
                match &mut page.data {
                    Data::Anon(value) => *value = 0,
                    Data::File { own, .. } => *own = None,
                }
            }
            self.done("discard");
        }
    }

    fn fork(&mut self, p: usize) {
        if self.processes.len() == MAX_PROCESSES {
            return;
        }
        let parent = &mut self.processes[p];
        match parent.space.fork() {
            Ok(space) => {
                let (pages, brk) = (parent.pages.clone(), parent.brk);
                self.processes.push(Process { space, pages, brk });
                self.done("fork");
            }
            Err(error) => self.refused(error),
        }
    }

    fn exit(&mut self, p: usize) {
        self.processes.swap_remove(p);
        self.done("exit");
    }

    fn bad_arguments(&mut self, rng: &mut Rng, p: usize) {
        let space = &mut self.processes[p].space;
        let odd = va(FIRST) + 1 + rng.below(PAGE - 1);
        let invalid = Err(MmError::Vma(VmaError::Invalid));
        assert_eq!(space.munmap(odd, PAGE), invalid);
        assert_eq!(space.munmap(va(FIRST), 0), invalid);
        assert_eq!(space.munmap(va(END), PAGE), invalid);
        assert_eq!(space.munmap(va(FIRST), u64::MAX), invalid);
        assert_eq!(space.mprotect(odd, PAGE, Prot::READ), invalid);
        let below = MmapReq::anonymous(PAGE, Prot::READ).fixed_at(va(FIRST - 1));
        assert_eq!(space.mmap(below), Err(MmError::Vma(VmaError::NotPermitted)));
        let mut neither = MmapReq::anonymous(PAGE, Prot::READ);
        neither.flags = MapFlags::ANONYMOUS;
        assert_eq!(space.mmap(neither).map(drop), invalid);
        assert_eq!(
            space.mmap(MmapReq::anonymous(0, Prot::READ)).map(drop),
            invalid
        );
    }
}

fn some_range(rng: &mut Rng, longest: u64) -> Range<u64> {
    let start = rng.range(FIRST..END);
    start..(start + 1 + rng.below(longest)).min(END)
}

/// Any access but write and execute together: nobody asks for that here, so nobody must get it.
fn some_prot(rng: &mut Rng) -> Prot {
    *rng.pick(&[
        Prot::empty(),
        Prot::READ,
        Prot::READ | Prot::WRITE,
        Prot::READ | Prot::WRITE,
        Prot::READ | Prot::WRITE,
        Prot::READ | Prot::EXEC,
    ])
}

fn largest_hole(pages: &BTreeMap<u64, Page>) -> u64 {
    let mut largest = 0;
    let mut from = FIRST;
    for &page in pages.keys() {
        largest = largest.max(page.saturating_sub(from));
        from = page + 1;
    }
    largest.max(END - from)
}

fn finish(world: World, free_at_start: usize, stock: Vec<PageBlock>) {
    let manager = world.booted.manager;
    let World {
        processes,
        files,
        nr_done,
        ..
    } = world;
    drop(processes);
    drop(files);
    for block in stock {
        manager.page_alloc().free_pages(block);
    }
    let none = core::iter::empty::<&AddressSpace<Machine, MemFile>>();
    manager
        .audit(none, |_| {})
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        manager.pages().accounting().free,
        free_at_start,
        "frames were lost"
    );
    println!("{nr_done:?}");
}

/// Machines with holes in their RAM and two CPUs.
fn machine_with_holes() -> Config {
    let frames =
        |start: usize, end: usize| kmm::frame::PfnRange::new(Pfn::new(start), Pfn::new(end));
    Config::with_ram([frames(0, 0x9f), frames(0x100, 0x380), frames(0x3c0, 0x700)]).cpus(2)
}

#[test]
fn random_programs_match_the_oracle() {
    for round in 0..8 {
        seeded(0x5c21 + round, |rng| {
            let mut world = World::new(machine_with_holes(), 3);
            let free_at_start = world.booted.manager.pages().accounting().free
                + world.processes[0].space.stat().nr_tables;
            for _ in 0..800 {
                world.step(rng);
                world.audit();
            }
            for what in [
                "mmap",
                "munmap",
                "mprotect",
                "brk",
                "mremap in place",
                "mremap move",
                "discard",
                "fork",
                "exit",
                "read",
                "write",
                "segv",
                "bus",
            ] {
                assert!(
                    world.nr_done.contains_key(what),
                    "{what} never came to pass"
                );
            }
            finish(world, free_at_start, Vec::new());
        });
    }
}

#[test]
fn random_programs_survive_scarce_memory() {
    let mut nr_refused = 0;
    for round in 0..8 {
        seeded(0xa5ca + round, |rng| {
            let mut world = World::new(machine_with_holes(), 3);
            let free_at_start = world.booted.manager.pages().accounting().free
                + world.processes[0].space.stat().nr_tables;
            world.scarce = true;
            let mut stock: Vec<PageBlock> = Vec::new();
            for step in 0..800 {
                if step % 40 == 0 {
                    // All but a few pages are taken, so that every allocation gets to be the one that fails.
                    let pages = world.booted.manager.page_alloc();
                    while let Ok(block) =
                        pages.alloc_pages_nowait(Gfp::HIGHUSER_MOVABLE, Order::ZERO)
                    {
                        stock.push(block);
                    }
                    let few = rng.index(12).min(stock.len());
                    for block in stock.drain(stock.len() - few..) {
                        pages.free_pages(block);
                    }
                }
                world.step(rng);
                let held = |f: &mut dyn FnMut(Pfn)| {
                    world.files.iter().for_each(|file| file.for_each_frame(f));
                    stock.iter().for_each(|block| f(block.pfn()));
                };
                let spaces = world.processes.iter().map(|process| &process.space);
                world
                    .booted
                    .manager
                    .audit(spaces, held)
                    .unwrap_or_else(|error| panic!("{error}"));
            }
            nr_refused += world.nr_done.get("out of memory").copied().unwrap_or(0);
            finish(world, free_at_start, stock);
        });
    }
    assert!(nr_refused > 100, "memory ran out only {nr_refused} times");
}
