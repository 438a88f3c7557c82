//! Random numbers that can be replayed.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "shared by tests, each of which uses a part"
)]

/// Marsaglia's xorshift64*.
pub struct Random(u64);

impl Random {
    /// From `KMM_SEED`, or `seed`; prints how to replay.
    pub fn new(test: &str, seed: u64) -> Self {
        let seed = std::env::var("KMM_SEED").map_or(seed, |seed| seed.parse().unwrap());
        println!("seed {seed}; replay: KMM_SEED={seed} cargo test -p kmm-frame {test}");
        Self(seed.max(1))
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}
