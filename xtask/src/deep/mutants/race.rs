//! The tests of a woven tree: which functions each reaches and how long it takes, and which of them notice a mutant.

use core::cmp::Reverse;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::list::Mutant;
use super::memory::{Known, Memory};
use super::tree::Tree;
use super::weave::Id;
use crate::proc;

/// Seconds that the tests of one process take.
const QUICK_S: f64 = 0.1;
/// What a mutant may take: so many times what the tests take, and so many seconds.
const PATIENCE: f64 = 5.0;
const PATIENCE_S: f64 = 0.5;
/// Processor seconds after which a test that is asked what it reaches is ended: it is taken to reach all of its crate.
const SLOW_S: f64 = 1.0;
/// Such a test is taken to last so long.
const LONGEST_S: f64 = 60.0;
/// Hundredths of a processor second after which a test that takes longer than [`QUICK_S`] is ended where it is to be brief: most
/// of what a random test finds it finds early.
const BRIEF: u64 = 30;
/// On a machine with other work a processor second lasts longer.
const WALL_PER_CPU: u32 = 20;
/// Tests that run at a time.
const NR_WORKERS: usize = 4;
/// Address space, so that a mutant that never stops to allocate ends.
const MEMORY_KIB: u32 = 6 << 20;

/// A test, by its program.
#[derive(Clone, Debug)]
pub(super) struct Test {
    program: usize,
    name: String,
    time_s: f64,
    /// First mutants of the functions that it calls, if it was not ended before it could tell.
    reached: Option<BTreeSet<Id>>,
}

/// How far tests go that take long, and whether those of other crates run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Depth {
    Brief,
    Whole,
}

/// What became of a mutant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Caught,
    TimedOut,
    Missed,
    /// No test calls its function.
    Unreached,
}

/// Runs each test alone, unchanged; also the names of those that fail, which prove nothing.
pub(super) fn survey(tree: &Tree) -> Result<(Vec<Test>, Vec<String>)> {
    let (mut tests, mut failing) = (Vec::new(), Vec::new());
    let note = tree.dir.with_file_name("reached");
    for (program, path) in tree.programs.iter().enumerate() {
        let list =
            proc::read(Command::new(path).arg("--list")).context("the tests have no list")?;
        for name in list.lines().filter_map(|line| line.strip_suffix(": test")) {
            fs::remove_file(&note).ok();
            let mut command = limited(path, SLOW_S);
            command
                .args(["--exact", "--test-threads=1", name])
                .env("KMM_REACHED", &note);
            let mut test = Test {
                program,
                name: name.to_owned(),
                time_s: LONGEST_S,
                reached: None,
            };
            match wait(&mut command, SLOW_S, None)? {
                End::Passed => {
                    let text = fs::read_to_string(&note)?;
                    let mut lines = text.lines();
                    let hundredths: f64 = lines.next().unwrap_or("0").parse()?;
                    test.time_s = hundredths / 100.0;
                    test.reached = Some(lines.filter_map(|line| line.parse().ok()).collect());
                }
                End::Endless => {}
                End::Failed => {
                    failing.push(name.to_owned());
                    continue;
                }
            }
            tests.push(test);
        }
    }
    // Quick ones first; those of a program side by side, so that many run in one process.
    let class = |test: &Test| (test.time_s > QUICK_S, test.program);
    tests.sort_by(|a, b| {
        let by_class = class(a).cmp(&class(b));
        by_class.then(a.time_s.total_cmp(&b.time_s))
    });
    Ok((tests, failing))
}

/// The tests that take long.
pub(super) fn slow(tests: &[Test]) -> impl Iterator<Item = String> {
    let slow = tests.iter().filter(|test| test.reached.is_none());
    slow.map(|test| test.name.clone())
}

