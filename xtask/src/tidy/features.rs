//! `docs/features.md` is honest: each feature has one row, and the proofs that it names exist and run.
//!
//! A row is `| F17 | Buddy | works | kmm-buddy | crates/buddy/tests/model.rs::random_operations_match_the_oracle |`. A proof is
//! `path::test`, `selftest::name` (a self-test of the kernel) or `scenario::name` (a QEMU scenario of xtask), several joined
//! by `;`. A `partial` row says what is missing, after `missing:`.

use super::{Complaint, Tree};

const TABLE: &str = "docs/features.md";
const SCENARIOS: &str = "xtask/src/scenarios/table.rs";
const COUNT: usize = 95;

/// One line of the table.
struct Row<'a> {
    number: usize,
    state: &'a str,
    proof: &'a str,
    whole: &'a str,
}

pub(crate) fn check(tree: &Tree) -> Vec<Complaint> {
    let Some(text) = tree.text(TABLE) else {
        return vec![Complaint::new(TABLE, "does not exist")];
    };
    let mut complaints = Vec::new();
    let rows: Vec<(usize, Row<'_>)> = text
        .lines()
        .enumerate()
        .filter_map(|(at, line)| Some((at + 1, row(line)?)))
        .collect();
    for number in 1..=COUNT {
        let count = rows.iter().filter(|(_, row)| row.number == number).count();
        if count != 1 {
            complaints.push(Complaint::new(
                TABLE,
                format!("F{number} has {count} rows, not one"),
            ));
        }
    }
    for (line, row) in &rows {
        let mut complain = |what: String| {
            complaints.push(Complaint::new(
                format!("{TABLE}:{line}"),
                format!("F{}: {what}", row.number),
            ))
        };
        if row.number == 0 || row.number > COUNT {
            complain(format!("there are F1 to F{COUNT}"));
        }
        match row.state {
            "works" if row.proof.is_empty() => complain("works, but names no proof".to_owned()),
            "partial" if !names_what_is_missing(row.whole) => {
                complain("partial, but nothing stands after `missing:`".to_owned())
            }
            "works" | "partial" | "not yet" => {}
            other => complain(format!("{other:?} is neither works, partial nor not yet")),
        }
        if row.state != "not yet" {
            for proof in row
                .proof
                .split(';')
                .map(clean)
                .filter(|proof| !proof.is_empty())
            {
                if let Err(why) = find(tree, proof) {
                    complain(format!("the proof `{proof}` {why}"));
                }
            }
        }
    }
    complaints
}

fn row(line: &str) -> Option<Row<'_>> {
    let cells: Vec<&str> = line
        .trim()
        .strip_prefix('|')?
        .trim_end_matches('|')
        .split('|')
        .map(str::trim)
        .collect();
    let number = cells
        .first()?
        .trim_matches('*')
        .strip_prefix('F')?
        .parse()
        .ok()?;
    let proof = cells.get(4).copied().unwrap_or_default();
    // What is missing may stand behind the proofs in the same cell.
    let proof = proof
        .split_once("missing:")
        .map_or(proof, |(proof, _)| proof);
    Some(Row {
        number,
        state: cells.get(2).copied().unwrap_or_default(),
        proof,
        whole: line,
    })
}

fn names_what_is_missing(line: &str) -> bool {
    line.split_once("missing:")
        .is_some_and(|(_, what)| what.chars().any(char::is_alphanumeric))
}

fn clean(proof: &str) -> &str {
    proof.trim_matches(|c: char| {
        c.is_whitespace() || c == '`' || c == '.' || c == '(' || c == '-' || c == '\u{2014}'
    })
}

/// Is the proof there, and does it run?
fn find(tree: &Tree, proof: &str) -> Result<(), String> {
    if let Some(name) = proof.strip_prefix("selftest::") {
        let registered = tree
            .with_extension("rs")
            .any(|(path, text)| path.starts_with("kernel/src/") && has_entry(text, name));
        return if registered {
            Ok(())
        } else {
            Err("is in no table of self-tests under kernel/src".to_owned())
        };
    }
    if let Some(name) = proof.strip_prefix("scenario::") {
        let registered = tree
            .text(SCENARIOS)
            .is_some_and(|text| has_entry(text, name));
        return if registered {
            Ok(())
        } else {
            Err(format!("is no scenario of {SCENARIOS}"))
        };
    }
    let Some((path, name)) = proof.split_once("::") else {
        return Err("is not path::test, selftest::name or scenario::name".to_owned());
    };
    let Some(text) = tree.text(path) else {
        return Err(format!("names {path}, which does not exist"));
    };
    let name = name.rsplit("::").next().unwrap_or(name);
    test_in(text, name).or_else(|why| {
        if is_made_by_macro(text, name) {
            Ok(())
        } else {
            Err(why)
        }
    })
}

/// Is `name` a line of a call of a macro of this file that makes `#[test] fn`s of such lines?
fn is_made_by_macro(text: &str, name: &str) -> bool {
    let makes_tests = |line: &str| line.contains("#[test] fn $");
    text.lines()
        .any(|line| makes_tests(line) && !line.trim_start().starts_with("//"))
        && text.lines().any(|line| line.trim() == name)
}

