//! Failure on demand. Linux: `fail_page_alloc`, lib/fault-inject.c.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kmm_frame::{Gfp, Order};
use kmm_host::PageReq;

use crate::layer::{Layer, Watch};

const NEVER: u64 = u64::MAX;

/// Lets one request fail: the n-th from now, counted from 0. Linux: /proc/self/fail-nth.
pub type FailNth<S> = Layer<S, Fail<Nth>>;

/// Lets requests fail by chance; those that must not (`Gfp::NOFAIL`) never.
pub type FailRandom<S> = Layer<S, Fail<Chance>>;

/// Lets those requests fail that `P` says.
#[derive(Debug)]
pub struct Fail<P> {
    plan: P,
    nr_failed: AtomicU64,
}

/// Says which requests fail.
pub trait Plan {
    /// Whether this one does.
    fn is_unlucky(&self, req: PageReq) -> bool;
}

impl<P: Plan> Watch for Fail<P> {
    fn refuses(&self, req: PageReq) -> bool {
        let fails = self.plan.is_unlucky(req);
        self.nr_failed.fetch_add(u64::from(fails), Relaxed);
        fails
    }
}

impl<S, P> Layer<S, Fail<P>> {
    const fn failing(inner: S, plan: P) -> Self {
        let nr_failed = AtomicU64::new(0);
        Self::around(inner, Fail { plan, nr_failed })
    }

    /// How many requests were made to fail.
    #[must_use]
    pub fn nr_failed(&self) -> u64 {
        self.watch().nr_failed.load(Relaxed)
    }
}

/// The plan of [`FailNth`].
#[derive(Debug)]
pub struct Nth {
    left: AtomicU64,
}

impl<S> FailNth<S> {
    /// Fails nothing until told.
    pub const fn new(inner: S) -> Self {
        let left = AtomicU64::new(NEVER);
        Self::failing(inner, Nth { left })
    }

    /// Lets the `nth` request from now fail; 0 is the next.
    pub fn fail_at(&self, nth: u64) {
        self.watch().plan.left.store(nth, Relaxed);
    }

    /// Lets nothing fail.
    pub fn disarm(&self) {
        self.fail_at(NEVER);
    }
}

impl Plan for Nth {
    fn is_unlucky(&self, _: PageReq) -> bool {
        let step = |left: u64| (left != NEVER).then(|| left.wrapping_sub(1));
        self.left.fetch_update(Relaxed, Relaxed, step) == Ok(0)
    }
}

/// Which requests [`FailRandom`] may let fail, and how often. Linux: the files of /sys/kernel/debug/fail_page_alloc.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailAttr {
    /// Of a thousand requests, so many fail. Linux: `probability`, of a hundred.
    pub per_mille: u64,
    /// Only every n-th request may fail; 0 and 1 for each. Linux: `interval`.
    pub interval: u64,
    /// So many fail in all; `None` for no limit. Linux: `times`.
    pub times: Option<u64>,
    /// So many pages are handed out before any request may fail. Linux: `space`.
    pub space_pages: u64,
    /// Smaller blocks never fail. Linux: `min-order`.
    pub min_order: Order,
    /// Requests with any of these flags never fail. Linux: `ignore-gfp-highmem`, `ignore-gfp-wait`.
    pub ignored: Gfp,
}

impl FailAttr {
    /// Of a thousand requests of any kind, `per_mille` fail.
    #[must_use]
    pub const fn per_mille(per_mille: u64) -> Self {
        Self {
            per_mille,
            interval: 1,
            times: None,
            space_pages: 0,
            min_order: Order::ZERO,
            ignored: Gfp::empty(),
        }
    }
}

/// The plan of [`FailRandom`].
#[derive(Debug)]
pub struct Chance {
    attr: FailAttr,
    per_mille: AtomicU64,
    state: AtomicU64,
    count: AtomicU64,
    times: AtomicU64,
    space: AtomicU64,
}

impl<S> FailRandom<S> {
    /// Of a thousand requests, `per_mille` fail; which, the seed says.
    pub const fn new(inner: S, seed: u64, per_mille: u64) -> Self {
        Self::with_attr(inner, seed, FailAttr::per_mille(per_mille))
    }

    /// Requests fail as `attr` says; which, the seed says.
    pub const fn with_attr(inner: S, seed: u64, attr: FailAttr) -> Self {
        let times = match attr.times {
            Some(times) => times,
            None => NEVER,
        };
        let chance = Chance {
            attr,
            per_mille: AtomicU64::new(attr.per_mille),
            state: AtomicU64::new(seed),
            count: AtomicU64::new(0),
            times: AtomicU64::new(times),
            space: AtomicU64::new(attr.space_pages),
        };
        Self::failing(inner, chance)
    }

    /// From now on, of a thousand requests `per_mille` fail.
    pub fn set_per_mille(&self, per_mille: u64) {
        self.watch().plan.per_mille.store(per_mille, Relaxed);
    }
}

impl Plan for Chance {
    /// Linux: `__should_fail_alloc_page`, then `should_fail`.
    fn is_unlucky(&self, req: PageReq) -> bool {
        let attr = &self.attr;
        if req.order < attr.min_order || req.gfp.intersects(attr.ignored | Gfp::NOFAIL) {
            return false;
        }
        if self.times.load(Relaxed) == 0 || self.has_space(req.order.nr_pages() as u64) {
            return false;
        }
        if attr.interval > 1 && (self.count.fetch_add(1, Relaxed) + 1) % attr.interval != 0 {
            return false;
        }
        if self.random() % 1000 >= self.per_mille.load(Relaxed) {
            return false;
        }
        let step = |times: u64| match times {
            0 => None,
            NEVER => Some(NEVER),
            times => Some(times - 1),
        };
        self.times.fetch_update(Relaxed, Relaxed, step).is_ok()
    }
}

impl Chance {
    /// Whether pages may still be handed out without failure; takes them from the space.
    fn has_space(&self, nr_pages: u64) -> bool {
        let step = |space: u64| (space > nr_pages).then(|| space - nr_pages);
        self.space.fetch_update(Relaxed, Relaxed, step).is_ok()
    }

    /// Sebastiano Vigna's `splitmix64`.
    fn random(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.state.fetch_add(GAMMA, Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
