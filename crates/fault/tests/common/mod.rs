//! What the tests share: a machine, files, and processes whose accesses fault until they succeed.
#![allow(
    dead_code,
    missing_docs,
    unsafe_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    reason = "test support; each test binary uses a part of it"
)]

use core::fmt;
use core::ops::Range;
use std::collections::BTreeMap;
use std::sync::Mutex;

use kmm_fault::{
    FaultCause, FaultEnv, FaultError, FaultKind, FileError, FilePage, FileSource, Sharing, Space,
    Usage, forget, frame_of, handle, put_page, restrict, share,
};
use kmm_frame::{Gfp, PageFlags, Pfn, PhysAddr, VirtAddr};
use kmm_host::{CpuId, PageReq, PageSource, TlbControl, TlbTarget};
use kmm_pagetable_walker::{KernelHalf, Levels, Mapper, Pte, Root, Span, TableCounter};
use kmm_sim::{Access, Config, FailNth, Fault, FreeListSource, Machine, Mode, SimPtes};
use kmm_vma::{Limits, MapFlags, Mm, MmLayout, MmapReq, Prot, VmFlags};

pub const PAGE: u64 = 4096;
pub const RW: Prot = Prot::READ.union(Prot::WRITE);
pub type Source = FailNth<FreeListSource>;

/// A page of the address space. Small numbers are below the lowest address.
pub const fn va(page: u64) -> VirtAddr {
    VirtAddr::new(page * PAGE)
}

/// A machine with a kernel's top table and the page of zeros.
pub struct World {
    pub machine: &'static Machine,
    pub pages: Source,
    levels: Levels,
    kernel: KernelHalf,
    pub zero_page: Pfn,
    /// Frames in use when there is no process.
    pub idle: usize,
}

impl World {
    pub fn new() -> &'static Self {
        Self::with_levels(Levels::Four)
    }

    pub fn with_levels(levels: Levels) -> &'static Self {
        let config = Config::with_mib(16).cpus(4);
        let machine = Machine::new(match levels {
            Levels::Four => config,
            Levels::Five => config.five_levels(),
        });
        let pages = FailNth::new(FreeListSource::new(machine));
        let tables = TableCounter::new();
        // SAFETY: source, store and descriptors belong to one machine.
        let mapper =
            unsafe { Mapper::new(machine.ptes(), &pages, machine.mem_map(), levels, &tables) };
        let mut root = mapper.alloc_root().expect("a table");
        let start = levels.kernel_start();
        let kernel = mapper
            .prealloc_kernel_pgds(&mut root, start..start + levels.top().size_bytes())
            .expect("tables");
        // It is never freed.
        let _ = root.pfn();
        let zero = pages.alloc(PageReq::page(Gfp::KERNEL | Gfp::ZERO));
        let (zero_page, _) = zero.expect("a page of zeros").into_raw();
        let idle = pages.inner().outstanding();
        Box::leak(Box::new(Self {
            machine,
            pages,
            levels,
            kernel,
            zero_page,
            idle,
        }))
    }

    pub fn mapper<'a>(&'a self, tables: &'a TableCounter) -> Mapper<'a, SimPtes, Source> {
        // SAFETY: source, store and descriptors belong to one machine; the fault handler enters frames that it owns.
        unsafe {
            Mapper::new(
                self.machine.ptes(),
                &self.pages,
                self.machine.mem_map(),
                self.levels,
                tables,
            )
        }
    }

    pub fn process(&'static self, cpu: u32) -> Process {
        self.process_with(cpu, Mm::new(MmLayout::default(), Limits::default()))
    }

    pub fn process_with(&'static self, cpu: u32, mm: Mm<File>) -> Process {
        self.try_process(cpu, mm).expect("a top table")
    }

    fn try_process(&'static self, cpu: u32, mm: Mm<File>) -> Option<Process> {
        let tables = TableCounter::new();
        let root = self.mapper(&tables).alloc_user_root(self.kernel).ok()?;
        Some(Process {
            world: self,
            mm,
            root: Some(root),
            tables,
            usage: Usage::default(),
            cpu: CpuId::new(cpu),
        })
    }

    /// The first bytes of a frame.
    pub fn byte(&self, at: PhysAddr) -> u8 {
        let mut byte = [0];
        self.machine.read_phys(at, &mut byte);
        byte[0]
    }

    pub fn page_of_zeros_is_untouched(&self) {
        let mut bytes = [1; PAGE as usize];
        self.machine.read_phys(self.zero_page.phys(), &mut bytes);
        assert!(
            bytes.iter().all(|&byte| byte == 0),
            "the page of zeros was written"
        );
    }

    /// Every frame's counts are what tables and files hold of it.
    pub fn audit(&self, processes: &[&Process], files: &[File]) {
        self.page_of_zeros_is_untouched();
        let mut mapped = BTreeMap::<Pfn, i32>::new();
        let mut held = BTreeMap::<Pfn, i32>::new();
        for process in processes {
            let (mut anon, mut file) = (0, 0);
            process.for_each(|page, pte| {
                let (area, vma) = process.mm.lookup(va(page)).expect("a page without an area");
                let pfn = frame_of(pte).expect("an entry without a frame");
                let rights = pte.flags();
                use kmm_pagetable_walker::PteFlags as P;
                let can_write = rights.contains(P::RW);
                assert!(
                    !can_write || vma.flags.contains(VmFlags::WRITE),
                    "{area:?} {pte:?}"
                );
                let can_exec = !rights.contains(P::NX);
                assert!(
                    !can_exec || vma.flags.contains(VmFlags::EXEC),
                    "{area:?} {pte:?}"
                );
                if pfn == self.zero_page {
                    assert!(!can_write && vma.is_private(), "INV-2");
                    return;
                }
                *mapped.entry(pfn).or_default() += 1;
                if can_write && vma.is_private() {
                    let page = self.machine.mem_map().page(pfn);
                    let alone = (page.map_count(), page.ref_count()) == (1, 1);
                    assert!(
                        alone && page.test(PageFlags::ANON),
                        "INV-4: {pfn} at {page:?}"
                    );
                }
                if self.machine.mem_map().page(pfn).test(PageFlags::ANON) {
                    anon += 1;
                } else {
                    file += 1;
                }
            });
            assert_eq!(process.usage.anon_pages, anon);
            assert_eq!(process.usage.file_pages, file);
            assert_eq!(process.usage.rss_pages(), anon + file);
        }
        for file in files {
            for &pfn in file.0.pages.lock().expect("alive").values() {
                *held.entry(pfn).or_default() += 1;
            }
        }
        for pfn in self.machine.spanned().iter() {
            let page = self.machine.mem_map().page(pfn);
            let entries = mapped.get(&pfn).copied().unwrap_or(0);
            let refs = entries + held.get(&pfn).copied().unwrap_or(0);
            if refs > 0 {
                assert_eq!(
                    (page.map_count(), page.ref_count()),
                    (entries, refs),
                    "{pfn}"
                );
            } else {
                assert_eq!(page.map_count(), 0, "{pfn} is mapped nowhere");
                assert!(!page.test(PageFlags::ANON), "{pfn} is nobody's");
            }
        }
        let frames = mapped
            .keys()
            .chain(held.keys())
            .collect::<std::collections::BTreeSet<_>>();
        let tables: usize = processes.iter().map(|p| p.tables.nr_tables()).sum();
        let outstanding = self.pages.inner().outstanding();
        assert_eq!(
            outstanding,
            self.idle + frames.len() + tables,
            "a frame is lost"
        );
    }
}