/// Is `name: "NAME"` in a table of this file, outside of comments?
fn has_entry(text: &str, name: &str) -> bool {
    let entry = format!("name: \"{name}\"");
    text.lines()
        .any(|line| line.contains(&entry) && !line.trim_start().starts_with("//"))
}

/// Is there a `#[test] fn name` that is not ignored?
fn test_in(text: &str, name: &str) -> Result<(), String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let definition = format!("fn {name}(");
    let mut seen = false;
    for (at, line) in lines.iter().enumerate() {
        let is_definition = line
            .strip_prefix("pub ")
            .unwrap_or(line)
            .starts_with(&definition);
        if !is_definition {
            continue;
        }
        seen = true;
        // Attributes and comments stand directly above; an attribute may span lines, which end in `]` or `)`.
        let above = lines[..at].iter().rev().take_while(|line| {
            !line.is_empty() && !line.ends_with('}') && !line.ends_with(';') && !line.ends_with('{')
        });
        let attributes: Vec<&&str> = above.filter(|line| !line.starts_with("//")).collect();
        if attributes.iter().any(|line| line.starts_with("#[ignore")) {
            return Err("is ignored".to_owned());
        }
        if attributes.iter().any(|line| line.starts_with("#[test]")) {
            return Ok(());
        }
    }
    Err(if seen {
        "is no #[test]".to_owned()
    } else {
        "names a test that is not in that file".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TESTS: &str = "
        /// Runs.
        #[test]
        fn runs() {}

        #[test]
        #[ignore = \"slow\"]
        fn ignored() {}

        fn helper() {}

        macro_rules! suite {
            ($($name:ident)*) => { $(#[test] fn $name() { super::$name(); })* };
        }
        suite! {
            of_a_suite
        }

        // fn commented_out() {}
        proptest! {
            #![proptest_config(config())]
            #[test]
            fn property(x in 0..9u8) {}
        }
    ";
    const SELFTESTS: &str = "
        Test { name: \"mm::adds_up\", run: adds_up },
        // Test { name: \"mm::gone\", run: gone },
    ";

    fn complaints(rows: &[&str]) -> Vec<String> {
        let mut table: Vec<String> = rows.iter().map(|row| (*row).to_owned()).collect();
        for number in 1..=COUNT {
            if !rows
                .iter()
                .any(|row| row.starts_with(&format!("| F{number} ")))
            {
                table.push(format!("| F{number} | x | not yet | | |"));
            }
        }
        let text = table.join("\n");
        let tree = Tree::of(&[
            (TABLE, &text),
            ("t.rs", TESTS),
            ("kernel/src/mm.rs", SELFTESTS),
            (SCENARIOS, "Scenario { name: \"small\" }"),
        ]);
        check(&tree)
            .into_iter()
            .map(|complaint| complaint.what)
            .collect()
    }

    #[test]
    fn proofs_that_exist_are_accepted() {
        assert_eq!(
            complaints(&[
                "| F1 | Map | works | kmm-frame | `t.rs::runs`; t.rs::property; t.rs::of_a_suite; selftest::mm::adds_up; scenario::small |"
            ]),
            [""; 0]
        );
        assert_eq!(
            complaints(&["| F2 | Two | partial | kmm | t.rs::runs; missing: F2.e 32-bit cases |"]),
            [""; 0]
        );
    }

    #[test]
    fn proofs_that_do_not_run_are_complained_about() {
        for proof in [
            "t.rs::ignored",
            "t.rs::helper",
            "t.rs::commented_out",
            "t.rs::suite",
            "t.rs::run",
            "gone.rs::runs",
            "selftest::mm::gone",
            "selftest::adds_up",
            "scenario::large",
            "runs",
            "",
        ] {
            assert_eq!(
                complaints(&[&format!("| F1 | Map | works | kmm-frame | {proof} |")]).len(),
                1,
                "{proof:?}"
            );
        }
        // One bad proof among good ones.
        assert_eq!(
            complaints(&["| F1 | Map | works | kmm-frame | t.rs::runs; t.rs::helper |"]).len(),
            1
        );
    }

    #[test]
    fn a_partial_row_says_what_is_missing() {
        assert_eq!(
            complaints(&["| F1 | Map | partial | kmm-frame | t.rs::runs |"]).len(),
            1
        );
        assert_eq!(
            complaints(&["| F1 | Map | partial | kmm-frame | t.rs::runs; missing: |"]).len(),
            1
        );
        assert_eq!(
            complaints(&["| F1 | Map | partial | kmm-frame | t.rs::helper; missing: a |"]).len(),
            1
        );
    }

    #[test]
    fn every_feature_has_one_row_and_a_known_state() {
        assert_eq!(
            complaints(&["| F1 | Map | not yet | | |", "| F1 | Map | not yet | | |"]).len(),
            1
        );
        assert_eq!(
            complaints(&["| F1 | Map | done | kmm-frame | t.rs::runs |"]).len(),
            1
        );
        assert_eq!(complaints(&["| F96 | More | not yet | | |"]).len(), 1);
        assert_eq!(check(&Tree::of(&[])).len(), 1);
        assert_eq!(check(&Tree::of(&[(TABLE, "")])).len(), COUNT);
    }
}
