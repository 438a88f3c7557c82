//! Words for numbers, as tests write them.

use kmm_frame::{Order, Pfn, PfnRange};

/// The frames from `start` up to `end`.
#[must_use]
pub fn frames(start: usize, end: usize) -> PfnRange {
    PfnRange::new(Pfn::new(start), Pfn::new(end))
}

/// The order `n`.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn order(n: u8) -> Order {
    Order::new(n).expect("an order that there is")
}
