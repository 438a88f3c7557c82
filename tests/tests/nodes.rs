//! The whole manager on machines of two and of four nodes (F16): where pages come from, whatever runs above the zones, and
//! the audit over all nodes.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests of small numbers; their names say what they prove"
)]

use kmm::frame::{Gfp, NodeId, Order, Pfn, PfnRange, Topology, ZoneType};
use kmm::host::{AllocError, CpuId, PageBlock, PageReq, PageSource};
use kmm::zone::Amount;
use kmm_sim::{Config, Machine};
use kmm_tests::{Booted, boot_as, boot_with_nodes};

const MIB: usize = 256;

/// Nodes of `mib` MiB each that take turns in pieces of 8 MiB, a CPU on each but the last.
fn machine(nr_nodes: usize, mib: usize) -> Booted {
    let (config, topology) = plan(nr_nodes, mib);
    boot_with_nodes(config, topology).unwrap()
}

fn plan(nr_nodes: usize, mib: usize) -> (Config, Topology) {
    let mut topology = Topology::new(nr_nodes).unwrap();
    let piece = 8 * MIB;
    for nr in 0..nr_nodes * mib / 8 {
        let range = PfnRange::with_len(Pfn::new(nr * piece), piece);
        topology.add_range(range, node(nr % nr_nodes)).unwrap();
    }
    for nr in 0..nr_nodes {
        topology.set_cpu_node(nr, node(nr)).unwrap();
        let next = node((nr + 1) % nr_nodes);
        if nr_nodes > 2 {
            topology.set_distance(node(nr), next, 15).unwrap();
        }
    }
    let config = Config::with_mib((nr_nodes * mib) as u64).cpus(nr_nodes - 1);
    (config, topology)
}

fn node(nr: usize) -> NodeId {
    NodeId::new(nr as u8)
}

/// Whose a frame is, by the plan of [`machine`].
fn owner(nr_nodes: usize, pfn: Pfn) -> NodeId {
    node(pfn.index() / (8 * MIB) % nr_nodes)
}

fn audit(booted: &Booted) {
    let none = core::iter::empty::<&kmm::AddressSpace<Machine, kmm::fault::NoFile>>();
    let report = booted.manager.audit(none, |_| ());
    assert!(report.is_ok(), "{report:?}");
}

fn check(nr_nodes: usize) {
    let booted = machine(nr_nodes, 32);
    let pages = booted.manager.pages();
    let mut held: Vec<PageBlock> = Vec::new();
    for pfn in pages.map().range().iter().step_by(97) {
        if let Some(zone) = pages.zone_of(pfn) {
            assert_eq!(zone.node(), owner(nr_nodes, pfn));
        }
    }
    for cpu in 0..nr_nodes - 1 {
        booted.machine.cpus().run_on(CpuId::new(cpu as u32), || {
            for order in [0, 0, 3, 9] {
                let order = Order::new(order).unwrap();
                let block = pages.alloc(PageReq::new(order, Gfp::KERNEL)).unwrap();
                let range = block.range();
                for pfn in range.iter() {
                    assert_eq!(owner(nr_nodes, pfn), node(cpu), "cpu {cpu}");
                }
                held.push(block);
            }
            // From any node that is asked for, also the one without CPU.
            for nr in 0..nr_nodes {
                let req = PageReq {
                    node: Some(node(nr)),
                    ..PageReq::page(Gfp::HIGHUSER_MOVABLE)
                };
                let block = pages.alloc(req).unwrap();
                assert_eq!(owner(nr_nodes, block.pfn()), node(nr));
                held.push(block);
            }
        });
    }
    let req = PageReq {
        node: Some(node(nr_nodes)),
        ..PageReq::page(Gfp::KERNEL)
    };
    assert_eq!(pages.alloc(req), Err(AllocError::NoSuchNode));
    held.drain(..).for_each(|block| pages.free(block));
    audit(&booted);
    // A node's memory ends: the next in line helps, until there is nothing anywhere.
    let gfp = Gfp::NOWAIT;
    booted.machine.cpus().run_on(CpuId::BOOT, || {
        let mut nodes = Vec::new();
        while let Ok(block) = pages.alloc(PageReq::new(Order::new(2).unwrap(), gfp)) {
            let from = owner(nr_nodes, block.pfn());
            if nodes.last() != Some(&from) {
                nodes.push(from);
            }
            held.push(block);
        }
        // Down to the low marks of each node in turn, then to min.
        let expected: Vec<_> = pages.node(node(0)).fallback_nodes().collect();
        assert_eq!(nodes[..nr_nodes], expected);
    });
    let accounting = pages.accounting();
    assert!(accounting.adds_up());
    for nr in 0..nr_nodes {
        let zone = pages.node(node(nr)).zone(ZoneType::Dma32);
        assert!(
            zone.nr_free_pages() <= zone.watermarks().low + 4,
            "{}",
            zone.id()
        );
    }
    held.drain(..).for_each(|block| pages.free(block));
    audit(&booted);
}

#[test]
fn two_nodes_serve_their_own_cpus_first() {
    check(2);
}

#[test]
fn four_nodes_serve_their_own_cpus_first() {
    check(4);
}

#[test]
fn half_of_each_node_is_movable_if_that_is_asked_for() {
    let (config, topology) = plan(2, 32);
    let half = Amount::parse("50%").unwrap();
    let prepare = |early: kmm::Early<Machine>| {
        let early = early.with_topology(topology);
        early.with_movable(half, Amount::NONE)
    };
    let booted = boot_as(config, prepare).unwrap();
    let pages = booted.manager.pages();
    for nr in 0..2 {
        let req = |gfp| PageReq {
            node: Some(node(nr)),
            ..PageReq::page(gfp)
        };
        let movable = pages.alloc(req(Gfp::HIGHUSER_MOVABLE)).unwrap();
        let fixed = pages.alloc(req(Gfp::KERNEL)).unwrap();
        let zone = |block: &PageBlock| pages.zone_of(block.pfn()).unwrap();
        assert_eq!(zone(&movable).kind(), ZoneType::Movable);
        assert_eq!(zone(&fixed).kind(), ZoneType::Dma32);
        assert_eq!(
            (zone(&movable).node(), zone(&fixed).node()),
            (node(nr), node(nr))
        );
        // Half of each node is 16 MiB; movable zones begin at a multiple of 4 MiB.
        let present = zone(&movable).present_pages();
        assert!((12 * MIB..=16 * MIB).contains(&present), "{present}");
        pages.free(movable);
        pages.free(fixed);
    }
    audit(&booted);
}
