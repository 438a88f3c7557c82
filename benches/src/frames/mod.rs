//! Allocators of page frames, and what they are put through.

mod aged;
mod mobility;
mod ours;
#[cfg(feature = "peers")]
mod peers;
mod shared;
mod single;

use crate::rounds::{Plan, Repeats, Role, Workload};

pub use mobility::{Left, Mobility, Setting};
pub use ours::{Kmm, Untyped};

/// Frames of 4 KiB that each allocator manages: 1 GiB.
pub const NR_FRAMES: usize = 1 << 18;

/// An allocator of blocks of frames, as the workloads see it.
pub trait Frames: Sync + 'static {
    /// Takes `1 << order` frames out; the first one's number, counted from 0.
    fn alloc(&self, order: usize) -> Option<usize>;

    /// As [`Frames::alloc`], and may use what is kept back for emergencies: to see what is there.
    fn alloc_to_the_last(&self, order: usize) -> Option<usize> {
        self.alloc(order)
    }

    /// As [`Frames::alloc`], and says what it is for to those who want to know.
    #[inline(always)]
    fn alloc_for(&self, order: usize, _mobility: Mobility) -> Option<usize> {
        self.alloc(order)
    }

    /// Takes a block back.
    fn free(&self, frame: usize, order: usize);

    /// How many frames it has.
    fn nr_frames(&self) -> usize {
        NR_FRAMES
    }
}

/// A workload of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One frame out and in.
    Pair,
    /// The same when half of the frames are free at random.
    PairAged,
    /// All frames out of an allocator that was just made.
    BulkFresh,
    /// All frames out, and in at random.
    Bulk,
    /// Huge pages.
    Huge,
    /// Blocks of all orders.
    Mixed,
    /// Two CPUs, each with its own frames.
    Threads,
    /// Frames that move from one CPU to the other.
    Remote,
    /// How long the slowest of many takes.
    Latency,
    /// How many huge pages are left in the end.
    Fragmentation,
}

impl Kind {
    /// In the order of the table.
    pub const ALL: [Self; 10] = [
        Self::Pair,
        Self::PairAged,
        Self::BulkFresh,
        Self::Bulk,
        Self::Huge,
        Self::Mixed,
        Self::Threads,
        Self::Remote,
        Self::Latency,
        Self::Fragmentation,
    ];

    /// The ids of the figures that it yields.
    #[must_use]
    pub const fn figures(self) -> &'static [&'static str] {
        match self {
            Self::Pair => &["a"],
            Self::PairAged => &["a-aged"],
            Self::BulkFresh => &["b0"],
            Self::Bulk => &["b1", "b2"],
            Self::Huge => &["c-alloc", "c-free"],
            Self::Mixed => &["d"],
            Self::Threads => &["mt", "mt-scaling"],
            Self::Remote => &["remote"],
            Self::Latency => &["p99.9"],
            Self::Fragmentation => &["f1", "f3", "f4", "f6", "f7", "spurious"],
        }
    }

    /// How often to take turns.
    #[must_use]
    pub const fn repeats(self) -> Repeats {
        match self {
            Self::Fragmentation => Repeats::Once,
            _ => Repeats::Timed,
        }
    }
}

/// An allocator of frames by name.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// As in the tables.
    pub name: &'static str,
    /// Rivals serve order 9 in less than 100 ns too.
    pub role: Role,
    /// Whether it serves blocks; else it takes part in workloads of single frames only.
    pub serves_blocks: bool,
    build: fn(Kind, &Plan) -> Box<dyn Workload>,
    live: fn(Setting) -> Left,
}

/// An entry for what an expression makes.
macro_rules! entry {
    ($name:literal, $role:expr, $serves_blocks:literal, $make:expr) => {
        $crate::frames::Entry {
            name: $name,
            role: $role,
            serves_blocks: $serves_blocks,
            build: |kind, plan| $crate::frames::build($make, kind, plan),
            live: |setting| $crate::frames::mobility::run($make, setting),
        }
    };
}
#[cfg(feature = "peers")]
use entry;

