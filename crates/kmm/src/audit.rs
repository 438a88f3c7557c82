//! The truth: every frame has one owner, counts equal mappings, lists equal counters.
//!
//! The audit believes nobody. It takes every structure that claims frames, marks what each claims, and compares with
//! the descriptors. It works through memory in windows, so that it needs little memory itself.
//!
//! | owner | who says so |
//! |---|---|
//! | reserved | the descriptor: firmware, image, boot allocations |
//! | free | the buddy's free lists, the CPUs' pagesets |
//! | slab | the object allocator's slabs and large objects |
//! | table | the descriptor; their number is what the table counters say |
//! | vmalloc | the kernel's tables, in areas with frames of their own |
//! | mapped | entries of processes; as many as the map count says |
//! | held | the host: pages of files, and what else it took |

use alloc::vec::Vec;
use core::fmt;

use kmm_fault::{FileSource, frame_of};
use kmm_frame::{MAX_NODES, NodeId, NodeItem, PageFlags, Pfn, PfnRange, VirtAddr};
use kmm_host::Host;
use kmm_pagetable_walker::{Leaf, PteFlags, Span};
use kmm_slub::Broken as SlubBroken;
use kmm_vma::VmFlags;
use kmm_vmalloc::Broken as VmallocBroken;
use kmm_zone::ZonesBroken;

use crate::{AddressSpace, Manager};

/// Frames that are looked at in one go, nine bytes for each: as many as kmalloc has room for in one piece.
const WINDOW_PAGES: usize = 1 << 20;
/// With less memory than for this many, there is no audit.
const WINDOW_PAGES_MIN: usize = 1 << 10;

/// Who has a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Owner {
    /// Nobody that the audit knows of.
    Nobody,
    /// The allocator never had it.
    Reserved,
    /// It is free.
    Free,
    /// It holds objects.
    Slab,
    /// It is a page table.
    Table,
    /// It belongs to a vmalloc area.
    Vmalloc,
    /// Programs map it.
    Mapped,
    /// The host holds it, and no program maps it.
    Held,
}

const NR_OWNERS: usize = Owner::Held as usize + 1;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AuditError {
    /// Two claim the same frame.
    TwoOwners(Pfn, Owner, Owner),
    /// Nobody claims a frame: it is lost.
    Leaked(Pfn, PageFlags),
    /// The descriptor's map count is not the number of entries.
    MapCount {
        /// The frame.
        pfn: Pfn,
        /// What the descriptor says.
        counted: i32,
        /// Entries found.
        found: u32,
    },
    /// The descriptor's reference count is not the number of holders.
    RefCount {
        /// The frame.
        pfn: Pfn,
        /// What the descriptor says.
        counted: i32,
        /// Holders found.
        found: u32,
    },
    /// An entry of a program allows what its area does not, or there is no area.
    Rights(VirtAddr),
    /// An entry of a program maps a frame without descriptor.
    NoDescriptor(VirtAddr),
    /// An address space counts more or fewer pages than it maps.
    Rss {
        /// What it counts.
        counted: u64,
        /// Entries found.
        found: u64,
    },
    /// There are more or fewer page tables than their counters say.
    Tables {
        /// What the counters say.
        counted: usize,
        /// Descriptors of tables.
        found: usize,
    },
    /// A node counts more or fewer pages of a use than there are.
    Count {
        /// The node.
        node: NodeId,
        /// What is counted.
        item: NodeItem,
        /// What the node says.
        counted: u64,
        /// Pages found.
        found: u64,
    },
    /// The page allocator's lists.
    Zones(ZonesBroken),
    /// The object allocator's lists.
    Slub(SlubBroken),
    /// The kernel's virtual memory.
    Vmalloc(VmallocBroken),
    /// No memory for the audit's own notes.
    OutOfMemory,
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoOwners(pfn, one, other) => write!(f, "frame {pfn} is {one:?} and {other:?}"),
            Self::Leaked(pfn, flags) => write!(f, "frame {pfn} has no owner; flags {flags:?}"),
            Self::MapCount {
                pfn,
                counted,
                found,
            } => {
                write!(
                    f,
                    "frame {pfn} is mapped {found} times, its map count says {counted}"
                )
            }
            Self::RefCount {
                pfn,
                counted,
                found,
            } => {
                write!(
                    f,
                    "frame {pfn} has {found} holders, its reference count says {counted}"
                )
            }
            Self::Rights(va) => write!(f, "the entry at {va} allows more than its area"),
            Self::NoDescriptor(va) => write!(f, "the entry at {va} maps no frame of ours"),
            Self::Rss { counted, found } => write!(f, "{found} pages mapped, {counted} counted"),
            Self::Tables { counted, found } => write!(f, "{found} page tables, {counted} counted"),
            Self::Count {
                node,
                item,
                counted,
                found,
            } => {
                let (node, name) = (node.index(), item.name());
                write!(f, "node {node}: {name} is {found}, {counted} counted")
            }
            Self::Zones(broken) => broken.fmt(f),
            Self::Slub(broken) => write!(f, "slub: {broken}"),
            Self::Vmalloc(broken) => write!(f, "vmalloc: {broken}"),
            Self::OutOfMemory => f.write_str("no memory for the audit"),
        }
    }
}

