//! How one CPU asks another to empty its arrays.
//!
//! The two words are counts of requests: made, and served. Whoever asks adds one to the first and waits until the second
//! has come as far; the owner notes the first, *then* empties its arrays, then writes the note to the second. A request
//! that comes while it does so differs from the note, and is served the next time. The release of the second pairs with
//! the acquire of who asked: what was in the arrays is in slabs by then.

use super::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

/// Requests to empty one CPU's arrays.
#[derive(Debug)]
pub(crate) struct DrainRequest {
    asked: AtomicU32,
    served: AtomicU32,
}

/// As many requests as had been made at some time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket(u32);

impl DrainRequest {
    pub(crate) const fn new(asked: AtomicU32, served: AtomicU32) -> Self {
        Self { asked, served }
    }

    /// Asks. From any CPU.
    pub(crate) fn ask(&self) {
        self.asked.fetch_add(1, Release);
    }

    /// The request to serve now, if there is one. By the owner, before it empties its arrays.
    pub(crate) fn pending(&self) -> Option<Ticket> {
        let asked = self.asked.load(Acquire);
        (asked != self.served.load(Relaxed)).then_some(Ticket(asked))
    }

    /// Says that the arrays were emptied since [`DrainRequest::pending`] gave the ticket.
    pub(crate) fn serve(&self, ticket: Ticket) {
        self.served.store(ticket.0, Release);
    }

    /// Whether all requests were served that the caller knows of.
    pub(crate) fn is_served(&self) -> bool {
        self.served.load(Acquire) == self.asked.load(Relaxed)
    }
}
