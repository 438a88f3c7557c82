//! The one place that chooses between the real atomics and loom's.
//!
//! Code with a protocol between CPUs imports its atomics and cells from here. With `--cfg loom` they are loom's,
//! which try every interleaving; else they are `core`'s, at no cost. Mind, under loom: constructors are not `const`, an
//! `AtomicU32` has 8 bytes, and every test runs inside `loom::model`. Size asserts and casts of raw storage
//! therefore stand under `#[cfg(not(loom))]`.

#[cfg(loom)]
pub use self::with_loom::*;
#[cfg(not(loom))]
pub use self::without_loom::*;

#[cfg(loom)]
mod with_loom {
    /// Atomics and fences.
    pub mod atomic {
        pub use loom::sync::atomic::{
            AtomicBool, AtomicI8, AtomicI32, AtomicI64, AtomicIsize, AtomicPtr, AtomicU8,
            AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
        };
    }
    /// Cells whose every access is checked.
    pub mod cell {
        pub use loom::cell::UnsafeCell;
    }
    /// What to do while another CPU is busy.
    pub mod hint {
        pub use loom::hint::spin_loop;
    }
}

#[cfg(not(loom))]
mod without_loom {
    /// Atomics and fences.
    pub mod atomic {
        pub use core::sync::atomic::{
            AtomicBool, AtomicI8, AtomicI32, AtomicI64, AtomicIsize, AtomicPtr, AtomicU8,
            AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
        };
    }

    /// Cells with loom's interface: a closure marks how long the pointer is used.
    pub mod cell {
        /// [`core::cell::UnsafeCell`], reached through closures so that loom can watch each access.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct UnsafeCell<T: ?Sized>(core::cell::UnsafeCell<T>);

        impl<T> UnsafeCell<T> {
            /// A cell that holds `value`.
            pub const fn new(value: T) -> Self {
                Self(core::cell::UnsafeCell::new(value))
            }

            /// Takes the value out.
            pub fn into_inner(self) -> T {
                self.0.into_inner()
            }
        }

        impl<T: ?Sized> UnsafeCell<T> {
            /// Calls `f` with a pointer to read through.
            #[inline(always)]
            pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
                f(self.0.get().cast_const())
            }

            /// Calls `f` with a pointer to read and write through.
            #[inline(always)]
            pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
                f(self.0.get())
            }
        }
    }

    /// What to do while another CPU is busy.
    pub mod hint {
        pub use core::hint::spin_loop;
    }
}
