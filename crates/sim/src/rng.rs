//! Random numbers that come again.

use core::ops::Range;

/// Random numbers from a seed. Sebastiano Vigna's `splitmix64`.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The numbers that belong to `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; slightly uneven for huge ends.
    ///
    /// # Panics
    /// When `end` is 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }

    /// An index below `len`.
    ///
    /// # Panics
    /// When `len` is 0.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the remainder is below a usize"
    )]
    pub const fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// A number of `range`.
    ///
    /// # Panics
    /// When it is empty.
    pub const fn range(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// True once in `one_in` times.
    ///
    /// # Panics
    /// When `one_in` is 0.
    pub const fn one_in(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// When there is none.
    pub const fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// Puts `items` into random order.
    pub const fn shuffle<T>(&mut self, items: &mut [T]) {
        let mut end = items.len();
        while end > 1 {
            let other = self.index(end);
            end -= 1;
            items.swap(end, other);
        }
    }
}

/// Runs a random test with `seed`, or with that of the variable `KMM_SEED`. When it panics, says how to replay it.
///
/// ```
/// kmm_sim::seeded(7, |rng| assert!(rng.below(6) < 6));
/// ```
///
/// # Panics
/// When `f` does, or when `KMM_SEED` is no number.
pub fn seeded<R>(seed: u64, f: impl FnOnce(&mut Rng) -> R) -> R {
    let seed = std::env::var("KMM_SEED").map_or(seed, |text| parse(&text));
    let _replay = Replay(seed);
    f(&mut Rng::new(seed))
}

fn parse(text: &str) -> u64 {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.unwrap_or_else(|_| panic!("KMM_SEED={text} is no number"))
}

/// Says how to replay when it is dropped by a panic.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let package = std::env::var("CARGO_PKG_NAME");
            let package = package.map_or(String::new(), |name| format!(" -p {name}"));
            let thread = std::thread::current();
            let test = thread.name().filter(|name| *name != "main").unwrap_or("");
            eprintln!("replay: KMM_SEED={:#x} cargo test{package} {test}", self.0);
        }
    }
}
