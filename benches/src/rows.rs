//! The rows file: what other tools read. One line for each figure that ours and a rival have, tab-separated: area,
//! figure, ours, best rival, the rival's name, ratio, unit. A ratio below 1 always means that ours is better.

use std::fs;
use std::io;
use std::path::Path;

use crate::rounds::{Outcome, Role};

/// Ours against the best rival in one figure.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Ours.
    pub ours: &'a Outcome,
    /// The best of the rivals.
    pub rival: &'a Outcome,
}

impl Row<'_> {
    /// Below 1, ours is better.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.ours.figure.ratio(self.ours.median, self.rival.median)
    }

    fn key(&self) -> String {
        format!(
            "{}\t{}\t",
            self.ours.figure.area.name(),
            self.ours.figure.id
        )
    }

    fn line(&self) -> String {
        format!(
            "{}{:.3}\t{:.3}\t{}\t{:.3}\t{}",
            self.key(),
            self.ours.median,
            self.rival.median,
            self.rival.allocator,
            self.ratio(),
            self.ours.figure.unit
        )
    }
}

/// The rows of all figures that ours has and a rival has.
#[must_use]
pub fn rows(outcomes: &[Outcome]) -> Vec<Row<'_>> {
    let ours = outcomes.iter().filter(|outcome| outcome.role == Role::Ours);
    ours.filter_map(|ours| {
        Some(Row {
            ours,
            rival: best_rival(outcomes, ours)?,
        })
    })
    .collect()
}

fn best_rival<'a>(outcomes: &'a [Outcome], ours: &Outcome) -> Option<&'a Outcome> {
    let rivals = outcomes.iter().filter(|outcome| {
        outcome.role == Role::Rival
            && outcome.figure.area == ours.figure.area
            && outcome.figure.id == ours.figure.id
    });
    rivals.reduce(|best, next| {
        if ours.figure.is_better(next.median, best.median) {
            next
        } else {
            best
        }
    })
}

/// Writes the rows into a file, in place of older ones of the same figures; others (those of the guest) stay.
///
/// # Errors
/// When the file cannot be written.
pub fn merge_into(path: &Path, rows: &[Row<'_>]) -> io::Result<()> {
    let old = fs::read_to_string(path).unwrap_or_default();
    fs::write(path, merged(&old, rows))
}

fn merged(old: &str, rows: &[Row<'_>]) -> String {
    let keys: Vec<String> = rows.iter().map(Row::key).collect();
    let mut text: String = rows.iter().map(|row| row.line() + "\n").collect();
    let kept = old
        .lines()
        .filter(|line| !keys.iter().any(|key| line.starts_with(key)));
    for line in kept {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Writes every outcome, with the machine above it, as it is committed under `results/`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_figures(path: &Path, head: &[String], outcomes: &[Outcome]) -> io::Result<()> {
    let mut text: String = head.iter().map(|line| format!("# {line}\n")).collect();
    text.push_str("# area\tfigure\tallocator\tmedian\tleast\tmost\treadings\tdisturbed\tunit\n");
    for outcome in outcomes {
        text.push_str(&format!(
            "{}\t{}\t{}\t{:.3}\t{:.3}\t{:.3}\t{}\t{}\t{}\n",
            outcome.figure.area.name(),
            outcome.figure.id,
            outcome.allocator,
            outcome.median,
            outcome.least,
            outcome.most,
            outcome.readings,
            outcome.disturbed,
            outcome.figure.unit,
        ));
    }
    fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Area, find};

    fn outcome(figure: &str, allocator: &'static str, role: Role, median: f64) -> Outcome {
        Outcome {
            figure: find(Area::Frames, figure).unwrap(),
            allocator,
            role,
            median,
            least: median,
            most: median,
            readings: 1,
            disturbed: 0,
        }
    }

    #[test]
    fn the_best_rival_is_chosen_by_the_figures_direction_and_bystanders_do_not_count() {
        let outcomes = [
            outcome("a", "kmm", Role::Ours, 2.0),
            outcome("a", "slow", Role::Rival, 8.0),
            outcome("a", "fast", Role::Rival, 4.0),
            outcome("a", "bitmap", Role::Bystander, 1.0),
            outcome("mt", "kmm", Role::Ours, 300.0),
            outcome("mt", "slow", Role::Rival, 100.0),
            outcome("mt", "fast", Role::Rival, 150.0),
            outcome("b0", "kmm", Role::Ours, 1.0),
        ];
        let rows = rows(&outcomes);
        let lines: Vec<String> = rows.iter().map(Row::line).collect();
        assert_eq!(
            lines,
            [
                "frames\ta\t2.000\t4.000\tfast\t0.500\tns",
                "frames\tmt\t300.000\t150.000\tfast\t0.500\tMops/s",
            ]
        );
    }

    #[test]
    fn merging_replaces_the_same_figures_only() {
        let outcomes = [
            outcome("a", "kmm", Role::Ours, 2.0),
            outcome("a", "fast", Role::Rival, 4.0),
        ];
        let old = "frames\ta\told\nframes\ta-aged\tkept\nguest\ta\tkept\n";
        let text = merged(old, &rows(&outcomes));
        assert_eq!(
            text,
            "frames\ta\t2.000\t4.000\tfast\t0.500\tns\nframes\ta-aged\tkept\nguest\ta\tkept\n"
        );
    }
}
