//! Machines of several nodes: which node a request turns to, and what is counted, against an oracle that
//! makes its own lists.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test of small numbers"
)]

mod common;

use std::collections::BTreeMap;

use common::{Random, ThreadCpus, Tiny, frames, run_on, take_bad};
use kmm_frame::{
    Gfp, MemMap, MigrateType, NodeId, NodeMask, NumaItem, Order, Page, Pfn, PfnRange, Topology,
    ZoneType,
};
use kmm_host::{AllocError, Cpus, PageBlock, PageReq, PageSource};
use kmm_zone::{
    AllowedNodes, FreeAt, FreeError, NodeLayouts, PcpLimits, Pressure, Watermarks, ZoneId,
    ZoneLayout, Zones, ZonesError,
};

type Lock = spin::Mutex<()>;
type TestZones = common::TestZones<Lock>;

fn node(nr: usize) -> NodeId {
    NodeId::new(nr as u8)
}

/// A machine to be.
struct Plan {
    /// Frames and whose they are.
    ranges: Vec<(PfnRange, usize)>,
    /// The node of each CPU.
    cpus: Vec<usize>,
    distances: Vec<Vec<u8>>,
}

impl Plan {
    fn nr_nodes(&self) -> usize {
        self.distances.len()
    }

    fn topology(&self) -> &'static Topology {
        let mut topology = Topology::new(self.nr_nodes()).unwrap();
        for &(range, nr) in &self.ranges {
            topology.add_range(range, node(nr)).unwrap();
        }
        for (cpu, &nr) in self.cpus.iter().enumerate() {
            topology.set_cpu_node(cpu, node(nr)).unwrap();
        }
        for (from, row) in self.distances.iter().enumerate() {
            for (to, &distance) in row.iter().enumerate() {
                topology
                    .set_distance(node(from), node(to), distance)
                    .unwrap();
            }
        }
        Box::leak(Box::new(topology))
    }

    fn layouts(&self) -> NodeLayouts {
        NodeLayouts::new::<Tiny>(self.topology(), self.ranges.iter().map(|part| part.0))
    }

    fn end(&self) -> Pfn {
        self.ranges.iter().map(|part| part.0.end()).max().unwrap()
    }

    /// Booted, with watermarks of `min_free` pages in all.
    fn boot(&self, min_free: usize) -> TestZones {
        let zones = self.bare();
        for &(range, _) in &self.ranges {
            zones.add_present(range);
        }
        for &(range, _) in &self.ranges {
            assert_eq!(zones.free_at_boot(range), Ok(range.nr_pages()));
        }
        zones.init_watermarks(min_free * 4, 10);
        zones.validate().unwrap();
        zones
    }

    fn bare(&self) -> TestZones {
        let all = frames(0, self.end().index());
        let pages: Vec<Page> = all.iter().map(|_| Page::new()).collect();
        let map = MemMap::new(all, pages.leak()).unwrap();
        let layouts = self.layouts();
        let storage = common::storage_for(&layouts, self.cpus.len());
        Zones::new(
            map,
            ThreadCpus(self.cpus.len()),
            common::memory(all),
            &layouts,
            storage,
        )
        .unwrap()
        .with_bad_page_hook(common::note_bad)
    }

    /// Whose a frame is.
    fn owner(&self, pfn: Pfn) -> ZoneId {
        let nr = self
            .ranges
            .iter()
            .find(|part| part.0.contains(pfn))
            .unwrap()
            .1;
        let kind = match pfn.index() {
            0..64 => ZoneType::Dma,
            64..256 => ZoneType::Dma32,
            _ => ZoneType::Normal,
        };
        ZoneId {
            node: node(nr),
            kind,
        }
    }
}

fn equal_distances(nr_nodes: usize) -> Vec<Vec<u8>> {
    let row = |from| {
        (0..nr_nodes)
            .map(|to| if from == to { 10 } else { 20 })
            .collect()
    };
    (0..nr_nodes).map(row).collect()
}

/// Two nodes of 1024 frames, two CPUs each.
fn two() -> Plan {
    Plan {
        ranges: vec![(frames(0, 1024), 0), (frames(1024, 2048), 1)],
        cpus: vec![0, 0, 1, 1],
        distances: equal_distances(2),
    }
}

