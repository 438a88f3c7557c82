//! /proc/buddyinfo. Linux: `frag_show`, mm/vmstat.c.

use core::fmt;

use kmm_frame::NR_ORDERS;

/// One zone's line: how many free blocks there are of each order. `Display` is the line, with its end.
///
/// Zones without memory have no line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BuddyLine<'a> {
    /// The node.
    pub node: u32,
    /// The zone.
    pub zone: &'a str,
    /// Free blocks by order.
    pub nr_free: [u64; NR_ORDERS],
}

impl fmt::Display for BuddyLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node {}, zone {:>8} ", self.node, self.zone)?;
        for count in self.nr_free {
            write!(f, "{count:>6} ")?;
        }
        f.write_str("\n")
    }
}
