//! What is told of a page that was freed although it was not free to go.

use core::fmt;

use kmm_frame::{Order, PageFlags, Pfn};

/// A page that was freed wrongly. It is not put back: lost, but harmless. Linux: `bad_page`, mm/page_alloc.c.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadPage {
    /// The frame that is bad; for a block, the first bad one in it.
    pub pfn: Pfn,
    /// The order with which it was freed.
    pub order: Order,
    /// What is wrong with it.
    pub reason: BadReason,
}

/// What is wrong with a page that was freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BadReason {
    /// It lies in no zone, or has no descriptor.
    Foreign,
    /// The block is not aligned to its order.
    NotAligned,
    /// It is free already.
    DoubleFree,
    /// It carries flags that say that somebody uses it ([`PageFlags::CHECK_AT_FREE`]).
    Flags(PageFlags),
    /// Others hold it: the reference count.
    RefCount(i32),
    /// Page tables map it: how many times.
    MapCount(i32),
}

impl fmt::Display for BadPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad page: pfn {} order {}: ", self.pfn, self.order)?;
        match self.reason {
            BadReason::Foreign => f.write_str("no frame of any zone"),
            BadReason::NotAligned => f.write_str("not aligned to its order"),
            BadReason::DoubleFree => f.write_str("double free"),
            BadReason::Flags(flags) => write!(f, "freed with flags {flags:?}"),
            BadReason::RefCount(count) => write!(f, "freed with reference count {count}"),
            BadReason::MapCount(count) => write!(f, "freed with map count {count}"),
        }
    }
}