impl core::error::Error for AuditError {}

/// Frames by owner: the sum is all frames that have descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AuditReport {
    nr_pages: [usize; NR_OWNERS],
}

impl AuditReport {
    /// Frames that `owner` has.
    #[must_use]
    pub const fn nr_pages(&self, owner: Owner) -> usize {
        self.nr_pages[owner as usize]
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |owner| self.nr_pages(owner);
        write!(
            f,
            "free {} + slab {} + tables {} + vmalloc {} + mapped {} + held {} + reserved {} = {}",
            of(Owner::Free),
            of(Owner::Slab),
            of(Owner::Table),
            of(Owner::Vmalloc),
            of(Owner::Mapped),
            of(Owner::Held),
            of(Owner::Reserved),
            self.nr_pages.iter().sum::<usize>(),
        )
    }
}

/// What the audit found out about one window of frames.
struct Window {
    frames: PfnRange,
    /// How many there is room for.
    nr_pages: usize,
    owners: Vec<Owner>,
    /// Entries of programs.
    mapped: Vec<u32>,
    /// References of the host.
    held: Vec<u32>,
    error: Option<AuditError>,
}

impl Window {
    /// A window as wide as memory for it can be had, for `nr_pages` frames in all.
    fn new(nr_pages: usize) -> Result<Self, AuditError> {
        let mut nr_pages = nr_pages.min(WINDOW_PAGES);
        loop {
            match Self::with_room(nr_pages) {
                Some(window) => return Ok(window),
                None if nr_pages <= WINDOW_PAGES_MIN => return Err(AuditError::OutOfMemory),
                None => nr_pages /= 2,
            }
        }
    }

    fn with_room(nr_pages: usize) -> Option<Self> {
        let (mut owners, mut mapped, mut held) = (Vec::new(), Vec::new(), Vec::new());
        owners.try_reserve_exact(nr_pages).ok()?;
        mapped.try_reserve_exact(nr_pages).ok()?;
        held.try_reserve_exact(nr_pages).ok()?;
        Some(Self {
            frames: PfnRange::EMPTY,
            nr_pages,
            owners,
            mapped,
            held,
            error: None,
        })
    }

    fn start(&mut self, frames: PfnRange) {
        self.frames = frames;
        self.owners.clear();
        self.owners.resize(frames.nr_pages(), Owner::Nobody);
        self.mapped.clear();
        self.mapped.resize(frames.nr_pages(), 0);
        self.held.clear();
        self.held.resize(frames.nr_pages(), 0);
    }

    fn index(&self, pfn: Pfn) -> Option<usize> {
        self.frames.contains(pfn).then(|| pfn - self.frames.start())
    }

    fn claim(&mut self, frames: PfnRange, owner: Owner) {
        for pfn in frames.intersect(self.frames).iter() {
            let slot = &mut self.owners[pfn - self.frames.start()];
            if *slot == Owner::Nobody {
                *slot = owner;
            } else {
                let first = *slot;
                self.note(AuditError::TwoOwners(pfn, first, owner));
            }
        }
    }

