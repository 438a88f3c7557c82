//! The shell's `bench`: what the paths of memory management cost, counted by the time-stamp counter.
//!
//! Under `qemu -icount shift=0,sleep=off` the counter counts instructions, and the figures are the same in every run:
//! `cargo xtask bench --guest` sets that up. Elsewhere they are cycles, of whatever the machine is.
//!
//! Nothing of this runs unless the command is typed.

mod frames;
mod meter;
mod objects;
mod virt;

use crate::arch::interrupts;
use crate::shell::{Command, status};
use meter::Meter;

/// A number, or a few that one set-up yields.
#[derive(Clone, Copy, Debug)]
struct Figure {
    /// The first word of the ids that it prints.
    name: &'static str,
    run: fn(&Meter),
}

const GROUPS: &[&[Figure]] = &[frames::FIGURES, objects::FIGURES, virt::FIGURES];

/// The shell's command.
pub const COMMANDS: &[Command] = &[Command {
    name: "bench",
    help: "[PART OF A NAME]...: what a path costs, in ticks of the time-stamp counter",
    run,
}];

/// Runs every figure whose name contains one of the words; all of them if there is none.
fn run(words: &[&str]) -> i32 {
    let figures = GROUPS.iter().copied().flatten();
    let mut wanted = figures
        .filter(|figure| words.is_empty() || words.iter().any(|word| figure.name.contains(word)))
        .peekable();
    if wanted.peek().is_none() {
        println!("no such figure");
        return status::USAGE;
    }
    // A tick comes at another moment in each run, and changes what it finds: counts that wait to be passed on.
    interrupts::without(|| {
        let meter = Meter::calibrate();
        meter.print();
        for figure in wanted {
            (figure.run)(&meter);
        }
    });
    status::OK
}
