//! Seeded random numbers, and the distributions of orders and sizes. The seeds are part of each figure's definition.

/// The seed of the frame workloads.
pub const FRAMES_SEED: u64 = 42;
/// The seed of shuffles among objects.
pub const OBJECTS_SEED: u64 = 5;
/// The seed of replacements among objects; thread `n` adds `n`.
pub const REPLACEMENTS_SEED: u64 = 9;
/// The seed of the footprint's replacements.
pub const FOOTPRINT_SEED: u64 = 3;

/// Marsaglia's xorshift with 64 bits: a few instructions, so that the figures show the allocators.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The same numbers for the same seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
        Self(seed.wrapping_mul(SPREAD) | 1)
    }

    /// The next number.
    #[inline(always)]
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `n`, which fits in 32 bits.
    #[inline(always)]
    pub fn below(&mut self, n: usize) -> usize {
        (((self.bits() >> 32) * n as u64) >> 32) as usize
    }

    /// Puts `items` into random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// Takes a random item out.
    #[inline(always)]
    pub fn take<T>(&mut self, items: &mut Vec<T>) -> T {
        let at = self.below(items.len());
        items.swap_remove(at)
    }

    /// An order from 0 to 10, each half as likely as the one below: 5.5 frames on average.
    #[inline(always)]
    pub fn order(&mut self) -> usize {
        const ORDERS: usize = 11;
        let bits = (self.bits() >> 40) as u32 | 1 << 23;
        bits.trailing_zeros() as usize % ORDERS
    }
}

/// How sizes of objects are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sizes {
    /// Each from 8 to 4096 as likely as any other.
    Uniform,
    /// From 8 to 2047, each power of two as likely as any other: mostly small, as in a kernel.
    LogUniform,
}

impl Sizes {
    /// The next size.
    #[inline(always)]
    #[must_use]
    pub fn draw(self, rng: &mut Rng) -> usize {
        match self {
            Self::Uniform => 8 + rng.below(4089),
            Self::LogUniform => {
                let power = 1 << (3 + rng.below(8));
                power + rng.below(power)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            [rng.bits(), rng.bits(), rng.bits()]
        };
        assert_eq!(draw(42), draw(42));
        assert_ne!(draw(42), draw(43));
    }

    #[test]
    fn distributions_stay_in_their_ranges_and_have_their_means() {
        let mut rng = Rng::new(FRAMES_SEED);
        let n = 1_000_000;
        let mut mean = |draw: &dyn Fn(&mut Rng) -> usize, least: usize, most: usize| {
            let sum: usize = (0..n)
                .map(|_| {
                    let x = draw(&mut rng);
                    assert!((least..=most).contains(&x), "{x}");
                    x
                })
                .sum();
            sum as f64 / n as f64
        };
        let frames = mean(&|rng| 1 << rng.order(), 1, 1024);
        assert!((frames - 5.5).abs() < 0.5, "{frames}");
        let uniform = mean(&|rng| Sizes::Uniform.draw(rng), 8, 4096);
        assert!((uniform - 2052.0).abs() < 20.0, "{uniform}");
        let log = mean(&|rng| Sizes::LogUniform.draw(rng), 8, 2047);
        assert!((log - 382.0).abs() < 10.0, "{log}");
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<usize> = (0..1000).collect();
        Rng::new(1).shuffle(&mut items);
        assert_ne!(items, (0..1000).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..1000).collect::<Vec<_>>());
    }
}
