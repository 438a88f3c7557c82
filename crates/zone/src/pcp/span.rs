//! How the owner of a pageset learns that memory has come or gone.
//!
//! | word | what |
//! |---|---|
//! | start | the first frame of the zone |
//! | pages | how many frames from there on are the zone's alone |
//! | news | whether the owner has something to read, here or among the limits |
//!
//! One writer at a time, in this order: no page, the new start, the new pages, news. The owner takes the news, reads start,
//! pages and start again, and looks for news. Whoever finds the old start twice has no number of pages of the new one; whoever
//! finds the start moved and back again, and the pages of in between, finds the news of in between as well. Then it leaves
//! everything as it is: the writer's news brings it back.

use super::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// Where the pages are that a pageset may hold, as of the last time that memory came or went.
#[derive(Debug)]
pub(crate) struct NextSpan {
    start: AtomicUsize,
    nr_pages: AtomicUsize,
    has_news: AtomicBool,
}

impl NextSpan {
    pub(crate) const fn new(start: AtomicUsize, nr_pages: AtomicUsize, news: AtomicBool) -> Self {
        Self {
            start,
            nr_pages,
            has_news: news,
        }
    }

    /// Says where it is from now on. By one CPU at a time.
    pub(crate) fn set(&self, start: usize, nr_pages: usize) {
        if self.start.load(Relaxed) != start {
            self.nr_pages.store(0, Relaxed);
            self.start.store(start, Release);
        }
        self.nr_pages.store(nr_pages, Release);
        self.tell();
    }

    /// Makes the owner look, from any CPU. A swap as taking note is one, so that loom knows the order of all of them: it would
    /// put a plain store between the halves of one.
    pub(crate) fn tell(&self) {
        self.has_news.swap(true, Release);
    }

    /// Whether the owner was told something since it last took note.
    pub(crate) fn has_news(&self) -> bool {
        self.has_news.load(Acquire)
    }

    /// The same, and takes note.
    pub(crate) fn take_news(&self) -> bool {
        self.has_news.swap(false, Acquire)
    }

    /// Start and pages, if they belong together: not while they change. By the owner, which has taken note.
    pub(crate) fn read(&self) -> Option<(usize, usize)> {
        let start = self.start.load(Acquire);
        let nr_pages = self.nr_pages.load(Acquire);
        let is_whole = self.start.load(Acquire) == start && !self.has_news();
        is_whole.then_some((start, nr_pages))
    }

    /// The start, which may be about to change.
    pub(crate) fn start(&self) -> usize {
        self.start.load(Relaxed)
    }

    /// How many pages, which may be about to change.
    pub(crate) fn nr_pages(&self) -> usize {
        self.nr_pages.load(Relaxed)
    }
}
