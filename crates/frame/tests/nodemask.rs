//! Sets of nodes against sets of numbers.
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "tests")]

use std::collections::BTreeSet;

use kmm_frame::{NodeId, NodeMask};

fn mask(set: &BTreeSet<u8>) -> NodeMask {
    set.iter().copied().map(NodeId::new).collect()
}

#[test]
fn sets_of_nodes_are_sets() {
    let sets: Vec<BTreeSet<u8>> = (0u32..256)
        .map(|bits| {
            (0..8)
                .filter(|n| bits >> n & 1 == 1)
                .map(|n| n as u8 * 9)
                .collect()
        })
        .collect();
    for a in &sets {
        for node in 0..=255 {
            assert_eq!(mask(a).contains(NodeId::new(node)), a.contains(&node));
        }
        assert_eq!(mask(a).is_empty(), a.is_empty());
        for b in sets.iter().step_by(7) {
            assert_eq!(mask(a).union(mask(b)), mask(&(a | b)));
            assert_eq!(mask(a).intersect(mask(b)), mask(&(a & b)));
        }
    }
    assert!(NodeMask::ALL.is_all() && (0..64).all(|n| NodeMask::ALL.contains(NodeId::new(n))));
    assert_eq!(mask(&(0..64).collect()), NodeMask::ALL);
    assert_eq!(NodeMask::of(NodeId::new(64)), NodeMask::NONE);
}

#[test]
fn sets_of_nodes_print_as_ranges() {
    for (nodes, text) in [
        (vec![], ""),
        (vec![0], "0"),
        (vec![0, 1], "0-1"),
        (vec![0, 1, 2, 5, 8, 9], "0-2,5,8-9"),
        (vec![63], "63"),
        (vec![1, 62, 63], "1,62-63"),
    ] {
        assert_eq!(mask(&nodes.into_iter().collect()).to_string(), text);
    }
    assert_eq!(NodeMask::ALL.to_string(), "0-63");
}
