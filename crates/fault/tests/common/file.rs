//! Files.

use core::fmt;
use std::collections::BTreeMap;
use std::sync::Mutex;

use kmm_fault::{FileError, FilePage, FileSource, put_page};
use kmm_frame::{Gfp, PageFlags, Pfn};
use kmm_host::{PageReq, PageSource};

use super::World;

/// A file of a few pages, which are read from the device at their first use. A handle.
#[derive(Clone, Copy)]
pub struct File(&'static Inner);

pub struct Inner {
    world: &'static World,
    fill: u8,
    nr_pages: u64,
    pages: Mutex<BTreeMap<u64, Pfn>>,
    broken: Mutex<Option<FileError>>,
}

impl PartialEq for File {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self.0, other.0)
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({})", self.0.fill)
    }
}

impl File {
    /// Page `n` is full of `fill + n`.
    pub fn new(world: &'static World, fill: u8, nr_pages: u64) -> Self {
        Self(Box::leak(Box::new(Inner {
            world,
            fill,
            nr_pages,
            pages: Mutex::new(BTreeMap::new()),
            broken: Mutex::new(None),
        })))
    }

    pub fn breaks(&self, error: Option<FileError>) {
        *self.0.broken.lock().expect("alive") = error;
    }

    pub fn frame(&self, pgoff: u64) -> Option<Pfn> {
        self.0.pages.lock().expect("alive").get(&pgoff).copied()
    }

    /// The frames that it holds.
    pub fn frames(&self) -> Vec<Pfn> {
        let pages = self.0.pages.lock().expect("alive");
        pages.values().copied().collect()
    }

    /// Forgets its pages, which nobody may map.
    pub fn close(self) {
        let mut pages = self.0.pages.lock().expect("alive");
        for (_, pfn) in core::mem::take(&mut *pages) {
            let world = self.0.world;
            // SAFETY: the reference of the file.
            unsafe { put_page(&world.machine.mem_map(), &world.pages, pfn) };
        }
    }
}

// SAFETY: each page that is returned has one reference more, and lies in the machine's RAM.
unsafe impl FileSource for File {
    fn page(&self, pgoff: u64) -> Result<FilePage, FileError> {
        if let Some(error) = *self.0.broken.lock().expect("alive") {
            return Err(error);
        }
        if pgoff >= self.0.nr_pages {
            return Err(FileError::BeyondEnd);
        }
        let mut pages = self.0.pages.lock().expect("alive");
        let map = self.0.world.machine.mem_map();
        if let Some(&pfn) = pages.get(&pgoff) {
            map.page(pfn).get();
            return Ok(FilePage { pfn, major: false });
        }
        let block = self.0.world.pages.alloc(PageReq::page(Gfp::HIGHUSER));
        let block = block.map_err(|_| FileError::OutOfMemory)?;
        let (pfn, _) = block.into_raw();
        self.0
            .world
            .machine
            .fill_frame(pfn, self.0.fill + pgoff as u8);
        map.page(pfn).set(PageFlags::FILE | PageFlags::UPTODATE);
        map.page(pfn).set_ref_count(2);
        pages.insert(pgoff, pfn);
        Ok(FilePage { pfn, major: true })
    }
}
