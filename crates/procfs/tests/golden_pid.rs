//! The texts of `/proc/PID` of a real Linux, taken apart and written again: not a byte may differ. From where they are: golden.rs.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test of small numbers"
)]

#[macro_use]
mod common;

use core::fmt::Write;

use common::{numbers, same};
use kmm_frame::VirtAddr;
use kmm_procfs::maps::{MapLine, Name, Perms};
use kmm_procfs::pid::{Stat, Statm, Status, StatusMemory, TaskState};
use kmm_procfs::smaps::{SmapsArea, Usage};

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
