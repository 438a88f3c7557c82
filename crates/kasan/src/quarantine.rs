//! Freed objects wait here, so that who still uses one is found out. Linux: mm/kasan/quarantine.c.

use kmm_host::ObjectSlot;

/// Objects in the order in which they were freed, with a bound on their number and on their bytes.
pub(crate) struct Quarantine {
    slots: &'static mut [Option<ObjectSlot>],
    first: usize,
    count: usize,
    size_bytes: usize,
    most_bytes: usize,
}

impl Quarantine {
    pub(crate) const fn new(slots: &'static mut [Option<ObjectSlot>], most_bytes: usize) -> Self {
        Self {
            slots,
            first: 0,
            count: 0,
            size_bytes: 0,
            most_bytes,
        }
    }

    pub(crate) const fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Takes an object in; whether there is room for it at all.
    pub(crate) fn push(&mut self, object: ObjectSlot) -> bool {
        if self.count == self.slots.len() {
            return false;
        }
        let free = (self.first + self.count) % self.slots.len();
        self.slots[free] = Some(object);
        self.count += 1;
        self.size_bytes += object.size_bytes;
        true
    }

    /// The oldest object, if there is not room for the next one, or too much waits. Linux: `kasan_quarantine_reduce`.
    pub(crate) fn reduce(&mut self) -> Option<ObjectSlot> {
        let is_full = self.count == self.slots.len();
        if is_full || self.size_bytes > self.most_bytes {
            return self.pop();
        }
        None
    }

    pub(crate) fn pop(&mut self) -> Option<ObjectSlot> {
        let object = self.slots.get_mut(self.first)?.take()?;
        self.first = (self.first + 1) % self.slots.len();
        self.count -= 1;
        self.size_bytes -= object.size_bytes;
        Some(object)
    }
}
