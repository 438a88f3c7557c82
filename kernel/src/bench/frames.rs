//! Page frames: the pair, batches, bulk, large blocks.
#![expect(unsafe_code, reason = "keeps blocks as numbers in between")]

use alloc::format;
use alloc::vec::Vec;
use core::hint::black_box;

use kmm::frame::{Gfp, Order, Pfn};
use kmm::host::{PageBlock, PageReq, PageSource as _};

use super::Figure;
use super::meter::{MANY, Meter, opaque};
use crate::mm;

pub(super) const FIGURES: &[Figure] = &[
    Figure {
        name: "frozen-pair",
        run: frozen_pairs,
    },
    Figure {
        name: "counted-pair",
        run: counted_pairs,
    },
    Figure {
        name: "frozen-batch",
        run: frozen_batches,
    },
    Figure {
        name: "counted-batch",
        run: counted_batches,
    },
    Figure {
        name: "bulk",
        run: bulk,
    },
    Figure {
        name: "order-pair",
        run: orders,
    },
];

/// Orders whose pairs are measured: those that Linux's figures have.
const ORDERS: [u8; 6] = [1, 2, 3, 4, 9, 10];

/// A block that the compiler knows no more of than a caller would who got it from elsewhere.
#[inline(always)]
fn hidden(block: PageBlock) -> PageBlock {
    let (pfn, order) = block.into_raw();
    back(opaque(pfn.index()), order)
}

#[inline(always)]
fn back(pfn: usize, order: Order) -> PageBlock {
    // SAFETY: of a block that was taken apart, and is put together once.
    unsafe { PageBlock::from_raw(Pfn::new(pfn), order) }
}

#[inline(always)]
fn take_frozen(req: PageReq) -> PageBlock {
    match mm::manager().pages().alloc_frozen_pages(req) {
        Ok((block, _)) => block,
        Err(error) => panic!("{error}"),
    }
}

#[inline(always)]
fn take_counted(req: PageReq) -> PageBlock {
    match mm::manager().pages().alloc_pages(req) {
        Ok((block, _)) => block,
        Err(error) => panic!("{error}"),
    }
}

const PAGE: PageReq = PageReq::page(Gfp::KERNEL);

/// Allocation and free as functions of their own, as callers see them who do not inline.
#[inline(never)]
fn alloc_page() -> usize {
    take_frozen(PAGE).into_raw().0.index()
}

#[inline(never)]
fn free_page(pfn: usize) {
    mm::manager()
        .pages()
        .free_frozen_pages(back(pfn, Order::ZERO));
}

fn frozen_pairs(meter: &Meter) {
    let pages = mm::manager().pages();
    meter.each("frozen-pair", || {
        let page = pages.alloc_frozen_pages(PAGE);
        let Ok((block, _)) = page else {
            panic!("no free page")
        };
        pages.free_frozen_pages(hidden(block));
    });
    meter.each("frozen-pair-called", || free_page(alloc_page()));
    meter.each("frozen-pair-runtime-gfp", || {
        let gfp = black_box(Gfp::KERNEL);
        let Ok((block, _)) = pages.alloc_frozen_pages(PageReq::page(gfp)) else {
            panic!("no free page")
        };
        pages.free_frozen_pages(hidden(block));
    });
}

fn counted_pairs(meter: &Meter) {
    let pages = mm::manager().pages();
    meter.each("counted-pair", || {
        let Ok((block, _)) = pages.alloc_pages(PAGE) else {
            panic!("no free page")
        };
        pages.free(hidden(block));
    });
    meter.each("counted-pair-put-page", || {
        let Ok((block, _)) = pages.alloc_pages(PAGE) else {
            panic!("no free page")
        };
        // SAFETY: the one reference to a page that was allocated just now.
        unsafe { pages.put_page(hidden(block).into_raw().0) };
    });
    meter.each("counted-pair-zero", || {
        let Ok((block, _)) = pages.alloc_pages(PageReq::page(Gfp::KERNEL | Gfp::ZERO)) else {
            panic!("no free page")
        };
        pages.free(hidden(block));
    });
}

fn frozen_batches(meter: &Meter) {
    let pages = mm::manager().pages();
    meter.halves(
        ["frozen-batch-alloc", "frozen-batch-free"],
        || {
            let Ok((block, _)) = pages.alloc_frozen_pages(PAGE) else {
                panic!("no free page")
            };
            block.into_raw().0.index()
        },
        |pfn| pages.free_frozen_pages(back(pfn, Order::ZERO)),
    );
}

fn counted_batches(meter: &Meter) {
    let pages = mm::manager().pages();
    meter.halves(
        ["counted-batch-alloc", "counted-batch-free"],
        || {
            let Ok((block, _)) = pages.alloc_pages(PAGE) else {
                panic!("no free page")
            };
            block.into_raw().0.index()
        },
        |pfn| pages.free(back(pfn, Order::ZERO)),
    );
}

fn bulk(meter: &Meter) {
    let pages = mm::manager().pages();
    let mut blocks: Vec<Option<PageBlock>> = (0..MANY).map(|_| None).collect();
    meter.calls(
        ["bulk-alloc", "bulk-free"],
        MANY,
        &mut blocks,
        |blocks| {
            let (count, _) = pages.alloc_pages_bulk(Gfp::KERNEL, None, blocks);
            assert_eq!(count, MANY, "no free pages");
        },
        |blocks| pages.free_bulk(blocks),
    );
}

fn orders(meter: &Meter) {
    let pages = mm::manager().pages();
    for order in ORDERS {
        let Some(order) = Order::new(order) else {
            continue;
        };
        let req = PageReq::new(order, Gfp::KERNEL);
        let nr = order.index();
        meter.each(format!("order{nr}-pair"), || {
            pages.free(hidden(take_counted(req)));
        });
        meter.each(format!("order{nr}-pair-frozen"), || {
            pages.free_frozen_pages(hidden(take_frozen(req)));
        });
    }
}