/// What becomes of each of `ids`.
pub(super) fn run<'a>(
    tree: &Tree,
    tests: &[Test],
    ids: &[Id],
    mutant: impl Fn(Id) -> &'a Mutant + Sync,
    memory: &Memory,
    depth: Depth,
) -> Result<BTreeMap<Id, Fate>> {
    let group_of: BTreeMap<Id, Id> = tree
        .groups
        .iter()
        .flat_map(|(first, group)| group.iter().map(|id| (*id, *first)))
        .collect();
    let (next, fates) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    // What a slow test has caught before, it catches again.
    let caught: Vec<AtomicUsize> = tests.iter().map(|_| AtomicUsize::new(0)).collect();
    let work = || -> Result<()> {
        loop {
            let nr = next.fetch_add(1, Ordering::Relaxed);
            let Some(id) = ids.get(nr) else { return Ok(()) };
            let first = group_of.get(id).copied().unwrap_or(*id);
            let mut reaching: Vec<usize> = (0..tests.len())
                .filter(|nr| {
                    let test = &tests[*nr];
                    let is_own = is_of(&tree.programs[test.program], &mutant(*id).file);
                    let reached = test.reached.as_ref();
                    reached.map_or(is_own, |reached| reached.contains(&first))
                        && (is_own || depth == Depth::Whole)
                })
                .collect();
            let quick = reaching.partition_point(|nr| tests[*nr].time_s <= QUICK_S);
            reaching[quick..].sort_by_key(|nr| Reverse(caught[*nr].load(Ordering::Relaxed)));
            let (fate, by) = try_one(&tree.programs, tests, &reaching, *id, depth)?;
            if let Some(by) = by {
                caught[by].fetch_add(1, Ordering::Relaxed);
            }
            let known = match fate {
                Fate::Caught => Known::Caught,
                Fate::TimedOut => Known::TimedOut,
                Fate::Missed | Fate::Unreached => Known::Missed,
            };
            memory.add(core::iter::once((mutant(*id), known)))?;
            let mut fates = fates.lock().expect("no worker panics");
            fates.insert(*id, fate);
            if fates.len() % 100 == 0 {
                println!("  {} of {}", fates.len(), ids.len());
            }
        }
    };
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..NR_WORKERS).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    Ok(fates.into_inner().expect("no worker panics"))
}

/// Whether a test program is that of the crate of a mutant.
fn is_of(program: &Path, file: &str) -> bool {
    let folder = file.split('/').nth(1).unwrap_or_default();
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(&format!("all_{folder}-")) || name.starts_with(&format!("kmm_{folder}-"))
}

/// Runs the tests that reach a mutant, quick ones first and many of them together, until one fails; the first of those that ran then.
fn try_one(
    programs: &[PathBuf],
    tests: &[Test],
    reaching: &[usize],
    id: Id,
    depth: Depth,
) -> Result<(Fate, Option<usize>)> {
    if reaching.is_empty() {
        return Ok((Fate::Unreached, None));
    }
    let mut rest = reaching;
    while let Some(&first) = rest.first() {
        let (mut nr, mut time_s) = (0, 0.0);
        while nr < rest.len()
            && tests[rest[nr]].program == tests[first].program
            && (nr == 0 || time_s + tests[rest[nr]].time_s <= QUICK_S)
        {
            time_s += tests[rest[nr]].time_s;
            nr += 1;
        }
        let limit_s = PATIENCE_S + PATIENCE * time_s;
        let mut command = limited(&programs[tests[first].program], limit_s);
        command
            .args(["--exact", "--test-threads=1"])
            .args(rest[..nr].iter().map(|nr| &tests[*nr].name))
            .env("KMM_MUTANT", id.to_string());
        let is_brief = depth == Depth::Brief && time_s > QUICK_S;
        match wait(&mut command, limit_s, is_brief.then_some(BRIEF))? {
            End::Passed => rest = &rest[nr..],
            End::Failed => return Ok((Fate::Caught, Some(first))),
            End::Endless => return Ok((Fate::TimedOut, Some(first))),
        }
    }
    Ok((Fate::Missed, None))
}

#[derive(PartialEq, Eq, Debug)]
enum End {
    Passed,
    Failed,
    Endless,
}

/// A program that may use so many processor seconds, and not all memory.
fn limited(program: &Path, seconds: f64) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!(
            "ulimit -c 0; ulimit -t {}; ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"",
            seconds.ceil()
        ))
        .arg(program)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Ends it after `brief` hundredths of a processor second, as if it had passed, if that is given.
fn wait(command: &mut Command, limit_s: f64, brief: Option<u64>) -> Result<End> {
    let limit = Duration::from_secs_f64(limit_s) * WALL_PER_CPU;
    let mut child = command.spawn().context("a test does not start")?;
    let start = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(match (status.success(), signal(status)) {
                (true, _) => End::Passed,
                // SIGXCPU, SIGKILL
                (false, Some(24 | 9)) => End::Endless,
                (false, _) => End::Failed,
            });
        }
        if brief.is_some_and(|brief| cpu_time(child.id()) >= brief) {
            child.kill().ok();
            child.wait()?;
            return Ok(End::Passed);
        }
        if start.elapsed() > limit {
            child.kill().ok();
            child.wait()?;
            return Ok(End::Endless);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Hundredths of a second.
fn cpu_time(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    fields
        .skip(11)
        .take(2)
        .filter_map(|time| time.parse::<u64>().ok())
        .sum()
}

#[cfg(unix)]
fn signal(status: std::process::ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_: std::process::ExitStatus) -> Option<i32> {
    None
}
