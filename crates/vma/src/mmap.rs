//! New mappings. Linux: `mmap(2)`, `do_mmap`.

use core::ops::Range;

use kmm_frame::{PAGE_SHIFT, PAGE_SIZE, VirtAddr};

use crate::count::nr_pages;
use crate::{MapFlags, Mm, Prot, VmFlags, Vma, VmaError};

/// Bytes of the largest file. Linux: `MAX_LFS_FILESIZE`.
const LARGEST_FILE: u64 = i64::MAX.unsigned_abs();

/// What `mmap` is asked for.
#[derive(Clone, Debug)]
pub struct MmapReq<F> {
    /// Where: a wish, or an order with `FIXED`.
    pub addr: VirtAddr,
    /// How much, in bytes; rounded up to pages.
    pub len_bytes: u64,
    /// Access.
    pub prot: Prot,
    /// Private or shared, fixed or not, and so on.
    pub flags: MapFlags,
    /// The file and the page in it where the mapping starts; `None` for anonymous private memory. Shared anonymous
    /// memory is a nameless file of the caller's, from page 0, and [`MapFlags::ANONYMOUS`].
    pub file: Option<(F, u64)>,
    /// What the file allows: `MAYREAD`, `MAYWRITE`, `MAYEXEC`. Anonymous memory allows all three.
    pub may: VmFlags,
}

impl<F> MmapReq<F> {
    /// Anonymous private memory of `len_bytes`, wherever there is room.
    #[must_use]
    pub const fn anonymous(len_bytes: u64, prot: Prot) -> Self {
        Self {
            addr: VirtAddr::ZERO,
            len_bytes,
            prot,
            flags: MapFlags::PRIVATE.union(MapFlags::ANONYMOUS),
            file: None,
            may: VmFlags::MAYREAD
                .union(VmFlags::MAYWRITE)
                .union(VmFlags::MAYEXEC),
        }
    }

    /// The same at a fixed address, in place of whatever is there.
    #[must_use]
    pub const fn fixed_at(mut self, addr: VirtAddr) -> Self {
        self.addr = addr;
        self.flags = self.flags.union(MapFlags::FIXED);
        self
    }
}

/// What `mmap` did.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "translations of what was replaced must be dropped"]
pub struct Mapped {
    /// The new range.
    pub range: Range<VirtAddr>,
    /// Whether something may have been mapped there, so that its translations must be dropped.
    pub replaced: bool,
}

impl<F: Clone + PartialEq> Mm<F> {
    /// Maps. Linux: `mmap(2)`.
    ///
    /// # Errors
    /// Those of Linux, in its order. [`VmaError::Invalid`]: length 0, unaligned fixed address, neither private nor
    /// shared, a stack that is not private and anonymous. [`VmaError::Overflow`]: beyond the largest file.
    /// [`VmaError::NoMemory`]: no room, too many areas, a limit reached, huge pages asked for.
    /// [`VmaError::NotPermitted`]: below the lowest address, or execution of a file that may not be executed.
    /// [`VmaError::Exists`]: `FIXED_NOREPLACE` met something. [`VmaError::Access`]: the file is not open for that.
    /// [`VmaError::LockLimit`]. [`VmaError::NotSupported`]: `SYNC`, or shared anonymous memory without the nameless
    /// file that holds it, which is the caller's to make.
    pub fn mmap(&mut self, req: MmapReq<F>) -> Result<Mapped, VmaError> {
        let len_bytes = aligned_len(req.len_bytes)?;
        let pgoff = req.file.as_ref().map_or(0, |(_, pgoff)| *pgoff);
        let file_end = pgoff
            .checked_add(len_bytes >> PAGE_SHIFT)
            .ok_or(VmaError::Overflow)?;
        self.check_map_count()?;
        if req.flags.contains(MapFlags::HUGETLB) {
            // No huge page was set aside, and no file is made of them.
            return Err(match req.file {
                None => VmaError::NoMemory,
                Some(_) => VmaError::Invalid,
            });
        }
        let fixed = req
            .flags
            .intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE);
        let start = if fixed {
            self.fixed_address(&req, len_bytes)?
        } else {
            self.unmapped_area(req.addr, len_bytes, req.flags)?
        };
        let range = start..start + len_bytes;
        let vma_flags = vm_flags(&req)?;
        if req.file.is_some() && file_end > LARGEST_FILE >> PAGE_SHIFT {
            return Err(VmaError::Overflow);
        }
        let gone = self.counts_in(&range);
        self.check_limits(vma_flags, nr_pages(&range), &gone)?;
        self.prepare_cut(&range, 1)?;
        self.cut(&range);
        let vma = match req.file {
            None => Vma::anonymous(start, vma_flags),
            Some((file, pgoff)) => Vma {
                flags: vma_flags,
                pgoff,
                file: Some(file),
            },
        };
        self.add(range.clone(), vma);
        Ok(Mapped {
            range,
            replaced: gone.total_pages > 0,
        })
    }

    /// Whether one more area may come. Linux: `do_mmap`, `do_brk_flags`.
    pub(crate) fn check_map_count(&self) -> Result<(), VmaError> {
        if self.vmas.len() > self.limits.map_count {
            return Err(VmaError::NoMemory);
        }
        Ok(())
    }

    fn fixed_address(&self, req: &MmapReq<F>, len_bytes: u64) -> Result<VirtAddr, VmaError> {
        let end = req.addr.checked_add(len_bytes);
        let end = end.filter(|&end| end <= self.layout.task_size);
        let end = end.ok_or(VmaError::NoMemory)?;
        if !req.addr.is_page_aligned() {
            return Err(VmaError::Invalid);
        }
        if req.addr < self.layout.min_addr {
            return Err(VmaError::NotPermitted);
        }
        let taken = self.find_intersection(req.addr..end).is_some();
        if taken && req.flags.contains(MapFlags::FIXED_NOREPLACE) {
            return Err(VmaError::Exists);
        }
        Ok(req.addr)
    }
}

