//! Simple sources of frames, for tests of what takes pages without a zone beneath.
#![expect(unsafe_code, reason = "implements PageSource")]

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kmm_frame::{Gfp, Order, PageFlags, Pfn, PfnRange};
use kmm_host::{AllocError, PageBlock, PageReq, PageSource};

use crate::Machine;

/// What a frame that was not asked to be zeroed holds.
const FRESH: u8 = 0xa5;
/// What a freed frame holds.
const FREED: u8 = 0x6b;

/// Hands out the frames of a range upwards and takes none back: the simplest source there is.
#[derive(Debug)]
pub struct BumpSource {
    machine: &'static Machine,
    free: Mutex<PfnRange>,
}

impl BumpSource {
    /// Takes frames from the longest range of RAM.
    ///
    /// # Panics
    /// When the machine has no RAM.
    #[must_use]
    pub fn new(machine: &'static Machine) -> Self {
        Self::with_range(machine, longest(machine))
    }

    /// Takes frames from `range`, which is RAM.
    #[must_use]
    pub const fn with_range(machine: &'static Machine, range: PfnRange) -> Self {
        Self {
            machine,
            free: Mutex::new(range),
        }
    }

    /// Frames not handed out yet.
    #[must_use]
    pub fn nr_left(&self) -> usize {
        lock(&self.free).nr_pages()
    }
}

// SAFETY: the range of free frames only shrinks, and what leaves it is RAM of the machine; `prepare` zeroes.
unsafe impl PageSource for BumpSource {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        let mut free = lock(&self.free);
        let start = free.start().align_up(req.order);
        let block = PfnRange::with_len(start, req.order.nr_pages());
        if !free.contains_range(block) {
            return Err(AllocError::OutOfMemory);
        }
        *free = PfnRange::new(block.end(), free.end());
        Ok(prepare(self.machine, start, req))
    }

    fn free(&self, block: PageBlock) {
        let _leaked = block.into_raw();
    }
}

/// Hands out the frames of a range and takes them back; notices most of what can be done wrong.
///
/// Panics on a double free, a free of a part, a frame that is freed while it is a page table or while a CPU remembers a
/// translation to it, or while its descriptor says that it is in use ([`PageFlags::CHECK_AT_FREE`]). Frames hold rubbish
/// when they are handed out, unless zeros were asked for, and other rubbish when they are free.
#[derive(Debug)]
pub struct FreeListSource {
    machine: &'static Machine,
    range: PfnRange,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    used: Vec<bool>,
    blocks: HashMap<Pfn, Order>,
    next: usize,
}

impl FreeListSource {
    /// Takes frames from the longest range of RAM.
    ///
    /// # Panics
    /// When the machine has no RAM.
    #[must_use]
    pub fn new(machine: &'static Machine) -> Self {
        Self::with_range(machine, longest(machine))
    }

    /// Takes frames from `range`, which is RAM that nobody else uses.
    ///
    /// # Panics
    /// When a frame of it is no RAM.
    #[must_use]
    pub fn with_range(machine: &'static Machine, range: PfnRange) -> Self {
        assert!(
            range.iter().all(|pfn| machine.is_ram(pfn)),
            "{range:?} is not all RAM"
        );
        let state = State {
            used: vec![false; range.nr_pages()],
            blocks: HashMap::new(),
            next: 0,
        };
        Self {
            machine,
            range,
            state: Mutex::new(state),
        }
    }

    /// Frames that were handed out and did not come back.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        lock(&self.state)
            .blocks
            .values()
            .map(|order| order.nr_pages())
            .sum()
    }

    /// Frames that are free.
    #[must_use]
    pub fn nr_free(&self) -> usize {
        self.range.nr_pages() - self.outstanding()
    }

    /// Panics unless everything came back.
    ///
    /// # Panics
    /// That is what it is for.
    #[track_caller]
    pub fn assert_nothing_outstanding(&self) {
        let state = lock(&self.state);
        assert!(
            state.blocks.is_empty(),
            "frames were leaked: {:?}",
            state.blocks
        );
    }
}

// SAFETY: a block is handed out only while none of its frames is used, and they are marked then; all frames are RAM of
// the machine (checked), starts are aligned, and `prepare` zeroes.
unsafe impl PageSource for FreeListSource {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        let mut state = lock(&self.state);
        let start = state
            .find(self.range, req.order)
            .ok_or(AllocError::OutOfMemory)?;
        let first = start - self.range.start();
        state.used[first..first + req.order.nr_pages()].fill(true);
        state.next = first + req.order.nr_pages();
        state.blocks.insert(start, req.order);
        Ok(prepare(self.machine, start, req))
    }

    fn free(&self, block: PageBlock) {
        if std::thread::panicking() {
            return; // one report is enough, and a second panic would hide the first
        }
        let frames = block.range();
        let (start, order) = block.into_raw();
        let mut state = lock(&self.state);
        match state.blocks.remove(&start) {
            Some(known) => assert_eq!(known, order, "{start} was handed out with another order"),
            None => panic!("{frames:?} is freed, but was not handed out"),
        }
        self.machine.tlb().assert_forgotten(frames);
        for pfn in frames.iter() {
            assert!(
                !self.machine.ptes().is_table(pfn),
                "{pfn} is freed, but is a page table"
            );
            let flags = self.machine.mem_map().page(pfn).flags();
            let in_use = flags & PageFlags::CHECK_AT_FREE;
            assert!(in_use.is_empty(), "{pfn} is freed with {in_use:?}");
            self.machine.fill_frame(pfn, FREED);
        }
        let first = start - self.range.start();
        state.used[first..first + order.nr_pages()].fill(false);
    }
}

impl State {
    /// The first free block at or after the place of the last one, then from the start.
    fn find(&self, range: PfnRange, order: Order) -> Option<Pfn> {
        let step = order.nr_pages();
        let first = range.start().align_up(order);
        let starts = || {
            (first.index()..range.end().index())
                .step_by(step)
                .map(Pfn::new)
        };
        let is_free = |start: &Pfn| {
            let at = *start - range.start();
            let used = self.used.get(at..at + step);
            used.is_some_and(|used| !used.contains(&true))
        };
        let from = range.start() + self.next;
        let mut above = starts().skip_while(|start| *start < from);
        above.find(is_free).or_else(|| starts().find(is_free))
    }
}

/// Makes frames into a block as a zone hands it out: one reference, no flags.
fn prepare(machine: &'static Machine, start: Pfn, req: PageReq) -> PageBlock {
    let map = machine.mem_map();
    let byte = if req.gfp.contains(Gfp::ZERO) {
        0
    } else {
        FRESH
    };
    for pfn in PfnRange::with_len(start, req.order.nr_pages()).iter() {
        machine.fill_frame(pfn, byte);
        map.page(pfn).reset_flags(PageFlags::empty());
        map.page(pfn).reset_map_count();
        map.page(pfn).set_ref_count(0);
    }
    map.page(start).set_ref_count(1);
    // SAFETY: both sources hand a frame out only when nobody has it; `start` is aligned.
    unsafe { PageBlock::from_raw(start, req.order) }
}

fn longest(machine: &Machine) -> PfnRange {
    let longest = machine.ram().iter().max_by_key(|range| range.nr_pages());
    *longest.unwrap_or_else(|| panic!("a machine without RAM"))
}

/// A panic under one of these locks is a failed test; what others see later does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
