//! All CPUs at the allocators at once, at random: blocks of mixed orders and kinds, objects, areas; and what one CPU took, another gives
//! back. Every page and object carries its owner's mark, and has to have it still when it goes.
#![expect(
    unsafe_code,
    reason = "writes and reads what it allocated, and sends it to other CPUs"
)]

use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use kmm::frame::{Gfp, MAX_ORDER, Order, PAGE_SIZE, VirtAddr};
use kmm::host::{Host as _, Owners as _, PageBlock, PageReq, PageSource as _, PhysMap as _};

use super::{MAX_CPUS, call_on, each, nr_online, on_each_cpu};
use crate::arch::timer;
use crate::ensure;
use crate::mm::{self, manager, phys};
use crate::selftest::{Failure, Outcome, Random};
use crate::sync::IrqSpinLock;

/// What one CPU has at a time, of blocks and of objects; and what waits for it.
const BLOCKS_MAX: usize = 192;
const OBJECTS_MAX: usize = 256;
const INBOX_MAX: usize = 64;
/// Of free memory, one part in so many is used at most.
const SHARE: usize = 2;
const OBJECT_BYTES_MAX: usize = 9000;
const BULK: usize = 48;
const AREA_PAGES_MAX: usize = 8;

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// So many steps on each CPU.
    Rounds(u64),
    /// For so long.
    Seconds(u64),
}

/// What was done.
#[derive(Debug, Default)]
pub struct Summary {
    nr_cpus: usize,
    rounds: AtomicU64,
    blocks: AtomicU64,
    objects: AtomicU64,
    handed_over: AtomicU64,
    in_interrupts: AtomicU64,
    refused: AtomicU64,
    flushes: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "{} CPUs, {} rounds, {} blocks, {} objects, {} handed to another CPU, {} in interrupts, {} refused, {} flushes for others",
            self.nr_cpus,
            of(&self.rounds),
            of(&self.blocks),
            of(&self.objects),
            of(&self.handed_over),
            of(&self.in_interrupts),
            of(&self.refused),
            self.flushes,
        )
    }
}

impl Summary {
    /// Was everything tried that this machine has?
    pub fn is_thorough(&self) -> bool {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let alone = of(&self.blocks)
            .min(of(&self.objects))
            .min(of(&self.in_interrupts))
            > 0;
        alone && (self.nr_cpus == 1 || of(&self.handed_over) > 0 && self.flushes > 0)
    }
}

/// How often CPUs have flushed for others.
fn flushes() -> u64 {
    let count = |mailbox: &super::Mailbox| mailbox.nr_flushes.load(Ordering::Relaxed);
    super::MAILBOXES.iter().map(count).sum()
}

/// Something that a CPU took, with its owner's mark.
enum Item {
    Block(PageBlock, u64),
    Object(Object, u64),
}

/// An object of kmalloc.
struct Object {
    start: NonNull<u8>,
    size_bytes: usize,
}

// SAFETY: whoever has it is its only owner.
unsafe impl Send for Object {}

impl Object {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: it is ours, this long, and was filled as soon as it was allocated.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.size_bytes) }
    }
}

/// What all share.
struct Field {
    extent: Extent,
    start_ns: u64,
    /// Pages in blocks, and how many there may be.
    nr_pages: AtomicUsize,
    most_pages: usize,
    inboxes: Vec<IrqSpinLock<Vec<Item>>>,
    workers: Vec<IrqSpinLock<Worker>>,
    summary: Summary,
    has_failed: AtomicBool,
    failure: IrqSpinLock<Option<Failure>>,
}

/// One CPU's part.
struct Worker {
    random: Random,
    blocks: Vec<(PageBlock, u64)>,
    objects: Vec<(Object, u64)>,
}

/// A list that never grows beyond this.
fn list<T>(most: usize) -> Result<Vec<T>, Failure> {
    let mut list = Vec::new();
    list.try_reserve_exact(most).map_err(Failure::of)?;
    Ok(list)
}

/// Runs it on all CPUs that are up, then audits the machine; all that was taken is given back. The same `seed` makes the same steps on
/// each CPU, if not in the same order between them.
///
/// # Context
/// As for [`on_each_cpu`].
///
/// # Errors
/// What does not hold.
pub fn stress(extent: Extent, seed: u64) -> Result<Summary, Failure> {
    let held_before = mm::pages_held();
    let mut field = Field::new(extent, seed)?;
    let flushes_before = flushes();
    on_each_cpu(|cpu| {
        if let Err(why) = field.work(cpu) {
            field.has_failed.store(true, Ordering::Relaxed);
            field.failure.lock().get_or_insert(why);
        }
    });
    let left = field.clear_up();
    if let Some(why) = field.failure.lock().take() {
        return Err(why);
    }
    left?;
    field.summary.nr_cpus = nr_online();
    field.summary.flushes = flushes() - flushes_before;
    let summary = core::mem::take(&mut field.summary);
    drop(field);
    mm::audit()?;
    let held = mm::pages_held();
    ensure!(
        held == held_before,
        "{held_before} pages were held before, {held} are now"
    );
    Ok(summary)
}

