//! Records of all blocks, by frame.

use core::fmt;

use kmm_frame::{Gfp, Order, Pfn, PfnRange};
use kmm_host::{Backtrace, Misuse, Owners};
use lock_api::{Mutex, RawMutex};

use super::record::{OwnerRecord, OwnerSlot, Stack};

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
                result = record.write_entry(out, pfn, &mut place);
            }
        });
        result
    }
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
        record.describe(state, out)
    }
}

impl<L: RawMutex, B, const N: usize> fmt::Debug for OwnerTable<L, B, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnerTable")
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}
