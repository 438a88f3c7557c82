//! What is known of an object: a word behind it.

/// Whose an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    /// The free list.
    Slab,
    /// Whoever allocated it.
    User,
    /// The [`Quarantine`](super::Quarantine).
    Quarantine,
}

/// How much of an object was asked for, and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub(crate) size_bytes: usize,
    pub(crate) holder: Holder,
}

/// No object is as large.
const SIZE_BITS: u32 = 23;
const HOLDER_BITS: u32 = 2;
/// The rest says whether the word is whole.
const KNOWN: u64 = (1 << (SIZE_BITS + HOLDER_BITS)) - 1;
const _: () = assert!(crate::KMALLOC_MAX_SIZE < 1 << SIZE_BITS);

impl Mark {
    /// As it is written behind the object at `address`.
    pub(crate) fn word(self, address: usize, secret: u64) -> u64 {
        let known = self.size_bytes as u64 | (self.holder as u64) << SIZE_BITS;
        (known & KNOWN) | seal(address, secret, known)
    }

    /// The same read again; `None` if somebody has written to it.
    pub(crate) fn from_word(word: u64, address: usize, secret: u64) -> Option<Self> {
        let known = word & KNOWN;
        let holder = match known >> SIZE_BITS {
            0 => Holder::Slab,
            1 => Holder::User,
            2 => Holder::Quarantine,
            _ => return None,
        };
        let size_bytes = usize::try_from(known & ((1 << SIZE_BITS) - 1)).ok()?;
        let is_whole = word & !KNOWN == seal(address, secret, known);
        is_whole.then_some(Self { size_bytes, holder })
    }
}

fn seal(address: usize, secret: u64, known: u64) -> u64 {
    let mixed =
        (address as u64 ^ secret ^ known.rotate_left(40)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) & !KNOWN
}

#[cfg(test)]
mod tests {
    use super::{Holder, Mark};

    #[test]
    fn a_mark_is_read_as_written_and_no_other() {
        for holder in [Holder::Slab, Holder::User, Holder::Quarantine] {
            for size_bytes in [0, 1, 8192, 4 << 20] {
                let mark = Mark { size_bytes, holder };
                let word = mark.word(0x1000, 7);
                assert_eq!(Mark::from_word(word, 0x1000, 7), Some(mark));
                assert_eq!(Mark::from_word(word, 0x1008, 7), None, "of another object");
                assert_eq!(
                    Mark::from_word(word, 0x1000, 8),
                    None,
                    "of another allocator"
                );
                for bit in 0..64 {
                    assert_eq!(
                        Mark::from_word(word ^ 1 << bit, 0x1000, 7),
                        None,
                        "bit {bit}"
                    );
                }
            }
        }
    }
}
