//! A walk of the kernel's tables that proves what they map: all RAM at the direct map, the image with its rights, and
//! nothing where the identity map was.

use core::fmt;
use core::ops::{ControlFlow, Range};

use kmm_frame::{PAGE_SIZE, PfnRange, VirtAddr};
use kmm_host::{PageSource, PteStore};
use kmm_pagetable_walker::layout::{Layout, RegionKind};
use kmm_pagetable_walker::{Leaf, Level, Mapper, PteFlags, Root, Span};

use crate::{ImagePart, KernelSpace};

/// What is wrong with the kernel's tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TableFault {
    /// Something is mapped where only programs may have mappings.
    LowHalf(VirtAddr),
    /// The direct map shows something that is no RAM.
    NotRam(VirtAddr),
    /// The direct map shows another frame than it should.
    WrongFrame(VirtAddr),
    /// A page of the direct map or of the image is missing.
    Missing(VirtAddr),
    /// A page can be both written and executed.
    WritableCode(VirtAddr),
    /// A page of the kernel can be reached by programs.
    UserReachable(VirtAddr),
    /// A page has other rights than it should.
    WrongRights(VirtAddr),
    /// A page of the kernel is not global.
    NotGlobal(VirtAddr),
    /// The walk was refused.
    Walk,
}

impl fmt::Display for TableFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, va) = match self {
            Self::LowHalf(va) => ("mapping in the lower half", va),
            Self::NotRam(va) => ("direct map of no RAM", va),
            Self::WrongFrame(va) => ("wrong frame", va),
            Self::Missing(va) => ("page missing", va),
            Self::WritableCode(va) => ("writable and executable", va),
            Self::UserReachable(va) => ("reachable by programs", va),
            Self::WrongRights(va) => ("wrong rights", va),
            Self::NotGlobal(va) => ("not global", va),
            Self::Walk => return f.write_str("tables cannot be walked"),
        };
        write!(f, "{what} at {va}")
    }
}

impl core::error::Error for TableFault {}

/// What a sound set of tables maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableReport {
    /// Entries of the direct map, by level: 4 KiB, 2 MiB, 1 GiB.
    pub direct_entries: [usize; 3],
    /// Base pages of the direct map: all RAM.
    pub direct_pages: usize,
    /// Base pages of the image.
    pub image_pages: usize,
    /// Entries in the whole kernel half.
    pub kernel_entries: usize,
}

impl fmt::Display for TableReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [small, large, huge] = self.direct_entries;
        write!(
            f,
            "direct map shows all RAM and nothing else ({} pages: {huge} x 1 GiB, {large} x 2 MiB, {small} x 4 KiB), \
             image of {} pages is W^X, {} entries of the upper half are global and none is W+X, lower half is empty",
            self.direct_pages, self.image_pages, self.kernel_entries,
        )
    }
}

/// Walks the kernel's tables. `memory`: all RAM, sorted; `hidden`: frames that may be hidden, one by one
/// ([`Manager::kfence_frames`](crate::Manager::kfence_frames)); `image`: every part of the image.
///
/// # Errors
/// The first [`TableFault`] found.
pub fn kernel_tables<S: PteStore, A: PageSource>(
    mapper: &Mapper<'_, S, A>,
    root: &Root,
    space: &KernelSpace,
    memory: &[PfnRange],
    hidden: PfnRange,
    image: impl IntoIterator<Item = ImagePart>,
) -> Result<TableReport, TableFault> {
    let mut report = TableReport::default();
    let user = VirtAddr::ZERO..space.levels.user_end();
    for_each_leaf(mapper, root, user, |leaf| Err(TableFault::LowHalf(leaf.va)))?;

    // The last page of all has no half-open range; nothing is ever mapped there.
    let kernel = space.levels.kernel_start()..VirtAddr::new(u64::MAX).align_down(PAGE_SIZE as u64);
    for_each_leaf(mapper, root, kernel, |leaf| {
        report.kernel_entries += 1;
        check_kernel_leaf(&leaf)
    })?;

    let region = Layout::for_levels(space.levels).region(RegionKind::DirectMap);
    for_each_leaf(mapper, root, region.range(), |leaf| {
        let index = match leaf.level {
            Level::Pte => 0,
            Level::Pmd => 1,
            _ => 2,
        };
        report.direct_entries[index] += 1;
        report.direct_pages += leaf.nr_pages();
        check_direct_leaf(&leaf, space, memory, hidden)
    })?;
    let nr_ram: usize = memory.iter().map(|range| range.nr_pages()).sum();
    if report.direct_pages != nr_ram {
        return Err(TableFault::Missing(space.direct_map));
    }

    for part in image {
        report.image_pages += check_image_part(mapper, root, &part)?;
    }
    Ok(report)
}

