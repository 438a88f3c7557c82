//! One figure of ours, a fixed number of times, for an instruction counter: `cargo xtask bench --instructions`.
//!
//! Only what runs below `kmm_measured` counts, by callgrind's `--toggle-collect=kmm_measured`: set-up does not.
#![expect(unsafe_code, reason = "gives back what it took; names a symbol")]

use core::hint::black_box;
use core::ptr::NonNull;
use std::alloc::{GlobalAlloc, Layout};
use std::process::ExitCode;

use kmm_benches::cpu;
use kmm_benches::node::Node;
use kmm_benches::objects;
use kmm_buddy::{Buddy, FreeBits, Pageblock, Pageblocks};
use kmm_frame::{Gfp, MigrateType, Order, PAGE_SIZE};
use kmm_host::{PageBlock, PageReq, PageSource};
use kmm_slub::CacheArgs;

const HELP: &str = "\
count --figure NAME [--ops N] [--size BYTES]

  --figure NAME   what to run; `--list` names them all
  --ops N         how often; rounded up to whole batches
  --size BYTES    RAM of the node, for figures of frames; 64 MiB unless told
";

/// Objects and frames of a batch.
const BATCH: usize = 1000;
const DEFAULT_OPS: usize = 20_000;
const DEFAULT_SIZE: usize = 64 << 20;

/// How a figure of frames is run: on a node, so many times.
type OnNode = fn(&Node, usize);

const FRAMES: &[(&str, OnNode)] = &[
    ("page-pair", |node, ops| pairs(node, Order::ZERO, ops)),
    ("frozen-pair", frozen_pairs),
    ("page-batch-alloc", |node, ops| {
        batches(node, ops, Half::Alloc)
    }),
    ("page-batch-free", |node, ops| {
        batches(node, ops, Half::Free)
    }),
    ("page-bulk-alloc", |node, ops| bulk(node, ops, Half::Alloc)),
    ("page-bulk-free", |node, ops| bulk(node, ops, Half::Free)),
    ("order9-pair", |node, ops| pairs(node, order(9), ops)),
    ("order10-pair", |node, ops| pairs(node, order(10), ops)),
    ("buddy-order0-pair", |node, ops| {
        buddy_pairs(node, Order::ZERO, ops)
    }),
    ("buddy-order9-pair", |node, ops| {
        buddy_pairs(node, order(9), ops)
    }),
];

/// How a figure of objects is run: on a heap, with a size, so many times.
type OnHeap = fn(&objects::Kmm, usize, usize);

const OBJECTS: &[(&str, &[usize], OnHeap)] = &[
    ("kmalloc-pair", &[8, 64, 192, 1024, 4096], kmalloc_pairs),
    ("global-pair", &[8, 64, 192, 1024, 4096], global_pairs),
    ("cache-pair", &[192], cache_pairs),
    ("kmalloc-batch-alloc", &[64], |heap, size, ops| {
        kmalloc_batches(heap, size, ops, Half::Alloc)
    }),
    ("kmalloc-batch-free", &[64], |heap, size, ops| {
        kmalloc_batches(heap, size, ops, Half::Free)
    }),
];

/// Which half of a batch counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Alloc,
    Free,
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn run(mut args: impl Iterator<Item = String>) -> Result<(), String> {
    let (mut figure, mut ops, mut size) = (None, DEFAULT_OPS, DEFAULT_SIZE);
    while let Some(arg) = args.next() {
        if arg == "--list" {
            names().for_each(|name| println!("{name}"));
            return Ok(());
        }
        let value = args.next().ok_or(HELP)?;
        let number = || value.parse::<usize>().map_err(|_| HELP);
        match arg.as_str() {
            "--figure" => figure = Some(value),
            "--ops" => ops = number()?,
            "--size" => size = number()?,
            _ => return Err(HELP.to_owned()),
        }
    }
    let figure = figure.ok_or(HELP)?;
    // SAFETY: the only thread.
    unsafe { cpu::stand_for(cpu::MEASURING) };
    let ops = ops.next_multiple_of(BATCH);
    if let Some((_, work)) = FRAMES.iter().find(|(name, _)| *name == figure) {
        let (node, _addresses) = Node::without_contents(size / PAGE_SIZE);
        work(&node, ops);
    } else {
        let (name, object_size) = figure.rsplit_once('-').ok_or("no such figure")?;
        let object_size = object_size.parse().map_err(|_| "no such figure")?;
        let found = OBJECTS.iter().find(|(known, _, _)| *known == name);
        let (_, _, work) = found.ok_or("no such figure")?;
        work(&objects::Kmm::new(), object_size, ops);
    }
    println!("{ops}");
    Ok(())
}

