//! The texts of a real Linux, taken apart and written again: not a byte may differ.
//!
//! The files under `linux-6.1` are what Debian's cloud kernel 6.1 showed on a machine with two CPUs and 5 GiB
//! (`no_hash_pointers` on its command line, so that addresses are real). Those under `linux-6.1-numa` are from one with two
//! nodes of two CPUs, 3 and 2 GiB (qemu -numa); under `linux-6.1-memoryless`, with 1 GiB and CPU 0 on node 0, CPU 1 alone on
//! node 1, and 512 MiB without a CPU on node 2.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test of small numbers"
)]

#[macro_use]
mod common;

use core::fmt::Write;

use common::{numbers, same};
use kmm_frame::{PhysAddr, VirtAddr};
use kmm_procfs::slabinfo::SlabLine;
use kmm_procfs::vmallocinfo::{AreaKind, AreaLine};
use kmm_procfs::zoneinfo::{Pageset, ZoneInfo};
use kmm_procfs::{
    NodeCounts, NodeItem, NumaCounts, NumaItem, VmEvent, ZoneCounts, ZoneItem, buddyinfo, meminfo,
    pagetypeinfo, slabinfo, vmstat,
};

#[test]
fn meminfo_is_written_as_linux_writes_it() {
    let text = golden!("meminfo");
    let get = |label: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{label}:")));
        numbers(line.unwrap().split_once(':').unwrap().1)[0]
    };
    let ours = meminfo::Meminfo {
        mem_total_kb: get("MemTotal"),
        mem_free_kb: get("MemFree"),
        mem_available_kb: get("MemAvailable"),
        buffers_kb: get("Buffers"),
        cached_kb: get("Cached"),
        swap_cached_kb: get("SwapCached"),
        active_kb: get("Active"),
        inactive_kb: get("Inactive"),
        active_anon_kb: get("Active(anon)"),
        inactive_anon_kb: get("Inactive(anon)"),
        active_file_kb: get("Active(file)"),
        inactive_file_kb: get("Inactive(file)"),
        unevictable_kb: get("Unevictable"),
        mlocked_kb: get("Mlocked"),
        swap_total_kb: get("SwapTotal"),
        swap_free_kb: get("SwapFree"),
        dirty_kb: get("Dirty"),
        writeback_kb: get("Writeback"),
        anon_pages_kb: get("AnonPages"),
        mapped_kb: get("Mapped"),
        shmem_kb: get("Shmem"),
        kreclaimable_kb: get("KReclaimable"),
        slab_kb: get("Slab"),
        sreclaimable_kb: get("SReclaimable"),
        sunreclaim_kb: get("SUnreclaim"),
        kernel_stack_kb: get("KernelStack"),
        page_tables_kb: get("PageTables"),
        sec_page_tables_kb: get("SecPageTables"),
        nfs_unstable_kb: get("NFS_Unstable"),
        bounce_kb: get("Bounce"),
        writeback_tmp_kb: get("WritebackTmp"),
        commit_limit_kb: get("CommitLimit"),
        committed_as_kb: get("Committed_AS"),
        vmalloc_total_kb: get("VmallocTotal"),
        vmalloc_used_kb: get("VmallocUsed"),
        vmalloc_chunk_kb: get("VmallocChunk"),
        percpu_kb: get("Percpu"),
        anon_huge_pages_kb: get("AnonHugePages"),
        shmem_huge_pages_kb: get("ShmemHugePages"),
        shmem_pmd_mapped_kb: get("ShmemPmdMapped"),
        file_huge_pages_kb: get("FileHugePages"),
        file_pmd_mapped_kb: get("FilePmdMapped"),
        huge_pages_total: get("HugePages_Total"),
        huge_pages_free: get("HugePages_Free"),
        huge_pages_rsvd: get("HugePages_Rsvd"),
        huge_pages_surp: get("HugePages_Surp"),
        hugepagesize_kb: get("Hugepagesize"),
        hugetlb_kb: get("Hugetlb"),
        direct_map_4k_kb: get("DirectMap4k"),
        direct_map_2m_kb: get("DirectMap2M"),
        direct_map_1g_kb: get("DirectMap1G"),
    };
    same(&ours.to_string(), text);
}

