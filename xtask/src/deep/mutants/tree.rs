//! The woven tree: a copy of the crates with all mutants in it, one test program per crate, and its build.

use core::time::Duration;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::list::Mutant;
use super::memory::{Known, Memory};
use super::weave::{self, Id, Woven};
use crate::proc;

const SWITCH: &str = include_str!("switch.rs");
const SWITCH_MANIFEST: &str =
    "[package]\nname = \"kmm-mutant\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
const BUILD_LIMIT: Duration = Duration::from_secs(3600);
/// Each round finds what one phase of the compiler does not like.
const NR_ROUNDS: usize = 20;

/// A tree that was built.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) dir: PathBuf,
    /// The test programs.
    pub(super) programs: Vec<PathBuf>,
    /// Mutants that share a function, by the first of them.
    pub(super) groups: BTreeMap<Id, Vec<Id>>,
    /// Those that do not compile.
    pub(super) unviable: Vec<Id>,
    /// Those that cannot be woven.
    pub(super) alone: Vec<Id>,
}

/// Whether `cfg!(debug_assertions)` holds: what stands in either arm is to be tested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Checks {
    Debug,
    Release,
}

impl Checks {
    const fn target_dir(self) -> &'static str {
        match self {
            Self::Debug => "build",
            Self::Release => "build-release",
        }
    }

    const fn are_on(self) -> &'static str {
        match self {
            Self::Debug => "true",
            Self::Release => "false",
        }
    }
}

impl Tree {
    /// The same tree as it is released.
    pub(super) fn released(&self, packages: &[&str]) -> Result<Self> {
        match compile(&self.dir, packages, Checks::Release)? {
            Built::Programs(programs) => Ok(Self {
                programs,
                ..self.clone()
            }),
            Built::Refused(places) => {
                bail!("without debug assertions it does not compile: {places:?}")
            }
        }
    }
}

/// Copies, weaves and builds; mutant number `i` of `mutants` has the id `i + 1`.
pub(super) fn build(packages: &[&str], mutants: &[Mutant], known: &Memory) -> Result<Tree> {
    let dir = proc::work_dir("mutants")?.join("tree");
    let mut draft = Draft::of(packages)?;
    let mut files: BTreeMap<&str, Vec<(Id, &Mutant)>> = BTreeMap::new();
    for (id, mutant) in (1..).zip(mutants) {
        files.entry(&mutant.file).or_default().push((id, mutant));
    }
    let mut alone = Vec::new();
    for all in files.values_mut() {
        let can = weave::can_weave(all);
        alone.extend(all.iter().map(|(id, _)| *id).filter(|id| !can.contains(id)));
        all.retain(|(id, _)| can.contains(id));
    }
    let ids = (1..).zip(mutants);
    let mut unviable: Vec<Id> = ids
        .filter(|(_, mutant)| known.get(mutant) == Some(Known::Unviable))
        .map(|(id, _)| id)
        .collect();
    for _ in 0..NR_ROUNDS {
        let mut woven: BTreeMap<&str, Woven> = BTreeMap::new();
        for (file, mutants) in &files {
            let source = fs::read_to_string(proc::root().join(file))?;
            let text = weave::weave(&source, mutants, &unviable);
            draft.set(file, text.text.clone());
            woven.insert(file, text);
        }
        draft.write(&dir)?;
        let places = match compile(&dir, packages, Checks::Debug)? {
            Built::Programs(programs) => {
                let (mut groups, mut kept) = (BTreeMap::new(), Vec::new());
                for file in woven.into_values() {
                    kept.extend(file.lines.iter().map(|(id, ..)| *id));
                    groups.extend(file.groups.into_iter().map(|group| (group[0], group)));
                }
                // What is neither in the text nor refused was not written.
                let ids = files.values().flatten().map(|(id, _)| *id);
                alone.extend(ids.filter(|id| !kept.contains(id) && !unviable.contains(id)));
                return Ok(Tree {
                    dir,
                    programs,
                    groups,
                    unviable,
                    alone,
                });
            }
            Built::Refused(places) => places,
        };
        let before = unviable.len();
        for (file, line) in &places {
            let lines = woven
                .get(file.as_str())
                .map_or(&[][..], |woven| &woven.lines);
            let mut lines = lines.iter();
            let Some((id, ..)) = lines.find(|(_, first, last)| (first..=last).contains(&line))
            else {
                bail!("{file}:{line} does not compile, and is no mutant");
            };
            if !unviable.contains(id) {
                unviable.push(*id);
            }
        }
        ensure!(unviable.len() > before, "nothing compiles: {places:?}");
        println!("  {} do not compile", unviable.len());
        let new = &unviable[before..];
        known.add(
            new.iter()
                .map(|id| (&mutants[*id as usize - 1], Known::Unviable)),
        )?;
    }
    bail!("after {NR_ROUNDS} rounds it still does not compile")
}