fn names() -> impl Iterator<Item = String> {
    let frames = FRAMES.iter().map(|(name, _)| (*name).to_owned());
    let objects = OBJECTS
        .iter()
        .flat_map(|(name, sizes, _)| sizes.iter().map(move |size| format!("{name}-{size}")));
    frames.chain(objects)
}

/// The symbol that an instruction counter is told.
#[unsafe(no_mangle)]
#[inline(never)]
fn kmm_measured(work: &mut dyn FnMut()) {
    work();
}

fn order(order: u8) -> Order {
    Order::new(order).expect("orders to 10")
}

fn take(node: &Node, order: Order) -> PageBlock {
    node.zones()
        .alloc(PageReq::new(order, Gfp::KERNEL))
        .expect("a free block")
}

fn pairs(node: &Node, order: Order, ops: usize) {
    let pair = |_| node.zones().free(black_box(take(node, order)));
    (0..BATCH).for_each(pair);
    kmm_measured(&mut || (0..ops).for_each(pair));
}

/// Without counts, and with nothing known at compile time but the flags.
fn frozen_pairs(node: &Node, ops: usize) {
    let pair = |_| {
        let page = node.zones().alloc_frozen_pages(PageReq::page(Gfp::KERNEL));
        let (block, _) = black_box(page.expect("a free page"));
        node.zones().free_frozen_pages(black_box(block));
    };
    (0..BATCH).for_each(pair);
    kmm_measured(&mut || (0..ops).for_each(pair));
}

fn buddy_pairs(node: &Node, order: Order, ops: usize) {
    let map = node.zones().map();
    let storage = vec![FreeBits::EMPTY; Buddy::storage_for(node.ram())].leak();
    let types: Vec<Pageblock> = (0..Pageblocks::count_for(node.ram()))
        .map(|_| Pageblock::new())
        .collect();
    let types = Pageblocks::new(node.ram(), types.leak()).expect("enough pageblocks");
    let mut buddy = Buddy::new(node.ram(), map, storage, types).expect("enough storage");
    // The node's own zones lose a part of their RAM to this one.
    for _ in 0..4 {
        let (pfn, order) = take(node, self::order(10)).into_raw();
        map.page(pfn).set_ref_count(0);
        buddy.put(pfn, order).expect("a block that is not free");
    }
    let mut pair = |_| {
        let pfn = black_box(
            buddy
                .take(order, MigrateType::Movable)
                .expect("a free block"),
        );
        buddy.put(pfn, order).expect("taken just now");
    };
    (0..BATCH).for_each(&mut pair);
    kmm_measured(&mut || (0..ops).for_each(&mut pair));
}

fn batches(node: &Node, ops: usize, half: Half) {
    let mut blocks = Vec::with_capacity(BATCH);
    for _ in 0..ops / BATCH {
        let fill = |blocks: &mut Vec<PageBlock>| {
            blocks.extend((0..BATCH).map(|_| take(node, Order::ZERO)));
        };
        let empty = |blocks: &mut Vec<PageBlock>| {
            blocks.drain(..).for_each(|block| node.zones().free(block));
        };
        halves(half, &mut blocks, fill, empty);
    }
}

