//! What /proc says of memory, from the manager's figures.

use core::fmt::{self, Write};
use core::panic::Location;

use kmm::frame::PAGE_SIZE;
use kmm::pagetable_walker::{Level, Span};
use kmm::proc;
use kmm::procfs::meminfo::Meminfo;
use kmm::procfs::pages_to_kb;
use kmm::procfs::slabinfo::{self, SlabLine};
use kmm::procfs::vmallocinfo::{AreaKind, AreaLine};
use kmm::vmalloc::AreaFlags;

use super::{machine, manager};
use crate::fallible::{self, Text};

/// KiB of the direct map in pages of each size.
fn direct_map_kb() -> [u64; 3] {
    let machine = machine();
    let mut kb = [0; 3];
    machine.manager.vmalloc().with_root(|root, mapper| {
        for frames in machine.memory {
            let start = machine.space.direct_map + frames.start().phys().as_u64();
            let end = machine.space.direct_map + frames.end().phys().as_u64();
            // Memory of the machine lies where the direct map can have it; else there is nothing to count.
            let _ = mapper.for_each(root, start..end, |span| {
                if let Span::Mapped(leaf) = span {
                    let index = match leaf.level {
                        Level::Pte => 0,
                        Level::Pmd => 1,
                        _ => 2,
                    };
                    kb[index] += leaf.level.size_bytes() >> 10;
                }
            });
        }
    });
    kb
}

/// /proc/meminfo.
pub fn write_meminfo(out: &mut dyn Write) -> fmt::Result {
    let manager = manager();
    let [direct_4k, direct_2m, direct_1g] = direct_map_kb();
    let info = Meminfo {
        vmalloc_total_kb: manager.vmalloc().total_bytes() >> 10,
        vmalloc_used_kb: pages_to_kb(manager.vmalloc().nr_pages() as u64),
        direct_map_4k_kb: direct_4k,
        direct_map_2m_kb: direct_2m,
        direct_map_1g_kb: direct_1g,
        ..proc::meminfo(manager.pages())
    };
    write!(out, "{info}")
}

/// /proc/buddyinfo.
pub fn write_buddyinfo(out: &mut dyn Write) -> fmt::Result {
    proc::write_buddyinfo(manager().pages(), out)
}

/// /proc/zoneinfo.
pub fn write_zoneinfo(out: &mut dyn Write) -> fmt::Result {
    proc::write_zoneinfo(manager().pages(), out)
}

/// /proc/pagetypeinfo.
pub fn write_pagetypeinfo(out: &mut dyn Write) -> fmt::Result {
    proc::write_pagetypeinfo(manager().pages(), out)
}

/// /proc/vmstat.
pub fn write_vmstat(out: &mut dyn Write) -> fmt::Result {
    write!(out, "{}", proc::vmstat(manager().pages()))
}

/// /proc/slabinfo.
pub fn write_slabinfo(out: &mut dyn Write) -> fmt::Result {
    let caches = fallible::collect(manager().slub().cache_infos())?;
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let lines = caches.iter().rev().map(|cache| SlabLine {
        name: cache.name,
        active_objs: cache.active_objs as u64,
        num_objs: cache.num_objs as u64,
        objsize_bytes: number(cache.objsize),
        objs_per_slab: number(cache.objperslab),
        pages_per_slab: number(cache.pagesperslab),
        active_slabs: cache.active_slabs as u64,
        num_slabs: cache.num_slabs as u64,
    });
    let mut out = out;
    slabinfo::write(&mut out, lines)
}

/// /proc/vmallocinfo.
pub fn write_vmallocinfo(out: &mut dyn Write) -> fmt::Result {
    for area in manager().vmalloc().areas() {
        let caller = caller_text(area.caller)?;
        let nodes = [area.nr_pages as u64];
        let is_ioremap = area.flags.contains(AreaFlags::IOREMAP);
        let line = AreaLine {
            start: area.addr,
            end: area.addr + area.size_bytes,
            caller: core::str::from_utf8(&caller.0).ok(),
            nr_pages: area.nr_pages as u64,
            phys: is_ioremap.then_some(area.phys_addr),
            kind: if is_ioremap {
                AreaKind::Ioremap
            } else if area.flags.contains(AreaFlags::ALLOC) {
                AreaKind::Vmalloc
            } else {
                AreaKind::Vmap
            },
            nodes: &nodes,
        };
        write!(out, "{line}")?;
    }
    Ok(())
}

/// Where a call stands in the source, as one word.
fn caller_text(caller: &Location<'_>) -> Result<Text, fmt::Error> {
    let mut text = Text::default();
    write!(text, "{}:{}", caller.file(), caller.line())?;
    Ok(text)
}

/// Bytes of RAM that the allocator manages, and that are free now: for sysinfo.
pub fn total_and_free_bytes() -> (u64, u64) {
    let pages = manager().pages();
    let bytes = |count: usize| (count * PAGE_SIZE) as u64;
    (bytes(pages.managed_pages()), bytes(pages.nr_free_pages()))
}

/// Pages that somebody holds, those with kernel objects apart: object caches keep a page or two for the next time. For
/// tests: what is done and undone holds no more than before.
pub fn pages_held() -> usize {
    let allocated = manager().pages().accounting().allocated;
    allocated - manager().slub().nr_pages().total()
}