/// A tree with nothing woven in, for what must be built one by one.
pub(super) fn plain(packages: &[&str]) -> Result<PathBuf> {
    let dir = proc::work_dir("mutants")?.join("plain");
    let mut draft = Draft::of(packages)?;
    let config = ".cargo/mutants.toml";
    draft.set(config, fs::read_to_string(proc::root().join(config))?);
    draft.write(&dir)?;
    Ok(dir)
}

/// The files of a tree before they are written.
struct Draft(BTreeMap<PathBuf, Vec<u8>>);

impl Draft {
    /// The crates, a workspace of them alone, and their tests as one program each.
    fn of(packages: &[&str]) -> Result<Self> {
        let root = proc::root();
        let mut draft = Self(BTreeMap::new());
        draft.read(&root, Path::new("crates"))?;
        draft.read(&root, Path::new("Cargo.lock"))?;
        draft.read(&root, Path::new("Cargo.toml"))?;
        let folders = packages
            .iter()
            .map(|name| name.strip_prefix("kmm-").unwrap_or(name));
        let folders: Vec<&str> = folders.collect();
        let manifest = draft.text("Cargo.toml")?;
        let rest = manifest.split_once("[workspace.package]");
        let (_, rest) = rest.context("the manifest has no [workspace.package]")?;
        let members: Vec<String> = folders
            .iter()
            .map(|it| format!("\"crates/{it}\""))
            .collect();
        let members = members.join(", ");
        draft.set(
            "Cargo.toml",
            format!(
                "[workspace]\nresolver = \"3\"\nmembers = [\"crates/mutant\", {members}]\n\n[workspace.package]{rest}"
            ),
        );
        draft.set("crates/mutant/Cargo.toml", SWITCH_MANIFEST.to_owned());
        draft.set("crates/mutant/src/lib.rs", SWITCH.to_owned());
        for folder in folders {
            draft.join_tests(folder)?;
        }
        Ok(draft)
    }

    fn read(&mut self, root: &Path, path: &Path) -> Result<()> {
        let from = root.join(path);
        if !from.is_dir() {
            let bytes = fs::read(&from).with_context(|| from.display().to_string())?;
            self.0.insert(path.to_owned(), bytes);
            return Ok(());
        }
        for entry in fs::read_dir(&from)? {
            self.read(root, &path.join(entry?.file_name()))?;
        }
        Ok(())
    }

    fn text(&self, path: &str) -> Result<String> {
        let bytes = self
            .0
            .get(Path::new(path))
            .with_context(|| path.to_owned())?;
        Ok(String::from_utf8(bytes.clone())?)
    }

    fn set(&mut self, path: &str, text: String) {
        self.0.insert(path.into(), text.into_bytes());
    }

