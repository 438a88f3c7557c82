//! What earlier runs have found out of files that have not changed since, so that a run that was ended goes on, and one after a
//! test was added looks at the survivors only. Kept in the target directory; `--fresh` forgets it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;

use super::list::Mutant;
use crate::proc;

/// What became of a mutant. All but [`Known::Missed`] stays so when tests are added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    Caught,
    TimedOut,
    Unviable,
    Missed,
}

/// By mutant of a file as it is.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    known: BTreeMap<String, Known>,
    hashes: BTreeMap<String, u64>,
}

impl Memory {
    /// What is known of `mutants`.
    pub(super) fn of(mutants: &[Mutant], is_fresh: bool) -> Result<Self> {
        let path = proc::work_dir("mutants")?.join("known.tsv");
        if is_fresh {
            fs::write(&path, "")?;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let line = |line: &str| {
            let (known, key) = line.split_once('\t')?;
            let known = match known {
                "Caught" => Known::Caught,
                "TimedOut" => Known::TimedOut,
                "Unviable" => Known::Unviable,
                "Missed" => Known::Missed,
                _ => return None,
            };
            Some((key.to_owned(), known))
        };
        let mut hashes = BTreeMap::new();
        for mutant in mutants {
            if !hashes.contains_key(&mutant.file) {
                let source = fs::read(proc::root().join(&mutant.file))?;
                hashes.insert(mutant.file.clone(), fnv(&source));
            }
        }
        Ok(Self {
            path,
            known: text.lines().filter_map(line).collect(),
            hashes,
        })
    }

    /// The last that was said of it.
    pub(super) fn get(&self, mutant: &Mutant) -> Option<Known> {
        self.known.get(&self.key(mutant)).copied()
    }

    /// Whether its file was run as it is.
    pub(super) fn has_run(&self, file: &str) -> bool {
        let Some(hash) = self.hashes.get(file) else {
            return false;
        };
        let prefix = format!("{hash:016x} {file}:");
        let mut from = self.known.range(prefix.clone()..);
        from.next().is_some_and(|(key, _)| key.starts_with(&prefix))
    }

    pub(super) fn add<'a>(&self, new: impl Iterator<Item = (&'a Mutant, Known)>) -> Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)?;
        for (mutant, known) in new {
            writeln!(file, "{known:?}\t{}", self.key(mutant))?;
        }
        Ok(())
    }

    fn key(&self, mutant: &Mutant) -> String {
        let hash = self.hashes.get(&mutant.file).copied().unwrap_or_default();
        format!("{hash:016x} {}", mutant.name)
    }
}

/// Fowler, Noll and Vo's hash, 64 bits, 1a.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(super::fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
