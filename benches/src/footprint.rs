//! Footprints, measured in a process of their own for each allocator, since what one leaves resident stays.

use std::process::Command;

use crate::figure::{Area, find};
use crate::objects::Entry;
use crate::rng::Sizes;
use crate::rounds::Outcome;

/// What a child process is asked to print.
pub const CHILD_FLAG: &str = "--footprint-of";

/// The figures and the sizes that they are about.
pub const FIGURES: [(&str, Sizes); 2] = [
    ("memory-c", Sizes::Uniform),
    ("memory-c2", Sizes::LogUniform),
];

/// Measures one figure of one allocator in a child process; `None` when the child fails.
#[must_use]
pub fn measure(entry: &Entry, figure: &'static str) -> Option<Outcome> {
    let child = Command::new(std::env::current_exe().ok()?)
        .args([CHILD_FLAG, entry.name, figure])
        .output()
        .ok()?;
    let value: f64 = String::from_utf8_lossy(&child.stdout).trim().parse().ok()?;
    Some(Outcome {
        figure: find(Area::Objects, figure)?,
        allocator: entry.name,
        role: entry.role,
        median: value,
        least: value,
        most: value,
        readings: 1,
        disturbed: 0,
    })
}

/// The child's part: prints the figure of an allocator.
///
/// # Errors
/// A message when there is no such allocator or figure.
pub fn child(allocator: &str, figure: &str) -> Result<(), String> {
    let entries = crate::objects::entries();
    let entry = entries.iter().find(|entry| entry.name == allocator);
    let sizes = FIGURES.iter().find(|(id, _)| *id == figure);
    let (Some(entry), Some((_, sizes))) = (entry, sizes) else {
        return Err(format!("no footprint {figure} of {allocator}"));
    };
    println!("{:.4}", entry.footprint(*sizes));
    Ok(())
}
