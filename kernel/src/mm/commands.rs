//! Shell commands that show memory.

use core::fmt::{self, Write};

use alloc::string::String;

use kmm::pagetable_walker::layout::Layout;
use kmm::pagetable_walker::{PteFlags, Span};

use super::{info, machine, manager};
use crate::arch::cpu;
use crate::shell::{Command, status};
use crate::smp::{self, Extent};

/// Shell commands of memory management.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "meminfo",
        help: "memory in use, as /proc/meminfo",
        run: |_| show(info::write_meminfo),
    },
    Command {
        name: "buddyinfo",
        help: "free blocks by order",
        run: |_| show(info::write_buddyinfo),
    },
    Command {
        name: "pagetypeinfo",
        help: "free blocks by order and migrate type",
        run: |_| show(info::write_pagetypeinfo),
    },
    Command {
        name: "zoneinfo",
        help: "zones, watermarks, pagesets",
        run: |_| show(info::write_zoneinfo),
    },
    Command {
        name: "slabinfo",
        help: "object caches",
        run: |_| show(info::write_slabinfo),
    },
    Command {
        name: "vmallocinfo",
        help: "areas of kernel virtual memory",
        run: |_| show(info::write_vmallocinfo),
    },
    Command {
        name: "vmstat",
        help: "events and counts of memory management",
        run: |_| show(info::write_vmstat),
    },
    Command {
        name: "free",
        help: "memory in use, in short",
        run: free,
    },
    Command {
        name: "accounting",
        help: "where every frame is",
        run: accounting,
    },
    Command {
        name: "layout",
        help: "what the virtual address space is for",
        run: layout,
    },
    Command {
        name: "ptdump",
        help: "what the kernel's page tables map",
        run: ptdump,
    },
    Command {
        name: "stress",
        help: "[ROUNDS, or SECONDSs] [SEED]: allocates and frees on all CPUs at random, then audits",
        run: stress,
    },
];

fn show(write: fn(&mut dyn Write) -> fmt::Result) -> i32 {
    let mut text = String::new();
    let written = write(&mut text);
    print!("{text}");
    if written.is_ok() {
        status::OK
    } else {
        status::FAILED
    }
}

fn free(_arguments: &[&str]) -> i32 {
    let (total, free) = info::total_and_free_bytes();
    let slab = manager().slub().nr_pages().total() * kmm::frame::PAGE_SIZE;
    println!(
        "{:>12} {:>12} {:>12} {:>12}",
        "total", "used", "free", "slab"
    );
    println!(
        "{:>9} KiB {:>8} KiB {:>8} KiB {:>8} KiB",
        total >> 10,
        (total - free) >> 10,
        free >> 10,
        slab >> 10
    );
    status::OK
}

fn accounting(_arguments: &[&str]) -> i32 {
    println!("boot memory: {}", manager().boot_accounting());
    super::boot::accounting_line(manager());
    status::OK
}

fn layout(_arguments: &[&str]) -> i32 {
    print!("{}", Layout::for_levels(machine().space.levels));
    status::OK
}

/// Mappings with equal rights and sizes, joined.
fn ptdump(_arguments: &[&str]) -> i32 {
    let levels = machine().space.levels;
    let mut text = String::new();
    let mut open: Option<(u64, u64, kmm::pagetable_walker::Level, PteFlags)> = None;
    let close = |run: Option<(u64, u64, kmm::pagetable_walker::Level, PteFlags)>,
                 text: &mut String| {
        if let Some((start, end, level, flags)) = run {
            let right = |flag, letter| if flags.contains(flag) { letter } else { '-' };
            let exec = if flags.contains(PteFlags::NX) {
                '-'
            } else {
                'x'
            };
            let (write, global, user) = (
                right(PteFlags::RW, 'w'),
                right(PteFlags::G, 'g'),
                right(PteFlags::US, 'u'),
            );
            let cached = if flags.intersects(PteFlags::CACHE) {
                "uncached"
            } else {
                ""
            };
            // Text in memory takes whatever is written to it.
            let _ = writeln!(
                text,
                "{start:#018x}-{end:#018x} {level:<4} r{write}{exec}{global}{user} {cached}"
            );
        }
    };
    let kernel_half = levels.kernel_start()..kmm::frame::VirtAddr::new(u64::MAX - 4095);
    manager().vmalloc().with_root(|root, mapper| {
        let _ = mapper.for_each(root, kernel_half, |span| match span {
            Span::Mapped(leaf) => {
                let (start, end) = (leaf.va.as_u64(), leaf.range().end.as_u64());
                let flags = leaf.flags() - PteFlags::AD;
                match &mut open {
                    Some((_, last, level, same))
                        if *last == start && *level == leaf.level && *same == flags =>
                    {
                        *last = end
                    }
                    _ => close(open.replace((start, end, leaf.level, flags)), &mut text),
                }
            }
            _ => close(open.take(), &mut text),
        });
    });
    close(open.take(), &mut text);
    print!("{text}");
    status::OK
}

fn stress(arguments: &[&str]) -> i32 {
    const ROUNDS: u64 = 2000;
    let extent = match arguments.first() {
        None => Some(Extent::Rounds(ROUNDS)),
        Some(text) => match text.strip_suffix('s') {
            Some(seconds) => seconds.parse().ok().map(Extent::Seconds),
            None => text.parse().ok().map(Extent::Rounds),
        },
    };
    let seed = arguments
        .get(1)
        .map_or_else(|| Some(cpu::rdtsc()), |text| text.parse().ok());
    let (Some(extent), Some(seed)) = (extent, seed) else {
        println!("usage: stress [ROUNDS, or SECONDSs] [SEED]");
        return status::USAGE;
    };
    println!("stress: seed {seed}");
    match smp::stress(extent, seed) {
        Ok(summary) => {
            println!("stress: {summary}, audit clean");
            status::OK
        }
        Err(why) => {
            println!("stress: {why:?}");
            status::FAILED
        }
    }
}
