//! `cargo xtask bench --fragmentation`: what is left for huge pages, ours with and without migrate types and the peers.
//!
//! Prints lines for a tool: load, allocator, and the four numbers of `kmm_benches::frames::Left`, tab-separated.
#![expect(unsafe_code, reason = "the main thread stands for a CPU")]

use std::process::ExitCode;

use kmm_benches::cpu;
use kmm_benches::frames::{Entry, Setting, entries, without_types};
use kmm_benches::rng::FRAMES_SEED;

const LOADS: [usize; 4] = [70, 80, 90, 95];
const NR_EVENTS: usize = 2_000_000;
const NR_EVENTS_QUICK: usize = 200_000;

fn main() -> ExitCode {
    let (mut nr_events, mut seed) = (NR_EVENTS, FRAMES_SEED);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match (arg.as_str(), args.next().map(|value| value.parse())) {
            ("--seed", Some(Ok(value))) => seed = value,
            ("--quick", None) => nr_events = NR_EVENTS_QUICK,
            _ => {
                eprintln!("fragments [--seed N] [--quick]");
                return ExitCode::from(2);
            }
        }
    }
    // SAFETY: the only thread.
    unsafe { cpu::stand_for(cpu::MEASURING) };
    println!("# seed {seed}, {nr_events} events");
    for load_percent in LOADS {
        for entry in contestants() {
            let left = entry.live(Setting {
                load_percent,
                nr_events,
                seed,
            });
            println!(
                "{load_percent}\t{}\t{:.1}\t{:.1}\t{:.1}\t{}",
                entry.name,
                left.huge_percent,
                left.mixed_percent,
                left.moved_percent,
                left.nr_failed
            );
        }
    }
    ExitCode::SUCCESS
}

/// Those that serve blocks.
fn contestants() -> impl Iterator<Item = Entry> {
    let mut all = entries();
    all.insert(1, without_types());
    all.into_iter().filter(|entry| entry.serves_blocks)
}
