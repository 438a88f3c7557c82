//! One operation of ours on so much memory, for an instruction counter: `cargo xtask bench --growth`.
//!
//! The memory is neither there nor described: descriptors of zero bytes are fresh ones, and only those that are written cost
//! memory. Half of it is in use, as blocks of order 10 anywhere, so that an allocator that searches has to search.
//!
//! Only what runs below `kmm_measured` counts, by callgrind's `--toggle-collect=kmm_measured`.
#![expect(unsafe_code, reason = "keeps blocks as numbers; names a symbol")]

use std::process::ExitCode;

use kmm_benches::cpu;
use kmm_benches::node::Node;
use kmm_benches::region::resident_bytes;
use kmm_benches::rng::{FRAMES_SEED, Rng};
use kmm_buddy::{Buddy, FreeBits, Pageblock, Pageblocks};
use kmm_frame::{Gfp, MigrateType, Order, PAGE_SIZE, Pfn, PfnRange};
use kmm_host::{PageBlock, PageReq};

const HELP: &str = "\
growth --list
growth --figure NAME --size BYTES [--resident]

  --figure NAME   what to run: `boot`, or buddy|zones-ORDER-alloc|free
  --size BYTES    RAM, at least 64 MiB
  --resident      do not measure; print how many bytes the set-up has touched
";

/// Orders, and how many blocks of each are out at a time: what 64 MiB have room for, at every size.
const ORDERS: [(u8, usize); 4] = [(0, 1000), (3, 400), (9, 6), (10, 3)];
const NR_OPS: usize = 6000;
const LARGEST: u8 = 10;

/// Which half of a batch counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Alloc,
    Free,
}

/// An allocator of blocks.
trait Blocks {
    fn take(&mut self, order: Order) -> Option<usize>;
    fn put(&mut self, pfn: usize, order: Order);
}

impl Blocks for &Node {
    #[inline(always)]
    fn take(&mut self, order: Order) -> Option<usize> {
        let taken = self
            .zones()
            .alloc_frozen_pages(PageReq::new(order, Gfp::KERNEL));
        Some(taken.ok()?.0.into_raw().0.index())
    }

    #[inline(always)]
    fn put(&mut self, pfn: usize, order: Order) {
        // SAFETY: taken by `take`, and put back once.
        let block = unsafe { PageBlock::from_raw(Pfn::new(pfn), order) };
        self.zones().free_frozen_pages(block);
    }
}

impl Blocks for Buddy {
    #[inline(always)]
    fn take(&mut self, order: Order) -> Option<usize> {
        let taken = Buddy::take(self, order, MigrateType::Movable);
        Some(taken.ok()?.index())
    }

    #[inline(always)]
    fn put(&mut self, pfn: usize, order: Order) {
        Buddy::put(self, Pfn::new(pfn), order).expect("taken before");
    }
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
    let (mut figure, mut size, mut resident) = (None, 0, false);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--list" => {
                names().for_each(|name| println!("{name}"));
                return Ok(());
            }
            "--resident" => resident = true,
            "--figure" => figure = args.next(),
            "--size" => size = args.next().and_then(|text| text.parse().ok()).ok_or(HELP)?,
            _ => return Err(HELP.to_owned()),
        }
    }
    let figure = figure.ok_or(HELP)?;
    // SAFETY: the only thread.
    unsafe { cpu::stand_for(cpu::MEASURING) };
    let before = resident_bytes();
    if figure == "boot" {
        let mut node = None;
        kmm_measured(&mut || node = Some(Node::untouched(size / PAGE_SIZE)));
        println!(
            "{}",
            if resident {
                resident_bytes() - before
            } else {
                1
            }
        );
        return Ok(());
    }
    let words: Vec<&str> = figure.split('-').collect();
    let [layer, order, half] = words[..] else {
        return Err(HELP.to_owned());
    };
    let half = if half == "alloc" {
        Half::Alloc
    } else {
        Half::Free
    };
    let found = ORDERS
        .iter()
        .find(|(known, _)| order == format!("order{known}"));
    let &(order, batch) = found.ok_or(HELP)?;
    let node = Node::untouched(size / PAGE_SIZE);
    let ops = match layer {
        "zones" => batches(&mut &node, &node, order, batch, half),
        "buddy" => batches(&mut buddy(&node), &node, order, batch, half),
        _ => return Err(HELP.to_owned()),
    };
    println!("{ops}");
    Ok(())
}

fn names() -> impl Iterator<Item = String> {
    let of = |layer: &'static str| {
        ORDERS.iter().flat_map(move |(order, _)| {
            ["alloc", "free"].map(|half| format!("{layer}-order{order}-{half}"))
        })
    };
    of("buddy").chain(of("zones")).chain(["boot".to_owned()])
}

/// The symbol that an instruction counter is told.
#[unsafe(no_mangle)]
#[inline(never)]
fn kmm_measured(work: &mut dyn FnMut()) {
    work();
}

/// A buddy allocator by itself over the descriptors of a node that is not used otherwise.
fn buddy(node: &Node) -> Buddy {
    let ram = node.ram();
    let aligned = PfnRange::new(ram.start(), ram.end());
    let bits = vec![FreeBits::EMPTY; Buddy::storage_for(aligned)].leak();
    let blocks: Vec<Pageblock> = (0..Pageblocks::count_for(aligned))
        .map(|_| Pageblock::new())
        .collect();
    let pageblocks = Pageblocks::new(aligned, blocks.leak()).expect("enough pageblocks");
    let mut buddy =
        Buddy::new(aligned, node.zones().map(), bits, pageblocks).expect("enough storage");
    buddy.add_free_range(aligned).expect("nothing is free yet");
    buddy
}

/// Batches of blocks out, and back in random order, one half measured; how many blocks that were.
fn batches(blocks: &mut impl Blocks, node: &Node, order: u8, batch: usize, half: Half) -> usize {
    let mut rng = Rng::new(FRAMES_SEED);
    use_half(blocks, node, &mut rng);
    let order = Order::new(order).expect("orders to 10");
    let mut out = Vec::with_capacity(batch);
    let nr_batches = NR_OPS / batch;
    // One batch before the first that counts.
    for nr in 0..=nr_batches {
        let mut take = || {
            for _ in 0..batch {
                out.push(blocks.take(order).expect("half is free"));
            }
        };
        if nr > 0 && half == Half::Alloc {
            kmm_measured(&mut take);
        } else {
            take();
        }
        rng.shuffle(&mut out);
        let mut put = || out.drain(..).for_each(|pfn| blocks.put(pfn, order));
        if nr > 0 && half == Half::Free {
            kmm_measured(&mut put);
        } else {
            put();
        }
    }
    nr_batches * batch
}

/// Takes all of the largest blocks, and puts a random half of them back.
fn use_half(blocks: &mut impl Blocks, node: &Node, rng: &mut Rng) {
    let largest = Order::new(LARGEST).expect("the largest order");
    let mut all = Vec::with_capacity(node.ram().nr_pages() >> LARGEST);
    all.extend(core::iter::from_fn(|| blocks.take(largest)));
    rng.shuffle(&mut all);
    for pfn in all.drain(..all.len() / 2) {
        blocks.put(pfn, largest);
    }
}
