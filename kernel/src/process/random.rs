//! Numbers that are good enough for hash seeds and stack protectors of test programs, and for nothing else.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::cpu;

static STATE: AtomicU64 = AtomicU64::new(0);

/// Fills `buf` with noise. Linux: `get_random_bytes`, without its promises.
pub fn fill(buf: &mut [u8]) {
    for chunk in buf.chunks_mut(size_of::<u64>()) {
        chunk.copy_from_slice(&next().to_le_bytes()[..chunk.len()]);
    }
}

/// splitmix64 (Steele, Lea, Flood 2014), stirred by the time-stamp counter.
fn next() -> u64 {
    let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) ^ cpu::rdtsc();
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
