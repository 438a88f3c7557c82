//! The memory of a process: kmm's address space, and what the kernel wants to know besides. Linux: `struct mm_struct`.
#![expect(
    unsafe_code,
    reason = "promises that files give frames with a reference"
)]

use alloc::sync::Arc;
use core::ops::Range;

use kmm::AddressSpace;
use kmm::fault::{FileError, FilePage, FileSource};
use kmm::frame::{PAGE_SIZE, Pfn, VirtAddr};
use kmm::vma::{MapFlags, MmapReq, Prot, VmFlags};
use spin::{Mutex, MutexGuard};

use super::task::Pid;
use super::{current, scheduler};
use crate::fallible;
use crate::fs::{Inode, Node, Place};
use crate::mm::{self, KernelHost};
use crate::syscall::Errno;

/// A file as it is mapped.
#[derive(Clone, Debug)]
pub struct MapFile {
    /// Where it was found.
    pub place: Place,
    inode: Arc<Inode>,
}

impl MapFile {
    /// The file at `place`.
    pub fn new(place: Place, inode: Arc<Inode>) -> Self {
        Self { place, inode }
    }

    /// The file.
    pub fn inode(&self) -> &Inode {
        &self.inode
    }
}

impl PartialEq for MapFile {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inode, &other.inode)
    }
}

// SAFETY: pages of `Content` are frames of the page allocator, all of them RAM; `Content::page` takes one more reference for the caller,
// and nothing but contents of the file ever lies in them.
unsafe impl FileSource for MapFile {
    fn page(&self, pgoff: u64) -> Result<FilePage, FileError> {
        let Node::File(content) = &self.inode.node else {
            return Err(FileError::Io);
        };
        match content.lock().page(pgoff) {
            Ok(Some(pfn)) => Ok(FilePage { pfn, major: false }),
            Ok(None) => Err(FileError::BeyondEnd),
            Err(Errno::NOMEM) => Err(FileError::OutOfMemory),
            Err(_) => Err(FileError::Io),
        }
    }
}

/// What is where, for /proc.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The file that runs.
    pub exe: Option<Place>,
    /// Its code, as loaded.
    pub code: Range<u64>,
    /// Where the heap starts.
    pub heap_start: u64,
    /// The stack pointer at the start.
    pub stack_start: u64,
    /// The argument strings.
    pub args: Range<u64>,
}

/// The memory of a process.
#[derive(Debug)]
pub struct Mm {
    space: Mutex<AddressSpace<KernelHost, MapFile>>,
    root: Pfn,
    program: Mutex<Program>,
}

impl Mm {
    /// Nothing but the kernel.
    pub fn new() -> Result<Arc<Self>, Errno> {
        let space = AddressSpace::new(mm::manager()).map_err(errno)?;
        Self::with_space(space, Program::default())
    }

    /// A copy for a child; private pages are copied when one of the two writes.
    pub fn fork(&self) -> Result<Arc<Self>, Errno> {
        let child = self.space.lock().fork().map_err(errno)?;
        Self::with_space(child, self.program())
    }

    fn with_space(
        space: AddressSpace<KernelHost, MapFile>,
        program: Program,
    ) -> Result<Arc<Self>, Errno> {
        let root = space.root();
        fallible::arc(Self {
            space: Mutex::new(space),
            root,
            program: Mutex::new(program),
        })
    }

    /// The areas. Nobody touches user memory while this is held.
    pub fn space(&self) -> MutexGuard<'_, AddressSpace<KernelHost, MapFile>> {
        self.space.lock()
    }

    /// The frame of the top page table.
    pub fn root(&self) -> Pfn {
        self.root
    }

    /// What is where.
    pub fn program(&self) -> Program {
        self.program.lock().clone()
    }

    /// Drops every translation of the file's pages from `first_page` on.
    fn unmap_file(&self, inode: &Arc<Inode>, first_page: u64) {
        let mut space = self.space();
        let end = space.mm().layout().task_size;
        let mut at = VirtAddr::ZERO;
        loop {
            let mut files = space.mm().range(at..end).filter_map(|(range, vma)| {
                let file = vma.file.as_ref()?;
                Arc::ptr_eq(&file.inode, inode).then_some((range, vma.pgoff))
            });
            let Some((range, pgoff)) = files.next() else {
                return;
            };
            drop(files);
            let kept_bytes = first_page.saturating_sub(pgoff) * PAGE_SIZE as u64;
            let size_bytes = range.end - range.start;
            if kept_bytes < size_bytes {
                let dropped = space.discard(range.start + kept_bytes, size_bytes - kept_bytes);
                debug_assert!(dropped.is_ok(), "an area is mapped: {dropped:?}");
            }
            at = range.end;
        }
    }

    /// Is this file the program?
    pub(super) fn runs(&self, inode: &Arc<Inode>) -> bool {
        let program = self.program.lock();
        program
            .exe
            .as_ref()
            .is_some_and(|place| Arc::ptr_eq(&place.inode(), inode))
    }

    pub(super) fn set_program(&self, program: Program) {
        *self.program.lock() = program;
    }

    /// Maps.
    pub fn mmap(&self, req: MmapReq<MapFile>) -> Result<VirtAddr, Errno> {
        self.space.lock().mmap(req).map_err(errno)
    }
}

/// Drops every program's translations of a file's pages from `first_page` on: they are no longer there. Linux:
/// `unmap_mapping_range`.
pub fn unmap_file(inode: &Arc<Inode>, first_page: u64) {
    let mut pid = Pid::IDLE;
    while let Some(task) = scheduler::task_after(pid) {
        pid = task.pid;
        if let Some(mm) = task.mm() {
            mm.unmap_file(inode, first_page);
        }
    }
}

/// A request to map; `may` says what the file allows.
pub fn map_request(
    at: Range<u64>,
    prot: Prot,
    flags: MapFlags,
    file: Option<(MapFile, u64)>,
    may: VmFlags,
) -> MmapReq<MapFile> {
    MmapReq {
        addr: VirtAddr::new(at.start),
        len_bytes: at.end - at.start,
        prot,
        flags,
        file,
        may,
    }
}

/// Runs `f` with `mm` as the running task's memory. Linux: `kthread_use_mm`.
pub fn with_mm<R>(mm: &Arc<Mm>, f: impl FnOnce() -> R) -> R {
    let task = current();
    let before = task.replace_mm(Some(Arc::clone(mm)));
    task.activate_mm();
    let result = f();
    let ours = task.replace_mm(before);
    task.activate_mm();
    drop(ours);
    result
}

/// kmm's error as a system call returns it.
pub fn errno(error: kmm::MmError) -> Errno {
    Errno::new(error.errno())
}
