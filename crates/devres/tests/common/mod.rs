//! A heap that watches and fails, and a device on it.
#![allow(
    unsafe_code,
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each test file uses its part of this"
)]

use core::alloc::Layout;
use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use std::collections::BTreeMap;

use kmm_devres::Device;
use kmm_frame::Gfp;
use kmm_host::{AllocError, ObjectSource};
use kmm_sim::{Config, FreeListSource, Machine};

/// The system's heap, which knows what it gave and fails when told.
#[derive(Default)]
pub struct Heap {
    live: RefCell<BTreeMap<usize, Layout>>,
    /// So many requests go well before one fails.
    pub left: Cell<Option<usize>>,
}

impl Heap {
    pub fn nr_live(&self) -> usize {
        self.live.borrow().len()
    }
}

// SAFETY: the system's heap keeps the guarantees; zeros are always there.
unsafe impl ObjectSource for Heap {
    fn alloc_object(&self, layout: Layout, gfp: Gfp) -> Result<NonNull<u8>, AllocError> {
        if layout.size() > 4 << 20 {
            return Err(AllocError::BadSize);
        }
        match self.left.get() {
            Some(0) => return Err(AllocError::OutOfMemory),
            Some(left) => self.left.set(Some(left - 1)),
            None => {}
        }
        // SAFETY: a note is never empty.
        let ptr = NonNull::new(unsafe { std::alloc::alloc(layout) }).expect("the host has memory");
        let byte = if gfp.contains(Gfp::ZERO) { 0 } else { 0xd5 };
        // SAFETY: allocated just now.
        unsafe { ptr.write_bytes(byte, layout.size()) };
        self.live.borrow_mut().insert(ptr.addr().get(), layout);
        Ok(ptr)
    }

    unsafe fn free_object(&self, object: NonNull<u8>, layout: Layout) {
        let had = self.live.borrow_mut().remove(&object.addr().get());
        assert_eq!(had, Some(layout), "freed as it was had");
        // SAFETY: had with that layout, and not freed since.
        unsafe { std::alloc::dealloc(object.as_ptr(), layout) };
    }
}

pub struct Rig {
    pub heap: Heap,
    pub pages: FreeListSource,
}

pub type TestDevice<'a> = Device<&'a Heap, &'a FreeListSource, spin::Mutex<()>>;

impl Rig {
    pub fn new() -> Self {
        Self {
            heap: Heap::default(),
            pages: FreeListSource::new(Machine::new(Config::with_mib(4))),
        }
    }

    pub fn device(&self) -> TestDevice<'_> {
        Device::new("card", &self.heap, &self.pages)
    }

    /// Nobody has anything.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert_eq!(self.heap.nr_live(), 0);
        self.pages.assert_nothing_outstanding();
    }
}
