//! Allocations for programs, which fail where those of `alloc` end the kernel.
//!
//! Stable Rust has no fallible `Arc`, `BTreeMap` or `to_vec`. Here the memory is asked for first, in a way that may fail; then the
//! infallible allocation is made by [`crate::heap::surely`], which may use what is kept back for it. No other code runs in between: programs
//! are served by the boot CPU, and the others allocate only while that one waits for them (`smp`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::fmt;
use core::sync::atomic::AtomicUsize;

use crate::heap;
use crate::syscall::Errno;

/// What an insertion into a `BTreeMap` with words for keys and values may allocate: a leaf, and a node for each level above.
const BTREE_NODES_BYTES: usize = 2048;

/// Can the kernel allocate this now?
fn room(layout: Layout) -> Result<(), Errno> {
    if heap::can_allocate(layout) {
        Ok(())
    } else {
        Err(Errno::NOMEM)
    }
}

/// A counted value.
///
/// # Errors
/// [`Errno::NOMEM`]; the value is dropped.
pub fn arc<T>(value: T) -> Result<Arc<T>, Errno> {
    room(Layout::new::<(AtomicUsize, AtomicUsize, T)>())?;
    Ok(heap::surely(|| Arc::new(value)))
}

/// Runs `insert`, which puts one thing into a map.
///
/// # Errors
/// [`Errno::NOMEM`]; it was not run.
pub fn into_map<R>(insert: impl FnOnce() -> R) -> Result<R, Errno> {
    room(Layout::new::<[u8; BTREE_NODES_BYTES]>())?;
    Ok(heap::surely(insert))
}

/// A copy.
///
/// # Errors
/// [`Errno::NOMEM`].
pub fn copied(bytes: &[u8]) -> Result<Vec<u8>, Errno> {
    concat(&[bytes])
}

/// All parts, one after the other.
///
/// # Errors
/// [`Errno::NOMEM`].
pub fn concat(parts: &[&[u8]]) -> Result<Vec<u8>, Errno> {
    let mut all = Vec::new();
    all.try_reserve_exact(parts.iter().map(|part| part.len()).sum())?;
    parts.iter().for_each(|part| all.extend_from_slice(part));
    Ok(all)
}

/// Adds to a list.
///
/// # Errors
/// [`Errno::NOMEM`]; the item is dropped.
pub fn push<T>(list: &mut Vec<T>, item: T) -> Result<(), Errno> {
    list.try_reserve(1)?;
    list.push(item);
    Ok(())
}

/// All items.
///
/// # Errors
/// [`Errno::NOMEM`].
pub fn collect<T>(items: impl Iterator<Item = T>) -> Result<Vec<T>, Errno> {
    let mut list = Vec::new();
    for item in items {
        push(&mut list, item)?;
    }
    Ok(list)
}

/// Text being written, which fails when there is no memory.
#[derive(Default, Debug)]
pub struct Text(pub Vec<u8>);

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.try_reserve(text.len()).map_err(|_| fmt::Error)?;
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Text writers have one error, and these have one reason for it.
impl From<Errno> for fmt::Error {
    fn from(_: Errno) -> Self {
        Self
    }
}
