//! Memory and pages of a device.
#![expect(unsafe_code, reason = "writes memory that was just allocated")]

use core::alloc::Layout;
use core::ptr::NonNull;

use kmm_frame::{Gfp, Order, Pfn};
use kmm_host::{ObjectSource, PageReq, PageSource};
use lock_api::RawMutex;

use crate::node::{Kind, NodePtr};
use crate::{Device, DevresError};

/// What memory by size is aligned to at least.
const ALIGN_BYTES: usize = 16;

impl<O: ObjectSource, A: PageSource, L: RawMutex> Device<O, A, L> {
    /// `size_bytes` of physically contiguous memory, 16-aligned. Linux: `devm_kmalloc`.
    ///
    /// # Context
    /// May sleep when `gfp` allows it.
    ///
    /// # Errors
    /// [`DevresError::OutOfMemory`], [`DevresError::TooLarge`].
    pub fn kmalloc(&self, size_bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, DevresError> {
        let data = Layout::from_size_align(size_bytes, ALIGN_BYTES);
        let data = data.map_err(|_| DevresError::TooLarge)?;
        let node = self.note(Kind::Memory, data, gfp)?;
        self.stack.lock().push(node);
        Ok(node.data())
    }

    /// As [`Device::kmalloc`], filled with zeros. Linux: `devm_kzalloc`.
    ///
    /// # Errors
    /// As [`Device::kmalloc`].
    pub fn kzalloc(&self, size_bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, DevresError> {
        self.kmalloc(size_bytes, gfp | Gfp::ZERO)
    }

    /// Room for `n` objects of `size_bytes`. Linux: `devm_kmalloc_array`.
    ///
    /// # Errors
    /// As [`Device::kmalloc`]; [`DevresError::TooLarge`] also when the product overflows.
    pub fn kmalloc_array(
        &self,
        n: usize,
        size_bytes: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, DevresError> {
        let total = n.checked_mul(size_bytes).ok_or(DevresError::TooLarge)?;
        self.kmalloc(total, gfp)
    }

    /// As [`Device::kmalloc_array`], filled with zeros. Linux: `devm_kcalloc`.
    ///
    /// # Errors
    /// As [`Device::kmalloc_array`].
    pub fn kcalloc(
        &self,
        n: usize,
        size_bytes: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, DevresError> {
        self.kmalloc_array(n, size_bytes, gfp | Gfp::ZERO)
    }

    /// A copy of `bytes`. Linux: `devm_kmemdup`.
    ///
    /// # Errors
    /// As [`Device::kmalloc`].
    pub fn kmemdup(&self, bytes: &[u8], gfp: Gfp) -> Result<NonNull<u8>, DevresError> {
        let copy = self.kmalloc(bytes.len(), gfp)?;
        // SAFETY: room for so many, and fresh, so they do not overlap.
        unsafe { copy.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Ok(copy)
    }

    /// Gives memory back before the device goes. Linux: `devm_kfree`.
    ///
    /// O(resources taken since).
    ///
    /// # Errors
    /// [`DevresError::NotManaged`] when the device has no such memory, or has it no more; nothing has changed then.
    ///
    /// # Safety
    /// Nobody uses the memory any more.
    pub unsafe fn kfree(&self, memory: NonNull<u8>) -> Result<(), DevresError> {
        let is_it = |node: NodePtr| matches!(node.kind(), Kind::Memory) && node.data() == memory;
        // SAFETY: the caller's obligation.
        unsafe { self.end_one(is_it) }
    }

    /// `1 << order` contiguous pages: the number of the first. Linux: `devm_get_free_pages`.
    ///
    /// # Context
    /// May sleep when `gfp` allows it.
    ///
    /// # Errors
    /// [`DevresError::OutOfMemory`], [`DevresError::TooLarge`].
    pub fn get_free_pages(&self, order: Order, gfp: Gfp) -> Result<Pfn, DevresError> {
        // The note first, so that a block that was had is always noted.
        let kind = Kind::Pages(Pfn::new(0), order);
        let node = self.note(kind, Layout::new::<()>(), gfp - Gfp::ZERO)?;
        match self.pages.alloc(PageReq::new(order, gfp)) {
            Ok(block) => {
                let (pfn, order) = block.into_raw();
                let node = node.with_kind(Kind::Pages(pfn, order));
                self.stack.lock().push(node);
                Ok(pfn)
            }
            Err(error) => {
                // SAFETY: on no stack, and nobody knows it.
                unsafe { self.forget(node) };
                Err(error.into())
            }
        }
    }

    /// Gives pages back before the device goes. Linux: `devm_free_pages`.
    ///
    /// # Errors
    /// [`DevresError::NotManaged`] unless they are the device's, and `first` is the first of them.
    ///
    /// # Safety
    /// Nobody uses the pages any more.
    pub unsafe fn free_pages(&self, first: Pfn) -> Result<(), DevresError> {
        let is_it = |node: NodePtr| matches!(node.kind(), Kind::Pages(pfn, _) if pfn == first);
        // SAFETY: the caller's obligation.
        unsafe { self.end_one(is_it) }
    }

    /// # Safety
    /// Nobody uses the resource any more.
    unsafe fn end_one(&self, is_it: impl Fn(NodePtr) -> bool) -> Result<(), DevresError> {
        let node = self.stack.lock().take(is_it);
        let node = node.ok_or(DevresError::NotManaged)?;
        // SAFETY: on no stack any more, and not used, by the caller.
        unsafe { self.end(node) };
        Ok(())
    }
}
