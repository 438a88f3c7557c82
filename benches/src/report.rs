//! The tables for people.

use crate::figure::{ALL, Area, Figure};
use crate::recorded;
use crate::rounds::{Outcome, Role};
use crate::rows::rows;

/// Ours against goal and best rival, then every allocator, then what was recorded; of one area.
#[must_use]
pub fn tables(area: Area, outcomes: &[Outcome]) -> String {
    let measured: Vec<&Figure> = ALL
        .iter()
        .filter(|figure| figure.area == area)
        .filter(|figure| outcomes.iter().any(|outcome| is_of(outcome, figure)))
        .collect();
    if measured.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\n{}: ours, the goal, the best rival of this run; a ratio below 1 means that ours is better\n",
        area.name()
    );
    text += &layout(&comparison(&measured, outcomes));
    text += "\nevery allocator of this run (~ measured on a busy machine)\n";
    text += &layout(&everybody(&measured, outcomes));
    let recorded = recorded_table(area, &measured);
    if recorded.len() > 1 {
        text += "\nrecorded, on another day: never part of a ratio\n";
        text += &layout(&recorded);
    }
    text
}

type Table = Vec<Vec<String>>;

fn comparison(figures: &[&Figure], outcomes: &[Outcome]) -> Table {
    let head = [
        "figure",
        "",
        "unit",
        "ours",
        "goal",
        "",
        "best rival",
        "",
        "ratio",
    ];
    let mut table: Table = vec![head.map(str::to_owned).to_vec()];
    let rows = rows(outcomes);
    for figure in figures {
        let ours = outcomes
            .iter()
            .find(|outcome| outcome.role == Role::Ours && is_of(outcome, figure));
        let Some(ours) = ours else { continue };
        let row = rows.iter().find(|row| is_of(row.ours, figure));
        let reached = match figure.reaches_goal(ours.median) {
            None => "",
            Some(true) => "reached",
            Some(false) => "missed",
        };
        table.push(vec![
            figure.id.to_owned(),
            figure.title.to_owned(),
            figure.unit.to_owned(),
            value(ours),
            figure.goal.map_or_else(String::new, number),
            reached.to_owned(),
            row.map_or_else(String::new, |row| value(row.rival)),
            row.map_or_else(String::new, |row| row.rival.allocator.to_owned()),
            row.map_or_else(String::new, |row| format!("{:.2}", row.ratio())),
        ]);
    }
    table
}

fn everybody(figures: &[&Figure], outcomes: &[Outcome]) -> Table {
    let mut allocators: Vec<&str> = Vec::new();
    let of_area = outcomes
        .iter()
        .filter(|outcome| figures.iter().any(|figure| is_of(outcome, figure)));
    for outcome in of_area {
        if !allocators.contains(&outcome.allocator) {
            allocators.push(outcome.allocator);
        }
    }
    let mut table: Table = vec![head_of(figures)];
    for allocator in allocators {
        let cells = figures.iter().map(|figure| {
            let found = outcomes
                .iter()
                .find(|outcome| outcome.allocator == allocator && is_of(outcome, figure));
            found.map_or_else(|| "-".to_owned(), value)
        });
        let name = core::iter::once(allocator.to_owned());
        table.push(name.chain(cells).collect());
    }
    table
}

fn recorded_table(area: Area, figures: &[&Figure]) -> Table {
    let mut table: Table = vec![head_of(figures)];
    for recorded in recorded::ALL
        .iter()
        .filter(|recorded| recorded.area == area)
    {
        let cells = figures
            .iter()
            .map(|figure| recorded.value(figure.id).unwrap_or("-").to_owned());
        let name = core::iter::once(recorded.allocator.to_owned());
        table.push(name.chain(cells).collect());
    }
    table
}

fn head_of(figures: &[&Figure]) -> Vec<String> {
    let ids = figures.iter().map(|figure| figure.id.to_owned());
    core::iter::once(String::new()).chain(ids).collect()
}

fn is_of(outcome: &Outcome, figure: &Figure) -> bool {
    outcome.figure.area == figure.area && outcome.figure.id == figure.id
}

fn value(outcome: &Outcome) -> String {
    let mark = if outcome.is_noisy() { "~" } else { "" };
    format!("{mark}{}", number(outcome.median))
}

fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Columns as wide as their widest cell: numbers to the right, words to the left.
fn layout(table: &Table) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = table.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (nr, row) in table.iter().enumerate() {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let sample = table.get(nr.max(1)).and_then(|row| row.get(column));
            let is_number = sample.is_some_and(|cell| {
                cell.starts_with(|c: char| c.is_ascii_digit() || c == '~' || c == '-')
            });
            let width = widths[column];
            if is_number && column > 0 {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::find;

    #[test]
    fn a_missed_goal_and_a_lost_comparison_show() {
        let outcome = |allocator, role, median| Outcome {
            figure: find(Area::Frames, "a").unwrap(),
            allocator,
            role,
            median,
            least: median,
            most: median,
            readings: 3,
            disturbed: 0,
        };
        let text = tables(
            Area::Frames,
            &[
                outcome("kmm", Role::Ours, 10.0),
                outcome("peer", Role::Rival, 5.0),
            ],
        );
        let line = text.lines().find(|line| line.starts_with("a ")).unwrap();
        let words: Vec<&str> = line.split_whitespace().rev().take(6).collect();
        assert_eq!(words, ["2.00", "peer", "5.00", "missed", "2.50", "10.0"]);
        assert!(text.contains("LLFree"));
        assert!(tables(Area::Objects, &[]).is_empty());
    }
}
