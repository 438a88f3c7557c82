//! The compiler's calls, and where those end that found something.
#![expect(unsafe_code, reason = "called from assembly")]

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

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
    if is_slubs(ip) {
        return;
    }
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

/// Whether slub's code asks. There are a few dozen places where it touches free objects, each asked about very often: so
/// answers are kept.
fn is_slubs(ip: usize) -> bool {
    const NR_ANSWERS: usize = 512;
    /// The place, shifted by one, and the answer.
    static ANSWERS: [AtomicUsize; NR_ANSWERS] = [const { AtomicUsize::new(0) }; NR_ANSWERS];
    let hash = ip.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let answer = &ANSWERS[hash % NR_ANSWERS];
    let known = answer.load(Ordering::Relaxed);
    if known & !1 == ip << 1 {
        return known & 1 == 1;
    }
    let is = on::is_slubs(ip);
    answer.store(ip << 1 | usize::from(is), Ordering::Relaxed);
    is
}
