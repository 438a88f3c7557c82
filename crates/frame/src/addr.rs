//! Physical and virtual addresses as types.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

use crate::Pfn;
use crate::size::{PAGE_SHIFT, PAGE_SIZE};

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Address 0.
            pub const ZERO: Self = Self(0);

            /// The address `addr`, in bytes.
            #[must_use]
            pub const fn new(addr: u64) -> Self {
                Self(addr)
            }

            /// The address as an integer, in bytes.
            #[must_use]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// The address as a `usize`; the two are equally wide on the targets of this crate.
            #[must_use]
            #[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits on every supported target")]
            pub const fn as_usize(self) -> usize {
                self.0 as usize
            }

            /// Rounds down to a multiple of `align_bytes`, a power of two.
            ///
            /// # Panics
            /// In debug builds, when it is none; else the result means nothing.
            #[must_use]
            pub const fn align_down(self, align_bytes: u64) -> Self {
                debug_assert!(align_bytes.is_power_of_two());
                Self(self.0 & !align_bytes.wrapping_sub(1))
            }

            /// Rounds up to a multiple of `align_bytes`, a power of two; `None` when that wraps.
            ///
            /// # Panics
            /// As [`Self::align_down`].
            #[must_use]
            pub const fn checked_align_up(self, align_bytes: u64) -> Option<Self> {
                debug_assert!(align_bytes.is_power_of_two());
                let below = align_bytes.wrapping_sub(1);
                match self.0.checked_add(below) {
                    Some(sum) => Some(Self(sum & !below)),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `align_bytes`, a power of two.
            ///
            /// # Panics
            /// As [`Self::align_down`].
            #[must_use]
            pub const fn is_aligned(self, align_bytes: u64) -> bool {
                debug_assert!(align_bytes.is_power_of_two());
                self.0 & align_bytes.wrapping_sub(1) == 0
            }

            /// Whether the address is a multiple of the page size.
            #[must_use]
            pub const fn is_page_aligned(self) -> bool {
                self.is_aligned(PAGE_SIZE as u64)
            }

            /// Bytes from the start of the page.
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE as u64 - 1)
            }

            /// `self + bytes`, or `None` when that wraps.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
        }

        impl Add<u64> for $name {
            type Output = Self;
            fn add(self, bytes: u64) -> Self {
                Self(self.0 + bytes)
            }
        }

        impl AddAssign<u64> for $name {
            fn add_assign(&mut self, bytes: u64) {
                self.0 += bytes;
            }
        }

        impl Sub<u64> for $name {
            type Output = Self;
            fn sub(self, bytes: u64) -> Self {
                Self(self.0 - bytes)
            }
        }

        impl Sub for $name {
            type Output = u64;
            fn sub(self, other: Self) -> u64 {
                self.0 - other.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// An address on the memory bus. Linux: `phys_addr_t`.
    ///
    /// Sums and differences are those of integers: past either end they panic where overflow is checked, as in debug builds,
    /// and wrap elsewhere. For numbers from outside there is [`PhysAddr::checked_add`].
    PhysAddr
}

address! {
    /// An address that a program or the kernel dereferences.
    ///
    /// Any 64-bit value is allowed, as programs may pass any: ask [`VirtAddr::is_canonical`]. Sums are as those of
    /// [`PhysAddr`].
    VirtAddr
}

impl PhysAddr {
    /// The frame that holds this address. Linux: `PHYS_PFN`, `PFN_DOWN`.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        Pfn::new((self.as_u64() >> PAGE_SHIFT) as usize)
    }
}

impl VirtAddr {
    /// Whether bits `bits - 1`..64 are all equal, as the CPU asks; `bits` is 48, or 57 with five levels (SDM 3A 4.5).
    ///
    /// # Panics
    /// As [`VirtAddr::sign_extend`].
    #[must_use]
    pub const fn is_canonical(self, bits: u32) -> bool {
        Self::sign_extend(self.as_u64(), bits).as_u64() == self.as_u64()
    }

    /// Copies bit `bits - 1` into all higher bits.
    ///
    /// # Panics
    /// Unless `bits` is 1 to 64.
    #[must_use]
    pub const fn sign_extend(addr: u64, bits: u32) -> Self {
        assert!(0 < bits && bits <= 64, "an address of no such width");
        let unused = 64 - bits;
        Self(((addr << unused) as i64 >> unused) as u64)
    }

    /// The page number: the address divided by the page size.
    #[must_use]
    pub const fn page_number(self) -> u64 {
        self.as_u64() >> PAGE_SHIFT
    }
}