/// The flags of the area, if the file and the flags of the request allow it. Linux: the middle of `do_mmap`.
fn vm_flags<F>(req: &MmapReq<F>) -> Result<VmFlags, VmaError> {
    let mut flags = VmFlags::from(req.prot);
    for (map, vm) in [
        (MapFlags::GROWSDOWN, VmFlags::GROWSDOWN),
        (MapFlags::LOCKED, VmFlags::LOCKED),
        (MapFlags::NORESERVE, VmFlags::NORESERVE),
    ] {
        flags.set(vm, req.flags.contains(map));
    }
    let may_all = VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC;
    let may = match (&req.file, req.flags.contains(MapFlags::ANONYMOUS)) {
        (Some(_), false) => req.may & may_all,
        _ => may_all,
    };
    let kind = req.flags.kind();
    let shared = match kind {
        MapFlags::KIND_SHARED | MapFlags::KIND_SHARED_VALIDATE => true,
        MapFlags::KIND_PRIVATE => false,
        _ => return Err(VmaError::Invalid),
    };
    if shared {
        if kind == MapFlags::KIND_SHARED_VALIDATE {
            if req.file.is_none() {
                return Err(VmaError::Invalid);
            }
            if req.flags.contains(MapFlags::SYNC) {
                return Err(VmaError::NotSupported);
            }
        }
        if flags.contains(VmFlags::WRITE) && !may.contains(VmFlags::MAYWRITE) {
            return Err(VmaError::Access);
        }
        flags |= may | VmFlags::SHARED | VmFlags::MAYSHARE;
    } else {
        flags |= may | VmFlags::MAYWRITE; // a private copy may always be written
    }
    if !may.contains(VmFlags::MAYREAD) {
        return Err(VmaError::Access);
    }
    if flags.contains(VmFlags::EXEC) && !may.contains(VmFlags::MAYEXEC) {
        return Err(VmaError::NotPermitted);
    }
    if flags.contains(VmFlags::GROWSDOWN) && (shared || req.file.is_some()) {
        return Err(VmaError::Invalid);
    }
    if shared && req.file.is_none() {
        return Err(VmaError::NotSupported);
    }
    Ok(flags)
}

/// A length in whole pages.
pub(crate) fn aligned_len(len_bytes: u64) -> Result<u64, VmaError> {
    if len_bytes == 0 {
        return Err(VmaError::Invalid);
    }
    VirtAddr::new(len_bytes)
        .checked_align_up(PAGE_SIZE as u64)
        .map(VirtAddr::as_u64)
        .ok_or(VmaError::NoMemory)
}
