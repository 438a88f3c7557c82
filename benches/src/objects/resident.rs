//! How much memory a heap takes for what lives in it: resident bytes after many replacements.
#![expect(unsafe_code, reason = "gives back what it took")]

use super::{Heap, LIVE, layout_of};
use crate::region::resident_bytes;
use crate::rng::{FOOTPRINT_SEED, Rng, Sizes};

/// Resident bytes for each live byte, every live one written. What `make` touches is the heap's own, and counts.
pub(super) fn footprint<H: Heap>(make: impl FnOnce() -> H, sizes: Sizes, slow: bool) -> f64 {
    let replacements = if slow { 20_000 } else { 300_000 };
    let mut rng = Rng::new(FOOTPRINT_SEED);
    let mut objects: Vec<(*mut u8, usize)> = vec![(core::ptr::dangling_mut(), 1); LIVE];
    let before = resident_bytes();
    let heap = make();
    let mut live_bytes = 0;
    for object in &mut objects {
        *object = written(&heap, sizes.draw(&mut rng));
        live_bytes += object.1;
    }
    for _ in 0..replacements {
        let object = &mut objects[rng.below(LIVE)];
        // SAFETY: live until now, and replaced below.
        unsafe { heap.free(object.0, layout_of(object.1)) };
        live_bytes -= object.1;
        *object = written(&heap, sizes.draw(&mut rng));
        live_bytes += object.1;
    }
    let taken = resident_bytes().saturating_sub(before);
    taken as f64 / live_bytes as f64
}

fn written<H: Heap>(heap: &H, size: usize) -> (*mut u8, usize) {
    let ptr = heap.alloc(layout_of(size));
    assert!(!ptr.is_null(), "out of memory");
    // SAFETY: fresh memory of that size.
    unsafe { ptr.write_bytes(1, size) };
    (ptr, size)
}
