//! Caches of one type, and boxes that own their objects.
#![expect(unsafe_code, reason = "values lie in objects of a cache")]

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use core::ptr::NonNull;

use kmm_frame::Gfp;

use crate::geometry::{CacheArgs, CacheFlags};
use crate::kmem::Kmem;
use crate::{KmemCache, SlubError};

/// A cache of values of type `T`. It ends when it is dropped. Linux: `KMEM_CACHE`.
///
/// What it hands out borrows it, so no box outlives its cache:
///
/// ```compile_fail,E0505
/// use kmm_frame::Gfp;
/// use kmm_slub::{Kmem, TypedCache};
///
/// fn too_long(cache: TypedCache<'_, u64, impl Kmem>) {
///     let number = cache.alloc(7, Gfp::KERNEL);
///     drop(cache);
///     drop(number);
/// }
/// ```
pub struct TypedCache<'k, T, K: Kmem> {
    kmem: &'k K,
    cache: KmemCache,
    values: PhantomData<fn(T) -> T>,
}

/// A value that could not be put into an object, given back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NoRoom<T> {
    /// Why.
    pub error: SlubError,
    /// What it was.
    pub value: T,
}

/// Without the value, so that any result can be unwrapped.
impl<T> fmt::Debug for NoRoom<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoRoom")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for NoRoom<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> core::error::Error for NoRoom<T> {}

impl<'k, T, K: Kmem> TypedCache<'k, T, K> {
    /// A cache for values of this type, of `kmem`'s. Takes no page yet.
    ///
    /// # Errors
    /// [`SlubError::InvalidLayout`] for a type aligned to more than a page; [`SlubError::TooLarge`], [`SlubError::NoSlot`].
    pub fn new(kmem: &'k K, name: &'static str, flags: CacheFlags) -> Result<Self, SlubError> {
        let size = size_of::<T>().max(1);
        let args = CacheArgs::new(name, size).align(align_of::<T>());
        let cache = kmem.cache_create(&args.flags(flags))?;
        Ok(Self {
            kmem,
            cache,
            values: PhantomData,
        })
    }

    /// Puts a value into an object of the cache. Linux: `kmem_cache_alloc`.
    ///
    /// # Context
    /// May sleep when `gfp` allows it.
    ///
    /// # Errors
    /// [`NoRoom`], with the value.
    #[inline]
    pub fn alloc(&self, value: T, gfp: Gfp) -> Result<CacheBox<'_, T, K>, NoRoom<T>> {
        match self.kmem.alloc(self.cache, gfp - Gfp::ZERO) {
            Ok(object) => {
                let place = object.cast::<T>();
                // SAFETY: the cache's objects have room for a `T`, aligned; this one is nobody else's.
                unsafe { place.write(value) };
                Ok(CacheBox {
                    place,
                    cache: self,
                    owns: PhantomData,
                })
            }
            Err(error) => Err(NoRoom { error, value }),
        }
    }

    /// Gives back what the cache has to spare; how many pages. Linux: `kmem_cache_shrink`.
    ///
    /// # Errors
    /// [`SlubError::NoSuchCache`], never.
    pub fn shrink(&self) -> Result<usize, SlubError> {
        self.kmem.shrink(self.cache)
    }
}

impl<T, K: Kmem> Drop for TypedCache<'_, T, K> {
    /// One whose boxes were forgotten is reported as leaked, and stays.
    fn drop(&mut self) {
        // SAFETY: boxes borrow the cache, so none is left but those that were forgotten; nobody else has the handle.
        let _ = unsafe { self.kmem.cache_destroy(self.cache) };
    }
}

impl<T, K: Kmem> fmt::Debug for TypedCache<'_, T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedCache").field(&self.cache).finish()
    }
}

/// A value in an object of a [`TypedCache`], to which both go when it is dropped.
pub struct CacheBox<'c, T, K: Kmem> {
    place: NonNull<T>,
    cache: &'c TypedCache<'c, T, K>,
    owns: PhantomData<T>,
}

// SAFETY: it owns its value, and a cache is used from any CPU.
unsafe impl<T: Send, K: Kmem + Sync> Send for CacheBox<'_, T, K> {}
// SAFETY: as above; a shared box gives shared access to the value alone.
unsafe impl<T: Sync, K: Kmem + Sync> Sync for CacheBox<'_, T, K> {}

impl<'c, T, K: Kmem> CacheBox<'c, T, K> {
    /// The value; its object goes back.
    #[must_use]
    pub fn into_inner(self) -> T {
        let this = ManuallyDrop::new(self);
        // SAFETY: it owns the value, and is not dropped.
        let value = unsafe { this.place.read() };
        // SAFETY: the value has left the object, which nobody else has.
        unsafe { this.cache.kmem.free(this.cache.cache, this.place.cast()) };
        value
    }

    /// The value for as long as its cache lives; object and value are never freed.
    #[must_use]
    pub fn leak(self) -> &'c mut T {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: it owned the value, and nobody else has it from now on.
        unsafe { this.place.as_mut() }
    }

    /// Pins the value: its object does not move.
    #[must_use]
    pub fn into_pin(self) -> Pin<Self> {
        // SAFETY: the value stays in its object until it is dropped there; `into_inner` and `leak` take no pinned box.
        unsafe { Pin::new_unchecked(self) }
    }
}

impl<T, K: Kmem> Deref for CacheBox<'_, T, K> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: it owns the value.
        unsafe { self.place.as_ref() }
    }
}

impl<T, K: Kmem> DerefMut for CacheBox<'_, T, K> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: it owns the value.
        unsafe { self.place.as_mut() }
    }
}

impl<T, K: Kmem> Drop for CacheBox<'_, T, K> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: it owns the value, and is not used again.
        unsafe { self.place.drop_in_place() };
        // SAFETY: the object came from this cache, and nobody else has it.
        unsafe { self.cache.kmem.free(self.cache.cache, self.place.cast()) };
    }
}

impl<T: fmt::Debug, K: Kmem> fmt::Debug for CacheBox<'_, T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
