//! What `cargo mutants` would change, as it lists it.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::proc;

/// A change of one place, in words that outlive a moved line, and in those that `cargo mutants` uses.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Mutant {
    pub(super) package: String,
    pub(super) file: String,
    /// Where it begins and ends: lines and columns, both from one.
    pub(super) span: Span,
    pub(super) replacement: String,
    /// The function around it, unless it is in none.
    pub(super) function: Option<Function>,
    /// `crates/a/src/b.rs:12:5: replace x with y in f`.
    pub(super) name: String,
}

/// A place in a file, the end not included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Span {
    pub(super) start: Place,
    pub(super) end: Place,
}

/// A line and a column, both from one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Function {
    pub(super) return_type: String,
    pub(super) span: Span,
}

impl Mutant {
    /// What is changed, without the place.
    pub(super) fn change(&self) -> &str {
        self.name
            .splitn(4, ':')
            .nth(3)
            .map_or(&*self.name, str::trim)
    }
}

/// All mutants of `packages`, or of some `files` of them, or a part, as `3/20`.
pub(super) fn of(packages: &[&str], files: &[String], shard: Option<&str>) -> Result<Vec<Mutant>> {
    let mut command = Command::new("cargo");
    proc::scrub(&mut command);
    command
        .args(["mutants", "--list", "--json", "--no-shuffle"])
        .current_dir(proc::root());
    for package in packages {
        command.args(["--package", package]);
    }
    for file in files {
        command.args(["--file", file]);
    }
    if let Some(shard) = shard {
        command.args(["--sharding", "round-robin", "--shard", shard]);
    }
    let output = command.output().context("cargo mutants does not start")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    read(&String::from_utf8(output.stdout)?)
}

fn read(json: &str) -> Result<Vec<Mutant>> {
    let Value::Array(entries) = serde_json::from_str(json)? else {
        bail!("no list of mutants");
    };
    entries.iter().map(mutant).collect()
}

fn mutant(entry: &Value) -> Result<Mutant> {
    let text = |key: &str| {
        let text = entry[key].as_str();
        text.map(str::to_owned)
            .with_context(|| format!("{key} is missing"))
    };
    let function = match &entry["function"] {
        Value::Null => None,
        function => Some(Function {
            return_type: function["return_type"].as_str().unwrap_or("").to_owned(),
            span: span(&function["span"])?,
        }),
    };
    Ok(Mutant {
        package: text("package")?,
        file: text("file")?,
        span: span(&entry["span"])?,
        replacement: text("replacement")?,
        function,
        name: text("name")?,
    })
}

fn span(entry: &Value) -> Result<Span> {
    let place = |entry: &Value| -> Result<Place> {
        let number = |key: &str| {
            let number = entry[key].as_u64().context("a span has no numbers")?;
            usize::try_from(number).context("no line is so far down")
        };
        Ok(Place {
            line: number("line")?,
            column: number("column")?,
        })
    };
    Ok(Span {
        start: place(&entry["start"])?,
        end: place(&entry["end"])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read() {
        let json = r#"[{"package":"kmm-a","file":"crates/a/src/b.rs","genre":"BinaryOperator","replacement":"-",
            "function":{"function_name":"f","return_type":"-> usize","span":{"start":{"line":1,"column":1},"end":{"line":3,"column":2}}},
            "name":"crates/a/src/b.rs:2:5: replace x::y with z in f","span":{"start":{"line":2,"column":5},"end":{"line":2,"column":6}}}]"#;
        let list = read(json).unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].change(), "replace x::y with z in f");
        assert_eq!(list[0].function.as_ref().unwrap().return_type, "-> usize");
        assert_eq!(list[0].span.start, Place { line: 2, column: 5 });
        assert!(read("{}").is_err());
    }
}
