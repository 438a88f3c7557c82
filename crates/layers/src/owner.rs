//! Who has which block, and where it was taken and freed. Linux: mm/page_owner.c.
#![expect(unsafe_code, reason = "implements PageSource")]

use core::fmt;

use kmm_frame::{Gfp, NodeItem, Order, Pfn, PfnRange};
use kmm_host::{AllocError, Backtrace, Misuse, Owners, PageBlock, PageReq, PageSource};
use lock_api::{Mutex, RawMutex};

/// Return addresses, the innermost first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stack<const N: usize> {
    addresses: [usize; N],
    len: usize,
}

impl<const N: usize> Stack<N> {
    const EMPTY: Self = Self {
        addresses: [0; N],
        len: 0,
    };

    fn here(backtrace: &impl Backtrace) -> Self {
        let mut stack = Self::EMPTY;
        stack.len = backtrace.capture(&mut stack.addresses).min(N);
        stack
    }

    /// The addresses.
    #[must_use]
    pub fn addresses(&self) -> &[usize] {
        &self.addresses[..self.len]
    }
}

/// A line for each address. Linux: `stack_depot_snprint`, without symbols.
impl<const N: usize> fmt::Display for Stack<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addresses()
            .iter()
            .try_for_each(|address| writeln!(f, " {address:#018x}"))
    }
}

/// What is known of a block. Linux: `struct page_owner`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnerRecord<const N: usize> {
    /// Its size.
    pub order: Order,
    /// What the request said.
    pub gfp: Gfp,
    /// Who asked for it ([`Backtrace::tag`]).
    pub tag: u64,
    /// Who freed it.
    pub free_tag: u64,
    /// The number of the event with which it was handed out; events are counted from 1.
    pub taken_at: u64,
    /// The number of the event with which it was freed; 0 while somebody has it.
    pub freed_at: u64,
    /// From where it was asked for.
    pub alloc_stack: Stack<N>,
    /// From where it was freed.
    pub free_stack: Stack<N>,
}

impl<const N: usize> OwnerRecord<N> {
    /// Whether somebody has the block.
    #[must_use]
    pub const fn is_allocated(&self) -> bool {
        self.freed_at == 0
    }
}

/// Room for what is known of one frame.
#[derive(Clone, Debug)]
pub struct OwnerSlot<const N: usize = 8>(Option<OwnerRecord<N>>);

impl<const N: usize> OwnerSlot<N> {
    /// Nothing is known.
    pub const EMPTY: Self = Self(None);
}

/// Records of all blocks of a range of frames, with stacks of up to `N` addresses, in storage that was handed in.
pub struct OwnerTable<L: RawMutex, B, const N: usize = 8> {
    range: PfnRange,
    backtrace: B,
    records: Mutex<L, Records<N>>,
}

struct Records<const N: usize> {
    range: PfnRange,
    slots: &'static mut [OwnerSlot<N>],
    nr_events: u64,
}

impl<L: RawMutex, B: Backtrace, const N: usize> OwnerTable<L, B, N> {
    /// Records for the frames of `range`, of which nothing is known yet; for fewer, when `slots` has not one for each.
    pub fn new(range: PfnRange, slots: &'static mut [OwnerSlot<N>], backtrace: B) -> Self {
        let range = PfnRange::with_len(range.start(), range.nr_pages().min(slots.len()));
        Self {
            range,
            backtrace,
            records: Mutex::new(Records {
                range,
                slots,
                nr_events: 0,
            }),
        }
    }

    /// Who has the block that the frame is in, and its first frame. Linux: `lookup_page_ext`.
    pub fn owner_of(&self, pfn: Pfn) -> Option<(Pfn, OwnerRecord<N>)> {
        self.records.lock().owner_of(pfn)
    }

    /// Who had the block that the frame was in last, and its first frame; when nobody has it.
    pub fn last_owner_of(&self, pfn: Pfn) -> Option<(Pfn, OwnerRecord<N>)> {
        let records = self.records.lock();
        match records.owner_of(pfn) {
            Some(_) => None,
            None => records.last_owner_of(pfn),
        }
    }

    /// Calls `f` with every block that somebody has, by its first frame, upwards. The lock is not held meanwhile.
    pub fn for_each(&self, mut f: impl FnMut(Pfn, &OwnerRecord<N>)) {
        for pfn in self.range.iter() {
            let record = self.records.lock().at(pfn).copied();
            if let Some(record) = record.filter(OwnerRecord::is_allocated) {
                f(pfn, &record);
            }
        }
    }

