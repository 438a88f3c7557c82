//! What passed and what failed, and the one line that says so.

/// Counts, with the names of what failed.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    pub(crate) fn pass(&mut self, count: usize) {
        self.passed += count;
    }

    pub(crate) fn fail(&mut self, name: impl Into<String>) {
        self.failed.push(name.into());
    }

    /// Something optional that this machine cannot do; it counts as neither.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        println!("skipped: {name}: {why}");
        self.skipped.push(format!("{name}: {why}"));
    }

    /// Runs one step and counts it.
    pub(crate) fn step(&mut self, name: &str, run: impl FnOnce() -> anyhow::Result<()>) {
        println!("== {name}");
        match run() {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("FAILED: {name}: {error:#}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Prints what was skipped and what failed, and the last line; returns the exit status.
    pub(crate) fn finish(self) -> u8 {
        println!();
        for skipped in &self.skipped {
            println!("skipped: {skipped}");
        }
        for name in &self.failed {
            println!("failed: {name}");
        }
        println!("{}", self.summary());
        u8::from(!self.failed.is_empty())
    }

    fn summary(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn passes_and_failures_are_counted_and_skips_are_not() {
        let mut tally = Tally::default();
        tally.pass(3);
        tally.step("fine", || Ok(()));
        tally.step("broken", || anyhow::bail!("so it is"));
        tally.fail("worse");
        tally.skip("optional", "not here");
        assert_eq!(tally.summary(), "4 passed, 2 failed");
        assert_eq!(tally.finish(), 1);
        assert_eq!(Tally::default().finish(), 0);
    }
}
