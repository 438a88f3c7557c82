//! The compiler's calls, and where those end that found something.
#![expect(unsafe_code, reason = "called from assembly")]

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kmm::frame::VirtAddr;
use kmm_kasan::{Access, AccessKind};

use super::on;

global_asm!(include_str!("callbacks.S"), options(att_syntax));

unsafe extern "C" {
    static kasan_direct_bytes: AtomicU64;
    static kasan_vmalloc_bytes: AtomicU64;
}

/// While somebody reports, what he himself does is not reported.
static IS_REPORTING: AtomicBool = AtomicBool::new(false);

/// From now on accesses are checked: so many bytes of the direct map and of the vmalloc range have a shadow.
pub(super) fn switch_on(direct_bytes: u64, vmalloc_bytes: u64) {
    // SAFETY: a word in `callbacks.S`, which only reads it.
    unsafe { kasan_vmalloc_bytes.store(vmalloc_bytes, Ordering::Relaxed) };
    // SAFETY: the same. It comes last, as it switches everything on.
    unsafe { kasan_direct_bytes.store(direct_bytes, Ordering::Release) };
}

/// Memory that may not be touched is about to be.
#[unsafe(no_mangle)]
extern "C" fn kasan_bad_access(addr: u64, size_bytes: usize, is_write: bool, ip: usize) {
    if IS_REPORTING.swap(true, Ordering::Relaxed) {
        return;
    }
    let kind = if is_write {
        AccessKind::Write
    } else {
        AccessKind::Read
    };
    on::check(
        Access {
            addr: VirtAddr::new(addr),
            size_bytes,
            kind,
        },
        ip,
    );
    IS_REPORTING.store(false, Ordering::Relaxed);
}
