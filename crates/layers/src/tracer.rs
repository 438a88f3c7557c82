//! Every block that comes and goes, as a value. Linux: the events `mm_page_alloc` and `mm_page_free`,
//! include/trace/events/kmem.h.

use core::fmt;

use kmm_frame::{Gfp, Order, Page, Pfn};
use kmm_host::{PageBlock, PageReq};
use lock_api::{Mutex, RawMutex};

use crate::layer::{Freed, Layer, Watch};

/// Where Linux on x86-64 has its descriptors; it prints addresses in there.
const VMEMMAP_START: u64 = 0xffff_ea00_0000_0000;

/// What happened to a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PageEvent {
    /// It was handed out. Linux: `mm_page_alloc`.
    Alloc {
        /// The first frame; `None` when there was none to be had.
        pfn: Option<Pfn>,
        /// The size that was asked for.
        order: Order,
        /// What the request said.
        gfp: Gfp,
    },
    /// It came back. Linux: `mm_page_free`.
    Free {
        /// The first frame.
        pfn: Pfn,
        /// The size.
        order: Order,
    },
    /// It came back among many. Linux: `mm_page_free_batched`.
    FreeBatched {
        /// The first frame.
        pfn: Pfn,
        /// The size; Linux's event knows single pages only.
        order: Order,
    },
}

/// A line of /sys/kernel/tracing/trace, from the name of the event on.
impl fmt::Display for PageEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Alloc { pfn, order, gfp } => {
                let page = pfn.map_or(0, descriptor);
                let index = pfn.map_or(0, Pfn::index);
                let kind = gfp.migrate_type().index();
                write!(
                    f,
                    "mm_page_alloc: page={page:016x} pfn={index:#x} order={order} migratetype={kind} gfp_flags="
                )?;
                if gfp.is_empty() {
                    f.write_str("none")
                } else {
                    write!(f, "{gfp}")
                }
            }
            Self::Free { pfn, order } => {
                let page = descriptor(pfn);
                write!(f, "mm_page_free: page={page:016x} pfn={pfn} order={order}")
            }
            Self::FreeBatched { pfn, order } => {
                let page = descriptor(pfn);
                write!(
                    f,
                    "mm_page_free_batched: page={page:016x} pfn={pfn} order={order}"
                )
            }
        }
    }
}

const fn descriptor(pfn: Pfn) -> u64 {
    VMEMMAP_START + (pfn.index() * size_of::<Page>()) as u64
}

/// Tells `F` of every block that is handed out, refused or taken back.
pub type Tracer<S, F> = Layer<S, Trace<F>>;

/// Who watches in a [`Tracer`].
pub struct Trace<F> {
    sink: F,
}

impl<S, F: Fn(PageEvent)> Tracer<S, F> {
    /// Tells `sink` of what `inner` does. It runs wherever the source is used, interrupts included, and must not use it.
    pub const fn new(inner: S, sink: F) -> Self {
        Self::around(inner, Trace { sink })
    }
}

impl<F: Fn(PageEvent)> Watch for Trace<F> {
    fn took(&self, block: &mut PageBlock, req: PageReq) {
        (self.sink)(PageEvent::Alloc {
            pfn: Some(block.pfn()),
            order: block.order(),
            gfp: req.gfp,
        });
    }

    fn missed(&self, req: PageReq) {
        (self.sink)(PageEvent::Alloc {
            pfn: None,
            order: req.order,
            gfp: req.gfp,
        });
    }

    fn gave(&self, block: &mut PageBlock, freed: Freed) -> bool {
        let (pfn, order) = (block.pfn(), block.order());
        (self.sink)(match freed {
            Freed::Alone => PageEvent::Free { pfn, order },
            Freed::InBatch => PageEvent::FreeBatched { pfn, order },
        });
        true
    }
}

impl<F> fmt::Debug for Trace<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").finish_non_exhaustive()
    }
}

/// The last events, in storage that was handed in. Linux: the ring buffer of kernel/trace.
pub struct TraceRing<L: RawMutex> {
    ring: Mutex<L, Ring>,
}

struct Ring {
    slots: &'static mut [Option<PageEvent>],
    next: usize,
    nr_events: u64,
}

impl<L: RawMutex> TraceRing<L> {
    /// Room for as many events as `slots` has.
    #[must_use]
    pub const fn new(slots: &'static mut [Option<PageEvent>]) -> Self {
        Self {
            ring: Mutex::from_raw(
                L::INIT,
                Ring {
                    slots,
                    next: 0,
                    nr_events: 0,
                },
            ),
        }
    }

    /// Remembers an event, instead of the oldest when there is no room.
    pub fn push(&self, event: PageEvent) {
        let mut ring = self.ring.lock();
        let next = ring.next;
        if let Some(slot) = ring.slots.get_mut(next) {
            *slot = Some(event);
            ring.next = (next + 1) % ring.slots.len();
        }
        ring.nr_events += 1;
    }

    /// How many events there were in all, those overwritten included.
    #[must_use]
    pub fn nr_events(&self) -> u64 {
        self.ring.lock().nr_events
    }

    /// Calls `f` with what is remembered, the oldest first. The lock is held.
    pub fn for_each(&self, f: impl FnMut(PageEvent)) {
        let ring = self.ring.lock();
        let (newer, older) = ring.slots.split_at(ring.next);
        older.iter().chain(newer).flatten().copied().for_each(f);
    }
}

impl<L: RawMutex> fmt::Debug for TraceRing<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceRing").finish_non_exhaustive()
    }
}
