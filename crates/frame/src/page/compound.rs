//! The head of a compound page, as its descriptor tells it: one word holds the flag and the order.

use core::sync::atomic::Ordering as CoreOrdering;

use kmm_kcoll::sync::atomic::Ordering;

use super::{ORDER_MASK, ORDER_SHIFT, Page, PageFlags};
use crate::Order;

/// Where the order goes.
fn order_bits(order: Order) -> u64 {
    u64::from(order.get()) << ORDER_SHIFT
}

impl Page {
    /// The order of the compound page that this is the head of; `None` if it is not one. Linux: `compound_order`.
    #[must_use]
    #[inline]
    pub fn compound_order(&self) -> Option<Order> {
        let word = self.flags.load(Ordering::Acquire);
        if word & PageFlags::HEAD.bits() == 0 {
            return None;
        }
        Order::new(((word & ORDER_MASK) >> ORDER_SHIFT).to_le_bytes()[0])
    }

    /// Makes this the head of a compound page of `order`, or of none for order 0; other flags stay. Nobody else changes
    /// them meanwhile.
    #[inline]
    pub(crate) fn set_compound(&self, order: Order) {
        let flags = self.flags() - PageFlags::HEAD;
        self.replace_state(flags | head_flag(order), order_bits(order));
    }

    /// How many entries map all of the folio whose second page this is.
    pub(crate) fn entire_count(&self) -> i32 {
        let word = self.owner.load(CoreOrdering::Acquire);
        i32::try_from(word).unwrap_or(i32::MAX)
    }

    /// Adds to that count; the count before.
    pub(crate) fn add_entire(&self, delta: i64) -> i32 {
        let delta = u64::from_ne_bytes(delta.to_ne_bytes());
        let word = self.owner.fetch_add(delta, CoreOrdering::AcqRel);
        i32::try_from(word).unwrap_or(i32::MAX)
    }

    /// Makes this the first page of a part of a folio that had `flags`.
    pub(crate) fn set_part(&self, flags: PageFlags, order: Order) {
        let kept = flags & PageFlags::KEPT_BY_SPLIT;
        self.replace_state(kept | head_flag(order), order_bits(order));
    }
}

fn head_flag(order: Order) -> PageFlags {
    if order == Order::ZERO {
        PageFlags::empty()
    } else {
        PageFlags::HEAD
    }
}