    fn note(&mut self, error: AuditError) {
        self.error.get_or_insert(error);
    }
}

impl<H: Host> Manager<H> {
    /// Checks everything. `spaces`: every address space there is; `held`: tells each reference to a frame that the host
    /// holds besides the entries of programs.
    ///
    /// O(frames). For tests, self-tests and the end of everything; nobody else changes memory meanwhile.
    ///
    /// # Errors
    /// The first [`AuditError`] found.
    pub fn audit<'a, F: FileSource + 'a>(
        &self,
        spaces: impl Iterator<Item = &'a AddressSpace<H, F>> + Clone,
        held: impl Fn(&mut dyn FnMut(Pfn)),
    ) -> Result<AuditReport, AuditError> {
        let all = self.mem_map().range();
        let mut window = Window::new(all.nr_pages())?;
        self.pages().validate().map_err(AuditError::Zones)?;
        self.slub().validate().map_err(AuditError::Slub)?;
        self.vmalloc().validate().map_err(AuditError::Vmalloc)?;
        let mut nr_tables = self.kernel_tables().nr_tables();
        for space in spaces.clone() {
            space.validate();
            check_space(space)?;
            nr_tables += space.tables().nr_tables();
        }
        let mut report = AuditReport::default();
        let mut found_tables = 0;
        let mut uses = Uses::default();
        let mut start = all.start();
        while start < all.end() {
            let end = all.end().min(start + window.nr_pages);
            window.start(PfnRange::new(start, end));
            found_tables += self.claim_all(&mut window, spaces.clone(), &held);
            uses.add(self, window.frames);
            self.settle(&mut window, &mut report)?;
            start = end;
        }
        if found_tables != nr_tables {
            return Err(AuditError::Tables {
                counted: nr_tables,
                found: found_tables,
            });
        }
        uses.compare(self)?;
        Ok(report)
    }

    /// Everybody claims; the page tables in the window are counted.
    fn claim_all<'a, F: FileSource + 'a>(
        &self,
        window: &mut Window,
        spaces: impl Iterator<Item = &'a AddressSpace<H, F>>,
        held: &impl Fn(&mut dyn FnMut(Pfn)),
    ) -> usize {
        let map = self.mem_map();
        let mut found_tables = 0;
        for pfn in window.frames.iter() {
            let flags = map.page(pfn).flags();
            found_tables += usize::from(flags.contains(PageFlags::TABLE));
            // The first tables came from memblock: reserved, and tables.
            if flags.contains(PageFlags::RESERVED) {
                window.claim(PfnRange::with_len(pfn, 1), Owner::Reserved);
            } else if flags.contains(PageFlags::TABLE) {
                window.claim(PfnRange::with_len(pfn, 1), Owner::Table);
            }
        }
        self.pages().for_each_free(|pfn, order, _| {
            window.claim(PfnRange::with_len(pfn, order.nr_pages()), Owner::Free);
        });
        self.slub()
            .for_each_frame(|frames, _| window.claim(frames, Owner::Slab));
        let walked = self.vmalloc().for_each_frame(|pfn, _| {
            window.claim(PfnRange::with_len(pfn, 1), Owner::Vmalloc);
        });
        if let Err(error) = walked {
            window.note(AuditError::Vmalloc(VmallocBroken::Tables(error)));
        }
        for space in spaces {
            for_each_user_leaf(space, |leaf| {
                if leaf.pfn() != self.zero_page() {
                    match window.index(leaf.pfn()) {
                        Some(index) => window.mapped[index] += 1,
                        None if map.get(leaf.pfn()).is_none() => {
                            window.note(AuditError::NoDescriptor(leaf.va));
                        }
                        None => {}
                    }
                }
            });
        }
        held(&mut |pfn| {
            if let Some(index) = window.index(pfn) {
                window.held[index] += 1;
            }
        });
        found_tables
    }

