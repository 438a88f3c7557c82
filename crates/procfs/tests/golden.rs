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

use core::fmt::Write;

use kmm_frame::{PhysAddr, VirtAddr};
use kmm_procfs::maps::{MapLine, Name, Perms};
use kmm_procfs::pid::{Stat, Statm, Status, StatusMemory, TaskState};
use kmm_procfs::slabinfo::SlabLine;
use kmm_procfs::smaps::{SmapsArea, Usage};
use kmm_procfs::vmallocinfo::{AreaKind, AreaLine};
use kmm_procfs::zoneinfo::{Pageset, ZoneInfo};
use kmm_procfs::{
    NodeCounts, NodeItem, NumaCounts, NumaItem, VmEvent, ZoneCounts, ZoneItem, buddyinfo, meminfo,
    pagetypeinfo, slabinfo, vmstat,
};

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("linux-6.1/", $name, ".txt"))
    };
}

/// The same file of every machine.
macro_rules! golden_of_each {
    ($name:literal) => {
        [
            include_str!(concat!("linux-6.1/", $name, ".txt")),
            include_str!(concat!("linux-6.1-numa/", $name, ".txt")),
            include_str!(concat!("linux-6.1-memoryless/", $name, ".txt")),
        ]
    };
}

/// Compares line by line first, so that a failure names its line.
fn same(ours: &str, linux: &str) {
    for (nr, (a, b)) in ours.lines().zip(linux.lines()).enumerate() {
        assert_eq!(a, b, "line {}", nr + 1);
    }
    assert_eq!(ours, linux);
}

/// Every number in the line.
fn numbers(line: &str) -> Vec<u64> {
    line.split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect()
}

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

/// Takes a line of maps apart; `path` is where the unescaped path goes.
fn map_line<'a>(line: &'a str, path: &'a mut String) -> MapLine<'a> {
    let mut words = line.splitn(6, ' ');
    let mut word = || words.next().unwrap();
    let hex = |word: &str| u64::from_str_radix(word, 16).unwrap();
    let (start, end) = word().split_once('-').unwrap();
    let perms = word().as_bytes();
    let offset_bytes = hex(word());
    let (major, minor) = word().split_once(':').unwrap();
    let inode = word().parse().unwrap();
    let name = word().trim();
    *path = name.replace("\\012", "\n");
    let name = match (name.is_empty(), name.starts_with('[')) {
        (true, _) => Name::Anonymous,
        (_, true) => Name::Special(path),
        _ => match path.strip_suffix(" (deleted)") {
            Some(path) => Name::Deleted(path),
            None => Name::File(path),
        },
    };
    MapLine {
        start: VirtAddr::new(hex(start)),
        end: VirtAddr::new(hex(end)),
        perms: Perms {
            read: perms[0] == b'r',
            write: perms[1] == b'w',
            exec: perms[2] == b'x',
            shared: perms[3] == b's',
        },
        offset_bytes,
        dev: (hex(major) as u32, hex(minor) as u32),
        inode,
        name,
    }
}

#[test]
fn maps_are_written_as_linux_writes_them() {
    let text = golden!("self-maps");
    let mut ours = String::new();
    for line in text.lines() {
        write!(ours, "{}", map_line(line, &mut String::new())).unwrap();
    }
    same(&ours, text);
}

#[test]
fn smaps_are_written_as_linux_writes_them() {
    let text = golden!("self-smaps");
    let mut ours = String::new();
    for block in text
        .split_inclusive("VmFlags")
        .collect::<Vec<_>>()
        .windows(2)
    {
        // The flags of a block lie before the first newline of the next piece, its head after that.
        let (flags, _) = block[1].split_once('\n').unwrap();
        let head = match block[0]
            .split_once("sd \n")
            .or(block[0].split_once("ac \n"))
        {
            Some((flags, rest)) if flags.starts_with(':') => rest,
            _ => block[0],
        };
        let value = |label: &str| -> u64 {
            let line = head
                .lines()
                .find(|line| line.starts_with(&format!("{label}:")));
            line.unwrap()
                .split_once(':')
                .map(|(_, v)| numbers(v)[0])
                .unwrap()
        };
        let mut path = String::new();
        let flags: Vec<&str> = flags.trim_start_matches(':').split_whitespace().collect();
        let area = SmapsArea {
            map: map_line(head.lines().next().unwrap(), &mut path),
            page_kb: value("KernelPageSize"),
            usage: Usage {
                rss_kb: value("Rss"),
                pss_kb: value("Pss"),
                pss_dirty_kb: value("Pss_Dirty"),
                shared_clean_kb: value("Shared_Clean"),
                shared_dirty_kb: value("Shared_Dirty"),
                private_clean_kb: value("Private_Clean"),
                private_dirty_kb: value("Private_Dirty"),
                referenced_kb: value("Referenced"),
                anonymous_kb: value("Anonymous"),
                lazy_free_kb: value("LazyFree"),
                anon_huge_pages_kb: value("AnonHugePages"),
                shmem_pmd_mapped_kb: value("ShmemPmdMapped"),
                file_pmd_mapped_kb: value("FilePmdMapped"),
                shared_hugetlb_kb: value("Shared_Hugetlb"),
                private_hugetlb_kb: value("Private_Hugetlb"),
                swap_kb: value("Swap"),
                swap_pss_kb: value("SwapPss"),
                locked_kb: value("Locked"),
            },
            thp_eligible: value("THPeligible") == 1,
            pkey: value("ProtectionKey") as u32,
            vm_flags: &flags,
        };
        write!(ours, "{area}").unwrap();
    }
    same(&ours, text);
}

