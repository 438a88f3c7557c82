//! What the owner of a pageset reads of where memory is (INV-12); `loom_span.rs` has it while that changes.
#![cfg(not(loom))]
#![allow(dead_code, missing_docs, reason = "a test of a part of a module")]

use core::sync::atomic::{self, AtomicBool, AtomicUsize};

#[path = "../src/pcp/span.rs"]
mod span;

use span::NextSpan;

#[test]
fn nothing_is_read_beside_news() {
    let span = NextSpan::new(
        AtomicUsize::new(10),
        AtomicUsize::new(1),
        AtomicBool::new(false),
    );
    assert_eq!(span.read(), Some((10, 1)));
    span.set(20, 2);
    assert_eq!((span.has_news(), span.read()), (true, None));
    assert!(span.take_news() && !span.take_news());
    assert_eq!(span.read(), Some((20, 2)));
    assert_eq!((span.start(), span.nr_pages()), (20, 2));
    // The same pages anew are news too.
    span.set(20, 2);
    assert!(span.take_news());
    span.tell();
    assert!(span.has_news());
}
