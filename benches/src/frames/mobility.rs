//! What is left for huge pages when requests of different mobility share the memory for long.
//!
//! Three populations: pages of programs, which can be moved and mostly do not live long; the kernel's own, which stay where
//! they are and live long; and caches of the kernel, which grow one by one and shrink in bursts. Four times files fill
//! nearly all of the memory, and are given up. When the load is at its mark,
//! a program exits: 2048 movable blocks go, from anywhere. In the end: how many huge pages could be had at once,
//! how far the populations mixed, and how many huge pages there would be had everything been moved away that can be.

use super::Frames;
use crate::rng::Rng;

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mobility {
    /// The kernel's own: it cannot be moved.
    Unmovable,
    /// Caches of the kernel: they cannot be moved, but given up.
    Reclaimable,
    /// Pages of programs and files.
    Movable,
}

use Mobility::{Movable, Reclaimable, Unmovable};

/// How full, how long, which random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Frames in use, in percent.
    pub load_percent: usize,
    /// Events after the memory was filled.
    pub nr_events: usize,
    /// Of the random numbers.
    pub seed: u64,
}

/// What is left.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Left {
    /// Free memory that can be had as huge pages, in percent.
    pub huge_percent: f64,
    /// Pageblocks that hold movable frames and others, in percent of all.
    pub mixed_percent: f64,
    /// What can be had as huge pages once no movable frame is in use, in percent of what is free then.
    pub moved_percent: f64,
    /// Requests that failed: there was memory for each.
    pub nr_failed: usize,
}

const HUGE: usize = 9;
const PAGEBLOCK: usize = 1 << HUGE;
/// Of the frames in use, in percent; the rest is movable.
const UNMOVABLE_SHARE: usize = 15;
const RECLAIMABLE_SHARE: usize = 15;
/// Caches grow to this share of their mark, in percent, and shrink to that.
const GROWN: usize = 150;
const SHRUNK: usize = 50;
/// Of a thousand events, how many are about whom. The rest grows the caches.
const SHORT_EVENTS: usize = 900;
const LONG_EVENTS: usize = 50;
const UNMOVABLE_EVENTS: usize = 4;
/// Of a hundred movable ones that are made, how many live long: as many as die.
const LONG_BIRTHS: usize = 5;

/// How often files fill the memory, up to so many percent.
const NR_SWINGS: usize = 4;
const BRIM: usize = 98;
/// So many movable ones of a short life go when the memory is full.
const EXIT: usize = 2048;

/// A block in use.
type Block = (u32, u8);

/// Blocks in use, and how many frames they have.
#[derive(Default)]
struct Population {
    blocks: Vec<Block>,
    nr_frames: usize,
}

impl Population {
    fn push(&mut self, (frame, order): Block) {
        self.blocks.push((frame, order));
        self.nr_frames += 1 << order;
    }

    fn take(&mut self, rng: &mut Rng) -> Option<Block> {
        if self.blocks.is_empty() {
            return None;
        }
        let (frame, order) = rng.take(&mut self.blocks);
        self.nr_frames -= 1 << order;
        Some((frame, order))
    }
}

struct Life<'a, A> {
    allocator: &'a A,
    rng: Rng,
    /// Frames in use shall be so many.
    load: usize,
    unmovable: Population,
    reclaimable: Population,
    short: Population,
    long: Population,
    nr_failed: usize,
}

/// Lives that life with a new allocator.
pub(super) fn run<A: Frames>(make: impl FnOnce() -> A, setting: Setting) -> Left {
    let allocator = make();
    let mut life = Life {
        load: allocator.nr_frames() * setting.load_percent / 100,
        allocator: &allocator,
        rng: Rng::new(setting.seed),
        unmovable: Population::default(),
        reclaimable: Population::default(),
        short: Population::default(),
        long: Population::default(),
        nr_failed: 0,
    };
    life.fill();
    for _ in 0..NR_SWINGS {
        life.swing();
        for _ in 0..setting.nr_events / NR_SWINGS {
            life.event();
        }
    }
    life.left()
}

