//! Allocators of objects, and what they are put through.
#![expect(unsafe_code, reason = "whoever frees promises that it is his")]

mod back_ends;
mod ours;
#[cfg(feature = "peers")]
mod peers;
mod resident;
mod shared;
mod single;

use std::alloc::Layout;

use crate::region::Pages;
use crate::rng::Sizes;
use crate::rounds::{Plan, Role, Workload};

pub use back_ends::table as back_ends_table;
pub use ours::{BackEnd, Kmm, NodeSlab, NodeSlob, NodeSlub};

/// Memory that each allocator manages, where it does not ask the system: 256 MiB.
pub const ARENA_BYTES: usize = 256 << 20;
/// Objects that are live at a time.
pub const LIVE: usize = 10_000;

/// An allocator of objects, as the workloads see it.
pub trait Heap: Sync + 'static {
    /// Memory of that layout, or null.
    fn alloc(&self, layout: Layout) -> *mut u8;

    /// Takes memory back.
    ///
    /// # Safety
    /// `ptr` came from [`Heap::alloc`] of this heap with this layout, and nobody uses it any more.
    unsafe fn free(&self, ptr: *mut u8, layout: Layout);
}

/// A workload of objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One object out and in.
    Pair,
    /// Many out, and in at random.
    Bulk,
    /// A random object goes, another comes.
    Steady,
    /// The same on two CPUs.
    Threads,
    /// Objects that move from one CPU to the other.
    Remote,
}

impl Kind {
    /// In the order of the table.
    pub const ALL: [Self; 5] = [
        Self::Pair,
        Self::Bulk,
        Self::Steady,
        Self::Threads,
        Self::Remote,
    ];

    /// The ids of the figures that it yields.
    #[must_use]
    pub const fn figures(self) -> &'static [&'static str] {
        match self {
            Self::Pair => &["a"],
            Self::Bulk => &["b-alloc", "b-free"],
            Self::Steady => &["c", "c2"],
            Self::Threads => &["d", "d2"],
            Self::Remote => &["remote"],
        }
    }
}

/// An allocator of objects by name.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// As in the tables.
    pub name: &'static str,
    /// Which it is.
    pub role: Role,
    /// Whether it searches lists: workloads are shorter then.
    pub is_slow: bool,
    build: fn(Kind, &Plan, bool) -> Box<dyn Workload>,
    footprint: fn(Sizes, bool) -> f64,
}

impl Entry {
    /// The workload on a new allocator of this name.
    #[must_use]
    pub fn workload(&self, kind: Kind, plan: &Plan) -> Box<dyn Workload> {
        (self.build)(kind, plan, self.is_slow)
    }

    /// Resident bytes for each live one. To be called in a process that did nothing before.
    #[must_use]
    pub fn footprint(&self, sizes: Sizes) -> f64 {
        (self.footprint)(sizes, self.is_slow)
    }
}

/// Ours first, with each back end, then the peers.
#[must_use]
pub fn entries() -> Vec<Entry> {
    let mut entries = vec![
        ours::<NodeSlub>("kmm", Role::Ours, false),
        ours::<NodeSlab>("kmm SLAB", Role::Bystander, false),
        ours::<NodeSlob>("kmm SLOB", Role::Bystander, true),
    ];
    #[cfg(feature = "peers")]
    entries.extend(peers::entries());
    entries.shrink_to_fit();
    entries
}

/// One of ours: the first is what is compared with rivals.
fn ours<S: BackEnd>(name: &'static str, role: Role, is_slow: bool) -> Entry {
    Entry {
        name,
        role,
        is_slow,
        build: |kind, plan, slow| build(Kmm::<S>::new, kind, plan, slow),
        footprint: |sizes, slow| {
            let machine = ours::Machine::new(Pages::Lazy);
            resident::footprint(|| Kmm::<S>::on(machine), sizes, slow)
        },
    }
}

fn build<H: Heap>(make: fn() -> H, kind: Kind, plan: &Plan, slow: bool) -> Box<dyn Workload> {
    match kind {
        Kind::Pair => Box::new(single::Pair::new(make(), plan)),
        Kind::Bulk => Box::new(single::Bulk::new(make(), slow)),
        Kind::Steady => Box::new(single::Steady::new(make(), plan, slow)),
        Kind::Threads => Box::new(shared::Threads::new(make(), plan, slow)),
        Kind::Remote => Box::new(shared::Remote::new(make(), slow)),
    }
}

/// The layout of a size in bytes, as of a struct of words.
#[inline(always)]
fn layout_of(size: usize) -> Layout {
    const WORD: usize = 8;
    Layout::from_size_align(size, WORD).expect("small sizes")
}

/// Writes the first word, as whoever allocates does.
#[inline(always)]
fn touch(ptr: *mut u8, value: usize) {
    assert!(!ptr.is_null(), "out of memory");
    // SAFETY: fresh memory of at least a word, aligned to it.
    unsafe { ptr.cast::<usize>().write_volatile(value) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn ours_keeps_the_contents_of_live_objects() {
        keeps_contents::<NodeSlub>();
        keeps_contents::<NodeSlab>();
        keeps_contents::<NodeSlob>();
    }

    fn keeps_contents<S: BackEnd>() {
        let heap = Kmm::<S>::new();
        let mut rng = Rng::new(1);
        let mut live: Vec<(*mut u8, usize)> = Vec::new();
        for nr in 0..20_000 {
            let size = Sizes::LogUniform.draw(&mut rng);
            let ptr = heap.alloc(layout_of(size));
            touch(ptr, nr ^ size);
            live.push((ptr, nr ^ size));
            if live.len() > 1000 {
                let (ptr, value) = rng.take(&mut live);
                // SAFETY: live, and at least a word long.
                assert_eq!(unsafe { ptr.cast::<usize>().read() }, value);
            }
        }
    }

    #[test]
    fn every_kind_yields_its_figures() {
        let plan = Plan {
            rounds: 1,
            retries: 0,
            piece_ns: 1e5,
        };
        for kind in Kind::ALL {
            let turn = entries()[0].workload(kind, &plan).turn();
            let ids: Vec<&str> = turn.iter().map(|reading| reading.figure).collect();
            assert_eq!(ids, kind.figures());
        }
    }
}
