//! KASAN in the kernel: the compiler asks before each access whether the memory may be touched. Built by `cargo xtask run --kasan`.
//!
//! The cfg `kasan` chooses between two modules that offer the same; the one that is off is nothing.

#[cfg(not(kasan))]
mod off;
#[cfg(not(kasan))]
pub use off::{OWNERS, PageOwners, SANITIZER, STACK_FACTOR, ShadowMemory, TESTS};

#[cfg(kasan)]
mod callbacks;
#[cfg(kasan)]
mod on;
#[cfg(kasan)]
mod shadow;
#[cfg(kasan)]
mod tests;
#[cfg(kasan)]
pub use on::{OWNERS, PageOwners, SANITIZER, STACK_FACTOR};
#[cfg(kasan)]
pub use shadow::ShadowMemory;
#[cfg(kasan)]
pub use tests::TESTS;
