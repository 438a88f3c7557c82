//! Nodes against a slow model: an array that says for each frame of a window whose it is.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test of small numbers"
)]

mod common;

use common::Random;
use kmm_frame::{
    LOCAL_DISTANCE, MAX_NODE_CPUS, MAX_NODE_RANGES, MAX_NODES, NodeId, NodeRange, Pfn, PfnRange,
    REMOTE_DISTANCE, Topology, TopologyError,
};

const WINDOW: usize = 160;

fn range(start: usize, end: usize) -> PfnRange {
    PfnRange::new(Pfn::new(start), Pfn::new(end))
}

fn node(index: usize) -> NodeId {
    NodeId::new(index as u8)
}

/// What the model says `ranges()` must be: the runs of equal owners.
fn runs(owners: &[Option<NodeId>]) -> Vec<NodeRange> {
    let mut runs: Vec<NodeRange> = Vec::new();
    for (frame, owner) in owners.iter().enumerate() {
        let Some(owner) = *owner else { continue };
        match runs.last_mut() {
            Some(last) if last.node == owner && last.range.end().index() == frame => {
                last.range = PfnRange::new(last.range.start(), Pfn::new(frame + 1));
            }
            _ => runs.push(NodeRange {
                range: range(frame, frame + 1),
                node: owner,
            }),
        }
    }
    runs
}

fn compare(topology: &Topology, owners: &[Option<NodeId>], nr_nodes: usize) {
    assert_eq!(topology.ranges(), runs(owners));
    let mut below = None;
    for (frame, owner) in owners.iter().enumerate() {
        below = owner.or(below);
        let expected = if nr_nodes == 1 {
            NodeId::ZERO
        } else {
            below.unwrap_or(NodeId::ZERO)
        };
        assert_eq!(topology.node_of(Pfn::new(frame)), expected, "frame {frame}");
    }
    for node in (0..nr_nodes).map(node) {
        let mut mine = (0..owners.len()).filter(|&frame| owners[frame] == Some(node));
        let expected = mine.next().map_or(PfnRange::EMPTY, |first| {
            range(first, mine.next_back().unwrap_or(first) + 1)
        });
        assert_eq!(topology.span(node), expected);
        let nr_pages: usize = topology.ranges_of(node).map(PfnRange::nr_pages).sum();
        let owned = owners.iter().filter(|owner| **owner == Some(node)).count();
        assert_eq!(nr_pages, owned);
    }
}

#[test]
fn random_ranges_agree_with_the_model() {
    let mut random = Random::new("random_ranges_agree", 0x7070);
    let mut below = |end: usize| random.below(end as u64) as usize;
    for _ in 0..400 {
        let nr_nodes = 1 + below(MAX_NODES);
        let mut topology = Topology::new(nr_nodes).unwrap();
        let mut owners = vec![None; WINDOW];
        let longest = 1 + below(24);
        for _ in 0..60 {
            let start = below(WINDOW);
            let end = (start + below(longest)).min(WINDOW);
            let owner = node(below(nr_nodes + 1));
            let before = topology.clone();
            let added = topology.add_range(range(start, end), owner);
            let mut after = owners.clone();
            after[start..end].fill(Some(owner));
            let foreign = |taken: &Option<NodeId>| taken.is_some_and(|other| other != owner);
            let expected = if owner.index() >= nr_nodes {
                Err(TopologyError::NoSuchNode)
            } else if owners[start..end].iter().any(foreign) {
                Err(TopologyError::Overlap)
            } else if runs(&after).len() > MAX_NODE_RANGES {
                Err(TopologyError::TooManyRanges)
            } else {
                Ok(())
            };
            assert_eq!(added, expected);
            if added.is_ok() {
                owners = after;
            } else {
                assert_eq!(topology, before, "an error changed something");
            }
            compare(&topology, &owners, nr_nodes);
        }
    }
}

#[test]
fn one_node_has_everything() {
    let topology = Topology::single();
    assert_eq!(topology, Topology::new(1).unwrap());
    assert_eq!(topology.nr_nodes(), 1);
    assert!(topology.nodes().eq([NodeId::ZERO]));
    assert!(topology.ranges().is_empty());
    for pfn in [Pfn::ZERO, Pfn::new(usize::MAX)] {
        assert_eq!(topology.node_of(pfn), NodeId::ZERO);
    }
    assert_eq!(topology.node_of_cpu(usize::MAX), NodeId::ZERO);
    static SHARED: Topology = Topology::single();
    assert_eq!(SHARED, Topology::default());
}

#[test]
fn the_number_of_nodes_is_bounded() {
    assert_eq!(Topology::new(0), Err(TopologyError::NrNodes));
    assert_eq!(Topology::new(MAX_NODES + 1), Err(TopologyError::NrNodes));
    assert_eq!(Topology::new(MAX_NODES).unwrap().nodes().len(), MAX_NODES);
}

