//! `cargo xtask tidy`: what the compiler does not check about the workspace.
//!
//! Each check is a function from text to complaints, so that its tests can show that it does complain.

mod features;
mod floors;
mod links;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::flags::Flags;
use crate::proc;

/// A rule that is broken: where, and what to do about it.
pub(crate) struct Complaint {
    place: String,
    what: String,
}

impl Complaint {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
        }
    }
}

pub(crate) use floors::metadata;

pub(crate) fn main(flags: Flags) -> Result<u8> {
    flags.finish()?;
    run()?;
    Ok(0)
}

/// Prints all complaints, and fails if there is one.
pub(crate) fn run() -> Result<()> {
    let (complaints, warnings) = check()?;
    for warning in &warnings {
        println!("note: {}: {}", warning.place, warning.what);
    }
    for complaint in &complaints {
        println!("tidy: {}: {}", complaint.place, complaint.what);
    }
    ensure!(
        complaints.is_empty(),
        "tidy has {} to complain about",
        complaints.len()
    );
    println!("tidy: no complaints");
    Ok(())
}

/// All complaints, and what is only worth a note.
fn check() -> Result<(Vec<Complaint>, Vec<Complaint>)> {
    let tree = Tree::read(&proc::root())?;
    let mut complaints = floors::check(&metadata()?);
    complaints.extend(features::check(&tree));
    let mut warnings = Vec::new();
    for (path, text) in tree.with_extension("rs") {
        complaints.extend(sources::unsafe_without_proof(path, text));
        complaints.extend(sources::leftovers(path, text));
        match sources::size(path, text) {
            Some(sources::Size::TooLarge(complaint)) => complaints.push(complaint),
            Some(sources::Size::Large(warning)) => warnings.push(warning),
            None => {}
        }
    }
    for (path, text) in tree.with_extension("md") {
        complaints.extend(links::check(path, text, &|target| {
            tree.root.join(target).exists()
        }));
        complaints.extend(sources::leftovers(path, text));
    }
    Ok((complaints, warnings))
}

/// The texts of the checkout that the checks look at, by path from the root.
pub(crate) struct Tree {
    root: PathBuf,
    files: Vec<(String, String)>,
}

impl Tree {
    fn read(root: &Path) -> Result<Self> {
        let mut tree = Self {
            root: root.to_path_buf(),
            files: Vec::new(),
        };
        tree.walk(root)?;
        tree.files.sort();
        Ok(tree)
    }

    fn walk(&mut self, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                // Build products, git, and corpora of bytes.
                if !["target", ".git", "corpus", "node_modules"].contains(&name.as_str()) {
                    self.walk(&path)?;
                }
            } else if [".rs", ".md"].iter().any(|ext| name.ends_with(ext)) {
                let from_root = path
                    .strip_prefix(&self.root)?
                    .to_string_lossy()
                    .replace('\\', "/");
                self.files.push((
                    from_root,
                    String::from_utf8_lossy(&fs::read(&path)?).into_owned(),
                ));
            }
        }
        Ok(())
    }

    fn with_extension(&self, ext: &str) -> impl Iterator<Item = (&str, &str)> {
        let end = format!(".{ext}");
        self.files
            .iter()
            .filter(move |(path, _)| path.ends_with(&end))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.files
            .iter()
            .find(|(name, _)| name == path)
            .map(|(_, text)| text.as_str())
    }

    /// A tree for tests.
    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect();
        Self {
            root: PathBuf::new(),
            files,
        }
    }
}

#[cfg(test)]
mod tests {
    /// The checkout that these tests were built from is tidy: the command itself is tried here, not only its parts.
    #[test]
    fn this_checkout_is_read() {
        let (complaints, _) = super::check().unwrap();
        let tree = super::Tree::read(&crate::proc::root()).unwrap();
        assert!(tree.with_extension("rs").count() > 20);
        assert!(
            complaints
                .iter()
                .all(|complaint| !complaint.place.is_empty() && !complaint.what.is_empty())
        );
    }
}
