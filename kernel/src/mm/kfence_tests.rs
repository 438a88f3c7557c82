//! Self-tests of objects between hidden pages: clients that are broken on purpose are reported, and the kernel goes on.
#![expect(unsafe_code, reason = "the clients touch what they may not")]

use alloc::string::ToString;
use alloc::vec::Vec;
use core::hint::black_box;
use core::ptr::NonNull;

use kmm::frame::{Gfp, PAGE_SIZE};
use kmm::slub::{CacheArgs, KmemCache, ObjectReport, SlubBug, SlubBugKind};
use x86_64::structures::idt::PageFaultErrorCode;

use super::{kfence, manager};
use crate::boot::image;
use crate::ensure;
use crate::selftest::{Failure, Outcome};

/// The client's code is at most so long.
const CLIENT_BYTES: usize = 64;
/// If so many do not come from the pool, none does.
const MAX_TRIES: usize = 1 << 16;

#[inline(never)]
extern "C" fn write_byte(at: *mut u8) {
    // SAFETY: of a page of the pool that nobody has; hidden, so that this faults first.
    unsafe { at.write_volatile(0x41) };
}

#[inline(never)]
extern "C" fn read_byte(at: *mut u8) -> u8 {
    // SAFETY: as above.
    unsafe { at.read_volatile() }
}

/// Without a pool, no fault is KFENCE's.
fn is_off() -> bool {
    manager().kfence_frames().is_empty()
}

fn refuses_all() -> Outcome {
    let mut local = 0_u64;
    let address = (&raw mut local).addr() as u64;
    let write = PageFaultErrorCode::CAUSED_BY_WRITE;
    ensure!(!kfence::fault(address, write), "a fault of nobody is taken");
    Ok(())
}

/// Calls `f` with an object of `cache` from the pool that lies at the end of its page, and frees the others.
fn with_sampled<R>(
    cache: KmemCache,
    f: impl FnOnce(NonNull<u8>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let slub = manager().slub();
    let mut others = Vec::new();
    let mut found = None;
    for _ in 0..MAX_TRIES {
        let object = slub.alloc(cache, Gfp::KERNEL).map_err(Failure::of)?;
        let is_at_end = object.addr().get() % PAGE_SIZE > PAGE_SIZE / 2;
        if kfence::owns(manager(), object) && is_at_end {
            found = Some(object);
            break;
        }
        others.push(object);
    }
    for object in others {
        // SAFETY: it came from there, and nobody uses it.
        unsafe { slub.free(cache, object) };
    }
    f(found.ok_or("no object comes from the pool")?)
}

/// The one mistake of `client`, which is of class `kind`, in an object of the cache `name`; its text has the `title`.
fn report_of(
    name: &str,
    kind: SlubBugKind,
    title: &str,
    client_at: usize,
    client: impl FnOnce(),
) -> Result<ObjectReport, Failure> {
    kfence::take_last();
    client();
    let (found, report) = kfence::take_last().ok_or("no report")?;
    ensure!(found == kind, "reported as {found:?}");
    ensure!(report.cache == name, "of {}", report.cache);
    let culprit = report.guarded.ok_or("no culprit")?.culprit;
    let first = culprit.addresses().first().copied().unwrap_or(0);
    ensure!(
        (client_at..client_at + CLIENT_BYTES).contains(&first),
        "the culprit is said to be {first:#x}, not {client_at:#x}"
    );
    let text = SlubBug {
        kind,
        cache: Some(report.cache),
        address: report.object,
        object: Some(&report),
    };
    let text = text.to_string();
    for part in [title, "cache=", name, "allocated by task "] {
        ensure!(text.contains(part), "the report lacks {part:?}");
    }
    Ok(report)
}

/// Whether a stack is known, of the kernel's code.
fn is_stack(track: Option<kmm::slub::Track>) -> bool {
    let text = image::text();
    track.is_some_and(|track| {
        let addresses = track.addresses();
        addresses.len() > 1 && addresses.iter().all(|&at| text.contains(&(at as u64)))
    })
}

/// A byte past the page's end, and the object can still be used and freed.
pub(super) fn write_behind() -> Outcome {
    if is_off() {
        return refuses_all();
    }
    let slub = manager().slub();
    let name = "kfence_behind";
    let cache = slub
        .cache_create(&CacheArgs::new(name, 104))
        .map_err(Failure::of)?;
    let report = with_sampled(cache, |object| {
        let end = object.addr().get().next_multiple_of(PAGE_SIZE) - object.addr().get();
        let behind = object.as_ptr().wrapping_add(end);
        let report = report_of(
            name,
            SlubBugKind::OutOfBounds,
            "BUG: KFENCE: out-of-bounds write",
            write_byte as *const () as usize,
            || write_byte(black_box(behind)),
        );
        // SAFETY: it came from there, and nobody uses it.
        unsafe { slub.free(cache, object) };
        ensure!(
            kfence::take_last().is_none(),
            "the object itself was spoilt"
        );
        report
    });
    // SAFETY: nobody else has the cache.
    unsafe { slub.cache_destroy(cache) }.map_err(Failure::of)?;
    ensure!(is_stack(report?.allocated), "who allocated it is not known");
    slub.validate().map_err(Failure::of)?;
    super::audit().map(drop)
}

/// Of an object of a cache, with who allocated it and who freed it.
pub(super) fn read_after_free() -> Outcome {
    if is_off() {
        return refuses_all();
    }
    let slub = manager().slub();
    let name = "kfence_freed";
    let cache = slub
        .cache_create(&CacheArgs::new(name, 104))
        .map_err(Failure::of)?;
    let report = with_sampled(cache, |object| {
        // SAFETY: it came from there, and is read once more, on purpose.
        unsafe { slub.free(cache, object) };
        report_of(
            name,
            SlubBugKind::AccessAfterFree,
            "BUG: KFENCE: use-after-free read",
            read_byte as *const () as usize,
            || _ = black_box(read_byte(black_box(object.as_ptr()))),
        )
    });
    // SAFETY: nobody else has the cache.
    unsafe { slub.cache_destroy(cache) }.map_err(Failure::of)?;
    let report = report?;
    ensure!(is_stack(report.allocated), "who allocated it is not known");
    ensure!(is_stack(report.freed), "who freed it is not known");
    slub.validate().map_err(Failure::of)?;
    super::audit().map(drop)
}