/// Four nodes: 0 and 1 take turns, 2 has no CPU, 3 has no memory.
fn four() -> Plan {
    Plan {
        ranges: vec![
            (frames(0, 300), 0),
            (frames(300, 700), 1),
            (frames(700, 1000), 0),
            (frames(1000, 1500), 2),
            (frames(1536, 2048), 1),
        ],
        cpus: vec![0, 1, 3, 1, 0],
        distances: vec![
            vec![10, 16, 32, 33],
            vec![16, 10, 25, 25],
            vec![32, 25, 10, 16],
            vec![33, 25, 16, 10],
        ],
    }
}

fn zone_of(zones: &TestZones, block: &PageBlock) -> ZoneId {
    zones.zone_of(block.pfn()).unwrap().id()
}

fn order_of(zones: &TestZones, from: usize) -> Vec<usize> {
    let nodes = zones.node(node(from)).fallback_nodes();
    nodes.map(NodeId::index).collect()
}

fn request(gfp: Gfp, from: usize) -> PageReq {
    PageReq {
        order: Order::ZERO,
        gfp,
        node: Some(node(from)),
    }
}

#[test]
fn nodes_equally_far_away_take_turns() {
    let plan = Plan {
        ranges: (0..4)
            .map(|nr| (frames(nr * 512, (nr + 1) * 512), nr))
            .collect(),
        cpus: vec![0, 1, 2, 3],
        distances: equal_distances(4),
    };
    let zones = plan.boot(64);
    // What Linux prints at boot of such a machine.
    assert_eq!(order_of(&zones, 0), [0, 1, 2, 3]);
    assert_eq!(order_of(&zones, 1), [1, 2, 3, 0]);
    assert_eq!(order_of(&zones, 2), [2, 3, 0, 1]);
    assert_eq!(order_of(&zones, 3), [3, 0, 1, 2]);
}

#[test]
fn nearer_nodes_come_first_and_those_without_cpus_among_equals() {
    let zones = four().boot(64);
    assert_eq!(order_of(&zones, 0), [0, 1, 2]);
    assert_eq!(order_of(&zones, 1), [1, 0, 2]);
    assert_eq!(order_of(&zones, 2), [2, 1, 0]);
    // Without memory of its own.
    assert_eq!(order_of(&zones, 3), [3, 2, 1, 0]);

    let mut plan = two();
    plan.ranges.push((frames(2048, 2560), 2));
    plan.distances = equal_distances(3);
    assert_eq!(order_of(&plan.boot(64), 0), [0, 2, 1]);
    plan.cpus.push(2);
    assert_eq!(order_of(&plan.boot(64), 0), [0, 1, 2]);
}

#[test]
fn a_nearer_node_comes_first_however_many_turn_to_it() {
    // Four nodes are nearest to node 1; so is node 5, but not by much.
    let mut distances = equal_distances(6);
    for row in [0, 2, 3, 4] {
        distances[row][1] = 12;
    }
    distances[5] = vec![30, 20, 30, 30, 21, 10];
    let plan = Plan {
        ranges: (0..6)
            .map(|nr| (frames(nr * 512, (nr + 1) * 512), nr))
            .collect(),
        cpus: (0..6).collect(),
        distances,
    };
    assert_eq!(order_of(&plan.boot(64), 5)[..3], [5, 1, 4]);
}

#[test]
fn a_node_that_is_asked_for_is_tried_first() {
    let zones = two().boot(64);
    run_on(0);
    for from in [0, 1] {
        let block = zones.alloc(request(Gfp::KERNEL, from)).unwrap();
        assert_eq!(zone_of(&zones, &block).node, node(from));
        zones.free(block);
    }
    let absent = zones.alloc(request(Gfp::KERNEL, 2));
    assert_eq!(absent, Err(AllocError::NoSuchNode));
    let absent = zones.alloc(request(Gfp::KERNEL | Gfp::THISNODE, 255));
    assert_eq!(absent, Err(AllocError::NoSuchNode));
    let mut out = [const { None }; 4];
    assert_eq!(zones.alloc_bulk(Gfp::KERNEL, Some(node(2)), &mut out), 0);
    assert_eq!(zones.alloc_bulk(Gfp::KERNEL, Some(node(1)), &mut out), 4);
    for block in out.into_iter().flatten() {
        assert_eq!(zone_of(&zones, &block).node, node(1));
        zones.free(block);
    }
    zones.validate().unwrap();
}