    /// Writes every block that somebody has, as /sys/kernel/debug/page_owner does: `place` adds what the table does not
    /// know, as the type of the pageblock and the flags. Linux: `print_page_owner`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_list<W: fmt::Write>(
        &self,
        out: &mut W,
        mut place: impl FnMut(Pfn, &mut W) -> fmt::Result,
    ) -> fmt::Result {
        let mut result = Ok(());
        self.for_each(|pfn, record| {
            if result.is_ok() {
                result = write_entry(out, pfn, record, &mut place);
            }
        });
        result
    }
}

fn write_entry<W: fmt::Write, const N: usize>(
    out: &mut W,
    pfn: Pfn,
    record: &OwnerRecord<N>,
    place: impl FnOnce(Pfn, &mut W) -> fmt::Result,
) -> fmt::Result {
    let OwnerRecord {
        order,
        gfp,
        tag,
        taken_at,
        ..
    } = record;
    writeln!(
        out,
        "Page allocated via order {order}, mask {:#x}({gfp}), pid {tag}, ts {taken_at}, free_ts 0",
        gfp.bits()
    )?;
    let kind = gfp.migrate_type().name();
    let block = pfn.index() >> Order::PAGEBLOCK.get();
    write!(out, "PFN {} type {kind} Block {block}", pfn.index())?;
    place(pfn, out)?;
    writeln!(out)?;
    writeln!(out, "{}", record.alloc_stack)
}

impl<const N: usize> Records<N> {
    fn at(&self, pfn: Pfn) -> Option<&OwnerRecord<N>> {
        if !self.range.contains(pfn) {
            return None;
        }
        self.slots[pfn - self.range.start()].0.as_ref()
    }

    fn slot(&mut self, pfn: Pfn) -> Option<&mut Option<OwnerRecord<N>>> {
        if !self.range.contains(pfn) {
            return None;
        }
        Some(&mut self.slots[pfn - self.range.start()].0)
    }

    /// Every record of a block that the frame is or was in; some more than once.
    fn covering(&self, pfn: Pfn) -> impl Iterator<Item = (Pfn, &OwnerRecord<N>)> {
        Order::all().filter_map(move |order| {
            let head = pfn.align_down(order);
            let record = self.at(head)?;
            let reaches = pfn - head < record.order.nr_pages();
            reaches.then_some((head, record))
        })
    }

    fn owner_of(&self, pfn: Pfn) -> Option<(Pfn, OwnerRecord<N>)> {
        self.covering(pfn)
            .find(|(_, record)| record.is_allocated())
            .map(|(head, record)| (head, *record))
    }

    fn last_owner_of(&self, pfn: Pfn) -> Option<(Pfn, OwnerRecord<N>)> {
        self.covering(pfn)
            .max_by_key(|(_, record)| record.freed_at)
            .map(|(head, record)| (head, *record))
    }

    fn next_event(&mut self) -> u64 {
        self.nr_events += 1;
        self.nr_events
    }
}

impl<L: RawMutex, B: Backtrace, const N: usize> Owners for OwnerTable<L, B, N> {
    const ENABLED: bool = true;

    fn took(&self, pfn: Pfn, order: Order, gfp: Gfp) -> Result<(), Misuse> {
        let stack = Stack::here(&self.backtrace);
        let mut records = self.records.lock();
        let now = records.next_event();
        let mut result = Ok(());
        for frame in PfnRange::with_len(pfn, order.nr_pages()).iter() {
            let Some((head, _)) = records.owner_of(frame) else {
                continue;
            };
            result = Err(Misuse::HandedOutTwice);
            if let Some(Some(other)) = records.slot(head) {
                other.freed_at = now;
            }
        }
        if let Some(slot) = records.slot(pfn) {
            *slot = Some(OwnerRecord {
                order,
                gfp,
                tag: self.backtrace.tag(),
                free_tag: 0,
                taken_at: now,
                freed_at: 0,
                alloc_stack: stack,
                free_stack: Stack::EMPTY,
            });
        }
        result
    }

    fn gave(&self, pfn: Pfn, order: Order) -> Result<(), Misuse> {
        let stack = Stack::here(&self.backtrace);
        let mut records = self.records.lock();
        let Some((head, record)) = records.owner_of(pfn) else {
            return Err(match records.last_owner_of(pfn) {
                Some(_) => Misuse::DoubleFree,
                None => Misuse::Foreign,
            });
        };
        if (head, record.order) != (pfn, order) {
            let order = record.order;
            return Err(Misuse::WrongOrder { head, order });
        }
        let now = records.next_event();
        if let Some(Some(record)) = records.slot(pfn) {
            record.freed_at = now;
            record.free_tag = self.backtrace.tag();
            record.free_stack = stack;
        }
        Ok(())
    }

    fn split(&self, pfn: Pfn, order: Order, to: Order) {
        let mut records = self.records.lock();
        let Some(whole) = records.at(pfn).copied() else {
            return;
        };
        for nr in (0..order.nr_pages()).step_by(to.nr_pages()) {
            if let Some(slot) = records.slot(pfn + nr) {
                *slot = Some(OwnerRecord { order: to, ..whole });
            }
        }
    }

