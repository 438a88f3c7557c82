//! Calls about the address space.

use alloc::sync::Arc;

use kmm::frame::{PAGE_SIZE, VirtAddr};
use kmm::vma::{MapFlags, Prot, RemapFlags, RemapReq, VmFlags};

use super::user::{self, CHUNK_BYTES};
use super::{Call, Errno, Outcome, realtime_s};
use crate::fs::{Content, Inode, Node, OpenFile, Place};
use crate::process::{self, MapFile, Mm, map_request, mm_errno};

const PAGE_BYTES: u64 = PAGE_SIZE as u64;
/// Linux: `PROT_GROWSDOWN`, `PROT_GROWSUP`.
const PROT_GROWS: u64 = 0x300_0000;
const MADV_WILLNEED: u64 = 3;
const MADV_DONTNEED: u64 = 4;
const MADV_FREE: u64 = 8;
const MS_ASYNC: u64 = 1;
const MS_INVALIDATE: u64 = 2;
const MS_SYNC: u64 = 4;

fn mm(call: &Call<'_>) -> Result<Arc<Mm>, Errno> {
    call.task.mm().ok_or(Errno::NOMEM)
}

fn prot_bits(prot: u64) -> Prot {
    Prot::from_bits_truncate(user::low(prot))
}

pub(super) fn mmap(call: &Call<'_>, [addr, len, prot, flags, fd, offset]: [u64; 6]) -> Outcome {
    if offset % PAGE_BYTES != 0 {
        return Err(Errno::INVAL);
    }
    let mut flags = MapFlags::from_bits_truncate(user::low(flags));
    let everything = VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC;
    let is_shared = flags.kind() != MapFlags::PRIVATE.bits();
    let (file, may) = if !flags.contains(MapFlags::ANONYMOUS) {
        let open = user::file(&call.task.files, fd)?;
        map_file(&open, offset, is_shared)?
    } else if is_shared {
        (Some((shared_memory(len)?, 0)), everything)
    } else {
        (None, everything)
    };
    flags.set(MapFlags::ANONYMOUS, file.is_none());
    let hint = if flags.intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE) {
        addr
    } else {
        addr & !(PAGE_BYTES - 1)
    };
    // A range that wraps is for the address space to refuse.
    let mut req = map_request(hint..hint, prot_bits(prot), flags, file, may);
    req.len_bytes = len;
    mm(call)?.mmap(req).map(VirtAddr::as_u64)
}

type Mapped = (Option<(MapFile, u64)>, VmFlags);

/// What an open file gives to map, and what it allows.
fn map_file(open: &OpenFile, offset: u64, is_shared: bool) -> Result<Mapped, Errno> {
    let (Some(inode), Some(place)) = (open.inode(), &open.place) else {
        return Err(Errno::NODEV);
    };
    if !open.can_read() {
        return Err(Errno::ACCES);
    }
    let mut may = VmFlags::MAYREAD | VmFlags::MAYEXEC;
    may.set(VmFlags::MAYWRITE, open.can_write() || !is_shared);
    match &inode.node {
        Node::File(_) => Ok((
            Some((
                MapFile::new(place.clone(), Arc::clone(inode)),
                offset / PAGE_BYTES,
            )),
            may,
        )),
        // /dev/zero is anonymous memory by another name.
        Node::Device(crate::fs::Device::Zero) if !is_shared => Ok((None, may)),
        _ => Err(Errno::NODEV),
    }
}

/// A file without a name, for anonymous memory that a child shares. Linux: `shmem_zero_setup`.
fn shared_memory(len: u64) -> Result<MapFile, Errno> {
    let mut content = Content::default();
    let size_bytes = len
        .checked_next_multiple_of(PAGE_BYTES)
        .ok_or(Errno::NOMEM)?;
    content.truncate(size_bytes).map_err(|_| Errno::NOMEM)?;
    let inode = Inode::new(Node::File(spin::Mutex::new(content)), 0o600, realtime_s())?;
    let place = Place::root().child(b"dev/zero (deleted)", Arc::clone(&inode))?;
    Ok(MapFile::new(place, inode))
}

