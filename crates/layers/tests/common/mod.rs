//! What the tests share: a machine, a source on it, and the way to lie about blocks.
#![allow(
    dead_code,
    unsafe_code,
    unreachable_pub,
    missing_docs,
    reason = "each test uses a part of it, and some break rules on purpose"
)]

use core::cell::RefCell;
use core::sync::atomic::AtomicU64;

use kmm_frame::{Gfp, PAGE_SIZE, Pfn, PfnRange};
use kmm_host::{AllocError, PageBlock, PageReq, PageSource, PhysMap};
pub use kmm_sim::order;
use kmm_sim::{Config, FreeListSource, Machine};

pub type Lock = spin::Mutex<()>;

pub fn machine() -> &'static Machine {
    Machine::new(Config::with_mib(2))
}

/// The source's own frames.
pub fn frames(machine: &Machine) -> PfnRange {
    *machine
        .ram()
        .iter()
        .max_by_key(|range| range.nr_pages())
        .unwrap()
}

pub fn source(machine: &'static Machine) -> FreeListSource {
    FreeListSource::new(machine)
}

pub fn req(n: u8, gfp: Gfp) -> PageReq {
    PageReq::new(order(n), gfp)
}

/// A source that leaves the bytes of its frames alone, as a real one does: what was freed is kept, and handed out again
/// to the next request of the same size. The source beneath checks who takes and frees what.
pub struct Pool {
    machine: &'static Machine,
    source: FreeListSource,
    kept: RefCell<Vec<PageBlock>>,
}

impl Pool {
    pub fn new(machine: &'static Machine) -> Self {
        Self {
            machine,
            source: source(machine),
            kept: RefCell::default(),
        }
    }

    /// Panics unless everything came back.
    pub fn assert_nothing_outstanding(&self) {
        self.empty();
        self.source.assert_nothing_outstanding();
    }

    fn empty(&self) {
        free_all(&self.source, self.kept.take());
    }
}

// SAFETY: every block comes from the source, or from those that were freed and that nobody else has.
unsafe impl PageSource for Pool {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        let mut kept = self.kept.borrow_mut();
        if let Some(n) = kept.iter().position(|block| block.order() == req.order) {
            let block = kept.remove(n);
            if req.gfp.contains(Gfp::ZERO) {
                block
                    .range()
                    .iter()
                    .for_each(|pfn| self.machine.fill_frame(pfn, 0));
            }
            return Ok(block);
        }
        drop(kept);
        self.source.alloc(req)
    }

    fn free(&self, block: PageBlock) {
        self.kept.borrow_mut().push(block);
    }
}

/// Bits for a poisoner.
pub fn bits(range: PfnRange) -> &'static [AtomicU64] {
    let words = kmm_layers::Poisoner::nr_words(range);
    Vec::leak((0..words).map(|_| AtomicU64::new(0)).collect())
}

/// A block that nobody gave us.
pub fn forged(pfn: Pfn, n: u8) -> PageBlock {
    // SAFETY: the tests hand it to a layer that has to refuse it.
    unsafe { PageBlock::from_raw(pfn, order(n)) }
}

pub fn read(machine: &Machine, pfn: Pfn) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_SIZE];
    machine.read_phys(pfn.phys(), &mut bytes);
    bytes
}

pub fn fill(machine: &Machine, block: &mut PageBlock, byte: u8) {
    for nr in 0..block.order().nr_pages() {
        machine
            .phys()
            .with_page(block, nr, |mut page| page.bytes_mut().fill(byte));
    }
}

/// A list that closures can push to.
pub struct Log<T>(RefCell<Vec<T>>);

impl<T> Log<T> {
    pub const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    pub fn push(&self, entry: T) {
        self.0.borrow_mut().push(entry);
    }

    pub fn take(&self) -> Vec<T> {
        self.0.take()
    }
}

pub fn free_all(pages: &impl PageSource, blocks: impl IntoIterator<Item = PageBlock>) {
    for block in blocks {
        pages.free(block);
    }
}
