//! How one CPU asks another to give back what it has in stock: pages, objects. Linux: `drain_all_pages`, `flush_all`, by IPI.
//!
//! The two words are counts of requests: made, and served. Whoever asks adds one to the first and waits until the second
//! has come as far; the owner notes the first, *then* empties its stock, then writes the note to the second. A request
//! that comes while it does so differs from the note, and is served the next time. The release of the second pairs with
//! the acquire of who asked: what was in stock is where it belongs by then.

use super::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

/// Requests to empty the stock of one CPU. No interrupt is sent: the owner looks at its next slow step.
#[derive(Debug)]
pub struct DrainRequest {
    asked: AtomicU32,
    served: AtomicU32,
}

/// As many requests as had been made when [`DrainRequest::pending`] was called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DrainTicket(u32);

impl DrainRequest {
    /// None yet. Both words are 0; they are handed in, as loom's cannot be made in a constant.
    #[must_use]
    pub const fn new(asked: AtomicU32, served: AtomicU32) -> Self {
        Self { asked, served }
    }

    /// Asks. From any CPU.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Release);
    }

    /// The request to serve now, if there is one. By the owner, before it empties its stock.
    pub fn pending(&self) -> Option<DrainTicket> {
        let asked = self.asked.load(Acquire);
        (asked != self.served.load(Relaxed)).then_some(DrainTicket(asked))
    }

    /// Says that the stock was emptied since [`DrainRequest::pending`] gave the ticket.
    pub fn serve(&self, ticket: DrainTicket) {
        self.served.store(ticket.0, Release);
    }

    /// Whether all requests were served that the caller knows of.
    pub fn is_served(&self) -> bool {
        self.served.load(Acquire) == self.asked.load(Relaxed)
    }
}