impl<A: Frames> Life<'_, A> {
    fn used(&self) -> usize {
        let all = [&self.unmovable, &self.reclaimable, &self.short, &self.long];
        all.iter().map(|population| population.nr_frames).sum()
    }

    /// Each population to its share, in turns.
    fn fill(&mut self) {
        let unmovable = self.load * UNMOVABLE_SHARE / 100;
        let reclaimable = self.load * RECLAIMABLE_SHARE / 100;
        let (mut used, mut nr_failed_before) = (0, 0);
        while used < self.load && nr_failed_before == self.nr_failed {
            nr_failed_before = self.nr_failed;
            match self.rng.below(100) {
                0..15 if self.unmovable.nr_frames < unmovable => self.make(Unmovable),
                15..30 if self.reclaimable.nr_frames < reclaimable => self.make(Reclaimable),
                30.. => self.make(Movable),
                _ => {}
            }
            used = self.used();
        }
        // Half of what is there before the first event lives long.
        for _ in 0..self.short.blocks.len() / 2 {
            if let Some(block) = self.short.take(&mut self.rng) {
                self.long.push(block);
            }
        }
    }

    fn event(&mut self) {
        const SHORT_END: usize = SHORT_EVENTS;
        const LONG_END: usize = SHORT_END + LONG_EVENTS;
        const UNMOVABLE_END: usize = LONG_END + UNMOVABLE_EVENTS;
        match self.rng.below(1000) {
            0..SHORT_END => self.make_movable(0),
            SHORT_END..LONG_END => {
                let block = self.long.take(&mut self.rng);
                self.free(block);
            }
            LONG_END..UNMOVABLE_END => {
                let block = self.unmovable.take(&mut self.rng);
                self.free(block);
                self.make(Unmovable);
            }
            _ => self.make(Reclaimable),
        }
        let mark = self.load * RECLAIMABLE_SHARE / 100;
        if self.reclaimable.nr_frames * 100 > mark * GROWN {
            while self.reclaimable.nr_frames * 100 > mark * SHRUNK {
                let block = self.reclaimable.take(&mut self.rng);
                self.free(block);
            }
        }
        self.keep_to_the_load();
    }

    /// Files fill the memory to the brim, and are given up again.
    fn swing(&mut self) {
        let brim = self.allocator.nr_frames() * BRIM / 100;
        while self.used() < brim {
            let before = self.nr_failed;
            self.make_movable(0);
            if self.nr_failed != before {
                break;
            }
        }
        while self.used() > self.load && !self.short.blocks.is_empty() {
            let block = self.short.take(&mut self.rng);
            self.free(block);
        }
    }

    /// When the memory is as full as it shall be, a program exits.
    fn keep_to_the_load(&mut self) {
        if self.used() < self.load {
            return;
        }
        for _ in 0..EXIT {
            let block = self.short.take(&mut self.rng);
            self.free(block);
        }
    }

    fn make(&mut self, mobility: Mobility) {
        let dice = self.rng.below(100);
        let order = match (mobility, dice) {
            (Unmovable, 0..60) | (Reclaimable, 0..50) | (Movable, 0..95) => 0,
            (Unmovable, 60..80) | (Reclaimable, 50..80) => 1,
            (Unmovable, 80..92) | (Reclaimable, 80..) | (Movable, 95..) => 2,
            (Unmovable, 92..) => 3,
        };
        if mobility == Movable {
            return self.make_movable(order);
        }
        match self.allocator.alloc_for(order, mobility) {
            None => self.nr_failed += 1,
            Some(frame) if mobility == Unmovable => {
                self.unmovable.push((frame as u32, order as u8));
            }
            Some(frame) => self.reclaimable.push((frame as u32, order as u8)),
        }
    }

    fn make_movable(&mut self, order: usize) {
        match self.allocator.alloc_for(order, Movable) {
            None => self.nr_failed += 1,
            Some(frame) if self.rng.below(100) < LONG_BIRTHS => {
                self.long.push((frame as u32, order as u8));
            }
            Some(frame) => self.short.push((frame as u32, order as u8)),
        }
    }

    fn free(&self, block: Option<Block>) {
        if let Some((frame, order)) = block {
            self.allocator.free(frame as usize, usize::from(order));
        }
    }

    fn left(mut self) -> Left {
        let huge_percent = self.huge_percent();
        let mixed_percent = self.mixed_percent();
        for population in [&mut self.short, &mut self.long] {
            for (frame, order) in population.blocks.drain(..) {
                self.allocator.free(frame as usize, usize::from(order));
            }
            population.nr_frames = 0;
        }
        Left {
            huge_percent,
            mixed_percent,
            moved_percent: self.huge_percent(),
            nr_failed: self.nr_failed,
        }
    }

    /// Huge pages to be had, of those that the free frames would make side by side.
    fn huge_percent(&self) -> f64 {
        let nr_free = self.allocator.nr_frames() - self.used();
        super::aged::percent_of_ideal(self.allocator, nr_free)
    }

    /// By what the life itself knows, so that every allocator is judged alike.
    fn mixed_percent(&self) -> f64 {
        const MOVES: u8 = 1;
        const STAYS: u8 = 2;
        // A peer may number its frames from its metadata on.
        let mut pageblocks = vec![0_u8; 2 * self.allocator.nr_frames() / PAGEBLOCK];
        let mut mark = |population: &Population, bit| {
            for (frame, _) in &population.blocks {
                pageblocks[*frame as usize / PAGEBLOCK] |= bit;
            }
        };
        mark(&self.short, MOVES);
        mark(&self.long, MOVES);
        mark(&self.unmovable, STAYS);
        mark(&self.reclaimable, STAYS);
        let mixed = pageblocks.iter().filter(|&&bits| bits == MOVES | STAYS);
        100.0 * mixed.count() as f64 / (self.allocator.nr_frames() / PAGEBLOCK) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::Kmm;

    fn setting(load_percent: usize) -> Setting {
        Setting {
            load_percent,
            nr_events: 20_000,
            seed: 1,
        }
    }

    #[test]
    fn the_same_seed_leaves_the_same() {
        let left = run(Kmm::new, setting(70));
        assert_eq!(left, run(Kmm::new, setting(70)));
        assert!(left.moved_percent >= left.huge_percent);
        assert_eq!(left.nr_failed, 0);
    }
}
