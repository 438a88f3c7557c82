//! Random operations on the bitmaps against one `bool` per bit.
#![allow(clippy::cast_possible_truncation, reason = "numbers of a small map")]

use kmm_kcoll::bitmap::{Bitmap, BitmapLayout, SummaryBitmap};
use kmm_sim::{Rng, seeded};

/// Lengths at which words and levels begin and end.
const LENGTHS: [usize; 12] = [0, 1, 63, 64, 65, 128, 700, 4095, 4096, 4097, 8192, 300_000];

fn next(model: &[bool], from: usize, value: bool) -> Option<usize> {
    (from..model.len()).find(|&bit| model[bit] == value)
}

fn zero_area(model: &[bool], start: usize, n: usize, align: usize) -> Option<usize> {
    (start..model.len()).find(|&at| {
        n > 0 && at % align == 0 && at + n <= model.len() && !model[at..at + n].contains(&true)
    })
}

/// A bit near a word's or a level's edge, or anywhere.
fn any_bit(rng: &mut Rng, len: usize) -> usize {
    let edge = [0, 63, 64, 4095, 4096, len - 1][rng.index(6)];
    let bit = if rng.one_in(3) { edge } else { rng.index(len) };
    bit.min(len - 1)
}

#[test]
fn plain_bitmap_matches_the_model() {
    seeded(1, |rng| {
        for len in LENGTHS.into_iter().filter(|&len| (1..5000).contains(&len)) {
            // More storage than needed, and dirty: neither may show.
            let mut map = Bitmap::new(vec![u64::MAX; BitmapLayout::words_for(len) + 1], len);
            let mut model = vec![false; len];
            for op in 0..5000 {
                let bit = any_bit(rng, len);
                let range = bit..(bit + rng.index(150)).min(len);
                let clearing = (op / 200) % 2 == 1;
                match rng.below(4) {
                    0 => {
                        assert_eq!(map.set(bit), model[bit]);
                        model[bit] = true;
                    }
                    1 => {
                        assert_eq!(map.clear(bit), model[bit]);
                        model[bit] = false;
                    }
                    2 if clearing => {
                        map.clear_range(range.clone());
                        model[range].fill(false);
                    }
                    2 => {
                        map.set_range(range.clone());
                        model[range].fill(true);
                    }
                    _ => {
                        let (n, align) = (rng.index(100), 1 << rng.below(8));
                        let expected = zero_area(&model, bit, n, align);
                        assert_eq!(
                            map.find_zero_area(bit, n, align),
                            expected,
                            "{n} by {align} from {bit}"
                        );
                    }
                }
                let bit = any_bit(rng, len);
                assert_eq!(map.test(bit), model[bit]);
                assert_eq!(map.next_set(bit), next(&model, bit, true));
                assert_eq!(map.next_zero(bit), next(&model, bit, false));
                assert_eq!(map.first_set(), next(&model, 0, true));
                if op % 16 == 0 {
                    assert_eq!(map.count_set(), model.iter().filter(|&&set| set).count());
                    assert!((0..len).all(|bit| map.test(bit) == model[bit]));
                }
            }
            assert_eq!(map.next_set(len), None);
            assert_eq!(map.next_zero(len + 100), None);
            assert_eq!(
                map.into_storage().last(),
                Some(&u64::MAX),
                "touched more than it needs"
            );
        }
    });
}

#[test]
fn summary_bitmap_matches_the_model() {
    seeded(2, |rng| {
        for len in LENGTHS.into_iter().filter(|&len| len > 0) {
            let words = BitmapLayout::summary_words_for(len);
            let mut map = SummaryBitmap::new(vec![u64::MAX; words], len);
            let mut model = std::collections::BTreeSet::new();
            for op in 0..6000 {
                let bit = any_bit(rng, len);
                // Mostly sparse: few bits at a time, so that whole words become zero.
                let bit = if op % 2 == 1 {
                    map.next_set(bit).unwrap_or(bit)
                } else {
                    bit
                };
                if op % 2 == 0 && (model.len() < 8 || (op / 1000) % 2 == 0) {
                    assert_eq!(map.set(bit), !model.insert(bit));
                } else {
                    assert_eq!(map.clear(bit), model.remove(&bit));
                }
                let from = any_bit(rng, len);
                assert_eq!(map.test(from), model.contains(&from));
                assert_eq!(map.next_set(from), model.range(from..).next().copied());
                assert_eq!(map.first_set(), model.first().copied());
                let zero = (from..len).find(|bit| !model.contains(bit));
                assert_eq!(map.next_zero(from), zero);
                assert_eq!(map.none_set(), model.is_empty());
                if len < 10_000 || op % 512 == 0 {
                    map.validate();
                    assert_eq!(map.count_set(), model.len());
                }
            }
            assert_eq!(map.next_set(len), None);
            assert_eq!(map.next_set(usize::MAX), None);
            assert_eq!(map.next_zero(len), None);
            (0..len).for_each(|bit| _ = map.set(bit));
            assert_eq!(map.next_zero(0), None);
            assert_eq!(map.count_set(), len);
            map.validate();
        }
    });
}

#[test]
fn empty_maps_have_no_bits() {
    let plain = Bitmap::new([], 0);
    assert_eq!(
        (plain.first_set(), plain.next_zero(0), plain.len()),
        (None, None, 0)
    );
    assert_eq!(plain.find_zero_area(0, 1, 1), None);
    assert!(plain.is_empty());
    let summary = SummaryBitmap::new([], 0);
    assert_eq!((summary.first_set(), summary.len()), (None, 0));
    assert_eq!(summary.count_set(), 0);
    assert!(summary.none_set() && summary.is_empty());
    summary.validate();
}

#[test]
fn overhead_is_as_documented() {
    assert_eq!(BitmapLayout::words_for(1 << 20), 16_384);
    // 16 384 words, 256 words, 4 words, 1 word.
    assert_eq!(BitmapLayout::summary_words_for(1 << 20), 16_645);
    assert_eq!(BitmapLayout::summary_words_for(262_144), 4096 + 64 + 1);
    assert_eq!(BitmapLayout::summary_words_for(64), 1);
    assert_eq!(BitmapLayout::summary_words_for(65), 3);
    assert_eq!(BitmapLayout::summary_words_for(0), 0);
    #[cfg(target_pointer_width = "64")]
    {
        assert_eq!(size_of::<Bitmap<&mut [u64]>>(), 24);
        assert_eq!(size_of::<SummaryBitmap<&mut [u64]>>(), 128);
    }
}

#[test]
#[should_panic(expected = "bit 64 of a map of 64")]
fn bits_past_the_end_are_refused() {
    Bitmap::new([0], 64).set(64);
}

#[test]
#[should_panic(expected = "bits 60..65 of a map of 64")]
fn ranges_past_the_end_are_refused() {
    Bitmap::new([0, 0], 64).set_range(60..65);
}

#[test]
#[should_panic(expected = "bitmap storage is too small")]
fn short_storage_is_refused() {
    _ = SummaryBitmap::new([0, 0], 65);
}