#[test]
fn thisnode_never_leaves_the_node() {
    let zones = two().boot(64);
    run_on(2);
    let mut held = Vec::new();
    while let Ok(block) = zones.alloc(PageReq::page(Gfp::KERNEL | Gfp::THISNODE)) {
        assert_eq!(zone_of(&zones, &block).node, node(1));
        held.push(block);
    }
    // A node without memory has nothing of its own to give.
    let others = four().boot(64);
    run_on(2);
    let refused = others.alloc(request(Gfp::KERNEL | Gfp::THISNODE, 3));
    assert_eq!(refused, Err(AllocError::OutOfMemory));
    assert!(others.alloc(request(Gfp::KERNEL, 3)).is_ok());
    let local = zones.node(node(1)).zone(ZoneType::Normal);
    assert_eq!(local.nr_free_pages(), local.watermarks().min);
    // Without the flag, the other node helps out.
    let block = zones.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
    assert_eq!(zone_of(&zones, &block).node, node(0));
    assert_eq!(local.numa_counts()[NumaItem::Foreign], 1);
    let served = zones.zone_of(block.pfn()).unwrap().numa_counts();
    assert_eq!((served[NumaItem::Miss], served[NumaItem::Other]), (1, 1));
    assert_eq!((served[NumaItem::Hit], served[NumaItem::Local]), (0, 0));
}

#[test]
fn policies_and_cpusets_keep_requests_on_their_nodes() {
    let zones = two().boot(64);
    run_on(0);
    let one = NodeMask::of(node(1));
    let from = |gfp, nodemask, mems_allowed| {
        let allowed = AllowedNodes {
            nodemask,
            mems_allowed,
        };
        let (block, _) = zones.alloc_pages_allowed(PageReq::page(gfp), allowed)?;
        Ok(zone_of(&zones, &block).node.index())
    };
    // A policy holds for everybody.
    assert_eq!(from(Gfp::KERNEL, one, NodeMask::ALL), Ok(1));
    assert_eq!(from(Gfp::ATOMIC, one, NodeMask::ALL), Ok(1));
    // A cpuset only for user pages.
    assert_eq!(from(Gfp::USER, NodeMask::ALL, one), Ok(1));
    assert_eq!(from(Gfp::KERNEL, NodeMask::ALL, one), Ok(0));
    let nowhere = from(Gfp::USER, NodeMask::of(node(0)), one);
    assert_eq!(nowhere, Err(AllocError::OutOfMemory));
    assert_eq!(
        from(Gfp::KERNEL, NodeMask::NONE, one),
        Err(AllocError::OutOfMemory)
    );
    // In need, urgent ones look beyond it, others do not.
    let allowed = AllowedNodes {
        nodemask: NodeMask::ALL,
        mems_allowed: one,
    };
    let take = |gfp| {
        let taken = zones.alloc_pages_allowed(PageReq::page(gfp), allowed);
        taken.map(|(block, _)| zone_of(&zones, &block).node.index())
    };
    while take(Gfp::USER).is_ok() {}
    assert_eq!(take(Gfp::USER), Err(AllocError::OutOfMemory));
    while take(Gfp::ATOMIC | Gfp::HARDWALL) == Ok(1) {}
    assert_eq!(take(Gfp::ATOMIC | Gfp::HARDWALL), Ok(0));
    zones.validate().unwrap();
}

#[test]
fn frames_between_those_of_other_nodes_have_their_own_zone() {
    let plan = four();
    let zones = plan.boot(64);
    for &(range, _) in &plan.ranges {
        for pfn in range.iter() {
            assert_eq!(zones.zone_of(pfn).unwrap().id(), plan.owner(pfn));
        }
    }
    let normal = |nr| zones.node(node(nr)).zone(ZoneType::Normal);
    assert_eq!(normal(0).range(), frames(256, 1000));
    assert_eq!(
        (normal(0).present_pages(), normal(1).present_pages()),
        (344, 912)
    );
    assert!(normal(0).range().overlaps(normal(1).range()));
    assert!(normal(0).owns(Pfn::new(299)) && !normal(0).owns(Pfn::new(300)));
    assert!(!normal(0).owns_range(frames(290, 310)));
    // Blocks merge up to the next node's frames and no further.
    let free: usize = zones.stats().map(|stat| stat.free).sum();
    assert_eq!(free, zones.managed_pages());
    zones.for_each_free(|pfn, order, _| {
        let last = pfn + (order.nr_pages() - 1);
        assert_eq!(plan.owner(pfn), plan.owner(last));
    });
    assert_eq!(zones.zone_of(Pfn::new(5000)).map(|zone| zone.id()), None);
}

