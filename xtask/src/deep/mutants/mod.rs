//! `cargo mutants` on the crates whose logic matters most: is there a test that fails for each change to the code?
//!
//! `.cargo/mutants.toml` says what is changed. A mutant that no test notices must be explained in `docs/mutants.tsv` (file, mutant, why
//! it is the same program); else this fails. What was found goes to `docs/mutants.md`.
//!
//! `cargo mutants` builds everything anew for each of some 2500 mutants, which takes a day. So most of them are built together
//! (`weave`), and each runs the tests that reach it (`race`), which takes minutes; only the others are left to it (`alone`).

mod alone;
mod list;
mod memory;
mod race;
mod report;
mod tree;
mod weave;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Result, ensure};

use self::list::Mutant;
use self::memory::{Known, Memory};
use self::race::{Depth, Fate};
use self::weave::Id;
use crate::proc;
use crate::tally::Tally;

/// Mutated unless others are named.
pub(super) const PACKAGES: [&str; 2] = ["kmm-buddy", "kmm-zone"];
/// Written by this.
pub(super) const RESULTS: &str = "docs/mutants.md";
/// Written by people.
const EXPLAINED: &str = "docs/mutants.tsv";

/// What to mutate, and how.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// All of [`PACKAGES`] if none is named.
    pub(super) packages: Vec<String>,
    /// All files if none is named.
    pub(super) files: Vec<String>,
    /// A part of the changes, as `3/20`.
    pub(super) shard: Option<String>,
    /// Tests that take longer than a second too.
    pub(super) thorough: bool,
    /// All anew, also what earlier runs have found out.
    pub(super) fresh: bool,
    /// Nothing runs; what is known is written.
    pub(super) only_report: bool,
    /// Not those that need a build each.
    pub(super) quick: bool,
}

/// Mutates what `plan` says.
pub(super) fn run(tally: &mut Tally, plan: &Plan) {
    if proc::which("cargo-mutants").is_none() {
        return tally.skip(
            "mutants",
            "cargo-mutants is missing: cargo install cargo-mutants",
        );
    }
    tally.step("mutants: those that survive are explained", || mutate(plan));
}

fn mutate(plan: &Plan) -> Result<()> {
    let named: Vec<&str> = plan.packages.iter().map(String::as_str).collect();
    let packages = if named.is_empty() {
        &PACKAGES[..]
    } else {
        &named
    };
    let mutants = list::of(packages, &plan.files, plan.shard.as_deref())?;
    println!("  {} mutants", mutants.len());
    if !plan.only_report {
        run_all(plan, &mutants)?;
    }
    judge(&mutants, plan)
}