impl Field {
    fn new(extent: Extent, seed: u64) -> Result<Self, Failure> {
        let mut inboxes = list(MAX_CPUS)?;
        let mut workers = list(MAX_CPUS)?;
        for cpu in 0..super::nr_possible() as u64 {
            inboxes.push(IrqSpinLock::new(list(INBOX_MAX)?));
            workers.push(IrqSpinLock::new(Worker {
                // Far from the neighbour's.
                random: Random::new(seed ^ (cpu + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                blocks: list(BLOCKS_MAX)?,
                objects: list(OBJECTS_MAX)?,
            }));
        }
        Ok(Self {
            extent,
            start_ns: timer::now_ns(),
            nr_pages: AtomicUsize::new(0),
            most_pages: manager().pages().accounting().free / SHARE,
            inboxes,
            workers,
            summary: Summary::default(),
            has_failed: AtomicBool::new(false),
            failure: IrqSpinLock::new(None),
        })
    }

    fn is_over(&self, round: u64) -> bool {
        self.has_failed.load(Ordering::Relaxed)
            || match self.extent {
                Extent::Rounds(most) => round >= most,
                Extent::Seconds(most) => {
                    timer::now_ns() - self.start_ns >= most.saturating_mul(1_000_000_000)
                }
            }
    }

    /// One CPU's share.
    fn work(&self, cpu: u32) -> Outcome {
        // Out of its lock, so that interrupts stay on.
        let mut worker = {
            let mut place = self.workers[cpu as usize].lock();
            Worker {
                random: place.random,
                blocks: core::mem::take(&mut place.blocks),
                objects: core::mem::take(&mut place.objects),
            }
        };
        let mut round = 0;
        let mut outcome = Ok(());
        while outcome.is_ok() && !self.is_over(round) {
            let mark = (u64::from(cpu) << 56) | round;
            outcome = worker.step(self, cpu, mark);
            round += 1;
        }
        self.summary.rounds.fetch_add(round, Ordering::Relaxed);
        for (block, mark) in worker.blocks.drain(..) {
            outcome = outcome.and(self.free_block(block, mark));
        }
        for (object, mark) in worker.objects.drain(..) {
            outcome = outcome.and(free_object(object, mark));
        }
        *self.workers[cpu as usize].lock() = worker;
        outcome
    }

    /// Takes a block for as many pages as there may be.
    fn alloc_block(&self, order: Order, gfp: Gfp, mark: u64) -> Result<Option<PageBlock>, Failure> {
        let nr_pages = order.nr_pages();
        if self.nr_pages.fetch_add(nr_pages, Ordering::Relaxed) + nr_pages > self.most_pages {
            self.nr_pages.fetch_sub(nr_pages, Ordering::Relaxed);
            return Ok(None);
        }
        let Ok(mut block) = manager().pages().alloc(PageReq::new(order, gfp)) else {
            self.nr_pages.fetch_sub(nr_pages, Ordering::Relaxed);
            self.summary.refused.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        tell_owners(&block, gfp)?;
        self.summary.blocks.fetch_add(1, Ordering::Relaxed);
        if gfp.contains(Gfp::ZERO) {
            check_zero(&mut block)?;
        }
        write_marks(&mut block, mark);
        Ok(Some(block))
    }

    fn free_block(&self, mut block: PageBlock, mark: u64) -> Outcome {
        let nr_pages = block.order().nr_pages();
        let intact = check_marks(&mut block, mark);
        manager().page_alloc().free_pages(block);
        self.nr_pages.fetch_sub(nr_pages, Ordering::Relaxed);
        intact
    }

    fn free_item(&self, item: Item) -> Outcome {
        match item {
            Item::Block(block, mark) => self.free_block(block, mark),
            Item::Object(object, mark) => free_object(object, mark),
        }
    }

    /// Gives back what was handed to CPUs that had finished by then.
    fn clear_up(&self) -> Outcome {
        let mut outcome = Ok(());
        for inbox in &self.inboxes {
            while let Some(item) = { inbox.lock().pop() } {
                outcome = outcome.and(self.free_item(item));
            }
        }
        outcome
    }
}

impl Worker {
    fn step(&mut self, field: &Field, cpu: u32, mark: u64) -> Outcome {
        match self.random.below(20) {
            0..=4 if self.blocks.len() < BLOCKS_MAX => {
                let (order, gfp) = (self.order(), self.gfp());
                if let Some(block) = field.alloc_block(order, gfp, mark)? {
                    self.blocks.push((block, mark));
                }
            }
            5..=8 if !self.blocks.is_empty() => {
                let at = self.random.below(self.blocks.len());
                let (block, mark) = self.blocks.swap_remove(at);
                field.free_block(block, mark)?;
            }
            9..=10 if self.objects.len() < OBJECTS_MAX => self.alloc_object(field, mark)?,
            11..=12 if !self.objects.is_empty() => {
                let at = self.random.below(self.objects.len());
                let (object, mark) = self.objects.swap_remove(at);
                free_object(object, mark)?;
            }
            13..=14 => self.hand_over(field),
            15..=16 => {
                while let Some(item) = { field.inboxes[cpu as usize].lock().pop() } {
                    field.free_item(item)?;
                }
            }
            17 => self.bulk(field, mark)?,
            // These wait for all CPUs, or for another one: where there are more than real ones, that takes a while.
            18 if self.random.below(4 * nr_online()) == 0 => self.area(mark)?,
            19 if self.random.below(2 * nr_online()) == 0 => self.in_interrupt(field),
            _ => field.hot_pair(mark)?,
        }
        Ok(())
    }

    fn order(&mut self) -> Order {
        let order = match self.random.below(64) {
            0 => 9,
            1 => 10,
            2..=5 => 4 + self.random.below(4),
            6..=20 => 1 + self.random.below(3),
            _ => 0,
        };
        Order::for_pages(1 << order).unwrap_or(MAX_ORDER)
    }

    fn gfp(&mut self) -> Gfp {
        let kind = match self.random.below(8) {
            0 => Gfp::ATOMIC,
            1 => Gfp::HIGHUSER_MOVABLE,
            2 => Gfp::KERNEL | Gfp::RECLAIMABLE,
            3 => Gfp::NOWAIT,
            4 => Gfp::KERNEL | Gfp::DMA32,
            5 => Gfp::KERNEL | Gfp::ZERO,
            _ => Gfp::KERNEL,
        };
        (kind - Gfp::DIRECT_RECLAIM) | Gfp::NOWARN
    }

    fn alloc_object(&mut self, field: &Field, mark: u64) -> Outcome {
        let size_bytes = match self.random.below(16) {
            0 => 1 + self.random.below(OBJECT_BYTES_MAX),
            1..=3 => 1 + self.random.below(2048),
            _ => 1 + self.random.below(256),
        };
        let gfp = self.gfp() - (Gfp::DMA32 | Gfp::MOVABLE_PAGE | Gfp::HIGHMEM);
        let Ok(start) = manager().slub().kmalloc(size_bytes, gfp) else {
            field.summary.refused.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        field.summary.objects.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the object is ours, and this long.
        let first = unsafe { slice::from_raw_parts(start.as_ptr(), size_bytes) };
        ensure!(
            !gfp.contains(Gfp::ZERO) || first.iter().all(|&byte| byte == 0),
            "{size_bytes} zeroed bytes at {start:p} are not zero"
        );
        let mut object = Object { start, size_bytes };
        object.bytes().fill(byte_of(mark));
        self.objects.push((object, mark));
        Ok(())
    }

    /// Gives something to another CPU, if that one has room.
    fn hand_over(&mut self, field: &Field) {
        let to = self.random.below(field.inboxes.len());
        let block = self.random.below(2) == 0;
        let mut inbox = field.inboxes[to].lock();
        if inbox.len() == INBOX_MAX {
            return;
        }
        let item = if block {
            self.blocks
                .pop()
                .map(|(block, mark)| Item::Block(block, mark))
        } else {
            self.objects
                .pop()
                .map(|(object, mark)| Item::Object(object, mark))
        };
        if let Some(item) = item {
            inbox.push(item);
            field.summary.handed_over.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Many pages at once.
    fn bulk(&mut self, field: &Field, mark: u64) -> Outcome {
        let most = 1 + self.random.below(BULK);
        let mut pages = [const { None }; BULK];
        let gfp = Gfp::NOWAIT | Gfp::NOWARN;
        let count = manager().pages().alloc_bulk(gfp, None, &mut pages[..most]);
        let mut taken = pages.iter().flatten();
        taken.try_for_each(|page| tell_owners(page, gfp))?;
        field
            .summary
            .blocks
            .fetch_add(count as u64, Ordering::Relaxed);
        pages
            .iter_mut()
            .flatten()
            .for_each(|page| write_marks(page, mark));
        let intact = pages
            .iter_mut()
            .flatten()
            .try_for_each(|page| check_marks(page, mark));
        manager().pages().free_bulk(&mut pages);
        intact
    }

    /// Kernel virtual memory: its end has every CPU flush its TLB.
    fn area(&mut self, mark: u64) -> Outcome {
        let nr_pages = 1 + self.random.below(AREA_PAGES_MAX);
        let vmalloc = manager().vmalloc();
        let Ok(start) = vmalloc.vmalloc(nr_pages * PAGE_SIZE, Gfp::KERNEL | Gfp::NOWARN) else {
            return Ok(());
        };
        let word = |nr: usize| {
            let address: VirtAddr = start + (nr * PAGE_SIZE) as u64;
            core::ptr::with_exposed_provenance_mut::<u64>(address.as_usize())
        };
        for nr in 0..nr_pages {
            // SAFETY: a page of our area.
            unsafe { word(nr).write_volatile(mark ^ nr as u64) };
        }
        let intact = (0..nr_pages).all(|nr| {
            // SAFETY: as above.
            let found = unsafe { word(nr).read_volatile() };
            found == mark ^ nr as u64
        });
        // SAFETY: nobody uses it any more.
        unsafe { vmalloc.vfree(start) }.map_err(Failure::of)?;
        ensure!(
            intact,
            "an area at {start} does not hold what was written there"
        );
        Ok(())
    }

    /// Allocates in an interrupt of some CPU, whatever that one is doing.
    fn in_interrupt(&mut self, field: &Field) {
        let to = each(super::ONLINE.load(Ordering::Relaxed)).nth(self.random.below(nr_online()));
        let (order, gfp) = (self.order(), Gfp::ATOMIC | Gfp::NOWARN);
        let take_and_give = || {
            if let Ok(block) = manager().pages().alloc(PageReq::new(order, gfp)) {
                // `free_pages` tells them that it is given.
                let told = tell_owners(&block, gfp);
                debug_assert!(told.is_ok(), "somebody has it already");
                manager().page_alloc().free_pages(block);
            }
            if let Ok(object) = manager().slub().kmalloc(64, gfp) {
                // SAFETY: it came from `kmalloc`, and is not used again.
                unsafe { manager().slub().kfree(object) };
            }
        };
        if to.is_some_and(|to| call_on(to, take_and_give)) {
            field.summary.in_interrupts.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Field {
    /// The pageset's fastest way, many times.
    fn hot_pair(&self, mark: u64) -> Outcome {
        for nr in 0..8 {
            let Some(block) =
                self.alloc_block(Order::ZERO, Gfp::NOWAIT | Gfp::NOWARN, mark ^ nr)?
            else {
                break;
            };
            self.free_block(block, mark ^ nr)?;
        }
        Ok(())
    }
}

fn free_object(mut object: Object, mark: u64) -> Outcome {
    let wanted = byte_of(mark);
    let intact = object.bytes().iter().all(|&byte| byte == wanted);
    let Object { start, size_bytes } = object;
    // SAFETY: it came from `kmalloc`, and is not used again.
    unsafe { manager().slub().kfree(start) };
    ensure!(
        intact,
        "an object of {size_bytes} bytes at {start:p} was overwritten"
    );
    Ok(())
}

/// Blocks are taken from the zones themselves, past the page allocator, which else says who has them.
fn tell_owners(block: &PageBlock, gfp: Gfp) -> Outcome {
    let owners = manager().host().owners();
    owners
        .took(block.pfn(), block.order(), gfp)
        .map_err(Failure::of)
}

/// A byte that tells marks apart, mostly.
fn byte_of(mark: u64) -> u8 {
    mark.to_le_bytes()
        .iter()
        .fold(0x5a, |sum, &byte| sum ^ byte)
}

/// At the beginning and at the end of each page.
fn write_marks(block: &mut PageBlock, mark: u64) {
    for nr in 0..block.order().nr_pages() {
        let bytes = (mark ^ (nr as u64) << 40).to_le_bytes();
        phys().with_page(block, nr, |mut page| {
            let page = page.bytes_mut();
            page[..8].copy_from_slice(&bytes);
            page[PAGE_SIZE - 8..].copy_from_slice(&bytes);
        });
    }
}

fn check_marks(block: &mut PageBlock, mark: u64) -> Outcome {
    for nr in 0..block.order().nr_pages() {
        let bytes = (mark ^ (nr as u64) << 40).to_le_bytes();
        let intact = phys().with_page(block, nr, |page| {
            let page = page.bytes();
            page[..8] == bytes && page[PAGE_SIZE - 8..] == bytes
        });
        ensure!(intact, "page {nr} of {:?} was overwritten", block.range());
    }
    Ok(())
}

fn check_zero(block: &mut PageBlock) -> Outcome {
    for nr in 0..block.order().nr_pages() {
        let is_zero =
            phys().with_page(block, nr, |page| page.bytes().iter().all(|&byte| byte == 0));
        ensure!(is_zero, "page {nr} of {:?} is not zero", block.range());
    }
    Ok(())
}
