//! The buddy allocator against an array of frames.

use kmm_buddy::{Buddy, FreeBits, Pageblock, Pageblocks};
use kmm_frame::{MemMap, MigrateType, NR_ORDERS, Order, Pfn, PfnRange};

use crate::Tape;
use crate::lent::Lent;

const KINDS: [MigrateType; 3] = [
    MigrateType::Movable,
    MigrateType::Unmovable,
    MigrateType::Reclaimable,
];

/// Runs an input.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let start = Pfn::new(tape.pick(&[0, 1, 512, 1021, 4096]));
    let range = PfnRange::with_len(start, 1 + tape.below(3000));
    let descriptors = Lent::new(MemMap::layout(range).expect("small"));
    // SAFETY: zeros of that layout, dropped after everything that uses them.
    let map = unsafe { MemMap::new_zeroed_in(range, descriptors.base()) };
    let (_bits, bits) = Lent::array(Buddy::storage_for(range), || FreeBits::EMPTY);
    let (_blocks, blocks) = Lent::array(Pageblocks::count_for(range), Pageblock::new);
    let pageblocks = Pageblocks::new(range, blocks).expect("one for each");
    let mut buddy = Buddy::new(range, map, bits, pageblocks).expect("enough storage");
    let mut model = Model {
        start: start.index(),
        is_free: vec![true; range.nr_pages()],
        held: Vec::new(),
    };
    buddy.add_free_range(range).expect("nothing is free yet");
    while !tape.is_empty() {
        let order = Order::new(tape.below(NR_ORDERS) as u8).expect("below the number of orders");
        match tape.below(8) {
            0..3 => {
                if let Ok(pfn) = buddy.take(order, tape.pick(&KINDS)) {
                    model.take(pfn, order);
                } else {
                    assert!(!model.has_block(order), "a block of {order:?} is free");
                }
            }
            3 => {
                let most = tape.below(200);
                let mut got = Vec::new();
                let count = buddy.take_pages(most, tape.pick(&KINDS), |pfn| got.push(pfn));
                assert_eq!(count, got.len());
                assert_eq!(count, most.min(model.nr_free()));
                for pfn in got {
                    model.take(pfn, Order::ZERO);
                }
            }
            4..7 if !model.held.is_empty() => {
                let nth = tape.below(model.held.len());
                let (pfn, order) = model.held.swap_remove(nth);
                model.set(pfn, order, true);
                assert_eq!(buddy.put(pfn, order), Ok(()));
            }
            _ => {
                // Any frame, any order: what is not wholly in use within the range must be refused.
                let pfn = start + tape.below(range.nr_pages() + 2048);
                let block = PfnRange::with_len(pfn, order.nr_pages());
                let is_wrong = !pfn.is_aligned(order)
                    || !range.contains_range(block)
                    || block
                        .iter()
                        .any(|pfn| model.is_free[pfn.index() - model.start]);
                if is_wrong {
                    assert!(buddy.put(pfn, order).is_err(), "{pfn} {order:?}");
                }
            }
        }
        assert_eq!(buddy.nr_free_pages(), model.nr_free());
    }
    assert_eq!(buddy.validate(), Ok(()));
    for (pfn, order) in core::mem::take(&mut model.held) {
        model.set(pfn, order, true);
        assert_eq!(buddy.put(pfn, order), Ok(()));
    }
    assert_eq!(buddy.validate(), Ok(()));
    assert_eq!(buddy.nr_free_pages(), range.nr_pages());
}

struct Model {
    start: usize,
    is_free: Vec<bool>,
    held: Vec<(Pfn, Order)>,
}

impl Model {
    fn set(&mut self, pfn: Pfn, order: Order, free: bool) {
        let first = pfn.index() - self.start;
        for frame in &mut self.is_free[first..first + order.nr_pages()] {
            assert_ne!(*frame, free, "{pfn} {order:?}");
            *frame = free;
        }
    }

    fn take(&mut self, pfn: Pfn, order: Order) {
        assert!(pfn.is_aligned(order));
        self.set(pfn, order, false);
        self.held.push((pfn, order));
    }

    fn nr_free(&self) -> usize {
        self.is_free.iter().filter(|free| **free).count()
    }

    /// Whether some aligned block is wholly free: it must have been merged.
    fn has_block(&self, order: Order) -> bool {
        let first = Pfn::new(self.start).align_up(order).index() - self.start;
        let blocks = self.is_free.get(first..).unwrap_or_default();
        let mut whole = blocks.chunks_exact(order.nr_pages());
        whole.any(|block| block.iter().all(|free| *free))
    }
}