    /// Makes modules of the test files, which share `common`: else all that is generic would be compiled for each of them.
    fn join_tests(&mut self, folder: &str) -> Result<()> {
        let tests = format!("crates/{folder}/tests");
        let mut all = "mod common;\n".to_owned();
        let files = self
            .0
            .keys()
            .filter(|path| path.parent() == Some(Path::new(&tests)));
        let names = files.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
        for name in names.collect::<Vec<String>>() {
            let path = format!("{tests}/{name}.rs");
            let text = self
                .text(&path)?
                .replace("\nmod common;\n", "\nuse crate::common;\n");
            self.set(&path, text);
            all += &format!("#[path = \"{name}.rs\"]\nmod {name};\n");
        }
        self.set(&format!("{tests}/all.rs"), all);
        let path = format!("crates/{folder}/Cargo.toml");
        let manifest = self.text(&path)?;
        let manifest = manifest.replace("[package]\n", "[package]\nautotests = false\n");
        let (before, after) = (
            "\n[dependencies]\n",
            "\n[dependencies]\nkmm-mutant = { path = \"../mutant\" }\n",
        );
        let manifest = manifest.replace(before, after);
        let test = format!("\n[[test]]\nname = \"all_{folder}\"\npath = \"tests/all.rs\"\n");
        self.set(&path, manifest + &test);
        Ok(())
    }

    /// Writes what differs, so that the rest need not be compiled again, and removes what there should not be.
    fn write(&self, dir: &Path) -> Result<()> {
        for (path, bytes) in &self.0 {
            let path = dir.join(path);
            if fs::read(&path).is_ok_and(|old| old == *bytes) {
                continue;
            }
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            // The lock file changes by itself.
            if path.file_name().is_some_and(|name| name != "Cargo.lock") || !path.exists() {
                fs::write(&path, bytes).with_context(|| path.display().to_string())?;
            }
        }
        self.sweep(dir, Path::new("crates"))
    }

    fn sweep(&self, dir: &Path, path: &Path) -> Result<()> {
        for entry in fs::read_dir(dir.join(path))? {
            let entry = entry?;
            let path = path.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.sweep(dir, &path)?;
            } else if !self.0.contains_key(&path) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// What became of a build.
enum Built {
    /// The test programs.
    Programs(Vec<PathBuf>),
    /// Files and lines that do not compile.
    Refused(Vec<(String, usize)>),
}

fn compile(dir: &Path, packages: &[&str], checks: Checks) -> Result<Built> {
    let mut cargo = Command::new("cargo");
    proc::scrub(&mut cargo);
    cargo
        .args([
            "test",
            "--no-run",
            "--offline",
            "--message-format=json",
            "--tests",
        ])
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", dir.with_file_name(checks.target_dir()))
        .env("CARGO_PROFILE_TEST_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_TEST_DEBUG", "false")
        .env("CARGO_PROFILE_TEST_DEBUG_ASSERTIONS", checks.are_on())
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .env("RUSTC_BOOTSTRAP", "kmm_mutant");
    for package in packages {
        cargo.args(["--package", package]);
    }
    let done = proc::quiet("mutants build", &mut cargo, BUILD_LIMIT)?;
    let (mut programs, mut places) = (Vec::new(), Vec::new());
    for line in done.log.lines() {
        let Ok(entry) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        if entry["reason"] == "compiler-artifact" && entry["profile"]["test"] == true {
            if let Some(path) = entry["executable"].as_str() {
                programs.push(PathBuf::from(path));
            }
        }
        if entry["reason"] == "compiler-message" && entry["message"]["level"] == "error" {
            places.extend(place(&entry["message"]));
        }
    }
    if done.ok {
        return Ok(Built::Programs(programs));
    }
    ensure!(!places.is_empty(), "{}", done.tail(30));
    Ok(Built::Refused(places))
}

/// Where an error of the compiler is, if it is anywhere.
fn place(message: &Value) -> Option<(String, usize)> {
    let spans = message["spans"].as_array()?;
    let span = spans.iter().find(|span| span["is_primary"] == true)?;
    let mut span = span;
    while span["expansion"].is_object() {
        span = &span["expansion"]["span"];
    }
    let line = usize::try_from(span["line_start"].as_u64()?).ok()?;
    Some((span["file_name"].as_str()?.to_owned(), line))
}