#[test]
fn the_number_of_ranges_is_bounded() {
    let mut topology = Topology::new(2).unwrap();
    for nr in 0..MAX_NODE_RANGES {
        let added = topology.add_range(range(4 * nr, 4 * nr + 2), node(nr % 2));
        assert_eq!(added, Ok(()));
    }
    let before = topology.clone();
    let one_more = range(4 * MAX_NODE_RANGES, 4 * MAX_NODE_RANGES + 1);
    assert_eq!(
        topology.add_range(one_more, node(0)),
        Err(TopologyError::TooManyRanges)
    );
    assert_eq!(topology, before);
    // What merges has room still: the gap after a range of its own node, and then all that node 0 may join.
    assert_eq!(topology.add_range(range(2, 3), node(0)), Ok(()));
    assert_eq!(topology.ranges().len(), MAX_NODE_RANGES);
}

#[test]
fn empty_and_wrapping_ranges_are_harmless() {
    let mut topology = Topology::new(2).unwrap();
    assert_eq!(topology.add_range(PfnRange::EMPTY, node(1)), Ok(()));
    assert_eq!(topology.add_range(range(7, 7), node(1)), Ok(()));
    // Ends below its start: empty by construction.
    assert_eq!(topology.add_range(range(9, 3), node(1)), Ok(()));
    assert!(topology.ranges().is_empty());
    // Would wrap: cut at the last frame number.
    let top = PfnRange::with_len(Pfn::new(usize::MAX - 3), 10);
    assert_eq!(topology.add_range(top, node(1)), Ok(()));
    assert_eq!(topology.span(node(1)), top);
    assert_eq!(topology.node_of(Pfn::new(usize::MAX)), node(1));
    assert_eq!(topology.node_of(Pfn::new(usize::MAX - 4)), node(0));
    assert_eq!(
        topology.add_range(top, node(0)),
        Err(TopologyError::Overlap)
    );
}

#[test]
fn ranges_of_several_nodes_may_interleave() {
    let mut topology = Topology::new(2).unwrap();
    for (start, end, owner) in [(0, 10, 0), (20, 30, 1), (10, 20, 1), (30, 40, 0)] {
        assert_eq!(topology.add_range(range(start, end), node(owner)), Ok(()));
    }
    let whose: Vec<_> = topology.ranges().iter().map(|part| part.node).collect();
    assert_eq!(whose, [node(0), node(1), node(0)]);
    assert_eq!(topology.span(node(0)), range(0, 40));
    assert_eq!(topology.span(node(1)), range(10, 30));
    // Above the last range of all: the nearest below.
    assert_eq!(topology.node_of(Pfn::new(1000)), node(0));
    // A range that spans the other node's is refused, also when it begins and ends in its own.
    assert_eq!(
        topology.add_range(range(5, 35), node(0)),
        Err(TopologyError::Overlap)
    );
}

#[test]
fn distances_are_checked_and_may_be_asymmetric() {
    let mut topology = Topology::new(3).unwrap();
    for from in topology.nodes() {
        for to in topology.nodes() {
            let expected = if from == to {
                LOCAL_DISTANCE
            } else {
                REMOTE_DISTANCE
            };
            assert_eq!(topology.distance(from, to), expected);
        }
    }
    assert_eq!(topology.set_distance(node(0), node(1), 31), Ok(()));
    assert_eq!(topology.set_distance(node(1), node(0), 21), Ok(()));
    assert_eq!(topology.distance(node(0), node(1)), 31);
    assert_eq!(topology.distance(node(1), node(0)), 21);
    let before = topology.clone();
    for (from, to, distance) in [(1, 1, 11), (1, 1, 9), (0, 2, 9), (2, 0, 0)] {
        let refused = topology.set_distance(node(from), node(to), distance);
        assert_eq!(refused, Err(TopologyError::Distance));
    }
    for (from, to) in [(0, 3), (3, 0), (255, 255)] {
        let refused = topology.set_distance(node(from), node(to), 20);
        assert_eq!(refused, Err(TopologyError::NoSuchNode));
    }
    assert_eq!(topology, before);
    assert_eq!(topology.set_distance(node(2), node(2), 10), Ok(()));
    assert_eq!(topology.set_distance(node(2), node(1), 255), Ok(()));
    assert_eq!(topology.distance(node(200), node(200)), LOCAL_DISTANCE);
    assert_eq!(topology.distance(node(0), node(200)), REMOTE_DISTANCE);
}

#[test]
fn unknown_cpus_are_of_node_zero() {
    let mut topology = Topology::new(2).unwrap();
    assert_eq!(topology.set_cpu_node(3, node(1)), Ok(()));
    assert_eq!(topology.set_cpu_node(MAX_NODE_CPUS - 1, node(1)), Ok(()));
    assert_eq!(
        topology.set_cpu_node(MAX_NODE_CPUS, node(1)),
        Err(TopologyError::NoSuchCpu)
    );
    assert_eq!(
        topology.set_cpu_node(4, node(2)),
        Err(TopologyError::NoSuchNode)
    );
    let nodes: Vec<_> = [2, 3, 4, MAX_NODE_CPUS - 1, MAX_NODE_CPUS, usize::MAX]
        .map(|cpu| topology.node_of_cpu(cpu).index())
        .into();
    assert_eq!(nodes, [0, 1, 0, 1, 0, 0]);
}
