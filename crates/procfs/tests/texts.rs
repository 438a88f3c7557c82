//! What the machine of the golden texts did not show.
#![allow(missing_docs, reason = "tests")]

use kmm_frame::VirtAddr;
use kmm_procfs::maps::{MapLine, Name, Perms};
use kmm_procfs::pid::{Stat, TaskState};
use kmm_procfs::swaps::{self, SwapKind, SwapLine};
use kmm_procfs::vmallocinfo::{AreaKind, AreaLine};
use kmm_procfs::{VmEvent, VmEventCounts, pages_to_kb};

#[test]
fn names_of_long_map_lines_follow_after_one_space() {
    let line = MapLine {
        start: VirtAddr::new(0xffff_ffff_ff60_0000),
        end: VirtAddr::new(0xffff_ffff_ff60_1000),
        perms: Perms {
            exec: true,
            ..Perms::default()
        },
        name: Name::Special("[vsyscall]"),
        ..MapLine::default()
    };
    assert_eq!(
        line.to_string(),
        "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
    );
    let long = MapLine {
        offset_bytes: 0x1234_5678_9abc_def0,
        dev: (0xfffff, 0xfff),
        inode: u64::MAX,
        name: Name::File("/x"),
        ..line
    };
    assert_eq!(
        long.to_string(),
        "ffffffffff600000-ffffffffff601000 --xp 123456789abcdef0 fffff:fff 18446744073709551615  /x\n"
    );
}

#[test]
fn swaps_align_by_tabs_and_escape_paths() {
    let areas = [
        SwapLine {
            path: "/dev/vda",
            kind: SwapKind::Partition,
            size_kb: 1_048_572,
            used_kb: 0,
            priority: -2,
        },
        SwapLine {
            path: "/a swap\\file",
            kind: SwapKind::File,
            size_kb: 12_345_678,
            used_kb: 10_000_000,
            priority: 5,
        },
    ];
    let mut text = String::new();
    swaps::write(&mut text, areas).unwrap();
    assert_eq!(
        text,
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
         /dev/vda                                partition\t1048572\t\t0\t\t-2\n\
         /a\\040swap\\134file                      file\t\t12345678\t10000000\t5\n"
    );
}

#[test]
fn a_name_with_a_newline_stays_on_its_line() {
    let stat = Stat {
        pid: 7,
        comm: "a\nb\\c",
        state: TaskState::Zombie,
        ..Stat::default()
    };
    let text = stat.to_string();
    assert!(text.starts_with("7 (a\\nb\\\\c) Z 0 0 0 0 -1 0 "), "{text}");
    assert_eq!(text.matches('\n').count(), 1);
    assert_eq!(text.trim_end().split(' ').count(), 52);
}

#[test]
fn areas_of_several_nodes_and_of_no_caller() {
    let area = AreaLine {
        start: VirtAddr::new(0xffff_c900_0000_0000),
        end: VirtAddr::new(0xffff_c900_0000_5000),
        caller: None,
        nr_pages: 4,
        phys: None,
        kind: AreaKind::Vmalloc,
        nodes: &[3, 0, 1],
    };
    assert_eq!(
        area.to_string(),
        "0xffffc90000000000-0xffffc90000005000   20480 pages=4 vmalloc N0=3 N2=1\n"
    );
}

#[test]
fn counters_add_up() {
    let mut sum = VmEventCounts::ZERO;
    let mut cpu = VmEventCounts::ZERO;
    cpu[VmEvent::Pgfault] = 3;
    cpu[VmEvent::Pgmajfault] = 1;
    sum.add(&cpu);
    sum.add(&cpu);
    assert_eq!((sum[VmEvent::Pgfault], sum[VmEvent::Pgmajfault]), (6, 2));
    assert_eq!(sum.iter().map(|(_, value)| value).sum::<u64>(), 8);
    assert_eq!(pages_to_kb(3), 12);
}
