//! The depot: batches of free objects that no CPU wants just now. Linux: `struct node_barn`.
//!
//! Bonwick and Adams, "Magazines and Vmem" (USENIX 2001), with a step between: a CPU whose array is full leaves a batch in its
//! own [`Stock`], one whose array is empty takes it from there. What is too much for a stock goes to the [`Depot`] of cache and
//! node, half the stock at a time, as a bundle that the next CPU takes whole: under the cache's lock two pointers change
//! hands, and no object and hardly a block is touched. Objects here count as in use for their slabs. Both are bounded in
//! bytes and emptied when pages are short.

use core::ptr::NonNull;

use crate::block::{BLOCK_OBJECTS, BlockBox};

/// What one CPU has of one cache behind its array: for whoever holds the CPU's lock.
#[derive(Debug)]
pub(crate) struct Stock {
    /// Batches, the one that came last first.
    full: Option<BlockBox>,
    spare: Option<BlockBox>,
    nr_objects: u32,
    most: u32,
    nr_batches_put: u64,
}

impl Stock {
    pub(crate) const fn new() -> Self {
        Self {
            full: None,
            spare: None,
            nr_objects: 0,
            most: 0,
            nr_batches_put: 0,
        }
    }

    /// It may have so many objects.
    pub(crate) fn set_most(&mut self, most: u32) {
        self.most = most;
    }

    /// Objects in all batches.
    pub(crate) const fn nr_objects(&self) -> usize {
        self.nr_objects as usize
    }

    /// Batches that came here so far.
    pub(crate) const fn nr_batches_put(&self) -> u64 {
        self.nr_batches_put
    }

    /// The same, which is forgotten.
    pub(crate) fn take_nr_batches_put(&mut self) -> u64 {
        core::mem::take(&mut self.nr_batches_put)
    }

    /// Whether so many objects more are too many.
    pub(crate) fn is_full_with(&self, more: usize) -> bool {
        self.nr_objects() + more > self.most as usize
    }

    pub(crate) const fn has_spare(&self) -> bool {
        self.spare.is_some()
    }

    /// Takes in an empty block.
    pub(crate) fn add_spare(&mut self, mut block: BlockBox) {
        block.next = self.spare.take();
        self.spare = Some(block);
    }

    /// Gives an empty block up.
    pub(crate) fn remove_spare(&mut self) -> Option<BlockBox> {
        pop(&mut self.spare)
    }

    /// Takes in up to `most` objects that `fill` moves into an empty block, which there is, and says how many they are.
    #[inline]
    pub(crate) fn put(&mut self, most: usize, fill: impl FnOnce(&mut [*mut u8]) -> usize) {
        let Some(mut block) = pop(&mut self.spare) else {
            return;
        };
        let nr = fill(&mut block.objects[..most.min(BLOCK_OBJECTS)]);
        block.set_len(nr);
        self.nr_objects += block.len;
        self.nr_batches_put += 1;
        block.next = self.full.take();
        self.full = Some(block);
    }

    /// Passes the batch that came last to `sink`; whether there was one.
    #[inline]
    pub(crate) fn take(&mut self, sink: impl FnOnce(&[*mut u8])) -> bool {
        let Some(block) = pop(&mut self.full) else {
            return false;
        };
        sink(block.objects());
        self.nr_objects -= block.len;
        self.add_spare(block);
        true
    }

    /// Leaves the colder half in the depot; the whole batches of it, and at least one.
    pub(crate) fn give_half(&mut self, depot: &mut Depot) {
        let half = self.nr_objects / 2;
        let mut kept = 0;
        let mut rest = &mut self.full;
        while rest.as_ref().is_some_and(|block| kept + block.len <= half) {
            let Some(block) = rest else { break };
            kept += block.len;
            rest = &mut block.next;
        }
        if let Some(bundle) = rest.take() {
            depot.give(bundle, self.nr_objects - kept);
            self.nr_objects = kept;
        }
    }