/// A file of a few pages, which are read from the device at their first use. A handle.
#[derive(Clone, Copy)]
pub struct File(&'static Inner);

pub struct Inner {
    world: &'static World,
    fill: u8,
    nr_pages: u64,
    pages: Mutex<BTreeMap<u64, Pfn>>,
    broken: Mutex<Option<FileError>>,
}

impl PartialEq for File {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self.0, other.0)
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({})", self.0.fill)
    }
}

impl File {
    /// Page `n` is full of `fill + n`.
    pub fn new(world: &'static World, fill: u8, nr_pages: u64) -> Self {
        Self(Box::leak(Box::new(Inner {
            world,
            fill,
            nr_pages,
            pages: Mutex::new(BTreeMap::new()),
            broken: Mutex::new(None),
        })))
    }

    pub fn breaks(&self, error: Option<FileError>) {
        *self.0.broken.lock().expect("alive") = error;
    }

    pub fn frame(&self, pgoff: u64) -> Option<Pfn> {
        self.0.pages.lock().expect("alive").get(&pgoff).copied()
    }

    /// Forgets its pages, which nobody may map.
    pub fn close(self) {
        let mut pages = self.0.pages.lock().expect("alive");
        for (_, pfn) in core::mem::take(&mut *pages) {
            let world = self.0.world;
            // SAFETY: the reference of the file.
            unsafe { put_page(&world.machine.mem_map(), &world.pages, pfn) };
        }
    }
}

