//! The cost of a gap search, in nodes visited; what it answers is tested against the model in `tests/`.

extern crate std;

use super::{Query, RangeTree};

/// `n` entries of one page, one page between them, and one hole of two pages after entry `hole`.
fn tree_with_hole(n: u64, hole: u64) -> RangeTree<()> {
    let mut tree = RangeTree::new();
    for at in 0..n {
        let start = (2 * at + u64::from(at > hole)) << 12;
        assert!(tree.insert(start..start + 4096, ()).is_ok());
    }
    tree
}

#[test]
fn gap_search_visits_a_few_nodes_per_level() {
    for n in [10_u64, 100, 1000, 10_000, 100_000] {
        for hole in [0, n / 3, n - 2] {
            let tree = tree_with_hole(n, hole);
            let last = tree.last().map_or(0, |(range, _)| range.end);
            let expected = Some((2 * hole + 1) << 12);
            for within in [0..last, 1 << 12..last - 1] {
                let query = Query::new(within, 2 << 12, 4096);
                let mut visits = 0;
                let low = tree.search_lowest(&query, &mut || visits += 1);
                assert_eq!(low, expected, "{n} entries, hole after {hole}");
                let high = tree.search_highest(&query, &mut || visits += 1);
                assert_eq!(high, expected, "{n} entries, hole after {hole}");
                // Each search: at most the subtree cut by the limit and the one with the answer, per level.
                assert!(
                    visits <= 4 * tree.height(),
                    "{visits} visits of {n} entries"
                );
            }
        }
    }
}

#[test]
fn hopeless_gap_search_visits_only_the_limits() {
    let tree = tree_with_hole(100_000, 500);
    let query = Query::new(5 << 12..190_000 << 12, 3 << 12, 4096);
    let mut visits = 0;
    assert_eq!(tree.search_lowest(&query, &mut || visits += 1), None);
    assert_eq!(tree.search_highest(&query, &mut || visits += 1), None);
    assert_eq!(visits, 2, "the roots, and nothing below");
}