#[test]
fn bad_ranges_and_topologies_are_refused() {
    let plan = four();
    let zones = plan.bare();
    zones.add_present(frames(0, 300));
    zones.add_present(frames(300, 700));
    let before: Vec<_> = zones.stats().collect();
    assert_eq!(zones.free_at_boot(PfnRange::EMPTY), Ok(0));
    assert_eq!(
        zones.free_at_boot(frames(250, 701)),
        Err(FreeError::OutsideZone)
    );
    assert_eq!(
        zones.free_at_boot(frames(2000, 2049)),
        Err(FreeError::OutsideZone)
    );
    let wrapping = PfnRange::with_len(Pfn::new(usize::MAX - 3), 8);
    assert_eq!(zones.free_at_boot(wrapping), Err(FreeError::OutsideZone));
    assert_eq!(zones.stats().collect::<Vec<_>>(), before);
    zones.map().reserve(frames(10, 11));
    assert_eq!(zones.free_at_boot(frames(0, 20)), Err(FreeError::Reserved));
    assert_eq!(
        zones.free_reserved(frames(10, 12)),
        Err(FreeError::AlreadyFree)
    );
    assert_eq!(zones.stats().collect::<Vec<_>>(), before);

    // Device frames that the topology gives to another node.
    let device = ZoneLayout::EMPTY.with_device(frames(1600, 1700)).unwrap();
    let layouts = plan.layouts().with_node(node(3), device);
    let storage = common::storage_for(&layouts, 5);
    let made =
        Zones::<Lock, _, _>::new(zones.map(), ThreadCpus(5), *zones.phys(), &layouts, storage);
    assert_eq!(made.err(), Some(ZonesError::WrongNode));
    // RAM that the topology does not mention is its lower neighbour's; RAM of a node where there is none is not there.
    let mut topology = Topology::new(3).unwrap();
    topology.add_range(frames(100, 200), node(1)).unwrap();
    topology.add_range(frames(4000, 5000), node(2)).unwrap();
    let layouts = NodeLayouts::new::<Tiny>(Box::leak(Box::new(topology)), [frames(0, 300)]);
    assert_eq!(layouts.nodes()[0].range(ZoneType::Dma), frames(0, 64));
    assert_eq!(layouts.nodes()[0].range(ZoneType::Dma32), frames(64, 100));
    assert_eq!(layouts.nodes()[1].range(ZoneType::Dma32), frames(100, 256));
    assert_eq!(layouts.nodes()[1].range(ZoneType::Normal), frames(256, 300));
    assert_eq!(layouts.nodes()[2].nr_pageblocks(), 0);
}

#[test]
fn cpus_share_the_stock_of_their_own_node() {
    let plan = Plan {
        cpus: vec![0, 1, 1, 1],
        ..two()
    };
    let zones = plan.boot(600);
    for (nr, nr_cpus) in [(0, 1), (1, 3)] {
        let node = zones.node(node(nr));
        assert_eq!(node.managed_pages(), 1024);
        for zone in node.zones().iter().filter(|zone| zone.is_managed()) {
            let (managed, low) = (zone.managed_pages(), zone.watermarks().low);
            let expected = PcpLimits::by_low_mark(managed, low, nr_cpus);
            assert_eq!(zone.pcp_limits(), expected, "{}", zone.id());
        }
    }
}

#[test]
fn marks_are_shared_out_over_all_nodes() {
    let zones = two().boot(256);
    let lowmem = zones.managed_pages();
    for zone in zones.all() {
        let expected = Watermarks::for_zone(zone.kind(), zone.managed_pages(), lowmem, 1024, 10);
        assert_eq!(zone.watermarks(), expected);
    }
    // Reserves are a matter of the node: node 1 has one zone.
    let of = |nr, kind| zones.node(node(nr)).zone(kind).protection();
    assert_eq!(
        of(0, ZoneType::Dma)[ZoneType::Normal.index()],
        (192 + 768) / 256
    );
    assert_eq!(of(1, ZoneType::Normal), [0; 6]);
    // Stocks are shared out among the CPUs next to the zone.
    let stats = zones.node(node(1)).zone(ZoneType::Normal).pcp_stats();
    assert_eq!(stats.count(), 4);
}