// SAFETY: each page that is returned has one reference more, and lies in the machine's RAM.
unsafe impl FileSource for File {
    fn page(&self, pgoff: u64) -> Result<FilePage, FileError> {
        if let Some(error) = *self.0.broken.lock().expect("alive") {
            return Err(error);
        }
        if pgoff >= self.0.nr_pages {
            return Err(FileError::BeyondEnd);
        }
        let mut pages = self.0.pages.lock().expect("alive");
        let map = self.0.world.machine.mem_map();
        if let Some(&pfn) = pages.get(&pgoff) {
            map.page(pfn).get();
            return Ok(FilePage { pfn, major: false });
        }
        let block = self.0.world.pages.alloc(PageReq::page(Gfp::HIGHUSER));
        let block = block.map_err(|_| FileError::OutOfMemory)?;
        let (pfn, _) = block.into_raw();
        self.0
            .world
            .machine
            .fill_frame(pfn, self.0.fill + pgoff as u8);
        map.page(pfn).set(PageFlags::FILE | PageFlags::UPTODATE);
        map.page(pfn).set_ref_count(2);
        pages.insert(pgoff, pfn);
        Ok(FilePage { pfn, major: true })
    }
}

pub struct Process {
    pub world: &'static World,
    pub mm: Mm<File>,
    pub root: Option<Root>,
    pub tables: TableCounter,
    pub usage: Usage,
    pub cpu: CpuId,
}

impl Process {
    fn root(&self) -> &Root {
        self.root.as_ref().expect("alive")
    }

    pub fn root_pfn(&self) -> Pfn {
        self.root().pfn()
    }

    /// One fault.
    pub fn fault(&mut self, at: VirtAddr, code: u64) -> Result<FaultKind, FaultError> {
        self.fault_with(self.world.machine.tlb(), at, code)
    }

    /// One fault, with another way to flush.
    pub fn fault_with<T: TlbControl>(
        &mut self,
        tlb: &T,
        at: VirtAddr,
        code: u64,
    ) -> Result<FaultKind, FaultError> {
        let env = FaultEnv {
            mapper: self.world.mapper(&self.tables),
            pages: &self.world.pages,
            phys: self.world.machine.phys(),
            tlb,
            zero_page: self.world.zero_page,
        };
        let mut space = Space {
            mm: &mut self.mm,
            root: self.root.as_mut().expect("alive"),
            usage: &mut self.usage,
        };
        handle(&env, &mut space, at, FaultCause::from_error_code(code))
    }

    /// Accesses as the program or the kernel does, with as many faults as it takes: where it is, and the faults.
    pub fn access(
        &mut self,
        at: VirtAddr,
        access: Access,
        mode: Mode,
    ) -> Result<(PhysAddr, Vec<FaultKind>), FaultError> {
        let mut faults = Vec::new();
        loop {
            let root = self.root_pfn();
            match self.world.machine.access(self.cpu, root, at, access, mode) {
                Ok(phys) => return Ok((phys, faults)),
                Err(Fault::Page(fault)) => faults.push(self.fault(fault.va, fault.error_code)?),
                Err(other) => panic!("{other}"),
            }
            assert!(
                faults.len() < 3,
                "{access:?} at {at} faults for ever: {faults:?}"
            );
        }
    }

    pub fn read(&mut self, at: VirtAddr) -> Result<u8, FaultError> {
        let (phys, _) = self.access(at, Access::Read, Mode::User)?;
        Ok(self.world.byte(phys))
    }

    pub fn write(&mut self, at: VirtAddr, byte: u8) -> Result<(), FaultError> {
        let (phys, _) = self.access(at, Access::Write, Mode::User)?;
        self.world.machine.write_phys(phys, &[byte]);
        Ok(())
    }

    /// The frame of a page now.
    pub fn frame(&self, page: u64) -> Option<Pfn> {
        let mapper = self.world.mapper(&self.tables);
        frame_of(mapper.walk(self.root(), va(page)).pte)
    }

    pub fn for_each(&self, mut f: impl FnMut(u64, Pte)) {
        let mapper = self.world.mapper(&self.tables);
        let all = VirtAddr::ZERO..VirtAddr::new(1 << 47);
        let walked = mapper.for_each(self.root(), all, |span| {
            if let Span::Mapped(leaf) | Span::NotPresent(leaf) = span {
                f(leaf.va.page_number(), leaf.pte);
            }
        });
        assert_eq!(walked, Ok(()));
    }

    pub fn map(&mut self, pages: Range<u64>, prot: Prot) {
        let req = MmapReq::anonymous((pages.end - pages.start) * PAGE, prot);
        self.map_req(req.fixed_at(va(pages.start)));
    }

    pub fn map_stack(&mut self, pages: Range<u64>) {
        let req = MmapReq::anonymous((pages.end - pages.start) * PAGE, RW);
        let mut req = req.fixed_at(va(pages.start));
        req.flags |= MapFlags::GROWSDOWN;
        self.map_req(req);
    }

