//! The programs that read these texts, reading ours: procps' `free`, `vmstat` and `slabtop -o` in a mount namespace
//! of their own, with our text bound over the kernel's file. Skipped, with a message, where that cannot be had.
#![cfg(target_os = "linux")]
#![allow(missing_docs, reason = "tests")]

use core::sync::atomic::{AtomicUsize, Ordering};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kmm_procfs::meminfo::Meminfo;
use kmm_procfs::slabinfo::{self, SlabLine};
use kmm_procfs::vmstat::Vmstat;
use kmm_procfs::{VmEvent, ZoneItem};

/// What `program` prints when it finds `text` in `file`; `None` where there is no such program or no namespace.
fn run_on(file: &str, text: &str, program: &str) -> Option<String> {
    let name = program.split(' ').next()?;
    if !Path::new("/usr/bin").join(name).exists() {
        println!("skipped: {name} is not installed");
        return None;
    }
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    static NR_TEXTS: AtomicUsize = AtomicUsize::new(0);
    let nr = NR_TEXTS.fetch_add(1, Ordering::Relaxed);
    let ours = dir.join(format!("{name}-{}-{nr}", std::process::id()));
    std::fs::write(&ours, text).ok()?;
    let in_namespace = |script: &str| -> Option<Output> {
        let mut unshare = Command::new("unshare");
        let output = unshare.args(["-rm", "sh", "-c", script]).arg("sh");
        output.arg(&ours).arg(file).output().ok()
    };
    let possible =
        in_namespace("mount --bind \"$1\" \"$2\"").is_some_and(|output| output.status.success());
    let output = possible
        .then(|| in_namespace(&format!("mount --bind \"$1\" \"$2\" && {program}")))
        .flatten();
    std::fs::remove_file(&ours).ok()?;
    let Some(output) = output else {
        println!("skipped: no mount namespace here");
        return None;
    };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program}: {errors}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The words of the line that begins with `first`.
fn line<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.first() == Some(&first))
        .unwrap_or_else(|| panic!("no line {first} in:\n{text}"))
}

#[test]
fn free_reads_our_meminfo() {
    let meminfo = Meminfo {
        mem_total_kb: 1_000_000,
        mem_free_kb: 600_000,
        mem_available_kb: 700_000,
        buffers_kb: 1000,
        cached_kb: 20_000,
        sreclaimable_kb: 3000,
        shmem_kb: 700,
        swap_total_kb: 50_000,
        swap_free_kb: 40_000,
        ..Meminfo::default()
    };
    let Some(text) = run_on("/proc/meminfo", &meminfo.to_string(), "free -k") else {
        return;
    };
    let memory = line(&text, "Mem:");
    assert_eq!(memory[1], "1000000");
    assert_eq!(memory[3..], ["600000", "700", "24000", "700000"]);
    assert_eq!(line(&text, "Swap:")[1..], ["50000", "10000", "40000"]);
}

fn our_slabinfo() -> String {
    let caches = [
        SlabLine {
            name: "task_struct",
            active_objs: 30,
            num_objs: 36,
            objsize_bytes: 4096,
            objs_per_slab: 4,
            pages_per_slab: 4,
            active_slabs: 8,
            num_slabs: 9,
        },
        SlabLine {
            name: "a_cache_with_a_very_long_name",
            active_objs: 1_234_567,
            num_objs: 1_234_600,
            objsize_bytes: 64,
            objs_per_slab: 64,
            pages_per_slab: 1,
            active_slabs: 19_290,
            num_slabs: 19_291,
        },
    ];
    let mut text = String::new();
    slabinfo::write(&mut text, caches).unwrap();
    text
}

#[test]
fn vmstat_reads_our_slabinfo() {
    let Some(text) = run_on("/proc/slabinfo", &our_slabinfo(), "vmstat -m") else {
        return;
    };
    // Object counts, object size, and objects in a slab.
    assert_eq!(
        line(&text, "task_struct")[1..],
        ["30", "36", "4096", "4"],
        "{text}"
    );
}

#[test]
fn slabtop_reads_our_slabinfo() {
    let Some(text) = run_on("/proc/slabinfo", &our_slabinfo(), "slabtop -o") else {
        return;
    };
    assert!(text.contains("1234597 / 1234636"), "{text}");
    assert!(text.contains("task_struct"), "{text}");
}

