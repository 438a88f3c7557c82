//! Who had an object: a record behind it.

use core::fmt;

use kmm_host::Backtrace;

/// Return addresses that are kept. Linux: `TRACK_ADDRS_COUNT`.
pub(crate) const DEPTH: usize = 16;
const SEAL: u64 = 0x51ab_7ac4_0b1e_c7e5;

/// Who allocated or freed an object. Linux: `struct track`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Track {
    /// Tells a record from bytes that somebody has written over it.
    seal: u64,
    /// As the host tells its users apart: [`Backtrace::tag`].
    pub tag: u64,
    /// The CPU that it ran on.
    pub cpu: u32,
    len: u32,
    addresses: [usize; DEPTH],
}

impl Track {
    /// Nobody did.
    pub(crate) const NONE: Self = Self {
        seal: 0,
        tag: 0,
        cpu: 0,
        len: 0,
        addresses: [0; DEPTH],
    };

    /// Whoever runs now.
    pub(crate) fn here(backtrace: &dyn Backtrace, cpu: u32) -> Self {
        let mut addresses = [0; DEPTH];
        let len = backtrace.capture(&mut addresses).min(DEPTH);
        let mut track = Self {
            tag: backtrace.tag(),
            cpu,
            len: u32::try_from(len).unwrap_or(0),
            addresses,
            ..Self::NONE
        };
        track.seal = track.sum();
        track
    }

    /// As long as nobody else has written to it.
    pub(crate) fn if_whole(self) -> Option<Self> {
        (self.seal == self.sum() && self.len as usize <= DEPTH).then_some(self)
    }

    /// Return addresses, the innermost first.
    #[must_use]
    pub fn addresses(&self) -> &[usize] {
        self.addresses
            .get(..self.len as usize)
            .unwrap_or(&self.addresses)
    }

    fn sum(&self) -> u64 {
        let words = self.addresses.iter().map(|address| *address as u64);
        let words = words.chain([self.tag, u64::from(self.cpu) << 32 | u64::from(self.len)]);
        words.fold(SEAL, |sum, word| {
            (sum ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        })
    }
}

/// As Linux prints it behind "Allocated in" or "Freed in".
impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.addresses().first().copied().unwrap_or(0);
        write!(f, "{first:#018x} cpu={} pid={}", self.cpu, self.tag)?;
        for address in self.addresses() {
            write!(f, "\n {address:#018x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Track")
            .field("tag", &self.tag)
            .field("cpu", &self.cpu)
            .field("addresses", &self.addresses())
            .finish()
    }
}
