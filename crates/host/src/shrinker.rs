//! Who keeps things that could be had again can be asked to let go of them.

use kmm_frame::{Gfp, NodeId};

/// What a shrinker is asked. Linux: `struct shrink_control`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShrinkControl {
    /// What may be done for it: no input or output without `Gfp::IO`, no file system without `Gfp::FS`.
    pub gfp: Gfp,
    /// The node that is short of memory.
    pub node: NodeId,
    /// How many things to look at.
    pub nr_to_scan: usize,
}

/// Keeps things that could be had again: names, inodes, free objects. Linux: `struct shrinker`.
///
/// # Context
/// Both functions are called by code that may sleep and holds no lock, while memory is short: they must not ask for more than
/// they give, and what they ask for does not reclaim again.
pub trait Shrinker: Sync {
    /// For reports.
    fn name(&self) -> &'static str;

    /// About how many things it could let go of; 0 if none, or if that cannot be told now. Linux: `count_objects`.
    fn count_objects(&self, control: &ShrinkControl) -> usize;

    /// Looks at up to `nr_to_scan` things and lets go of those that nobody needs; how many. `None` when it cannot now, as it
    /// would have to wait for who is waiting for it. Linux: `scan_objects`, `SHRINK_STOP`.
    fn scan_objects(&self, control: &ShrinkControl) -> Option<usize>;

    /// What it costs to have a thing again, 2 being usual; those that cost more are let go of less readily. 0 means that it costs
    /// nothing. Linux: `seeks`.
    fn seeks(&self) -> usize {
        2
    }

    /// How many things it looks at at once. Linux: `batch`, `SHRINK_BATCH`.
    fn batch(&self) -> usize {
        128
    }
}
