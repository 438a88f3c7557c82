//! What is refused, and what is found wrong.

use core::fmt;

use kmm_frame::{PageFlags, Pfn, ZoneType};

use super::LruList;

/// Why a page was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LruError {
    /// The frame is in no zone of the node.
    Foreign,
    /// Nobody holds the page: it is free.
    NotHeld,
    /// The page serves something that is not reclaimed from lists: the flags that say so.
    OtherUse(PageFlags),
    /// It is on a list already.
    AlreadyListed,
    /// It is on no list.
    NotListed,
    /// Its flags or links do not fit its neighbours: somebody else changed them.
    Spoiled,
}

impl fmt::Display for LruError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("frame of no zone"),
            Self::NotHeld => f.write_str("page is free"),
            Self::OtherUse(flags) => write!(f, "page serves something else: {flags:?}"),
            Self::AlreadyListed => f.write_str("page is on an LRU list already"),
            Self::NotListed => f.write_str("page is on no LRU list"),
            Self::Spoiled => f.write_str("flags or links of an LRU page were changed by others"),
        }
    }
}

impl core::error::Error for LruError {}

/// What [`crate::Lruvec::validate`] found wrong (INV-6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LruBroken {
    /// A page on the list does not carry its flags.
    Flags(LruList, Pfn),
    /// The links do not lead back and forth at this page.
    Link(LruList, Pfn),
    /// The list is shorter or longer than counted.
    Count(LruList),
    /// The zone counts another number of pages on the list.
    ZoneCount(ZoneType, LruList),
    /// The flags say that the page is on a list, but none has it.
    Unlisted(Pfn),
}

impl fmt::Display for LruBroken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flags(list, pfn) => write!(f, "page {pfn} of {list:?} has the flags of another"),
            Self::Link(list, pfn) => write!(f, "page {pfn} of {list:?} has a bad link"),
            Self::Count(list) => write!(f, "{list:?} is miscounted"),
            Self::ZoneCount(zone, list) => write!(f, "zone {zone} miscounts {list:?}"),
            Self::Unlisted(pfn) => write!(f, "page {pfn} is on no list, but says so"),
        }
    }
}

impl core::error::Error for LruBroken {}