/// Which zones a request looks at, best first: by its own reckoning.
fn zonelist(plan: &Plan, from: usize, gfp: Gfp, mask: NodeMask) -> Vec<ZoneId> {
    let has_cpu = |nr: usize| plan.cpus.contains(&nr);
    let has_memory = |nr: usize| plan.ranges.iter().any(|part| part.1 == nr);
    let mut load = vec![0; plan.nr_nodes()];
    let mut lists = Vec::new();
    for local in 0..plan.nr_nodes() {
        let mut list = vec![local];
        loop {
            let rest = (0..plan.nr_nodes()).filter(|nr| has_memory(*nr) && !list.contains(nr));
            let cost = |nr: usize| {
                let penalties = u32::from(nr < local) + u32::from(has_cpu(nr));
                (
                    u32::from(plan.distances[local][nr]) + penalties,
                    load[nr],
                    nr,
                )
            };
            let Some(next) = rest.min_by_key(|&nr| cost(nr)) else {
                break;
            };
            let last = *list.last().unwrap();
            if plan.distances[local][next] != plan.distances[local][last] {
                load[next] += 1;
            }
            list.push(next);
        }
        lists.push(list);
    }
    let owners: Vec<ZoneId> = (0..plan.end().index())
        .filter(|&nr| plan.ranges.iter().any(|part| part.0.contains(Pfn::new(nr))))
        .map(|nr| plan.owner(Pfn::new(nr)))
        .collect();
    let only = gfp.contains(Gfp::THISNODE).then_some(from);
    let mut zones = Vec::new();
    for &nr in &lists[from] {
        let kinds = [ZoneType::Normal, ZoneType::Dma32, ZoneType::Dma];
        for kind in kinds.into_iter().filter(|kind| *kind <= gfp.zone()) {
            let id = ZoneId {
                node: node(nr),
                kind,
            };
            let is_allowed = mask.contains(id.node) && only.is_none_or(|only| only == nr);
            if owners.contains(&id) && is_allowed {
                zones.push(id);
            }
        }
    }
    zones
}

/// What is counted: hit, miss, foreign, local, other.
type Counted = BTreeMap<ZoneId, [u64; 5]>;

fn counted(zones: &TestZones) -> Counted {
    let items = [
        NumaItem::Hit,
        NumaItem::Miss,
        NumaItem::Foreign,
        NumaItem::Local,
        NumaItem::Other,
    ];
    let populated = zones.all().filter(|zone| zone.is_populated());
    populated
        .map(|zone| (zone.id(), items.map(|item| zone.numa_counts()[item])))
        .collect()
}