impl Entry {
    /// The workload on a new allocator of this name; `None` when it cannot do it in reasonable time.
    #[must_use]
    pub fn workload(&self, kind: Kind, plan: &Plan) -> Option<Box<dyn Workload>> {
        let wants_blocks = matches!(kind, Kind::Huge | Kind::Mixed | Kind::Fragmentation);
        (self.serves_blocks || !wants_blocks).then(|| (self.build)(kind, plan))
    }

    /// What requests of different mobility leave of the memory of a new allocator of this name.
    #[must_use]
    pub fn live(&self, setting: Setting) -> Left {
        (self.live)(setting)
    }
}

/// Ours first, then the peers.
#[must_use]
pub fn entries() -> Vec<Entry> {
    let mut entries = vec![entry!("kmm", Role::Ours, true, Kmm::new)];
    #[cfg(feature = "peers")]
    entries.extend(peers::entries());
    entries.shrink_to_fit();
    entries
}

/// Ours, every request a movable one: what grouping by mobility is compared with.
#[must_use]
pub fn without_types() -> Entry {
    entry!("kmm without types", Role::Bystander, true, Untyped::new)
}

fn build<A: Frames>(make: fn() -> A, kind: Kind, plan: &Plan) -> Box<dyn Workload> {
    match kind {
        Kind::Pair => Box::new(single::Pair::new(make(), "a", plan)),
        Kind::PairAged => {
            let allocator = make();
            aged::half_free(&allocator);
            Box::new(single::Pair::new(allocator, "a-aged", plan))
        }
        Kind::BulkFresh => Box::new(single::BulkFresh::new(make)),
        Kind::Bulk => Box::new(single::Bulk::new(make())),
        Kind::Huge => Box::new(single::Huge::new(make())),
        Kind::Mixed => Box::new(single::Mixed::new(make(), plan)),
        Kind::Threads => Box::new(shared::Threads::new(make(), plan)),
        Kind::Remote => Box::new(shared::Remote::new(make())),
        Kind::Latency => Box::new(aged::Latency::new(make())),
        Kind::Fragmentation => Box::new(aged::Fragmentation::new(make)),
    }
}

/// Takes single frames out until `count` are in `frames` or there is no more.
fn fill<A: Frames>(allocator: &A, frames: &mut Vec<u32>, count: usize) {
    while frames.len() < count {
        match allocator.alloc(0) {
            Some(frame) => frames.push(frame as u32),
            None => break,
        }
    }
}

/// Numbers must be below 2^32, as workloads keep them so.
const _: () = assert!(NR_FRAMES <= u32::MAX as usize);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every allocator hands out each frame once, whole blocks too: else its figures mean nothing.
    fn hands_out_each_frame_once<A: Frames>(allocator: &A) {
        let mut frames = Vec::new();
        fill(allocator, &mut frames, allocator.nr_frames());
        let distinct: BTreeSet<u32> = frames.iter().copied().collect();
        assert_eq!(distinct.len(), frames.len());
        assert!(frames.len() * 100 >= allocator.nr_frames() * 98);
        for frame in frames {
            allocator.free(frame as usize, 0);
        }
        let huge: Vec<usize> = core::iter::from_fn(|| allocator.alloc(9)).collect();
        assert!(huge.len() >= 500, "{}", huge.len());
        let distinct: BTreeSet<usize> = huge.iter().map(|frame| frame / 512).collect();
        assert_eq!(distinct.len(), huge.len());
    }

    #[test]
    fn ours_hands_out_each_frame_once() {
        hands_out_each_frame_once(&Kmm::new());
    }

    #[test]
    fn every_kind_yields_its_figures() {
        let plan = Plan {
            rounds: 1,
            retries: 0,
            piece_ns: 1e5,
        };
        let quick = Kind::ALL
            .into_iter()
            .filter(|kind| kind.repeats() == Repeats::Timed);
        for kind in quick {
            let turn = entries()[0].workload(kind, &plan).unwrap().turn();
            let ids: Vec<&str> = turn.iter().map(|reading| reading.figure).collect();
            assert_eq!(ids, kind.figures());
        }
    }
}