    /// Compares the claims with the descriptors.
    fn settle(&self, window: &mut Window, report: &mut AuditReport) -> Result<(), AuditError> {
        for pfn in window.frames.iter() {
            let index = pfn - window.frames.start();
            let (mapped, held) = (window.mapped[index], window.held[index]);
            if mapped > 0 {
                window.claim(PfnRange::with_len(pfn, 1), Owner::Mapped);
            } else if held > 0 {
                window.claim(PfnRange::with_len(pfn, 1), Owner::Held);
            }
            let page = self.mem_map().page(pfn);
            let counts = i64::from(mapped) == i64::from(page.map_count());
            if !counts {
                window.note(AuditError::MapCount {
                    pfn,
                    counted: page.map_count(),
                    found: mapped,
                });
            }
            let holders = mapped + held;
            if holders > 0 && i64::from(holders) != i64::from(page.ref_count()) {
                window.note(AuditError::RefCount {
                    pfn,
                    counted: page.ref_count(),
                    found: holders,
                });
            }
            if window.owners[index] == Owner::Nobody {
                window.note(AuditError::Leaked(pfn, page.flags()));
            }
            report.nr_pages[window.owners[index] as usize] += 1;
        }
        window.error.map_or(Ok(()), Err)
    }
}

/// Pages of each node by [`USES`], as descriptors have it.
#[derive(Default)]
struct Uses([[u64; USES.len()]; MAX_NODES]);

const USES: [NodeItem; 3] = [
    NodeItem::AnonPages,
    NodeItem::Mapped,
    NodeItem::PageTablePages,
];

impl Uses {
    fn add<H: Host>(&mut self, manager: &Manager<H>, frames: PfnRange) {
        let map = manager.mem_map();
        for (pfn, page) in frames.iter().filter_map(|pfn| Some((pfn, map.get(pfn)?))) {
            let flags = page.flags();
            let (is_mapped, is_anon) = (page.map_count() > 0, flags.contains(PageFlags::ANON));
            // The first tables came from memblock, which counts for itself.
            let is_table = flags & (PageFlags::TABLE | PageFlags::RESERVED) == PageFlags::TABLE;
            let found = [is_mapped && is_anon, is_mapped && !is_anon, is_table];
            let of_node = &mut self.0[manager.topology().node_of(pfn).index()];
            for (sum, one) in of_node.iter_mut().zip(found) {
                *sum += u64::from(one);
            }
        }
    }

    fn compare<H: Host>(&self, manager: &Manager<H>) -> Result<(), AuditError> {
        for (node, found) in manager.pages().nodes().iter().zip(&self.0) {
            for (item, &found) in USES.into_iter().zip(found) {
                let counted = node.counters().snapshot(item);
                if counted != found {
                    return Err(AuditError::Count {
                        node: node.id(),
                        item,
                        counted,
                        found,
                    });
                }
            }
        }
        Ok(())
    }
}

fn for_each_user_leaf<H: Host, F: FileSource>(space: &AddressSpace<H, F>, mut f: impl FnMut(Leaf)) {
    space.for_each(VirtAddr::ZERO..space.mm().layout().task_size, |span| {
        // Pages out of reach (`PROT_NONE`) are held all the same.
        if let Span::Mapped(leaf) | Span::NotPresent(leaf) = span {
            if frame_of(leaf.pte).is_some() {
                f(leaf);
            }
        }
    });
}

/// Entries against areas, and against the counters of the address space.
fn check_space<H: Host, F: FileSource>(space: &AddressSpace<H, F>) -> Result<(), AuditError> {
    let mut error = None;
    let mut found = 0;
    let zero_page = space.manager().zero_page();
    for_each_user_leaf(space, |leaf| {
        found += u64::from(leaf.pfn() != zero_page);
        let flags = leaf.flags();
        let allowed = space.mm().lookup(leaf.va).is_some_and(|(_, vma)| {
            let may_write = vma.flags.contains(VmFlags::WRITE) && leaf.pfn() != zero_page;
            let may_execute = vma.flags.contains(VmFlags::EXEC);
            (may_write || !flags.contains(PteFlags::RW))
                && (may_execute || flags.contains(PteFlags::NX))
        });
        if !allowed {
            error.get_or_insert(AuditError::Rights(leaf.va));
        }
    });
    if let Some(error) = error {
        return Err(error);
    }
    let counted = space.stat().usage.rss_pages();
    if counted != found {
        return Err(AuditError::Rss { counted, found });
    }
    Ok(())
}
