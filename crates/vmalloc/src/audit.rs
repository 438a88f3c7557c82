//! Areas against tables.

use core::ops::{ControlFlow, Range};

use kmm_frame::{PageFlags, Pfn, VirtAddr};
use kmm_host::{PageSource, PteStore, TlbControl};
use kmm_pagetable_walker::{Leaf, MapError, Mapper, PteFlags, Span};
use lock_api::RawMutex;

use crate::vmalloc::State;
use crate::{AreaFlags, Broken, VmStruct, Vmalloc};

impl<S: PteStore, A: PageSource, T: TlbControl, L: RawMutex> Vmalloc<'_, S, A, T, L> {
    /// Calls `visit` with each frame that an `ALLOC` area owns, and where it is mapped: for audits.
    ///
    /// # Context
    /// The lock is held while `visit` runs. Frames of areas in the making are not told.
    ///
    /// # Errors
    /// [`MapError`] if the tables cannot be walked.
    pub fn for_each_frame(&self, mut visit: impl FnMut(Pfn, VirtAddr)) -> Result<(), MapError> {
        self.with_state(|state, mapper| {
            let mut at = state.areas.within().start;
            while let Some(vm) = state.areas.at_or_above(at) {
                at = vm.addr + vm.size_bytes;
                if vm.flags.contains(AreaFlags::ALLOC) {
                    mapper.for_each(&state.root, vm.mapped(), |span| {
                        if let Span::Mapped(leaf) = span {
                            visit(leaf.pfn(), leaf.va);
                        }
                    })?;
                }
            }
            Ok(())
        })
    }

    /// Checks that the tables map each area wholly, and nothing else of the range; while nobody else changes it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), Broken> {
        let owned = self.with_state(validate)?;
        if owned == self.nr_pages() {
            Ok(())
        } else {
            Err(Broken::Count)
        }
    }
}

/// Pages in `ALLOC` areas, if all is well.
fn validate<S: PteStore, A: PageSource>(
    state: &State,
    mapper: Mapper<'_, S, A>,
) -> Result<usize, Broken> {
    let within = state.areas.within();
    let mut owned = 0;
    let mut at = within.start;
    while let Some(vm) = state.areas.at_or_above(at) {
        at = vm.addr + vm.size_bytes;
        walk(state, mapper, vm.mapped(), |span| match span {
            Span::Mapped(leaf) => check_leaf(mapper, &vm, leaf),
            Span::NotPresent(leaf) => Err(Broken::Missing(leaf.va)),
            Span::Hole(hole) => Err(Broken::Missing(hole.start)),
        })?;
        if vm.flags.contains(AreaFlags::ALLOC) {
            owned += vm.nr_pages;
        }
    }
    walk(state, mapper, within, |span| match span {
        Span::Hole(_) => Ok(()),
        Span::Mapped(leaf) | Span::NotPresent(leaf) => match state.areas.find(leaf.va) {
            Some(vm) if leaf.range().end <= vm.mapped().end => Ok(()),
            _ => Err(Broken::Stray(leaf.va)),
        },
    })?;
    Ok(owned)
}

fn walk<S: PteStore, A: PageSource>(
    state: &State,
    mapper: Mapper<'_, S, A>,
    range: Range<VirtAddr>,
    mut check: impl FnMut(Span) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let walked = mapper.try_for_each(&state.root, range, |span| match check(span) {
        Ok(()) => ControlFlow::Continue(()),
        Err(broken) => ControlFlow::Break(broken),
    });
    match walked {
        Err(error) => Err(Broken::Tables(error)),
        Ok(ControlFlow::Break(broken)) => Err(broken),
        Ok(ControlFlow::Continue(())) => Ok(()),
    }
}

fn check_leaf<S, A>(mapper: Mapper<'_, S, A>, vm: &VmStruct, leaf: Leaf) -> Result<(), Broken>
where
    S: PteStore,
    A: PageSource,
{
    let flags = leaf.flags();
    let is_code = !flags.contains(PteFlags::NX);
    let writable_code = is_code && flags.contains(PteFlags::RW);
    if writable_code || flags.contains(PteFlags::US) || !flags.contains(PteFlags::G) {
        return Err(Broken::Flags(leaf.va));
    }
    let page = mapper.mem_map().get(leaf.pfn());
    let is_own = page.is_some_and(|page| page.test(PageFlags::VMALLOC));
    let in_place = leaf.pfn().phys() == vm.phys_addr + (leaf.va - vm.addr);
    let frame_fits = if vm.flags.contains(AreaFlags::ALLOC) {
        is_own && !is_code
    } else {
        !vm.flags.contains(AreaFlags::IOREMAP) || in_place
    };
    if frame_fits {
        Ok(())
    } else {
        Err(Broken::Frame(leaf.va))
    }
}