/// What `cat /proc/slabinfo` printed in the kernel, as the transcript has it.
fn transcript() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/slabinfo.md");
    let text = std::fs::read_to_string(path).unwrap();
    let start = text.find("slabinfo - version").expect("a transcript");
    let end = text[start..].find("```").expect("the end of it");
    text[start..start + end].to_owned()
}

/// The lines of slabinfo as numbers.
fn caches_of(text: &str) -> Vec<SlabLine<'_>> {
    let caches = text.lines().skip(2).map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |nr: usize| words[nr].parse::<u64>().unwrap();
        let small = |nr: usize| words[nr].parse::<u32>().unwrap();
        SlabLine {
            name: words[0],
            active_objs: number(1),
            num_objs: number(2),
            objsize_bytes: small(3),
            objs_per_slab: small(4),
            pages_per_slab: small(5),
            active_slabs: number(13),
            num_slabs: number(14),
        }
    });
    caches.collect()
}

#[test]
fn the_slabinfo_of_a_running_kernel_is_as_it_is_written_here() {
    let text = transcript();
    let mut again = String::new();
    slabinfo::write(&mut again, caches_of(&text)).unwrap();
    assert_eq!(again, text);
}

#[test]
fn procps_reads_the_slabinfo_of_a_running_kernel() {
    let text = transcript();
    let caches = caches_of(&text);
    if let Some(shown) = run_on("/proc/slabinfo", &text, "vmstat -m") {
        for cache in &caches {
            let numbers = [
                cache.active_objs.to_string(),
                cache.num_objs.to_string(),
                cache.objsize_bytes.to_string(),
                cache.objs_per_slab.to_string(),
            ];
            assert_eq!(line(&shown, cache.name)[1..], numbers, "{shown}");
        }
    }
    if let Some(shown) = run_on("/proc/slabinfo", &text, "slabtop -o") {
        let active: u64 = caches.iter().map(|cache| cache.active_objs).sum();
        let total: u64 = caches.iter().map(|cache| cache.num_objs).sum();
        assert!(
            shown.contains(&format!(": {active} / {total} (")),
            "{shown}"
        );
        let has_line = |cache: &SlabLine<'_>| {
            shown
                .lines()
                .any(|row| row.trim_end().ends_with(cache.name))
        };
        assert!(caches.iter().all(has_line), "{shown}");
    }
}

fn our_vmstat() -> String {
    let mut vmstat = Vmstat::default();
    vmstat.zone[ZoneItem::FreePages] = 4321;
    for (event, count) in [
        (VmEvent::Pgpgin, 123_456),
        (VmEvent::Pgpgout, 234_567),
        (VmEvent::Pswpin, 345_678),
        (VmEvent::Pswpout, 456_789),
    ] {
        vmstat.events[event] = count;
    }
    vmstat.to_string()
}

#[test]
fn vmstat_reads_our_vmstat() {
    let Some(text) = run_on("/proc/vmstat", &our_vmstat(), "vmstat -s") else {
        return;
    };
    for (count, what) in [
        ("123456", "paged in"),
        ("234567", "paged out"),
        ("345678", "swapped in"),
        ("456789", "swapped out"),
    ] {
        let line = text.lines().find(|line| line.contains(what)).unwrap();
        assert!(line.trim_start().starts_with(count), "{line}");
    }
}

#[test]
fn vmstat_samples_our_vmstat() {
    let Some(text) = run_on("/proc/vmstat", &our_vmstat(), "vmstat 1 2") else {
        return;
    };
    // Two lines of head, what was since boot, and what was in the second between: nothing.
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    let head: Vec<&str> = lines[1].split_whitespace().collect();
    let of = |row: &str, column: &str| -> u64 {
        let nr = head.iter().position(|&name| name == column).unwrap();
        row.split_whitespace().nth(nr).unwrap().parse().unwrap()
    };
    for column in ["si", "so", "bi", "bo"] {
        assert_eq!(of(lines[3], column), 0, "{text}");
    }
    assert!(
        of(lines[2], "si") > 0 && of(lines[2], "so") >= of(lines[2], "si"),
        "{text}"
    );
}