/// Makes a random request, and says from which zone it has to come if there is no doubt.
fn step(
    plan: &Plan,
    zones: &TestZones,
    random: &mut Random,
    expected: &mut Counted,
) -> Option<PageBlock> {
    let cpu = random.below(plan.cpus.len());
    run_on(cpu as u32);
    let cpu_node = plan.cpus[cpu];
    let mut gfp = [
        Gfp::KERNEL,
        Gfp::KERNEL | Gfp::DMA32,
        Gfp::USER,
        Gfp::NOWAIT,
    ][random.below(4)];
    if random.below(4) == 0 {
        gfp |= Gfp::THISNODE;
    }
    let asked = [None, Some(random.below(plan.nr_nodes()))][random.below(2)];
    let order = random.order(4);
    let mask = match random.below(4) {
        0 => NodeMask::of(node(random.below(plan.nr_nodes()))),
        _ => NodeMask::ALL,
    };
    let req = PageReq {
        order,
        gfp,
        node: asked.map(node),
    };
    let from = asked.unwrap_or(cpu_node);
    let list = zonelist(plan, from, gfp, mask);
    let zone = |id: &ZoneId| zones.node(id.node).zone(id.kind);
    let fits = |id: &ZoneId, mark: fn(&Watermarks) -> usize| {
        let stat = zone(id).stat();
        let floor = mark(&stat.watermarks) + stat.protection[gfp.zone().index()];
        let has_block = stat.nr_free[order.index()..].iter().any(|count| *count > 0);
        stat.free > floor + (order.nr_pages() - 1) && has_block
    };
    let first = list.first().copied();
    let by_low = || list.iter().find(|id| fits(id, |marks| marks.low)).copied();
    // Normal is left alone as long as a zone below has what mixes no pageblocks. Single pages come from stocks, which may
    // be of another type than the request.
    let has_dma32 = first.is_some_and(|first| {
        let below = zones.node(first.node).zone(ZoneType::Dma32);
        first.node.index() == from && first.kind == ZoneType::Normal && below.is_populated()
    });
    let unmixed = |kind| {
        let local = list
            .iter()
            .filter(|id| has_dma32 && id.node.index() == from);
        let mut unmixed = local.filter(|id| common::fits_without_mixing(zone(id), order, kind));
        unmixed.find(|id| fits(id, |marks| marks.low)).copied()
    };
    let spared = [gfp.migrate_type(), MigrateType::Movable].map(unmixed);
    let by_min = || list.iter().find(|id| fits(id, |marks| marks.min)).copied();
    // The fast path takes what this CPU has in stock of the first zone, whatever the marks say.
    let is_fast = from == cpu_node && mask == NodeMask::ALL;
    // Of which type that is, is not known here: pageblocks change theirs.
    let stocks = || {
        let mut stocks = Vec::new();
        zones.for_each_free(|pfn, size, at| match at {
            FreeAt::Pcp(owner) if owner.index() == cpu && size == order => {
                stocks.push(plan.owner(pfn));
            }
            _ => {}
        });
        stocks
    };
    let kept = stocks();
    let in_stock = first.filter(|id| is_fast && order == Order::ZERO && kept.contains(id));
    let wanted = in_stock.or_else(by_low).or_else(by_min);
    let allowed = AllowedNodes {
        nodemask: mask,
        mems_allowed: NodeMask::ALL,
    };
    let result = if mask == NodeMask::ALL {
        zones.alloc_pages(req)
    } else {
        zones.alloc_pages_allowed(req, allowed)
    };
    let (block, pressure) = match (result, wanted) {
        (Ok(taken), _) => taken,
        (Err(error), None) => {
            assert_eq!(error, AllocError::OutOfMemory);
            return None;
        }
        (Err(error), Some(wanted)) => panic!("{req:?} of {wanted}: {error}"),
    };
    let served = plan.owner(block.pfn());
    assert_eq!(plan.owner(block.range().end() - 1), served);
    assert!(list.contains(&served), "{req:?} served by {served}");
    if let Some(wanted) = wanted {
        // By the low mark a block may also come from a stock that was filled before.
        let left = stocks();
        let stocked = list.iter().any(|id| kept.contains(id) || left.contains(id));
        let is_spared = spared.contains(&Some(served));
        assert!(
            served == wanted || stocked || is_spared,
            "{req:?}: {served}, not {wanted}"
        );
    }
    if pressure == Pressure::WakeKswapd {
        assert!(gfp.contains(Gfp::KSWAPD_RECLAIM));
    }
    let first = first.unwrap();
    let is_hit = served.node == first.node;
    expected.get_mut(&served).unwrap()[usize::from(!is_hit)] += 1;
    expected.get_mut(&first).unwrap()[2] += u64::from(!is_hit);
    let is_other = served.node.index() != cpu_node;
    expected.get_mut(&served).unwrap()[3 + usize::from(is_other)] += 1;
    Some(block)
}

#[test]
fn random_requests_come_from_the_zone_that_the_oracle_says() {
    let mut random = Random::new("random_requests_come_from_the_zone", 0x16);
    for round in 0..6 {
        let plan = [two(), four()].into_iter().nth(round % 2).unwrap();
        let zones = plan.boot(96);
        let mut held: Vec<PageBlock> = Vec::new();
        let mut expected = counted(&zones);
        let mut fill = 60;
        for op in 0..3_000 {
            if op % 250 == 0 {
                fill = [30, 60, 95][random.below(3)];
            }
            if random.below(100) < fill || held.is_empty() {
                held.extend(step(&plan, &zones, &mut random, &mut expected));
            } else {
                run_on(random.below(plan.cpus.len()) as u32);
                zones.free(held.swap_remove(random.below(held.len())));
            }
            if op % 64 == 0 {
                assert_eq!(counted(&zones), expected);
                assert!(zones.accounting().adds_up());
                zones.validate().unwrap();
            }
        }
        for block in held.drain(..) {
            zones.free(block);
        }
        for cpu in 0..plan.cpus.len() {
            run_on(cpu as u32);
            zones.cpus().with_pin(|pin| zones.drain_pcp(pin));
        }
        zones.validate().unwrap();
        assert_eq!(zones.accounting().allocated, 0);
        assert_eq!(zones.nr_free_pages(), zones.managed_pages());
        assert_eq!(take_bad(), []);
    }
}