fn check_kernel_leaf(leaf: &Leaf) -> Result<(), TableFault> {
    let flags = leaf.flags();
    if flags.contains(PteFlags::RW) && !flags.contains(PteFlags::NX) {
        return Err(TableFault::WritableCode(leaf.va));
    }
    if flags.contains(PteFlags::US) {
        return Err(TableFault::UserReachable(leaf.va));
    }
    if !flags.contains(PteFlags::G) {
        return Err(TableFault::NotGlobal(leaf.va));
    }
    Ok(())
}

fn check_direct_leaf(
    leaf: &Leaf,
    space: &KernelSpace,
    memory: &[PfnRange],
    hidden: PfnRange,
) -> Result<(), TableFault> {
    let frames = PfnRange::with_len(leaf.pfn(), leaf.nr_pages());
    if leaf.va - space.direct_map != leaf.pfn().phys().as_u64() {
        return Err(TableFault::WrongFrame(leaf.va));
    }
    if !memory.iter().any(|range| range.contains_range(frames)) {
        return Err(TableFault::NotRam(leaf.va));
    }
    let may_hide = if hidden.contains_range(frames) {
        PteFlags::P
    } else {
        PteFlags::empty()
    };
    if (leaf.flags() | may_hide) & rights() != PteFlags::KERNEL & rights() {
        return Err(TableFault::WrongRights(leaf.va));
    }
    Ok(())
}

fn check_image_part<S: PteStore, A: PageSource>(
    mapper: &Mapper<'_, S, A>,
    root: &Root,
    part: &ImagePart,
) -> Result<usize, TableFault> {
    let mut at = part.range.start;
    let mut nr_pages = 0;
    while at < part.range.end {
        let walk = mapper.walk(root, at);
        let leaf = walk.leaf().ok_or(TableFault::Missing(at))?;
        if walk.phys() != Some(part.phys + (at - part.range.start)) {
            return Err(TableFault::WrongFrame(at));
        }
        if leaf.flags() & rights() != part.flags & rights() {
            return Err(TableFault::WrongRights(at));
        }
        at += PAGE_SIZE as u64;
        nr_pages += 1;
    }
    Ok(nr_pages)
}

/// The bits that say who may do what.
const fn rights() -> PteFlags {
    PteFlags::P
        .union(PteFlags::RW)
        .union(PteFlags::US)
        .union(PteFlags::NX)
        .union(PteFlags::CACHE)
}

fn for_each_leaf<S: PteStore, A: PageSource>(
    mapper: &Mapper<'_, S, A>,
    root: &Root,
    range: Range<VirtAddr>,
    mut check: impl FnMut(Leaf) -> Result<(), TableFault>,
) -> Result<(), TableFault> {
    let walked = mapper.try_for_each(root, range, |span| match span {
        Span::Mapped(leaf) | Span::NotPresent(leaf) => match check(leaf) {
            Ok(()) => ControlFlow::Continue(()),
            Err(fault) => ControlFlow::Break(fault),
        },
        Span::Hole(_) => ControlFlow::Continue(()),
    });
    match walked {
        Err(_) => Err(TableFault::Walk),
        Ok(ControlFlow::Break(fault)) => Err(fault),
        Ok(ControlFlow::Continue(())) => Ok(()),
    }
}
