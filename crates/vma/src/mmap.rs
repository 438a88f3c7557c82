//! New mappings. Linux: `mmap(2)`, `do_mmap`.

use core::ops::Range;

use kmm_frame::{PAGE_SHIFT, PAGE_SIZE, VirtAddr};

use crate::{MapFlags, Mm, Prot, VmFlags, Vma, VmaError};

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
    /// The file and the page in it where the mapping starts; `None` for anonymous memory.
    pub file: Option<(F, u64)>,
    /// What the file allows beyond `prot`: `MAYREAD`, `MAYWRITE`, `MAYEXEC`. All three for anonymous memory.
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
    /// Those of Linux: [`VmaError::Invalid`] (length 0, unaligned fixed address, neither private nor shared),
    /// [`VmaError::Exists`], [`VmaError::NotPermitted`], [`VmaError::Access`], [`VmaError::Overflow`],
    /// [`VmaError::NotSupported`], [`VmaError::NoMemory`].
    pub fn mmap(&mut self, req: MmapReq<F>) -> Result<Mapped, VmaError> {
        let vma_flags = vm_flags(&req)?;
        let len_bytes = aligned_len(req.len_bytes)?;
        check_file_offset(&req, len_bytes)?;
        let fixed = req
            .flags
            .intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE);
        let start = if fixed {
            self.fixed_address(&req, len_bytes)?
        } else {
            self.unmapped_area(req.addr, len_bytes, req.flags)?
        };
        let range = start..start + len_bytes;
        let replaced = fixed && self.find_intersection(range.clone()).is_some();
        self.check_size(
            len_bytes,
            if replaced {
                self.mapped_bytes(&range)
            } else {
                0
            },
        )?;
        self.prepare_cut(&range, 1)?;
        self.cut(&range);
        let (file, pgoff) = match req.file {
            Some((file, pgoff)) => (Some(file), pgoff),
            None => (None, 0),
        };
        self.add(
            range.clone(),
            Vma {
                flags: vma_flags,
                pgoff,
                file,
            },
        );
        Ok(Mapped { range, replaced })
    }

    fn fixed_address(&self, req: &MmapReq<F>, len_bytes: u64) -> Result<VirtAddr, VmaError> {
        if !req.addr.is_page_aligned() {
            return Err(VmaError::Invalid);
        }
        let end = req.addr.checked_add(len_bytes).ok_or(VmaError::NoMemory)?;
        if end > self.layout.task_size {
            return Err(VmaError::NoMemory);
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

    /// Whether `more` bytes fit the limit once `fewer` are gone. Linux: `may_expand_vm`.
    pub(crate) fn check_size(&self, more: u64, fewer: u64) -> Result<(), VmaError> {
        let bytes = (self.total_vm_pages << PAGE_SHIFT) - fewer;
        match bytes.checked_add(more) {
            Some(total) if total <= self.limits.address_space_bytes => Ok(()),
            _ => Err(VmaError::NoMemory),
        }
    }

    /// Bytes of `range` that are mapped.
    pub(crate) fn mapped_bytes(&self, range: &Range<VirtAddr>) -> u64 {
        self.range(range.clone())
            .map(|(found, _)| found.end.min(range.end) - found.start.max(range.start))
            .sum()
    }
}

fn vm_flags<F>(req: &MmapReq<F>) -> Result<VmFlags, VmaError> {
    if req.flags.contains(MapFlags::HUGETLB) {
        return Err(VmaError::NotSupported);
    }
    let shared = match req.flags.kind() {
        1 | 3 => true,
        2 => false,
        _ => return Err(VmaError::Invalid),
    };
    if req.flags.kind() == 3 && req.flags.contains(MapFlags::SYNC) {
        return Err(VmaError::NotSupported);
    }
    if req.flags.contains(MapFlags::GROWSDOWN) && (shared || req.file.is_some()) {
        return Err(VmaError::Invalid);
    }
    let mut flags = VmFlags::from(req.prot) | req.may;
    if shared {
        flags |= VmFlags::SHARED | VmFlags::MAYSHARE;
    } else {
        flags |= VmFlags::MAYWRITE; // a private copy may always be written
    }
    let wanted = VmFlags::from_bits_truncate((flags & VmFlags::ACCESS).bits() << 4);
    let readable = flags.contains(VmFlags::MAYREAD);
    if !flags.contains(wanted) || (req.file.is_some() && !readable) {
        return Err(VmaError::Access);
    }
    for (map, vm) in [
        (MapFlags::GROWSDOWN, VmFlags::GROWSDOWN),
        (MapFlags::LOCKED, VmFlags::LOCKED),
        (MapFlags::NORESERVE, VmFlags::NORESERVE),
    ] {
        flags.set(vm, req.flags.contains(map));
    }
    Ok(flags)
}

pub(crate) fn aligned_len(len_bytes: u64) -> Result<u64, VmaError> {
    if len_bytes == 0 {
        return Err(VmaError::Invalid);
    }
    VirtAddr::new(len_bytes)
        .checked_align_up(PAGE_SIZE as u64)
        .map(VirtAddr::as_u64)
        .ok_or(VmaError::NoMemory)
}

fn check_file_offset<F>(req: &MmapReq<F>, len_bytes: u64) -> Result<(), VmaError> {
    let Some((_, pgoff)) = &req.file else {
        return Ok(());
    };
    match pgoff.checked_add(len_bytes >> PAGE_SHIFT) {
        Some(end) if end <= u64::MAX >> PAGE_SHIFT => Ok(()),
        _ => Err(VmaError::Overflow),
    }
}
