#![no_std]
#![doc = include_str!("../README.md")]

mod addr;
mod compound;
mod counts;
mod folio;
mod gfp;
pub mod memblock;
mod memmap;
mod nodemask;
mod numa;
mod order;
mod page;
mod pfn;
mod size;
mod view;
mod zone_type;

pub use addr::{PhysAddr, VirtAddr};
pub use compound::CompoundError;
pub use counts::{
    NodeCounts, NodeItem, NumaCounts, NumaItem, VmEvent, VmEventCounts, ZoneCounts, ZoneItem,
};
pub use folio::{Folio, Lost, NotAFolio, SplitError};
pub use gfp::Gfp;
pub use memmap::{
    MemMap, MemMapError, Overhead, PAGES_PER_SECTION, SECTION_SIZE_BITS, Section, SparseMap,
};
pub use nodemask::NodeMask;
pub use numa::{
    LOCAL_DISTANCE, MAX_NODE_CPUS, MAX_NODE_RANGES, MAX_NODES, NodeRange, REMOTE_DISTANCE,
    Topology, TopologyError,
};
pub use order::{MAX_ORDER, NR_ORDERS, Order};
pub use page::{Access, Fate, IoStatus, Page, PageFlags, References, Wake, Written};
pub use pfn::{Pfn, PfnRange};
pub use size::{
    PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, PageSize, Size1G, Size2M, Size4K, Size4M, getpagesize,
    page_align, page_align_down,
};
pub use view::{
    AnonView, BufferView, FreeView, PageCacheView, PageUse, PageView, SlabView, SwapEntry,
    SwappedView, TableView, View, WrongView,
};
pub use zone_type::{MigrateType, NodeId, ZoneType};
