#![no_std]
#![doc = include_str!("../README.md")]

extern crate alloc;

pub mod adapt;
pub mod check;
pub mod proc;

mod address_space;
mod audit;
mod early;
mod errno;
mod guard_pages;
mod manager;
mod page_alloc;
mod shrinkers;
mod tables;

pub use address_space::{AddressSpace, MmStat};
pub use audit::{AuditError, AuditReport, Owner};
pub use early::{BuildError, Early, ImagePart, KernelSpace, MAX_KFENCE_OBJECTS};
pub use errno::{Errno, MmError};
pub use manager::{Hooks, KernelVm, Manager, Objects, Pages, VmEvents};

pub use page_alloc::{
    Accountant, AllocBug, AllocFailure, AllocHooks, AllocStep, BadFree, Caller, CompactPriority,
    CompactResult, ExactPages, MemInfo, MemTotals, NoAccounts, NoReclaim, NoWait, NodeInfo,
    OomResult, OverLimit, PageAlloc, RateLimit, ReclaimReq, Reclaimer, SplitPages, ZoneInfo,
    write_mem_info,
};

pub use shrinkers::{MAX_SHRINKERS, ShrinkerId, Shrinkers, TooManyShrinkers};

pub use kmm_buddy as buddy;
pub use kmm_devres as devres;
pub use kmm_fault as fault;
pub use kmm_frame as frame;
pub use kmm_highmem as highmem;
pub use kmm_host as host;
pub use kmm_kcoll as kcoll;
pub use kmm_layers as layers;
pub use kmm_pagetable_walker as pagetable_walker;
pub use kmm_procfs as procfs;
pub use kmm_slub as slub;
pub use kmm_vma as vma;
pub use kmm_vmalloc as vmalloc;
pub use kmm_zone as zone;
