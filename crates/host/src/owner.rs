//! Who has which page: a seam that costs nothing when nobody asks.

use core::fmt;

use kmm_frame::{Gfp, Order, Pfn};

/// Where this code was called from. Linux: `stack_trace_save`.
pub trait Backtrace {
    /// Fills `addresses` from the front with return addresses, the innermost first; how many.
    ///
    /// # Context
    /// Any. Must not allocate.
    fn capture(&self, addresses: &mut [usize]) -> usize;

    /// Whose code it is: the task's number, or whatever the host tells its users apart by. Linux: `current->pid`.
    fn tag(&self) -> u64 {
        0
    }
}

/// Knows nothing.
impl Backtrace for () {
    fn capture(&self, _addresses: &mut [usize]) -> usize {
        0
    }
}

impl<B: Backtrace + ?Sized> Backtrace for &B {
    fn capture(&self, addresses: &mut [usize]) -> usize {
        (**self).capture(addresses)
    }

    fn tag(&self) -> u64 {
        (**self).tag()
    }
}

/// What is wrong with a block that was freed, or handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Misuse {
    /// Nobody has had the frame yet.
    Foreign,
    /// It is free already.
    DoubleFree,
    /// The frame belongs to a block of another order, or is not its first.
    WrongOrder {
        /// The first frame of the block.
        head: Pfn,
        /// The order of the block.
        order: Order,
    },
    /// Others hold a part of it, or all.
    Held,
    /// It was handed out although somebody has it: the source is broken.
    HandedOutTwice,
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("nobody has had it"),
            Self::DoubleFree => f.write_str("double free"),
            Self::WrongOrder { head, order } => {
                write!(f, "part of the block of order {order} at pfn {head}")
            }
            Self::Held => f.write_str("others hold it"),
            Self::HandedOutTwice => f.write_str("handed out twice"),
        }
    }
}

impl core::error::Error for Misuse {}

/// Keeps a record of who has which block. Linux: page_owner, mm/page_owner.c.
///
/// `()` keeps none: every call is empty and inlined, so that an allocator which is generic over it is, instruction by
/// instruction, one that has never heard of it.
pub trait Owners {
    /// Whether there are records at all. Where it is `false`, callers may leave out what only serves them.
    const ENABLED: bool;

    /// A block was handed out. Linux: `set_page_owner`.
    ///
    /// # Errors
    /// [`Misuse::HandedOutTwice`] when somebody has a frame of it; the record then is that of the new owner.
    fn took(&self, pfn: Pfn, order: Order, gfp: Gfp) -> Result<(), Misuse>;

    /// A block is about to be freed. Linux: `reset_page_owner`.
    ///
    /// # Errors
    /// [`Misuse`] when it cannot be; the records are as before then.
    fn gave(&self, pfn: Pfn, order: Order) -> Result<(), Misuse>;

    /// A block became blocks of order `to`, each with the owner of the whole. Linux: `split_page_owner`.
    fn split(&self, pfn: Pfn, order: Order, to: Order);

    /// Writes who has the frame or had it last, and from where it was taken and freed. Linux: `__dump_page_owner`.
    ///
    /// # Errors
    /// Those of `out`.
    fn describe(&self, pfn: Pfn, out: &mut dyn fmt::Write) -> fmt::Result;
}

impl Owners for () {
    const ENABLED: bool = false;

    #[inline(always)]
    fn took(&self, _pfn: Pfn, _order: Order, _gfp: Gfp) -> Result<(), Misuse> {
        Ok(())
    }

    #[inline(always)]
    fn gave(&self, _pfn: Pfn, _order: Order) -> Result<(), Misuse> {
        Ok(())
    }

    #[inline(always)]
    fn split(&self, _pfn: Pfn, _order: Order, _to: Order) {}

    fn describe(&self, _pfn: Pfn, _out: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }
}

impl<O: Owners + ?Sized> Owners for &O {
    const ENABLED: bool = O::ENABLED;

    #[inline]
    fn took(&self, pfn: Pfn, order: Order, gfp: Gfp) -> Result<(), Misuse> {
        (**self).took(pfn, order, gfp)
    }

    #[inline]
    fn gave(&self, pfn: Pfn, order: Order) -> Result<(), Misuse> {
        (**self).gave(pfn, order)
    }

    #[inline]
    fn split(&self, pfn: Pfn, order: Order, to: Order) {
        (**self).split(pfn, order, to);
    }

    fn describe(&self, pfn: Pfn, out: &mut dyn fmt::Write) -> fmt::Result {
        (**self).describe(pfn, out)
    }
}