    /// Gets a bundle of the depot, and leaves its empty blocks there; whether there was one. The stock is empty.
    pub(crate) fn get_bundle(&mut self, depot: &mut Depot) -> bool {
        let Some((bundle, nr_objects)) = depot.get() else {
            return false;
        };
        debug_assert!(self.full.is_none(), "a bundle for who has batches");
        self.full = Some(bundle);
        self.nr_objects = nr_objects;
        let mut end = &mut self.spare;
        while let Some(block) = end {
            end = &mut block.next;
        }
        *end = depot.spare.take();
        depot.spare = self.spare.take();
        true
    }

    /// Gets all empty blocks of the depot. It has none itself.
    pub(crate) fn get_spares(&mut self, depot: &mut Depot) {
        debug_assert!(self.spare.is_none(), "blocks for who has some");
        self.spare = depot.spare.take();
    }

    /// Calls `visit` with each object.
    pub(crate) fn for_each(&self, visit: impl FnMut(NonNull<u8>)) {
        visit_chain(self.full.as_ref(), visit);
    }
}

/// What the CPUs of a node have to spare of a cache: for whoever holds the cache's lock.
#[derive(Debug)]
pub(crate) struct Depot {
    /// Bundles, the one that came last first.
    bundles: Option<BlockBox>,
    spare: Option<BlockBox>,
    nr_objects: usize,
}

impl Depot {
    pub(crate) const fn new() -> Self {
        Self {
            bundles: None,
            spare: None,
            nr_objects: 0,
        }
    }

    /// Objects in all bundles.
    pub(crate) const fn nr_objects(&self) -> usize {
        self.nr_objects
    }

    /// Gives an empty block up.
    pub(crate) fn remove_spare(&mut self) -> Option<BlockBox> {
        pop(&mut self.spare)
    }

    /// Takes a single object.
    pub(crate) fn take_one(&mut self) -> Option<NonNull<u8>> {
        let mut block = self.bundles.take()?;
        let object = block.pop();
        self.nr_objects -= 1;
        block.nr_in_bundle -= 1;
        if block.len > 0 {
            self.bundles = Some(block);
            return object;
        }
        let next_bundle = block.next_bundle.take();
        self.bundles = match block.next.take() {
            Some(mut rest) => {
                rest.nr_in_bundle = block.nr_in_bundle;
                rest.next_bundle = next_bundle;
                Some(rest)
            }
            None => next_bundle,
        };
        block.next = self.spare.take();
        self.spare = Some(block);
        object
    }

    /// Calls `visit` with each object.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(NonNull<u8>)) {
        let mut at = self.bundles.as_ref();
        while let Some(bundle) = at {
            visit_chain(Some(bundle), &mut visit);
            at = bundle.next_bundle.as_ref();
        }
    }

    fn give(&mut self, mut bundle: BlockBox, nr_objects: u32) {
        self.nr_objects += nr_objects as usize;
        bundle.nr_in_bundle = nr_objects;
        bundle.next_bundle = self.bundles.take();
        self.bundles = Some(bundle);
    }

    fn get(&mut self) -> Option<(BlockBox, u32)> {
        let mut bundle = self.bundles.take()?;
        self.bundles = bundle.next_bundle.take();
        let nr_objects = bundle.nr_in_bundle;
        self.nr_objects -= nr_objects as usize;
        Some((bundle, nr_objects))
    }
}

fn pop(chain: &mut Option<BlockBox>) -> Option<BlockBox> {
    let mut block = chain.take()?;
    *chain = block.next.take();
    Some(block)
}

fn visit_chain(mut at: Option<&BlockBox>, mut visit: impl FnMut(NonNull<u8>)) {
    while let Some(block) = at {
        let objects = block.objects().iter();
        objects
            .filter_map(|object| NonNull::new(*object))
            .for_each(&mut visit);
        at = block.next.as_ref();
    }
}

const _: () = assert!(size_of::<Stock>() == 32);
