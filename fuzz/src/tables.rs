//! Page tables against a map of pages, on the simulated machine's memory, with frames that run out.

use core::cell::OnceCell;
use std::collections::BTreeMap;

use kmm_frame::{PhysAddr, VirtAddr};
use kmm_host::TlbTarget;
use kmm_pagetable_walker::{
    KernelHalf, Level, Levels, MapError, Mapper, PteFlags, Root, TableCounter,
};
use kmm_sim::{Config, FailNth, FreeListSource, Machine, SimPtes};

use crate::Tape;

const PAGE: u64 = 4096;
/// Everything happens in this many pages, at two places of the address space.
const WINDOW: usize = 2048;
const BASES: [u64; 2] = [0x4000_0000, 0x7f00_0000_0000];
const KINDS: [PteFlags; 3] = [PteFlags::USER_RO, PteFlags::USER_ROX, PteFlags::USER_RW];

struct World {
    machine: &'static Machine,
    pages: FailNth<FreeListSource>,
    tables: TableCounter,
    kernel: OnceCell<(Root, KernelHalf)>,
}

thread_local! {
    /// A machine costs more than an input; each leaves it as it was.
    static WORLD: World = {
        let machine = Machine::new(Config::with_mib(16).cpus(1));
        World {
            machine,
            pages: FailNth::new(FreeListSource::new(machine)),
            tables: TableCounter::new(),
            kernel: OnceCell::new(),
        }
    };
}

/// Runs an input.
pub fn run(bytes: &[u8]) {
    WORLD.with(|world| world.run(&mut Tape::new(bytes)));
}

type FuzzMapper<'a> = Mapper<'a, SimPtes, FailNth<FreeListSource>>;

impl World {
    fn mapper(&self) -> FuzzMapper<'_> {
        let (ptes, map) = (self.machine.ptes(), self.machine.mem_map());
        // SAFETY: nobody reads or writes the frames that are mapped; source, store and descriptors belong to one machine.
        unsafe { Mapper::new(ptes, &self.pages, map, Levels::Four, &self.tables) }
    }

    fn unmap(&self, root: &mut Root, range: core::ops::Range<VirtAddr>) -> Result<(), MapError> {
        let target = TlbTarget::User { root: root.pfn() };
        let mut gather = self.mapper().gather(target, self.machine.tlb());
        let done = self
            .mapper()
            .unmap_range(root, range, &mut gather, |_, _| {});
        gather.finish();
        done
    }

    fn run(&self, tape: &mut Tape<'_>) {
        let (_, kernel) = self.kernel.get_or_init(|| {
            let mut root = self.mapper().alloc_root().expect("a frame");
            let start = Levels::Four.kernel_start();
            let half = start..start + Levels::Four.top().size_bytes();
            let half = self.mapper().prealloc_kernel_pgds(&mut root, half);
            (root, half.expect("a frame"))
        });
        let at_rest = self.pages.inner().outstanding();
        let nr_tables = self.tables.nr_tables();
        let mut root = self.mapper().alloc_user_root(*kernel).expect("a frame");
        let mut model: BTreeMap<u64, (u64, PteFlags)> = BTreeMap::new();
        while !tape.is_empty() {
            let first = tape.pick(&BASES) / PAGE + tape.below(WINDOW) as u64;
            let nr_pages = 1 + tape.below(tape.clone().pick(&[4, 64, 1024])) as u64;
            let range = VirtAddr::new(first * PAGE)..VirtAddr::new((first + nr_pages) * PAGE);
            let is_empty = model.range(first..first + nr_pages).next().is_none();
            match tape.below(5) {
                0 | 1 => {
                    let frame = tape.below(1 << 20) as u64;
                    let (flags, largest) =
                        (tape.pick(&KINDS), tape.pick(&[Level::Pte, Level::Pmd]));
                    let phys = PhysAddr::new(frame * PAGE);
                    match self
                        .mapper()
                        .map_range(&mut root, range, phys, flags, largest)
                    {
                        Ok(()) => {
                            assert!(is_empty);
                            let pages =
                                (0..nr_pages).map(|nth| (first + nth, (frame + nth, flags)));
                            model.extend(pages);
                        }
                        Err(MapError::Occupied) => assert!(!is_empty),
                        Err(_) => {}
                    }
                }
                2 => {
                    if self.unmap(&mut root, range).is_ok() {
                        model.retain(|page, _| !(first..first + nr_pages).contains(page));
                    }
                }
                3 => {
                    let addr = VirtAddr::new(first * PAGE + tape.below(4096) as u64);
                    let known = model.get(&first).map(|(frame, _)| frame * PAGE);
                    let wanted = known.map(|phys| phys + addr.as_u64() % PAGE);
                    assert_eq!(
                        self.mapper().translate(&root, addr).map(PhysAddr::as_u64),
                        wanted
                    );
                }
                _ => {
                    let mut pages = Vec::new();
                    let all = VirtAddr::ZERO..Levels::Four.user_end();
                    let listed = self.mapper().for_each(&root, all, |span| {
                        if let kmm_pagetable_walker::Span::Mapped(leaf) = span {
                            let start = leaf.va.as_u64() / PAGE;
                            let frame = leaf.pfn().index() as u64;
                            pages.extend(
                                (0..leaf.nr_pages() as u64).map(|n| (start + n, frame + n)),
                            );
                        }
                    });
                    assert!(listed.is_ok());
                    assert!(
                        pages
                            .into_iter()
                            .eq(model.iter().map(|(page, (frame, _))| (*page, *frame)))
                    );
                }
            }
        }
        for base in BASES {
            let whole = VirtAddr::new(base)..VirtAddr::new(base + 2 * WINDOW as u64 * PAGE);
            self.unmap(&mut root, whole).expect("nothing is split");
        }
        let target = TlbTarget::User { root: root.pfn() };
        let mut gather = self.mapper().gather(target, self.machine.tlb());
        self.mapper().free_root(root, &mut gather);
        gather.finish();
        assert_eq!(self.pages.inner().outstanding(), at_rest);
        assert_eq!(self.tables.nr_tables(), nr_tables);
    }
}
