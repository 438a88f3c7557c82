//! What is known of one block, and how it is told.

use core::fmt;

use kmm_frame::{Gfp, Order, Pfn};
use kmm_host::Backtrace;

/// Return addresses, the innermost first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stack<const N: usize> {
    addresses: [usize; N],
    len: usize,
}

impl<const N: usize> Stack<N> {
    pub(super) const EMPTY: Self = Self {
        addresses: [0; N],
        len: 0,
    };

    pub(super) fn here(backtrace: &impl Backtrace) -> Self {
        let mut stack = Self::EMPTY;
        stack.len = backtrace.capture(&mut stack.addresses).min(N);
        stack
    }

    /// The addresses.
    #[must_use]
    pub fn addresses(&self) -> &[usize] {
        &self.addresses[..self.len]
    }
}

/// A line for each address. Linux: `stack_depot_snprint`, without symbols.
impl<const N: usize> fmt::Display for Stack<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addresses()
            .iter()
            .try_for_each(|address| writeln!(f, " {address:#018x}"))
    }
}

/// What is known of a block. Linux: `struct page_owner`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnerRecord<const N: usize> {
    /// Its size.
    pub order: Order,
    /// What the request said.
    pub gfp: Gfp,
    /// Who asked for it ([`Backtrace::tag`]).
    pub tag: u64,
    /// Who freed it.
    pub free_tag: u64,
    /// The number of the event with which it was handed out; events are counted from 1.
    pub taken_at: u64,
    /// The number of the event with which it was freed; 0 while somebody has it.
    pub freed_at: u64,
    /// From where it was asked for.
    pub alloc_stack: Stack<N>,
    /// From where it was freed.
    pub free_stack: Stack<N>,
}

impl<const N: usize> OwnerRecord<N> {
    /// Whether somebody has the block.
    #[must_use]
    pub const fn is_allocated(&self) -> bool {
        self.freed_at == 0
    }

    /// A block in the list of all, as /sys/kernel/debug/page_owner shows it. Linux: `print_page_owner`.
    pub(super) fn write_entry<W: fmt::Write>(
        &self,
        out: &mut W,
        pfn: Pfn,
        place: impl FnOnce(Pfn, &mut W) -> fmt::Result,
    ) -> fmt::Result {
        let OwnerRecord {
            order,
            gfp,
            tag,
            taken_at,
            ..
        } = self;
        writeln!(
            out,
            "Page allocated via order {order}, mask {:#x}({gfp}), pid {tag}, ts {taken_at}, free_ts 0",
            gfp.bits()
        )?;
        let kind = gfp.migrate_type().name();
        let block = pfn.index() >> Order::PAGEBLOCK.get();
        write!(out, "PFN {} type {kind} Block {block}", pfn.index())?;
        place(pfn, out)?;
        writeln!(out)?;
        writeln!(out, "{}", self.alloc_stack)
    }

    /// What is said of a page that something is wrong with. Linux: `__dump_page_owner`.
    pub(super) fn describe(&self, state: &str, out: &mut dyn fmt::Write) -> fmt::Result {
        let OwnerRecord {
            order, gfp, tag, ..
        } = self;
        writeln!(out, "page_owner tracks the page as {state}")?;
        writeln!(
            out,
            "page last allocated via order {order}, migratetype {}, gfp_mask {:#x}({gfp}), pid {tag}, ts {}, free_ts {}",
            gfp.migrate_type().name(),
            gfp.bits(),
            self.taken_at,
            self.freed_at,
        )?;
        match self.alloc_stack.len {
            0 => writeln!(out, "page_owner allocation stack trace missing")?,
            _ => write!(out, "{}", self.alloc_stack)?,
        }
        match self.free_stack.len {
            0 => writeln!(out, "page_owner free stack trace missing"),
            _ => {
                let by = self.free_tag;
                write!(
                    out,
                    "page last free pid {by} stack trace:\n{}",
                    self.free_stack
                )
            }
        }
    }
}

/// Room for what is known of one frame.
#[derive(Clone, Debug)]
pub struct OwnerSlot<const N: usize = 8>(pub(super) Option<OwnerRecord<N>>);

impl<const N: usize> OwnerSlot<N> {
    /// Nothing is known.
    pub const EMPTY: Self = Self(None);
}
