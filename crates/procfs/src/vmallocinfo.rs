//! /proc/vmallocinfo. Linux: `s_show`, mm/vmalloc.c.

use core::fmt;

use kmm_frame::{PhysAddr, VirtAddr};

/// What an area was made by. Linux: `VM_IOREMAP`, `VM_ALLOC`, `VM_MAP`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AreaKind {
    /// `ioremap`.
    Ioremap,
    /// `vmalloc`.
    Vmalloc,
    /// `vmap`.
    Vmap,
}

/// One area's line. `Display` is the line, with its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AreaLine<'a> {
    /// The first address.
    pub start: VirtAddr,
    /// The address after the guard page.
    pub end: VirtAddr,
    /// Who asked for it, as `function+0x10/0x20`.
    pub caller: Option<&'a str>,
    /// Pages that the area owns.
    pub nr_pages: u64,
    /// Where it lies in physical memory, if in one piece.
    pub phys: Option<PhysAddr>,
    /// What it was made by.
    pub kind: AreaKind,
    /// Pages by node; nodes without pages are not shown.
    pub nodes: &'a [u64],
}

impl fmt::Display for AreaLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.start.as_u64(), self.end.as_u64());
        let size_bytes = end.wrapping_sub(start);
        write!(f, "{start:#018x}-{end:#018x} {size_bytes:>7}")?;
        if let Some(caller) = self.caller {
            write!(f, " {caller}")?;
        }
        if self.nr_pages > 0 {
            write!(f, " pages={}", self.nr_pages)?;
        }
        if let Some(phys) = self.phys {
            write!(f, " phys={:#018x}", phys.as_u64())?;
        }
        f.write_str(match self.kind {
            AreaKind::Ioremap => " ioremap",
            AreaKind::Vmalloc => " vmalloc",
            AreaKind::Vmap => " vmap",
        })?;
        for (node, &count) in self.nodes.iter().enumerate().filter(|(_, n)| **n > 0) {
            write!(f, " N{node}={count}")?;
        }
        f.write_str("\n")
    }
}