#[test]
fn stat_is_written_as_linux_writes_it() {
    for text in [golden!("self-stat"), golden!("2-stat")] {
        let (head, tail) = text.trim_end().split_once(") ").unwrap();
        let (pid, comm) = head.split_once(" (").unwrap();
        let words: Vec<&str> = tail.split(' ').collect();
        let field = |nr: usize| words[nr - 3]; // numbered as in proc(5)
        let int = |nr: usize| field(nr).parse::<i64>().unwrap();
        let uint = |nr: usize| field(nr).parse::<u64>().unwrap();
        let ours = Stat {
            pid: pid.parse().unwrap(),
            comm,
            state: match field(3) {
                "R" => TaskState::Running,
                "S" => TaskState::Sleeping,
                other => panic!("{other}"),
            },
            ppid: int(4) as i32,
            pgrp: int(5) as i32,
            session: int(6) as i32,
            tty_nr: int(7) as i32,
            tpgid: int(8) as i32,
            flags: uint(9) as u32,
            minflt: uint(10),
            cminflt: uint(11),
            majflt: uint(12),
            cmajflt: uint(13),
            utime: uint(14),
            stime: uint(15),
            cutime: int(16),
            cstime: int(17),
            priority: int(18),
            nice: int(19),
            num_threads: int(20),
            starttime: uint(22),
            vsize_bytes: uint(23),
            rss_pages: uint(24),
            rsslim_bytes: uint(25),
            startcode: uint(26),
            endcode: uint(27),
            startstack: uint(28),
            kstkesp: uint(29),
            kstkeip: uint(30),
            signal: uint(31),
            blocked: uint(32),
            sigignore: uint(33),
            sigcatch: uint(34),
            wchan: uint(35),
            exit_signal: int(38) as i32,
            processor: int(39) as i32,
            rt_priority: uint(40) as u32,
            policy: uint(41) as u32,
            delayacct_blkio_ticks: uint(42),
            guest_time: uint(43),
            cguest_time: int(44),
            start_data: uint(45),
            end_data: uint(46),
            start_brk: uint(47),
            arg_start: uint(48),
            arg_end: uint(49),
            env_start: uint(50),
            env_end: uint(51),
            exit_code: int(52) as i32,
        };
        same(&ours.to_string(), text);
    }
}

#[test]
fn statm_is_written_as_linux_writes_it() {
    let text = golden!("self-statm");
    let n = numbers(text);
    let ours = Statm {
        size: n[0],
        resident: n[1],
        shared: n[2],
        text: n[3],
        data: n[5],
    };
    same(&ours.to_string(), text);
}

#[test]
fn status_begins_as_linux_writes_it() {
    for text in [golden!("self-status"), golden!("2-status")] {
        let find = |label: &str| {
            let lines = text.lines();
            lines
                .filter_map(|line| line.split_once(":\t"))
                .find_map(|(l, value)| (l == label).then_some(value))
        };
        let value = |label: &str| numbers(find(label).unwrap())[0];
        let memory = find("VmSize").map(|_| StatusMemory {
            vm_peak_kb: value("VmPeak"),
            vm_size_kb: value("VmSize"),
            vm_lck_kb: value("VmLck"),
            vm_pin_kb: value("VmPin"),
            vm_hwm_kb: value("VmHWM"),
            rss_anon_kb: value("RssAnon"),
            rss_file_kb: value("RssFile"),
            rss_shmem_kb: value("RssShmem"),
            vm_data_kb: value("VmData"),
            vm_stk_kb: value("VmStk"),
            vm_exe_kb: value("VmExe"),
            vm_lib_kb: value("VmLib"),
            vm_pte_kb: value("VmPTE"),
            vm_swap_kb: value("VmSwap"),
            thp_enabled: value("THP_enabled") == 1,
        });
        let ours = Status {
            name: find("Name").unwrap(),
            umask: u32::from_str_radix(find("Umask").unwrap(), 8).unwrap(),
            state: match find("State").unwrap() {
                "R (running)" => TaskState::Running,
                "S (sleeping)" => TaskState::Sleeping,
                other => panic!("{other}"),
            },
            tgid: value("Tgid") as i32,
            pid: value("Pid") as i32,
            ppid: value("PPid") as i32,
            uid: [0; 4],
            gid: [0; 4],
            fd_size: value("FDSize") as u32,
            pgrp: value("NSpgid") as i32,
            session: value("NSsid") as i32,
            memory,
            threads: value("Threads") as u32,
        };
        let (begin, _) = text.split_once("SigQ:").unwrap();
        same(&ours.to_string(), begin);
    }
}
