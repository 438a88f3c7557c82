//! /proc/pagetypeinfo. Linux: `pagetypeinfo_show`, mm/vmstat.c.

use core::fmt::{self, Write};

use kmm_frame::{MigrateType, NR_ORDERS, Order};

/// The migrate types that the text has columns for: those of a kernel without CMA.
pub const TYPES: [MigrateType; 5] = [
    MigrateType::Unmovable,
    MigrateType::Movable,
    MigrateType::Reclaimable,
    MigrateType::HighAtomic,
    MigrateType::Isolate,
];

/// Free lists longer than this are not counted to the end, but shown as `>` and this number.
const COUNTED: u64 = 100_000;

/// One zone's share of the tables. Zones without memory have none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageTypes<'a> {
    /// The node.
    pub node: u32,
    /// The zone.
    pub zone: &'a str,
    /// Free blocks by type, in the order of [`TYPES`], and order.
    pub nr_free: [[u64; NR_ORDERS]; TYPES.len()],
    /// Pageblocks by type, in the order of [`TYPES`].
    pub nr_blocks: [u64; TYPES.len()],
}

/// Writes the text: the tables of each node that has memory. `zones` come node by node.
///
/// # Errors
/// When `out` fails.
pub fn write<'a>(
    out: &mut impl Write,
    zones: impl IntoIterator<Item = PageTypes<'a>, IntoIter: Clone>,
) -> fmt::Result {
    let zones = zones.into_iter();
    let mut last = None;
    for zone in zones.clone() {
        if last != Some(zone.node) {
            let of_node = zones.clone().filter(|other| other.node == zone.node);
            write_node(out, of_node)?;
        }
        last = Some(zone.node);
    }
    Ok(())
}

fn write_node<'a>(
    out: &mut impl Write,
    zones: impl Iterator<Item = PageTypes<'a>> + Clone,
) -> fmt::Result {
    writeln!(out, "Page block order: {}", Order::PAGEBLOCK)?;
    writeln!(out, "Pages per block:  {}\n", Order::PAGEBLOCK.nr_pages())?;
    write!(out, "{:<43} ", "Free pages count per migrate type at order")?;
    for order in Order::all() {
        write!(out, "{:>6} ", order.get())?;
    }
    out.write_char('\n')?;
    for zone in zones.clone() {
        for (kind, counts) in TYPES.iter().zip(&zone.nr_free) {
            let (node, name) = (zone.node, zone.zone);
            write!(
                out,
                "Node {node:>4}, zone {name:>8}, type {:>12} ",
                type_name(*kind)
            )?;
            for &count in counts {
                let over = if count >= COUNTED { ">" } else { "" };
                write!(out, "{over}{:>6} ", count.min(COUNTED))?;
            }
            out.write_char('\n')?;
        }
    }
    write!(out, "\n{:<23}", "Number of blocks type")?;
    for kind in TYPES {
        write!(out, "{:>12} ", type_name(kind))?;
    }
    out.write_char('\n')?;
    for zone in zones {
        write!(out, "Node {}, zone {:>8} ", zone.node, zone.zone)?;
        for count in zone.nr_blocks {
            write!(out, "{count:>12} ")?;
        }
        out.write_char('\n')?;
    }
    Ok(())
}

const fn type_name(kind: MigrateType) -> &'static str {
    match kind {
        MigrateType::Unmovable => "Unmovable",
        MigrateType::Movable => "Movable",
        MigrateType::Reclaimable => "Reclaimable",
        MigrateType::HighAtomic => "HighAtomic",
        MigrateType::Cma => "CMA",
        MigrateType::Isolate => "Isolate",
    }
}
