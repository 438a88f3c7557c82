//! Values and actions of a device.
#![expect(unsafe_code, reason = "values lie behind their notes")]

use core::alloc::Layout;
use core::any::TypeId;
use core::ptr::NonNull;

use kmm_frame::Gfp;
use kmm_host::{ObjectSource, PageSource};
use lock_api::RawMutex;

use crate::node::Kind;
use crate::{Device, Refused};

impl<O: ObjectSource, A: PageSource, L: RawMutex> Device<O, A, L> {
    /// Keeps `value` until the device goes, and drops it then. Linux: `devres_alloc`, `devres_add`.
    ///
    /// # Context
    /// May sleep when `gfp` allows it.
    ///
    /// # Errors
    /// [`Refused`], with the value, when there is no memory.
    pub fn add<T: Send + Sync + 'static>(&self, value: T, gfp: Gfp) -> Result<&T, Refused<T>> {
        let kind = Kind::Value(TypeId::of::<T>(), destroy::<T>);
        let node = match self.note(kind, Layout::new::<T>(), gfp) {
            Ok(node) => node,
            Err(error) => return Err(Refused { error, value }),
        };
        let place = node.data().cast::<T>();
        // SAFETY: room for a `T`, aligned, that nobody else knows.
        unsafe { place.write(value) };
        self.stack.lock().push(node);
        // SAFETY: a `T` until its note is released, which takes `&mut self`.
        Ok(unsafe { place.as_ref() })
    }

    /// The value of that type that was added last. Linux: `devres_find`.
    ///
    /// O(resources taken since).
    pub fn find<T: Send + Sync + 'static>(&self) -> Option<&T> {
        let stack = self.stack.lock();
        let is_it = |kind| matches!(kind, Kind::Value(type_id, _) if type_id == TypeId::of::<T>());
        let found = stack.iter().find(|node| is_it(node.kind()))?;
        // SAFETY: `add` has written a value of that type there; it lives until it is released, which takes `&mut self`.
        Some(unsafe { found.data().cast::<T>().as_ref() })
    }

    /// Runs `action` when the device goes; at once when that cannot be noted. Linux: `devm_add_action_or_reset`.
    ///
    /// # Errors
    /// Without memory for the note; `action` has run then.
    pub fn on_release<F>(&self, action: F, gfp: Gfp) -> Result<(), crate::DevresError>
    where
        F: FnOnce() + Send + Sync + 'static,
    {
        match self.add(Action(Some(action)), gfp) {
            Ok(_) => Ok(()),
            // The action is in the value, and runs as that goes.
            Err(refused) => Err(refused.error),
        }
    }
}

/// Runs when it is dropped.
struct Action<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for Action<F> {
    fn drop(&mut self) {
        if let Some(action) = self.0.take() {
            action();
        }
    }
}

/// # Safety
/// A `T` lies at `data`, and is nobody's from now on.
unsafe fn destroy<T>(data: NonNull<u8>) {
    // SAFETY: the caller's obligation.
    unsafe { data.cast::<T>().drop_in_place() };
}
