//! The rows file, as `benches/` writes it too: area, figure, ours, best rival, the rival's name, ratio, unit; tab-separated. A
//! ratio below 1 always means that ours is better.

use std::fs;
use std::path::Path;

use anyhow::Result;

/// One line; less is better.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) area: &'static str,
    pub(super) figure: String,
    pub(super) ours: f64,
    pub(super) rival: f64,
    pub(super) rival_name: String,
    pub(super) unit: &'static str,
}

impl Row {
    pub(super) fn ratio(&self) -> f64 {
        self.ours / self.rival
    }

    fn key(&self) -> String {
        format!("{}\t{}\t", self.area, self.figure)
    }

    fn line(&self) -> String {
        format!(
            "{}{:.3}\t{:.3}\t{}\t{:.3}\t{}",
            self.key(),
            self.ours,
            self.rival,
            self.rival_name,
            self.ratio(),
            self.unit
        )
    }
}

/// Writes the rows into the file, in place of older ones of the same figures; others stay.
pub(super) fn merge_into(path: &Path, rows: &[Row]) -> Result<()> {
    let old = fs::read_to_string(path).unwrap_or_default();
    fs::write(path, merged(&old, rows))?;
    Ok(())
}

fn merged(old: &str, rows: &[Row]) -> String {
    let keys: Vec<String> = rows.iter().map(Row::key).collect();
    let kept = old
        .lines()
        .filter(|line| !keys.iter().any(|key| line.starts_with(key)));
    let mut lines: Vec<String> = kept.map(str::to_owned).collect();
    lines.extend(rows.iter().map(Row::line));
    lines.iter().map(|line| line.clone() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_replace_those_of_the_same_figure_only() {
        let row = Row {
            area: "guest",
            figure: "a".to_owned(),
            ours: 20.0,
            rival: 40.0,
            rival_name: "Linux".to_owned(),
            unit: "instructions",
        };
        let old = "guest\ta\told\nguest\ta-aged\tkept\nframes\ta\tkept\n";
        assert_eq!(
            merged(old, &[row]),
            "guest\ta-aged\tkept\nframes\ta\tkept\nguest\ta\t20.000\t40.000\tLinux\t0.500\tinstructions\n"
        );
    }
}