pub(super) fn munmap(call: &Call<'_>, addr: u64, len: u64) -> Outcome {
    mm(call)?
        .space()
        .munmap(VirtAddr::new(addr), len)
        .map(|()| 0)
        .map_err(mm_errno)
}

pub(super) fn mprotect(call: &Call<'_>, addr: u64, len: u64, prot: u64) -> Outcome {
    if prot & !u64::from(Prot::all().bits()) & !PROT_GROWS != 0 {
        return Err(Errno::INVAL);
    }
    if prot & PROT_GROWS != 0 {
        // Stacks are not found by their end here.
        return Err(Errno::INVAL);
    }
    mm(call)?
        .space()
        .mprotect(VirtAddr::new(addr), len, prot_bits(prot))
        .map(|()| 0)
        .map_err(mm_errno)
}

pub(super) fn mremap(
    call: &Call<'_>,
    old_addr: u64,
    old_len: u64,
    new_len: u64,
    flags: u64,
    new_addr: u64,
) -> Outcome {
    let flags = u32::try_from(flags)
        .ok()
        .and_then(RemapFlags::from_bits)
        .ok_or(Errno::INVAL)?;
    let req = RemapReq {
        old_addr: VirtAddr::new(old_addr),
        old_len_bytes: old_len,
        new_len_bytes: new_len,
        flags,
        new_addr: VirtAddr::new(new_addr),
    };
    mm(call)?
        .space()
        .mremap(&req)
        .map(VirtAddr::as_u64)
        .map_err(mm_errno)
}

pub(super) fn madvise(call: &Call<'_>, addr: u64, len: u64, advice: u64) -> Outcome {
    if addr % PAGE_BYTES != 0 {
        return Err(Errno::INVAL);
    }
    match advice {
        // Advice about reading ahead, which there is none of.
        0..=MADV_WILLNEED => Ok(0),
        MADV_DONTNEED | MADV_FREE if len == 0 => Ok(0),
        // What may be freed at any time may be freed now.
        MADV_DONTNEED | MADV_FREE => mm(call)?
            .space()
            .discard(VirtAddr::new(addr), len)
            .map(|()| 0)
            .map_err(mm_errno),
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn mincore(call: &Call<'_>, addr: u64, len: u64, vec: u64) -> Outcome {
    if addr % PAGE_BYTES != 0 {
        return Err(Errno::INVAL);
    }
    let nr_pages = len.div_ceil(PAGE_BYTES);
    let mm = mm(call)?;
    let mut done = 0;
    while done < nr_pages {
        let count = (nr_pages - done).min(CHUNK_BYTES as u64);
        let mut present = user::buffer(usize::try_from(count).unwrap_or(0))?;
        {
            let space = mm.space();
            for (page, byte) in (done..).zip(&mut present) {
                let at = addr
                    .checked_add(page * PAGE_BYTES)
                    .map(VirtAddr::new)
                    .ok_or(Errno::NOMEM)?;
                space.mm().lookup(at).ok_or(Errno::NOMEM)?;
                *byte = u8::from(space.translate(at).is_some());
            }
        }
        user::put_bytes(vec.checked_add(done).ok_or(Errno::FAULT)?, &present)?;
        done += count;
        if !process::may_go_on() {
            return Err(Errno::AGAIN);
        }
    }
    Ok(0)
}

/// Files are in memory alone: there is nothing to write back, but the range is checked.
pub(super) fn msync(call: &Call<'_>, addr: u64, len: u64, flags: u64) -> Outcome {
    let both = MS_ASYNC | MS_SYNC;
    if addr % PAGE_BYTES != 0 || flags & !(both | MS_INVALIDATE) != 0 || flags & both == both {
        return Err(Errno::INVAL);
    }
    let end = addr.checked_add(len).ok_or(Errno::NOMEM)?;
    let mm = mm(call)?;
    let space = mm.space();
    let mut at = VirtAddr::new(addr);
    while at.as_u64() < end {
        at = space.mm().lookup(at).ok_or(Errno::NOMEM)?.0.end;
    }
    Ok(0)
}

pub(super) fn brk(call: &Call<'_>, end: u64) -> Outcome {
    Ok(mm(call)?.space().brk(VirtAddr::new(end)).as_u64())
}
