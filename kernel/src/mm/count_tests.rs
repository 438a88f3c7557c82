//! Self-tests of what is counted of memory.

use alloc::format;
use alloc::string::String;

use kmm::frame::{NodeItem, Pfn};
use kmm::host::{CpuId, PageSource as _};

use super::{info, manager};
use crate::arch::{percpu, timer};
use crate::ensure;
use crate::selftest::Outcome;

/// So many ticks a CPU may take to pass on what it counts; it should take a hundred.
const PATIENCE_TICKS: u64 = 2000;

/// The texts against the zones that they tell of.
pub(super) fn texts_show_every_node() -> Outcome {
    let pages = manager().pages();
    let nr_nodes = pages.nodes().len();
    ensure!(
        nr_nodes == manager().topology().nr_nodes(),
        "{nr_nodes} nodes in the page allocator"
    );
    let text = |write: fn(&mut dyn core::fmt::Write) -> core::fmt::Result| {
        let mut text = String::new();
        write(&mut text).map(|()| text)
    };
    let zoneinfo = text(info::write_zoneinfo).map_err(|_| "no zoneinfo")?;
    let blocks = zoneinfo.matches("Node ").count();
    ensure!(blocks == 5 * nr_nodes, "{blocks} zones of {nr_nodes} nodes");
    let present = |zone: &&_| kmm::zone::Zone::present_pages(*zone) > 0;
    let with_memory = pages.nodes().iter();
    let with_memory = with_memory.filter(|node| node.zones().iter().any(|zone| present(&zone)));
    let heads = zoneinfo.matches("per-node stats").count();
    ensure!(heads == with_memory.count(), "{heads} nodes with counts");
    let buddyinfo = text(info::write_buddyinfo).map_err(|_| "no buddyinfo")?;
    let zones = pages.all().filter(|zone| present(zone));
    ensure!(
        buddyinfo.lines().count() == zones.clone().count(),
        "{buddyinfo}"
    );
    for (line, zone) in buddyinfo.lines().zip(zones) {
        let head = format!("Node {}, zone {:>8} ", zone.node().index(), zone.name());
        ensure!(line.starts_with(&head), "{line}");
    }
    Ok(())
}

/// What this CPU counts gets to the total by the tick.
pub(super) fn cpus_pass_on_what_they_count() -> Outcome {
    let pages = manager().pages();
    let node = pages
        .node(manager().topology().node_of(Pfn::ZERO))
        .counters();
    let item = NodeItem::WritebackTemp;
    ensure!(
        node.threshold(CpuId::new(percpu::cpu())) > 1,
        "no room to count"
    );
    super::fold_counts();
    pages.count(Pfn::ZERO, item, 1);
    let (total, sum) = (node.total(item), node.snapshot(item));
    ensure!(
        sum == 1 && total <= 1,
        "{total} in all, with this CPU {sum}"
    );
    let start = timer::ticks();
    while node.total(item) != 1 {
        let waited = timer::ticks() - start;
        ensure!(waited < PATIENCE_TICKS, "not passed on in {waited} ticks");
        x86_64::instructions::hlt();
    }
    pages.count(Pfn::ZERO, item, -1);
    super::fold_counts();
    ensure!(node.total(item) == 0, "{} left", node.total(item));
    Ok(())
}
