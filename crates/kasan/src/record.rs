//! Who has an object or had it: a table of bounded size, which forgets the oldest.

use core::fmt;

use kmm_frame::VirtAddr;
use kmm_host::{Backtrace, ObjectSlot};

/// So many return addresses are kept of a stack.
pub const STACK_DEPTH: usize = 16;
/// An object's record lies in one of so many slots.
const NR_PROBES: usize = 8;
const NAME_BYTES: usize = 24;
/// From this many bytes before an object on, and as many behind it, a bad address is told by its relation to it.
const NEAR_BYTES: u64 = 4096;

/// Whether an address belongs to the code that watches and allocates, so that stacks are told without it.
pub type IsOwn = fn(usize) -> bool;

/// Writes the name of an address, as `function+0x12`.
pub type NameOf = fn(usize, &mut dyn fmt::Write) -> fmt::Result;

/// Who did something, and from where. Linux: `struct kasan_track`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Track {
    /// Who ([`Backtrace::tag`]).
    pub tag: u64,
    addresses: [usize; STACK_DEPTH],
    len: usize,
}

impl Track {
    /// This code.
    pub(crate) fn here(backtrace: &impl Backtrace) -> Self {
        let mut addresses = [0; STACK_DEPTH];
        let len = backtrace.capture(&mut addresses).min(STACK_DEPTH);
        Self {
            tag: backtrace.tag(),
            addresses,
            len,
        }
    }

    /// The same without what lies within `ip`, if that is on the stack.
    pub(crate) fn from(mut self, ip: usize) -> Self {
        if let Some(at) = self.addresses().iter().position(|&address| address == ip) {
            self.addresses.rotate_left(at);
            self.len -= at;
        }
        self
    }

    /// Return addresses from the first on that is not our own, or all.
    pub(crate) fn others(&self, is_own: IsOwn) -> &[usize] {
        let all = self.addresses();
        let first = all.iter().position(|&address| !is_own(address));
        &all[first.unwrap_or(0)..]
    }

    /// Return addresses, the innermost first.
    #[must_use]
    pub fn addresses(&self) -> &[usize] {
        &self.addresses[..self.len]
    }
}

/// What is known of an object or an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Where it is.
    pub slot: ObjectSlot,
    /// So many bytes were asked for.
    pub requested_bytes: usize,
    /// Is it an area of vmalloc?
    pub is_area: bool,
    /// Who asked for it.
    pub allocated: Track,
    /// Who freed it, unless it is in use.
    pub freed: Option<Track>,
    name: [u8; NAME_BYTES],
    name_len: usize,
    /// Records are counted: the newest has the highest number.
    nr: u64,
}

impl Record {
    /// The name of its cache.
    #[must_use]
    pub fn cache(&self) -> &str {
        let name = &self.name[..self.name_len];
        core::str::from_utf8(name).unwrap_or_default()
    }

    /// How far `addr` lies outside of it.
    const fn distance(&self, addr: VirtAddr) -> u64 {
        let (start, addr) = (self.slot.start.as_u64(), addr.as_u64());
        let end = start + self.slot.size_bytes as u64;
        if addr < start {
            start - addr
        } else if addr >= end {
            addr - end + 1
        } else {
            0
        }
    }
}

/// The records.
pub(crate) struct Records {
    slots: &'static mut [Option<Record>],
    nr: u64,
}

impl Records {
    pub(crate) const fn new(slots: &'static mut [Option<Record>]) -> Self {
        Self { slots, nr: 0 }
    }

    /// Notes a new object, instead of what was known of its address, or of the oldest of its neighbours in the table.
    pub(crate) fn allocated(
        &mut self,
        slot: ObjectSlot,
        requested_bytes: usize,
        cache: Option<&str>,
        track: Track,
    ) {
        self.nr += 1;
        let mut name = [0; NAME_BYTES];
        let text = cache.unwrap_or_default();
        let name_len = text.len().min(NAME_BYTES);
        name[..name_len].copy_from_slice(&text.as_bytes()[..name_len]);
        let record = Record {
            slot,
            requested_bytes,
            is_area: cache.is_none(),
            allocated: track,
            freed: None,
            name,
            name_len,
            nr: self.nr,
        };
        // That of this object, else an empty one, else the oldest of those that are free, else the oldest.
        let rank = |place: &Option<Record>| match place {
            Some(known) if known.slot.start == slot.start => (0, 0),
            None => (1, 0),
            Some(known) => (2 + u8::from(known.freed.is_none()), known.nr),
        };
        let slots = &*self.slots;
        let place = probes(slots.len(), slot.start).min_by_key(|&at| rank(&slots[at]));
        if let Some(at) = place {
            self.slots[at] = Some(record);
        }
    }

    /// Notes who freed the object at `start`.
    pub(crate) fn freed(&mut self, start: VirtAddr, track: Track) {
        for at in probes(self.slots.len(), start) {
            if let Some(record) = &mut self.slots[at] {
                if record.slot.start == start {
                    record.freed = Some(track);
                }
            }
        }
    }

    /// The object that `addr` lies in, or else the nearest one; the newest of several. O(records).
    pub(crate) fn nearest(&self, addr: VirtAddr) -> Option<Record> {
        let near = self
            .slots
            .iter()
            .flatten()
            .filter(|known| known.distance(addr) <= NEAR_BYTES);
        near.min_by_key(|known| (known.distance(addr), u64::MAX - known.nr))
            .copied()
    }
}

/// The slots of a table of `len` where the record of `start` may be.
fn probes(len: usize, start: VirtAddr) -> impl Iterator<Item = usize> {
    // Knuth's multiplicative hash; its high half is the better one.
    let hash = (start.as_usize() >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (0..NR_PROBES.min(len)).map(move |nr| (hash + nr) % len)
}
