//! Memory comes and goes while the owner of a pageset looks where it is, in every order that loom finds (INV-12).
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p kmm-zone --test loom_span`.
#![cfg(loom)]
#![allow(missing_docs, reason = "a test")]

use kmm_kcoll::sync::atomic;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize};
use loom::thread;

#[path = "../src/pcp/span.rs"]
mod span;

use span::NextSpan;

/// Start and pages, each pair with numbers of its own.
type Pair = (usize, usize);
const OLD: Pair = (10, 1);
const NEW: Pair = (20, 2);
const BACK: Pair = (10, 3);

/// With news, so that the owner looks while the first change is under way.
fn fresh() -> Arc<NextSpan> {
    let (start, nr_pages) = OLD;
    Arc::new(NextSpan::new(
        AtomicUsize::new(start),
        AtomicUsize::new(nr_pages),
        AtomicBool::new(true),
    ))
}

/// A slow step of the owner, as `PcpUse::review` has it: what it adopts, if anything.
fn review(span: &NextSpan) -> Option<Pair> {
    if !span.take_news() {
        return None;
    }
    let read = span.read();
    if read.is_none() {
        span.tell();
    }
    read
}

/// One CPU sets the span to each of `pairs`, while the owner reviews: what it adopted.
fn adopted(pairs: &'static [Pair], nr_reviews: usize) -> Vec<Pair> {
    let span = fresh();
    let writer = Arc::clone(&span);
    let writer = thread::spawn(move || {
        for &(start, nr_pages) in pairs {
            writer.set(start, nr_pages);
        }
    });
    let mut seen: Vec<Pair> = (0..nr_reviews).filter_map(|_| review(&span)).collect();
    writer.join().unwrap();
    // The next step has the last one, unless that was adopted before.
    seen.extend(review(&span));
    let last = pairs.last().copied();
    assert_eq!(seen.last().copied(), last, "the last word is missed");
    assert_eq!(last, Some((span.start(), span.nr_pages())));
    assert_eq!(review(&span), None, "one step is enough");
    seen
}

/// A pair that was set, or one without pages.
fn assert_set(seen: Vec<Pair>, pairs: &[Pair]) {
    for (start, nr_pages) in seen {
        let is_set = pairs.contains(&(start, nr_pages));
        assert!(is_set || nr_pages == 0, "{start} with {nr_pages} pages");
    }
}

#[test]
fn start_and_pages_belong_together() {
    loom::model(|| assert_set(adopted(&[NEW], 1), &[OLD, NEW]));
}

#[test]
fn the_same_start_with_more_pages_is_not_missed() {
    loom::model(|| assert_set(adopted(&[(10, 5), (10, 6)], 1), &[OLD, (10, 5), (10, 6)]));
}

/// Whoever compares the start only, finds it twice and the pages of another in between.
#[test]
fn a_start_that_moves_and_comes_back_is_noticed() {
    loom::model(|| assert_set(adopted(&[NEW, BACK], 1), &[OLD, NEW, BACK]));
}

/// News of the limits come from anywhere, and take nothing away.
#[test]
fn news_of_others_hide_nothing() {
    loom::model(|| {
        let span = fresh();
        let (writer, other) = (Arc::clone(&span), Arc::clone(&span));
        let writer = thread::spawn(move || writer.set(NEW.0, NEW.1));
        let other = thread::spawn(move || other.tell());
        let mut seen: Vec<Pair> = review(&span).into_iter().collect();
        writer.join().unwrap();
        other.join().unwrap();
        seen.extend(review(&span));
        assert_eq!(seen.last(), Some(&NEW));
        assert_set(seen, &[OLD, NEW]);
    });
}