#[test]
fn available_memory_is_what_linux_estimates() {
    // From the same boot: free pages and the low watermarks and reserves of its zoneinfo.
    let zoneinfo = golden!("zoneinfo");
    let each = |label: &str| -> Vec<u64> {
        let lines = zoneinfo.lines().map(str::trim_start);
        lines
            .filter_map(|line| line.strip_prefix(label))
            .filter(|rest| rest.starts_with(' '))
            .map(|rest| rest.trim().parse().unwrap())
            .collect()
    };
    let wmark_low: u64 = each("low").iter().sum();
    let reserve =
        |zone: usize, protection: u64| (protection + each("high")[zone]).min(each("managed")[zone]);
    let totalreserve = reserve(0, 4904) + reserve(1, 1953) + reserve(2, 0);
    let meminfo = golden!("meminfo");
    let kb = |label: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(label));
        numbers(line.unwrap())[0]
    };
    let available = meminfo::available_pages(
        kb("MemFree") / 4,
        0,
        kb("KReclaimable") / 4,
        wmark_low,
        totalreserve,
    );
    assert_eq!(available * 4, kb("MemAvailable"));
    assert_eq!(meminfo::available_pages(10, 4, 4, 100, 1000), 0);
}

fn zone_of(line: &str) -> (u32, &str) {
    let (node, rest) = line
        .strip_prefix("Node ")
        .unwrap()
        .split_once(", zone ")
        .unwrap();
    let zone = rest.trim_start().split([' ', ',']).next().unwrap();
    (node.trim().parse().unwrap(), zone)
}

#[test]
fn buddyinfo_is_written_as_linux_writes_it() {
    golden_of_each!("buddyinfo")
        .into_iter()
        .for_each(check_buddyinfo);
}

fn check_buddyinfo(text: &str) {
    let mut ours = String::new();
    for line in text.lines() {
        let (node, zone) = zone_of(line);
        let counts = numbers(line.split_once(zone).unwrap().1);
        let nr_free = counts.try_into().unwrap();
        let line = buddyinfo::BuddyLine {
            node,
            zone,
            nr_free,
        };
        write!(ours, "{line}").unwrap();
    }
    same(&ours, text);
}

#[test]
fn pagetypeinfo_is_written_as_linux_writes_it() {
    golden_of_each!("pagetypeinfo")
        .into_iter()
        .for_each(check_pagetypeinfo);
}

fn check_pagetypeinfo(text: &str) {
    let mut zones: Vec<pagetypeinfo::PageTypes<'_>> = Vec::new();
    let types = pagetypeinfo::TYPES.len();
    for line in text.lines().filter(|line| line.starts_with("Node ")) {
        let (node, zone) = zone_of(line);
        let rest = line.split_once(zone).unwrap().1;
        if !line.contains(", type ") {
            let mut known = zones.iter_mut();
            let known = known.find(|known| (known.node, known.zone) == (node, zone));
            let known = known.unwrap();
            known.nr_blocks = numbers(rest).try_into().unwrap();
            continue;
        }
        if zones
            .last()
            .is_none_or(|last| (last.node, last.zone) != (node, zone))
        {
            zones.push(pagetypeinfo::PageTypes {
                node,
                zone,
                nr_free: [[u64::MAX; 11]; 5],
                nr_blocks: [0; 5],
            });
        }
        let lists = &mut zones.last_mut().unwrap().nr_free;
        let row = lists.iter().position(|row| row[0] == u64::MAX).unwrap();
        lists[row] = numbers(rest).try_into().unwrap();
    }
    assert_eq!(types, 5);
    let mut ours = String::new();
    pagetypeinfo::write(&mut ours, zones.iter().copied()).unwrap();
    same(&ours, text);

    zones[0].nr_free[0][0] = 123_456;
    let mut ours = String::new();
    pagetypeinfo::write(&mut ours, zones.iter().copied()).unwrap();
    assert!(ours.contains("type    Unmovable >100000      0 "), "{ours}");
}

#[test]
fn zoneinfo_is_written_as_linux_writes_it() {
    golden_of_each!("zoneinfo")
        .into_iter()
        .for_each(check_zoneinfo);
}

