//! Areas of kernel memory against a list of them; they do not touch, and nothing is left in the end.

use std::collections::BTreeMap;

use kmm_frame::{Gfp, PAGE_SIZE, PfnRange, PhysAddr, VirtAddr};
use kmm_pagetable_walker::{Levels, Mapper, TableCounter};
use kmm_sim::{Config, FailRandom, FreeListSource, Machine, SimLock, SimPtes, SimTlb};
use kmm_vmalloc::{CacheMode, Vmalloc, VmallocConfig};

use crate::Tape;

const PAGE: u64 = PAGE_SIZE as u64;
const START: VirtAddr = VirtAddr::new(0xffff_c900_0000_0000);
const END: VirtAddr = VirtAddr::new(0xffff_c900_0100_0000);

type Source = FailRandom<FreeListSource>;

struct World {
    vm: &'static Vmalloc<'static, SimPtes, Source, SimTlb, SimLock>,
    source: &'static Source,
    /// Frames of tables that are there without any area.
    at_rest: usize,
}

thread_local! {
    /// A machine costs more than an input; each leaves it as it was.
    static WORLD: World = {
        let machine = Machine::new(Config::with_mib(16).cpus(1));
        let source: &'static Source = Box::leak(Box::new(FailRandom::new(FreeListSource::new(machine), 1, 0)));
        let tables = Box::leak(Box::new(TableCounter::new()));
        // SAFETY: source, store and descriptors belong to one machine.
        let mapper = unsafe {
            Mapper::new(machine.ptes(), source, machine.mem_map(), Levels::Four, tables)
        };
        let mut root = mapper.alloc_root().expect("a frame");
        mapper.prealloc_kernel_pgds(&mut root, START..END).expect("a frame");
        let is_ram = Box::leak(Box::new(|frames: PfnRange| {
            machine.ram().iter().any(|ram| ram.overlaps(frames))
        }));
        let config = VmallocConfig { range: START..END, is_ram };
        let vm = Box::leak(Box::new(Vmalloc::new(mapper, source, root, *machine.tlb(), config)));
        World { vm, source, at_rest: source.inner().outstanding() }
    };
}

/// Runs an input.
pub fn run(bytes: &[u8]) {
    WORLD.with(|world| world.run(&mut Tape::new(bytes)));
}

impl World {
    fn run(&self, tape: &mut Tape<'_>) {
        // By address: pages without the guard, and whether it is device memory.
        let mut areas: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
        while !tape.is_empty() {
            let nr_pages = 1 + tape.below(tape.clone().pick(&[2, 16, 128])) as u64;
            let made = match tape.below(7) {
                0..3 => {
                    let odd = tape.below(PAGE_SIZE) as u64;
                    let size = nr_pages * PAGE - odd;
                    let area = self.vm.vmalloc(size as usize, Gfp::KERNEL);
                    area.ok().map(|addr| (addr, false))
                }
                3 => {
                    let phys = PhysAddr::new(0xd000_0000 + tape.below(1000) as u64 * PAGE);
                    let size = (nr_pages * PAGE) as usize;
                    let area = self.vm.ioremap(phys, size, CacheMode::Uncached);
                    area.ok().map(|addr| (addr, true))
                }
                4 => {
                    // Wherever nothing begins, freeing is refused.
                    let addr = START + tape.below(4096) as u64 * PAGE;
                    if !areas.contains_key(&addr.as_u64()) {
                        // SAFETY: nothing is there, so nothing goes.
                        assert!(unsafe { self.vm.vfree(addr) }.is_err());
                    }
                    None
                }
                _ => {
                    let nth = tape.below(areas.len());
                    if let Some((&addr, &(_, is_io))) = areas.iter().nth(nth) {
                        self.free(addr, is_io);
                        areas.remove(&addr);
                    }
                    None
                }
            };
            if let Some((addr, is_io)) = made {
                let start = addr.as_u64();
                let end = start + (nr_pages + 1) * PAGE;
                assert!(addr >= START && end <= END.as_u64());
                let below = areas.range(..end).next_back();
                let guarded = below.is_none_or(|(at, (pages, _))| at + (pages + 1) * PAGE <= start);
                assert!(guarded, "areas overlap, or have no guard");
                areas.insert(start, (nr_pages, is_io));
            }
            assert_eq!(self.vm.areas().count(), areas.len());
        }
        assert!(self.vm.validate().is_ok());
        for (addr, (_, is_io)) in areas {
            self.free(addr, is_io);
        }
        assert!(self.vm.validate().is_ok());
        assert_eq!(self.vm.nr_pages(), 0);
        assert_eq!(self.source.inner().outstanding(), self.at_rest);
    }

    fn free(&self, addr: u64, is_io: bool) {
        let addr = VirtAddr::new(addr);
        let done = if is_io {
            // SAFETY: mapped by `ioremap`, and not used.
            unsafe { self.vm.iounmap(addr) }
        } else {
            // SAFETY: mapped by `vmalloc`, and not used.
            unsafe { self.vm.vfree(addr) }
        };
        assert!(done.is_ok());
    }
}
