//! Zones against the set of what is held: two CPUs, three zones, pagesets, watermarks, wrong frees.

use core::cell::Cell;
use std::collections::BTreeMap;

use kmm_frame::{Gfp, MemMap, NR_ORDERS, Order, PAGE_SIZE, Pfn, PfnRange, VirtAddr};
use kmm_host::{CpuId, CpuPin, Cpus, DirectMap, PageBlock, PageReq, PageSource as _};
use kmm_zone::{NodeLayouts, ZoneLayout, ZoneLimits, ZoneStorage, Zones};

use crate::Tape;
use crate::lent::Lent;

const NR_CPUS: usize = 2;
const GFPS: [Gfp; 6] = [
    Gfp::KERNEL,
    Gfp::ATOMIC,
    Gfp::DMA,
    Gfp::DMA32,
    Gfp::HIGHUSER_MOVABLE,
    Gfp::MEMALLOC,
];

/// DMA below frame 64, DMA32 below 256, Normal above.
#[derive(Debug)]
struct Tiny;

impl ZoneLimits for Tiny {
    const DMA_END: Option<Pfn> = Some(Pfn::new(64));
    const DMA32_END: Option<Pfn> = Some(Pfn::new(256));
    const LOWMEM_END: Option<Pfn> = None;
}

thread_local! {
    static CPU: Cell<u32> = const { Cell::new(0) };
    static NR_BAD: Cell<usize> = const { Cell::new(0) };
}

/// One thread plays all CPUs.
#[derive(Debug)]
struct OneThread;

// SAFETY: one thread plays all CPUs, so none runs while another does.
unsafe impl Cpus for OneThread {
    fn nr_cpus(&self) -> usize {
        NR_CPUS
    }

    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        // SAFETY: the thread plays one CPU at a time.
        f(unsafe { CpuPin::new(CpuId::new(CPU.get())) })
    }
}

type FuzzZones = Zones<spin::Mutex<()>, OneThread, DirectMap>;

/// Runs an input.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let ram = PfnRange::with_len(Pfn::new(tape.pick(&[0, 3, 64])), 64 + tape.below(1024));
    let contents = Lent::new(
        std::alloc::Layout::from_size_align(ram.nr_pages() * PAGE_SIZE, PAGE_SIZE).expect("small"),
    );
    let base = contents.base().as_ptr().expose_provenance() as u64;
    let offset = VirtAddr::new(base - ram.start().phys().as_u64());
    // SAFETY: the frames of `ram` are there, and no others are used.
    let phys = unsafe { DirectMap::new(offset, ram.end()) };
    let descriptors = Lent::new(MemMap::layout(ram).expect("small"));
    // SAFETY: zeros of that layout, dropped after everything that uses them.
    let map = unsafe { MemMap::new_zeroed_in(ram, descriptors.base()) };
    let layouts = NodeLayouts::single(ZoneLayout::new::<Tiny>(ram));
    let stored =
        Lent::new(ZoneStorage::<spin::Mutex<()>>::layout(&layouts, NR_CPUS).expect("small"));
    // SAFETY: memory of that layout, dropped after the zones.
    let storage = unsafe { ZoneStorage::new_in(&layouts, NR_CPUS, stored.base()) };
    let zones: FuzzZones = Zones::new(map, OneThread, phys, &layouts, storage)
        .expect("enough of everything")
        .with_bad_page_hook(|_| NR_BAD.set(NR_BAD.get() + 1));
    CPU.set(0);
    NR_BAD.set(0);
    zones.add_present(ram);
    let reserved = PfnRange::with_len(ram.start() + tape.below(32), tape.below(32));
    map.reserve(reserved);
    let low = PfnRange::new(ram.start(), reserved.start());
    let high = PfnRange::new(reserved.end(), ram.end());
    zones.free_at_boot(low).expect("RAM that is free");
    zones.free_at_boot(high).expect("RAM that is free");
    zones.init_watermarks(4 * tape.below(64), 10);
    Script {
        zones: &zones,
        held: BTreeMap::new(),
        usable: [low, high],
    }
    .run(&mut tape);
}

struct Script<'a> {
    zones: &'a FuzzZones,
    /// First frames of what is out; frozen ones are without a reference.
    held: BTreeMap<usize, (Order, bool)>,
    usable: [PfnRange; 2],
}

impl Script<'_> {
    fn run(mut self, tape: &mut Tape<'_>) {
        while !tape.is_empty() {
            let order = Order::new(tape.below(NR_ORDERS) as u8).expect("an order");
            let req = PageReq::new(order, tape.pick(&GFPS));
            match tape.below(9) {
                0 | 1 => {
                    if let Ok((block, _)) = self.zones.alloc_pages(req) {
                        self.took(&block, false);
                        let _ = block.into_raw();
                    }
                }
                2 => {
                    if let Ok((block, _)) = self.zones.alloc_frozen_pages(req) {
                        self.took(&block, true);
                        let _ = block.into_raw();
                    }
                }
                3 => {
                    let mut blocks: Vec<_> = (0..tape.below(100)).map(|_| None).collect();
                    let count = self.zones.alloc_bulk(req.gfp, None, &mut blocks);
                    assert!(blocks[..count].iter().all(Option::is_some));
                    assert!(blocks[count..].iter().all(Option::is_none));
                    for block in blocks.into_iter().flatten() {
                        self.took(&block, false);
                        let _ = block.into_raw();
                    }
                }
                4..7 => self.free_one(tape),
                7 => CPU.set(tape.below(NR_CPUS) as u32),
                _ => {
                    self.zones.cpus().with_pin(|pin| self.zones.drain_pcp(pin));
                }
            }
        }
        while !self.held.is_empty() {
            self.free_one(tape);
        }
        for cpu in 0..NR_CPUS as u32 {
            CPU.set(cpu);
            self.zones.cpus().with_pin(|pin| self.zones.drain_pcp(pin));
        }
        assert_eq!(NR_BAD.get(), 0, "a free was refused");
        self.zones.validate().expect("lists and counts in order");
        let accounting = self.zones.accounting();
        assert!(accounting.adds_up(), "{accounting:?}");
        let usable = self.usable.map(PfnRange::nr_pages);
        assert_eq!(accounting.free, usable[0] + usable[1]);
    }

    /// What came out is RAM that was free, aligned, and nobody else's.
    fn took(&mut self, block: &PageBlock, frozen: bool) {
        let (first, end) = (block.pfn().index(), block.range().end().index());
        assert!(block.pfn().is_aligned(block.order()));
        let is_usable = |pfn: Pfn| self.usable.iter().any(|range| range.contains(pfn));
        assert!(block.range().iter().all(is_usable));
        let below = self.held.range(..end).next_back();
        assert!(below.is_none_or(|(at, (order, _))| at + order.nr_pages() <= first));
        self.held.insert(first, (block.order(), frozen));
    }

    fn free_one(&mut self, tape: &mut Tape<'_>) {
        let nth = tape.below(self.held.len());
        let Some((&first, &(order, frozen))) = self.held.iter().nth(nth) else {
            return;
        };
        self.held.remove(&first);
        // SAFETY: taken out by a request, and given back once.
        let block = unsafe { PageBlock::from_raw(Pfn::new(first), order) };
        if frozen {
            self.zones.free_frozen_pages(block);
        } else {
            self.zones.free(block);
        }
    }
}