    pub fn map_file(&mut self, pages: Range<u64>, prot: Prot, file: File, shared: bool) {
        self.map_req(MmapReq {
            addr: va(pages.start),
            len_bytes: (pages.end - pages.start) * PAGE,
            prot,
            flags: MapFlags::FIXED
                | if shared {
                    MapFlags::SHARED
                } else {
                    MapFlags::PRIVATE
                },
            file: Some((file, 0)),
            may: VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC,
        });
    }

    fn map_req(&mut self, req: MmapReq<File>) {
        let mapped = self.mm.mmap(req).expect("room");
        if mapped.replaced {
            self.zap(mapped.range);
        }
    }

    pub fn unmap(&mut self, pages: Range<u64>) {
        let range = self
            .mm
            .munmap(va(pages.start), (pages.end - pages.start) * PAGE)
            .expect("a range");
        self.zap(range);
    }

    fn zap(&mut self, range: Range<VirtAddr>) {
        let world = self.world;
        let map = world.machine.mem_map();
        let target = TlbTarget::User {
            root: self.root_pfn(),
        };
        let mapper = world.mapper(&self.tables);
        let mut gather = mapper.gather(target, world.machine.tlb());
        let mut gone = Vec::new();
        let (root, usage) = (self.root.as_mut().expect("alive"), &mut self.usage);
        mapper
            .unmap_range(root, range, &mut gather, |leaf, _| {
                gone.extend(forget(&map, &world.pages, world.zero_page, leaf, usage));
            })
            .expect("base pages");
        gather.finish();
        for pfn in gone {
            // SAFETY: the reference of an entry that was cleared and flushed.
            unsafe { put_page(&map, &world.pages, pfn) };
        }
    }

    pub fn protect(&mut self, pages: Range<u64>, prot: Prot) {
        let len_bytes = (pages.end - pages.start) * PAGE;
        let changed = self.mm.mprotect(va(pages.start), len_bytes, prot);
        let range = changed.expect("areas").range;
        let mapper = self.world.mapper(&self.tables);
        let target = TlbTarget::User {
            root: self.root_pfn(),
        };
        let mut gather = mapper.gather(target, self.world.machine.tlb());
        let root = self.root.as_mut().expect("alive");
        mapper
            .protect_range(root, range, &mut gather, |leaf| restrict(leaf, prot.into()))
            .expect("base pages");
        gather.finish();
    }

    /// A child that runs on another CPU.
    pub fn fork(&mut self, cpu: u32) -> Process {
        self.try_fork(cpu).expect("memory for a child")
    }

    pub fn try_fork(&mut self, cpu: u32) -> Option<Process> {
        let world = self.world;
        let map = world.machine.mem_map();
        let mut child = world.try_process(cpu, self.mm.fork().ok()?)?;
        let target = TlbTarget::User {
            root: self.root_pfn(),
        };
        let mut gather = world
            .mapper(&self.tables)
            .gather(target, world.machine.tlb());
        let mapper = world.mapper(&child.tables);
        let parent_root = self.root.as_mut().expect("alive");
        let child_root = child.root.as_mut().expect("alive");
        for (range, vma) in self.mm.iter() {
            let sharing = if vma.is_private() {
                Sharing::CopyOnWrite
            } else {
                Sharing::Shared
            };
            let usage = &mut child.usage;
            let copied = mapper.copy_user_range(
                parent_root,
                child_root,
                range,
                &mut gather,
                |leaf, parent| {
                    share(
                        &map,
                        &world.pages,
                        world.zero_page,
                        sharing,
                        leaf,
                        parent,
                        usage,
                    )
                },
            );
            if copied.is_err() {
                gather.finish();
                child.exit();
                return None;
            }
        }
        gather.finish();
        Some(child)
    }

    pub fn exit(mut self) {
        self.leave();
    }

    fn leave(&mut self) {
        self.zap(VirtAddr::ZERO..VirtAddr::new(1 << 47));
        if let Some(root) = self.root.take() {
            let mapper = self.world.mapper(&self.tables);
            let target = TlbTarget::User { root: root.pfn() };
            let mut gather = mapper.gather(target, self.world.machine.tlb());
            mapper.free_root(root, &mut gather);
            gather.finish();
        }
    }

    /// Everything that can be seen of the process.
    pub fn picture(&self) -> String {
        let map = self.world.machine.mem_map();
        let mut text = format!("{:?} {}\n", self.usage, self.tables.nr_tables());
        for area in self.mm.iter() {
            text += &format!("{area:x?}\n");
        }
        self.for_each(|page, pte| {
            let counts =
                frame_of(pte).map(|pfn| (map.page(pfn).map_count(), map.page(pfn).ref_count()));
            text += &format!("{page:x} {pte:?} {counts:?}\n");
        });
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.root.is_some() && !std::thread::panicking() {
            self.leave();
        }
    }
}