fn run_all(plan: &Plan, mutants: &[Mutant]) -> Result<()> {
    let memory = Memory::of(mutants, plan.fresh)?;
    let packages: BTreeSet<&str> = mutants.iter().map(|mutant| &*mutant.package).collect();
    let packages: Vec<&str> = packages.into_iter().collect();
    let tree = tree::build(&packages, mutants, &memory)?;
    let (tests, mut failing) = race::survey(&tree)?;
    println!(
        "  {} tests; those fail without a mutant: {}",
        tests.len(),
        failing.join(" ")
    );
    let mut ids: Vec<Id> = tree
        .groups
        .values()
        .flatten()
        .copied()
        .filter(|id| !tree.unviable.contains(id) && !tree.alone.contains(id))
        .collect();
    println!(
        "  {} woven, {} not, {} do not compile",
        ids.len(),
        tree.alone.len(),
        tree.unviable.len()
    );
    let mutant = |id: Id| &mutants[id as usize - 1];
    let mut fates: BTreeMap<Id, Option<Fate>> = BTreeMap::new();
    for (id, mutant) in (1..).zip(mutants) {
        match memory.get(mutant) {
            Some(Known::Caught) => fates.insert(id, Some(Fate::Caught)),
            Some(Known::TimedOut) => fates.insert(id, Some(Fate::TimedOut)),
            Some(Known::Unviable) => fates.insert(id, None),
            Some(Known::Missed) | None => continue,
        };
    }
    fates.extend(tree.unviable.iter().map(|id| (*id, None)));
    ids.retain(|id| !fates.contains_key(id));
    let mut raced = race::run(&tree, &tests, &ids, mutant, &memory, Depth::Brief)?;
    let explained = explained()?;
    let mut left: Vec<Id> = survivors(&raced).collect();
    println!("  {} survive", left.len());
    if !plan.thorough {
        left.retain(|id| !explained.contains_key(&report::change(mutant(*id))));
    }
    println!(
        "  {} of them for builds without debug assertions",
        left.len()
    );
    if !left.is_empty() {
        let released = tree.released(&packages)?;
        let (released_tests, _) = race::survey(&released)?;
        // What only a release does is caught there soon; the others have all that the tests have.
        let stages = [
            (&released, &released_tests, Depth::Brief),
            (&tree, &tests, Depth::Whole),
            (&released, &released_tests, Depth::Whole),
        ];
        for (tree, tests, depth) in stages {
            let found = race::run(tree, tests, &left, mutant, &memory, depth)?;
            left.retain(|id| is_missed(&found[id]));
            raced.extend(found.into_iter().filter(|(_, fate)| !is_missed(fate)));
            println!("  {} are left", left.len());
        }
    }
    if !plan.quick {
        let mut alone: Vec<Id> = constant(&raced, mutant)?;
        alone.extend(&tree.alone);
        alone.retain(|id| !fates.contains_key(id));
        println!("  {} by a build each", alone.len());
        let alone: Vec<(Id, &Mutant)> = alone.into_iter().map(|id| (id, mutant(id))).collect();
        let plain = tree::plain(&packages)?;
        failing.extend(race::slow(&tests));
        alone::run(&plain, &alone, &failing, &memory)?;
    }
    Ok(())
}

fn explained() -> Result<report::Explained> {
    let text = fs::read_to_string(proc::root().join(EXPLAINED)).unwrap_or_default();
    report::explained(&text)
}

fn survivors(raced: &BTreeMap<Id, Fate>) -> impl Iterator<Item = Id> {
    let missed = raced.iter().filter(|(_, fate)| is_missed(fate));
    missed.map(|(id, _)| *id)
}

const fn is_missed(fate: &Fate) -> bool {
    matches!(fate, Fate::Missed | Fate::Unreached)
}

/// Survivors in functions that are evaluated when they are compiled too, where the woven ones are the original.
fn constant<'a>(raced: &BTreeMap<Id, Fate>, mutant: impl Fn(Id) -> &'a Mutant) -> Result<Vec<Id>> {
    let mut ids = Vec::new();
    for (id, fate) in raced {
        let mutant = mutant(*id);
        let Some(function) = &mutant.function else {
            continue;
        };
        if is_missed(fate) {
            let text = fs::read_to_string(proc::root().join(&mutant.file))?;
            let head = text.lines().nth(function.span.start.line - 1);
            if head.is_some_and(|head| head.contains("const fn")) {
                ids.push(*id);
            }
        }
    }
    Ok(ids)
}

/// Writes the report, and fails where something survives without a reason.
fn judge(mutants: &[Mutant], plan: &Plan) -> Result<()> {
    let explained = explained()?;
    let memory = Memory::of(mutants, false)?;
    let (new, open) = report::rows(mutants, &memory, &explained);
    let names: Vec<String> = open.iter().map(|mutant| mutant.name.clone()).collect();
    if plan.shard.is_none() {
        let path = proc::root().join(RESULTS);
        let before = fs::read_to_string(&path).unwrap_or_default();
        let is_of_another = |name: &String| !new.keys().any(|file| name.starts_with(file));
        let mut all = report::read_open(&before);
        all.retain(is_of_another);
        all.extend(names.iter().cloned());
        all.sort();
        let mut rows = report::read(&before);
        rows.retain(|file, _| proc::root().join(file).exists());
        rows.extend(new);
        fs::write(&path, report::markdown(&rows, &explained, &all))?;
        println!("{RESULTS}");
    }
    ensure!(
        open.is_empty(),
        "{} mutants survive; write a test, or explain in {EXPLAINED} why they are the same program:\n  {}",
        open.len(),
        names.join("\n  ")
    );
    Ok(())
}