    fn describe(&self, pfn: Pfn, out: &mut dyn fmt::Write) -> fmt::Result {
        let (state, record) = {
            let records = self.records.lock();
            match (records.owner_of(pfn), records.last_owner_of(pfn)) {
                (Some((_, record)), _) => ("allocated", record),
                (None, Some((_, record))) => ("freed", record),
                (None, None) => {
                    return out.write_str("page_owner info is not present (never set?)\n");
                }
            }
        };
        let OwnerRecord {
            order, gfp, tag, ..
        } = record;
        writeln!(out, "page_owner tracks the page as {state}")?;
        writeln!(
            out,
            "page last allocated via order {order}, migratetype {}, gfp_mask {:#x}({gfp}), pid {tag}, ts {}, free_ts {}",
            gfp.migrate_type().name(),
            gfp.bits(),
            record.taken_at,
            record.freed_at,
        )?;
        match record.alloc_stack.len {
            0 => writeln!(out, "page_owner allocation stack trace missing")?,
            _ => write!(out, "{}", record.alloc_stack)?,
        }
        match record.free_stack.len {
            0 => writeln!(out, "page_owner free stack trace missing"),
            _ => {
                let by = record.free_tag;
                write!(
                    out,
                    "page last free pid {by} stack trace:\n{}",
                    record.free_stack
                )
            }
        }
    }
}

impl<L: RawMutex, B, const N: usize> fmt::Debug for OwnerTable<L, B, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnerTable")
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// A block that was freed wrongly, or handed out although somebody has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadFree {
    /// The first frame.
    pub pfn: Pfn,
    /// The order with which it was freed or handed out.
    pub order: Order,
    /// What is wrong.
    pub misuse: Misuse,
}

impl fmt::Display for BadFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pfn, order, misuse } = self;
        write!(f, "bad page: pfn {pfn} order {order}: {misuse}")
    }
}

/// Keeps records in `O` of every block of a source. One that is freed wrongly is reported to `F` and dropped: lost, but
/// harmless. [`Owners::describe`] tells `F` who has it.
pub struct PageOwner<S, O, F> {
    inner: S,
    owners: O,
    on_misuse: F,
}

impl<S, O: Owners, F: Fn(BadFree)> PageOwner<S, O, F> {
    /// Keeps records of `inner`, all of whose blocks are free.
    pub const fn new(inner: S, owners: O, on_misuse: F) -> Self {
        Self {
            inner,
            owners,
            on_misuse,
        }
    }

    /// The source itself.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    /// The records.
    pub const fn owners(&self) -> &O {
        &self.owners
    }

    fn took(&self, block: &PageBlock, gfp: Gfp) {
        let (pfn, order) = (block.pfn(), block.order());
        if let Err(misuse) = self.owners.took(pfn, order, gfp) {
            (self.on_misuse)(BadFree { pfn, order, misuse });
        }
    }

    /// Whether the block may go back.
    fn gave(&self, block: &PageBlock) -> bool {
        let (pfn, order) = (block.pfn(), block.order());
        match self.owners.gave(pfn, order) {
            Ok(()) => true,
            Err(misuse) => {
                (self.on_misuse)(BadFree { pfn, order, misuse });
                false
            }
        }
    }
}

// SAFETY: every call goes to the inner source, which keeps the guarantees; a block that may not go back is dropped.
unsafe impl<S: PageSource, O: Owners, F: Fn(BadFree)> PageSource for PageOwner<S, O, F> {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        let block = self.inner.alloc(req)?;
        self.took(&block, req.gfp);
        Ok(block)
    }

    fn free(&self, block: PageBlock) {
        if self.gave(&block) {
            self.inner.free(block);
        }
    }

    fn alloc_bulk(
        &self,
        gfp: Gfp,
        node: Option<kmm_frame::NodeId>,
        out: &mut [Option<PageBlock>],
    ) -> usize {
        let count = self.inner.alloc_bulk(gfp, node, out);
        for block in out[..count].iter().flatten() {
            self.took(block, gfp);
        }
        count
    }

    fn free_bulk(&self, blocks: &mut [Option<PageBlock>]) {
        for slot in blocks.iter_mut() {
            if slot.as_ref().is_some_and(|block| !self.gave(block)) {
                *slot = None;
            }
        }
        self.inner.free_bulk(blocks);
    }

    #[inline]
    fn count(&self, pfn: Pfn, item: NodeItem, delta: isize) {
        self.inner.count(pfn, item, delta);
    }
}

impl<S: fmt::Debug, O, F> fmt::Debug for PageOwner<S, O, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageOwner")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
