//! Compound pages, single ones, references and splits against an array that says which block each frame is in.

use kmm_frame::{Folio, MemMap, NR_ORDERS, Order, Page, PageFlags, Pfn, PfnRange, SplitError};

use crate::Tape;
use crate::lent::Lent;

/// A block in use: first frame, order, references.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Block {
    head: usize,
    order: Order,
    references: i32,
}

struct Model {
    start: usize,
    /// For each frame, the block that it is in.
    blocks: Vec<Option<Block>>,
}

impl Model {
    fn set(&mut self, head: usize, order: Order, block: Option<Block>) {
        self.blocks[head - self.start..][..order.nr_pages()].fill(block);
    }

    fn has_room(&self, head: usize, order: Order) -> bool {
        let Some(first) = head.checked_sub(self.start) else {
            return false;
        };
        let slots = self.blocks.get(first..first + order.nr_pages());
        slots.is_some_and(|slots| slots.iter().all(Option::is_none))
    }

    fn check(&self, map: &MemMap, frame: usize) {
        let pfn = Pfn::new(frame);
        let expected = self.blocks[frame - self.start].unwrap_or(Block {
            head: frame,
            order: Order::ZERO,
            references: 0,
        });
        let folio = map.folio(pfn).expect("every frame has a descriptor");
        assert_eq!(folio.pfn(), Pfn::new(expected.head), "{pfn}");
        assert_eq!(folio.order(), expected.order, "{pfn}");
        assert_eq!(map.page_count(pfn), expected.references, "{pfn}");
        assert_eq!(map.is_tail(pfn), frame != expected.head, "{pfn}");
        assert_eq!(Folio::from_head(map, pfn).is_ok(), frame == expected.head);
    }
}

/// Runs an input.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let start = Pfn::new(tape.pick(&[0, 1, 512, 1021, 4096]));
    let range = PfnRange::with_len(start, 1 + tape.below(3000));
    let descriptors = Lent::new(MemMap::layout(range).expect("small"));
    // SAFETY: zeros of that layout, dropped after everything that uses them.
    let map = unsafe { MemMap::new_zeroed_in(range, descriptors.base()) };
    let mut model = Model {
        start: start.index(),
        blocks: vec![None; range.nr_pages()],
    };
    while !tape.is_empty() {
        let frame = start.index() + tape.below(range.nr_pages());
        let order = Order::new(tape.below(NR_ORDERS) as u8).expect("below the number of orders");
        step(&mut tape, &map, &mut model, Pfn::new(frame), order);
        // The frame, and others near and far.
        for other in [
            frame,
            frame ^ 1,
            frame ^ (order.nr_pages() >> 1),
            frame + order.nr_pages(),
        ] {
            if range.contains(Pfn::new(other)) {
                model.check(&map, other);
            }
        }
    }
    for frame in range.iter() {
        model.check(&map, frame.index());
    }
}

fn step(tape: &mut Tape<'_>, map: &MemMap, model: &mut Model, pfn: Pfn, order: Order) {
    let Some(mut block) = model.blocks[pfn.index() - model.start] else {
        let head = pfn.align_down(order);
        if model.has_room(head.index(), order) {
            map.prep_compound_page(head, order);
            map.page(head).set_ref_count(1);
            let block = Block {
                head: head.index(),
                order,
                references: 1,
            };
            model.set(block.head, order, Some(block));
        }
        return;
    };
    let head = Pfn::new(block.head);
    match tape.below(6) {
        0 | 1 => {
            map.get_page(pfn);
            block.references += 1;
            model.set(block.head, block.order, Some(block));
        }
        2 | 3 => {
            let last = map.put_page(pfn);
            block.references -= 1;
            assert_eq!(last.is_some(), block.references == 0);
            let Some(folio) = last else {
                return model.set(block.head, block.order, Some(block));
            };
            assert_eq!((folio.pfn(), folio.order()), (head, block.order));
            if order != block.order {
                assert!(map.destroy_compound_page(head, order).is_err());
            }
            assert_eq!(map.destroy_compound_page(head, block.order), Ok(()));
            map.page(head).reset_flags(PageFlags::empty());
            model.set(block.head, block.order, None);
        }
        4 => split(map, model, block, order),
        _ => {
            let found = map.try_get_folio(pfn).expect("it is held");
            assert_eq!(found.pfn(), head);
            assert!(!found.put_and_test());
        }
    }
}

fn split(map: &MemMap, model: &mut Model, block: Block, order: Order) {
    let folio = Folio::from_head(map, Pfn::new(block.head)).expect("a head");
    let was_locked = folio.is_locked();
    let lock = |page: &Page| page.is_locked() || page.try_lock();
    assert!(lock(&folio));
    let expected = if order >= block.order {
        Some(SplitError::NotSmaller)
    } else {
        (block.references != 1).then_some(SplitError::Busy)
    };
    match folio.split(map, order, 0) {
        Err(why) => {
            assert_eq!(Some(why), expected);
            if !was_locked {
                let _ = folio.unlock();
            }
        }
        Ok(parts) => {
            assert_eq!(expected, None);
            for part in parts {
                let _ = part.unlock();
                let head = part.pfn().index();
                let block = Block {
                    head,
                    order,
                    references: 1,
                };
                model.set(head, order, Some(block));
            }
        }
    }
}