fn check_zoneinfo(text: &str) {
    let mut ours = String::new();
    for block in text.split("Node ").skip(1) {
        let first = format!("Node {}", block.lines().next().unwrap());
        let (node, zone) = zone_of(&first);
        let value = |label: &str| -> u64 {
            let line = block
                .lines()
                .map(str::trim_start)
                .find(|line| line.starts_with(&format!("{label} ")));
            line.map_or(0, |line| *numbers(line).last().unwrap())
        };
        let mut node_stats = NodeCounts::ZERO;
        for item in NodeItem::ALL {
            node_stats[item] = value(item.name());
        }
        let mut zone_stats = ZoneCounts::ZERO;
        for item in ZoneItem::ALL {
            zone_stats[item] = value(item.name());
        }
        let mut numa_stats = NumaCounts::ZERO;
        for item in NumaItem::ALL {
            numa_stats[item] = value(item.name());
        }
        let protection = block
            .lines()
            .find(|line| line.contains("protection"))
            .map(numbers)
            .unwrap();
        let pagesets: Vec<Pageset> = block
            .split("    cpu: ")
            .skip(1)
            .map(|set| {
                let numbers = numbers(set);
                Pageset {
                    cpu: numbers[0] as u32,
                    count: numbers[1],
                    high: numbers[2],
                    batch: numbers[3],
                    stat_threshold: numbers[4],
                }
            })
            .collect();
        let info = ZoneInfo {
            node,
            zone,
            node_stats: block.contains("per-node stats").then_some(&node_stats),
            free: value("pages free"),
            boost: value("boost"),
            min: value("min"),
            low: value("low"),
            high: value("high"),
            spanned: value("spanned"),
            present: value("present"),
            managed: value("managed"),
            cma: value("cma"),
            protection: &protection,
            zone_stats,
            numa_stats,
            pagesets: &pagesets,
            node_unreclaimable: value("node_unreclaimable:") != 0,
            start_pfn: value("start_pfn:"),
        };
        write!(ours, "{info}").unwrap();
    }
    same(&ours, text);
}

#[test]
fn vmstat_is_written_as_linux_writes_it() {
    golden_of_each!("vmstat").into_iter().for_each(check_vmstat);
}

fn check_vmstat(text: &str) {
    let value = |name: &str| -> u64 {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap().split_once(' ').unwrap().1.parse().unwrap()
    };
    let mut ours = vmstat::Vmstat {
        nr_dirty_threshold: value("nr_dirty_threshold"),
        nr_dirty_background_threshold: value("nr_dirty_background_threshold"),
        ..Default::default()
    };
    for item in ZoneItem::ALL {
        ours.zone[item] = value(item.name());
    }
    for item in NumaItem::ALL {
        ours.numa[item] = value(item.name());
    }
    for item in NodeItem::ALL {
        ours.node[item] = value(item.name());
    }
    for item in VmEvent::ALL {
        ours.events[item] = value(item.name());
    }
    same(&ours.to_string(), text);
}

#[test]
fn slabinfo_is_written_as_linux_writes_it() {
    let text = golden!("slabinfo");
    let caches = text.lines().skip(2).map(|line| {
        let (name, rest) = line.split_once(' ').unwrap();
        let n = numbers(rest);
        SlabLine {
            name,
            active_objs: n[0],
            num_objs: n[1],
            objsize_bytes: n[2] as u32,
            objs_per_slab: n[3] as u32,
            pages_per_slab: n[4] as u32,
            active_slabs: n[8],
            num_slabs: n[9],
        }
    });
    let mut ours = String::new();
    slabinfo::write(&mut ours, caches).unwrap();
    same(&ours, text);
}

#[test]
fn vmallocinfo_is_written_as_linux_writes_it() {
    let text = golden!("vmallocinfo");
    let mut ours = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap();
        let (start, end) = words[0].split_once('-').unwrap();
        let after = |prefix: &str| words.iter().find_map(|word| word.strip_prefix(prefix));
        let nodes: Vec<u64> = after("N0=").iter().map(|n| n.parse().unwrap()).collect();
        let kinds = [
            ("ioremap", AreaKind::Ioremap),
            ("vmalloc", AreaKind::Vmalloc),
            ("vmap", AreaKind::Vmap),
        ];
        let kind = kinds.iter().find(|(word, _)| words.contains(word)).unwrap();
        let area = AreaLine {
            start: VirtAddr::new(hex(start)),
            end: VirtAddr::new(hex(end)),
            caller: Some(words[2]),
            nr_pages: after("pages=").map_or(0, |n| n.parse().unwrap()),
            phys: after("phys=").map(|phys| PhysAddr::new(hex(phys))),
            kind: kind.1,
            nodes: &nodes,
        };
        write!(ours, "{area}").unwrap();
    }
    same(&ours, text);
}
