//! A file in memory, with a page cache of its own.
#![expect(unsafe_code, reason = "counts references of frames")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kmm::Manager;
use kmm::fault::{FileError, FilePage, FileSource};
use kmm::frame::{Gfp, Order, PageFlags, Pfn};
use kmm::host::PageReq;
use kmm::host::PageSource as _;
use kmm_sim::Machine;

/// A file of zeros, `nr_pages` long. A handle: clones are the same file.
#[derive(Clone, Debug)]
pub struct MemFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    manager: &'static Manager<Machine>,
    nr_pages: u64,
    cache: Mutex<BTreeMap<u64, Pfn>>,
}

impl MemFile {
    /// A new file; its pages come when they are asked for.
    pub fn new(manager: &'static Manager<Machine>, nr_pages: u64) -> Self {
        Self(Arc::new(Inner {
            manager,
            nr_pages,
            cache: Mutex::default(),
        }))
    }

    /// Tells every frame of the page cache: each holds one reference.
    pub fn for_each_frame(&self, f: &mut dyn FnMut(Pfn)) {
        self.0.cache().values().copied().for_each(f);
    }
}

impl Inner {
    fn cache(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Pfn>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for MemFile {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

// SAFETY: each page told had one more reference taken for the caller, and is RAM of the manager.
unsafe impl FileSource for MemFile {
    fn page(&self, pgoff: u64) -> Result<FilePage, FileError> {
        let inner = &*self.0;
        if pgoff >= inner.nr_pages {
            return Err(FileError::BeyondEnd);
        }
        let map = inner.manager.mem_map();
        if let Some(&pfn) = inner.cache().get(&pgoff) {
            map.page(pfn).get();
            return Ok(FilePage { pfn, major: false });
        }
        let block = inner
            .manager
            .page_alloc()
            .alloc(PageReq::new(Order::ZERO, Gfp::HIGHUSER | Gfp::ZERO))
            .map_err(|_| FileError::OutOfMemory)?;
        let (pfn, _) = block.into_raw();
        let page = map.page(pfn);
        page.set(PageFlags::FILE | PageFlags::UPTODATE);
        page.get();
        inner.cache().insert(pgoff, pfn);
        Ok(FilePage { pfn, major: true })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for &pfn in self.cache().values() {
            // SAFETY: the reference that the page cache held; nobody maps the file any more, or they hold their own.
            unsafe { self.manager.page_alloc().put_page(pfn) };
        }
    }
}
