//! What Linux calls it.

use crate::SlubBugKind;

/// The text behind "BUG cache (Not tainted): ".
pub(crate) const fn title(kind: SlubBugKind) -> &'static str {
    match kind {
        SlubBugKind::OutsideDirectMap | SlubBugKind::NotAllocated => "Invalid free",
        SlubBugKind::Misaligned => "Invalid object pointer",
        SlubBugKind::DoubleFree => "Object already free",
        SlubBugKind::WrongCache => "Wrong slab cache",
        SlubBugKind::CorruptFreelist => "Freepointer corrupt",
        SlubBugKind::Leaked(_) | SlubBugKind::LeakedObject => {
            "Objects remaining on __kmem_cache_shutdown()"
        }
        SlubBugKind::ForeignFrame => "Invalid page",
        SlubBugKind::LeftRedzone => "Left Redzone overwritten",
        SlubBugKind::RightRedzone => "Right Redzone overwritten",
        SlubBugKind::UseAfterFree => "Poison overwritten",
        SlubBugKind::Padding => "Object padding overwritten",
        SlubBugKind::OutOfBounds => "Out-of-bounds",
        SlubBugKind::AccessAfterFree => "Use-after-free",
        SlubBugKind::InvalidAccess => "Invalid access",
        SlubBugKind::Canary => "Memory corruption",
    }
}

/// What "FIX cache: Restoring " speaks of.
pub(super) const fn zone(kind: SlubBugKind) -> &'static str {
    match kind {
        SlubBugKind::LeftRedzone => "Left Redzone",
        SlubBugKind::RightRedzone => "Right Redzone",
        SlubBugKind::UseAfterFree => "Poison",
        SlubBugKind::CorruptFreelist => "Freepointer",
        _ => "Object padding",
    }
}