fn bulk(node: &Node, ops: usize, half: Half) {
    let mut blocks: Vec<Option<PageBlock>> = (0..BATCH).map(|_| None).collect();
    for _ in 0..ops / BATCH {
        let fill = |blocks: &mut Vec<Option<PageBlock>>| {
            assert_eq!(node.zones().alloc_bulk(Gfp::KERNEL, None, blocks), BATCH);
        };
        let empty = |blocks: &mut Vec<Option<PageBlock>>| node.zones().free_bulk(blocks);
        halves(half, &mut blocks, fill, empty);
    }
}

/// Runs both halves of a batch, one of them measured.
fn halves<T>(half: Half, items: &mut T, fill: impl Fn(&mut T), empty: impl Fn(&mut T)) {
    match half {
        Half::Alloc => {
            kmm_measured(&mut || fill(items));
            empty(items);
        }
        Half::Free => {
            fill(items);
            kmm_measured(&mut || empty(items));
        }
    }
}

fn kmalloc(heap: &objects::Kmm, size: usize) -> NonNull<u8> {
    heap.slub()
        .kmalloc(black_box(size), Gfp::KERNEL)
        .expect("memory")
}

fn kmalloc_pairs(heap: &objects::Kmm, size: usize, ops: usize) {
    // One object stays, so that its slab does too.
    kmalloc(heap, size);
    let pair = |_| {
        let object = black_box(kmalloc(heap, size));
        // SAFETY: allocated just now.
        unsafe { heap.slub().kfree(object) };
    };
    (0..BATCH).for_each(pair);
    kmm_measured(&mut || (0..ops).for_each(pair));
}

fn kmalloc_batches(heap: &objects::Kmm, size: usize, ops: usize, half: Half) {
    let mut batch = Vec::with_capacity(BATCH);
    for _ in 0..ops / BATCH {
        let fill = |batch: &mut Vec<NonNull<u8>>| {
            batch.extend((0..BATCH).map(|_| kmalloc(heap, size)));
        };
        let empty = |batch: &mut Vec<NonNull<u8>>| {
            for object in batch.drain(..) {
                // SAFETY: allocated by `fill`, freed once.
                unsafe { heap.slub().kfree(object) };
            }
        };
        halves(half, &mut batch, fill, empty);
    }
}

fn global_pairs(heap: &objects::Kmm, size: usize, ops: usize) {
    // The compiler knows the layout, as it does for a `Box`: one function for each size.
    match size {
        8 => global_pairs_of::<8>(heap, ops),
        64 => global_pairs_of::<64>(heap, ops),
        192 => global_pairs_of::<192>(heap, ops),
        1024 => global_pairs_of::<1024>(heap, ops),
        _ => global_pairs_of::<4096>(heap, ops),
    }
}

fn global_pairs_of<const SIZE: usize>(heap: &objects::Kmm, ops: usize) {
    let layout = const { Layout::new::<u64>() };
    let layout = Layout::from_size_align(SIZE, layout.align()).expect("a small size");
    // SAFETY: the size is not 0. The object stays, so that its slab does too.
    unsafe { heap.global().alloc(layout) };
    let pair = |_| {
        // SAFETY: the size is not 0.
        let object = black_box(unsafe { heap.global().alloc(layout) });
        // SAFETY: allocated just now.
        unsafe { heap.global().dealloc(object, layout) };
    };
    (0..BATCH).for_each(pair);
    kmm_measured(&mut || (0..ops).for_each(pair));
}

fn cache_pairs(heap: &objects::Kmm, size: usize, ops: usize) {
    let slub = heap.slub();
    let cache = slub
        .cache_create(&CacheArgs::new("measured", size))
        .expect("a free slot");
    let take = || slub.alloc(cache, Gfp::KERNEL).expect("memory");
    take();
    let pair = |_| {
        let object = black_box(take());
        // SAFETY: allocated just now.
        unsafe { slub.free(cache, object) };
    };
    (0..BATCH).for_each(pair);
    kmm_measured(&mut || (0..ops).for_each(pair));
}
