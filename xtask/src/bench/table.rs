//! Columns of text.

/// Rows of cells; the first row is the head.
pub(super) type Table = Vec<Vec<String>>;

/// Columns as wide as their widest cell: numbers to the right, words to the left.
pub(super) fn layout(table: &Table) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let is_number = |column: usize| {
        let mut cells = table.iter().skip(1).filter_map(|row| row.get(column));
        cells.all(|cell| {
            cell.is_empty() || cell.starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c))
        })
    };
    let shapes: Vec<(usize, bool)> = (0..columns)
        .map(|column| {
            let cells = table.iter().filter_map(|row| row.get(column));
            let width = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            (width, column > 0 && is_number(column))
        })
        .collect();
    let mut text = String::new();
    for row in table {
        let cells = row.iter().zip(&shapes).map(|(cell, &(width, number))| {
            if number {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// The same as a table of Markdown.
pub(super) fn markdown(table: &Table) -> String {
    let mut text = String::new();
    for (nr, row) in table.iter().enumerate() {
        text += &format!("| {} |\n", row.join(" | "));
        if nr == 0 {
            text += &format!("|{}\n", "---|".repeat(row.len()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        [
            ["figure", "ours", "by"],
            ["a", "2.5", "kmm"],
            ["long", "12", "peer"],
        ]
        .map(|row| row.map(str::to_owned).to_vec())
        .to_vec()
    }

    #[test]
    fn numbers_stand_to_the_right() {
        assert_eq!(
            layout(&table()),
            "figure  ours  by\na        2.5  kmm\nlong      12  peer\n"
        );
    }

    #[test]
    fn markdown_has_a_line_below_its_head() {
        assert!(
            markdown(&table()).starts_with("| figure | ours | by |\n|---|---|---|\n| a | 2.5 |")
        );
    }
}
