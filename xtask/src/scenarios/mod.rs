//! The kernel in QEMU: what plays the scenarios of `table`.
//!
//! A scenario boots a machine and does one of three things: it lets the kernel's self-tests run, types commands at the shell,
//! or watches a boot that is meant to end by itself. It fails when something expected was not printed, something forbidden was,
//! a status differs, or the guest went away or took too long.

mod procps;
mod table;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::flags::Flags;
use crate::guest::{Guest, PROMPT, Wait};
use crate::kernel::Flavour;
use crate::qemu::{Door, Machine};
use crate::run::Parts;
use crate::tally::Tally;
use crate::{initramfs, proc, qemu, toolchain};
use table::SCENARIOS;

/// Slow machines under load included; nothing is measured with it.
const LIMIT: Duration = Duration::from_secs(600);
/// QEMU's TCG uses one core for a guest with one CPU.
const NR_AT_ONCE: usize = 2;
/// No scenario may print these, unless it asks for them.
const NEVER: &[&str] = &["panicked at", "kernel panic", "kmm: bug:"];

/// Every boot that reaches its self-tests prints these: the proof of the final page tables among them.
const SELFTEST_SAYS: &[&str] = &[
    "identity map gone",
    "none is W+X",
    "lower half is empty",
    " passed, 0 failed in ",
];
/// The one promise about time, far above what it takes.
const MOST_BOOT_MS: u64 = 30_000;
/// Checks of every access take their time.
const KASAN_FACTOR: u64 = 5;

/// One boot.
struct Scenario {
    name: &'static str,
    /// The machine, in the flags of `cargo xtask run`.
    machine: &'static [&'static str],
    play: Play,
}

/// What happens after power-on.
enum Play {
    /// The kernel runs its self-tests and exits with 0; the lines are printed too.
    Selftest { says: &'static [&'static str] },
    /// Commands at the shell's prompt.
    Shell(&'static [Step]),
    /// The same; then the host's procps reads the guest's /proc/slabinfo.
    Slabinfo(&'static [Step]),
    /// Every program of `user/`; they check themselves.
    Programs,
    /// The boot ends by itself with a failing code.
    Ends { says: &'static [&'static str] },
    /// A command at the prompt ends the kernel, with a report and a failing code.
    Crash {
        line: &'static str,
        says: &'static [&'static str],
    },
}

/// A command and what has to come of it.
struct Step {
    line: &'static str,
    /// Any status will do if none is named.
    status: Option<u8>,
    says: &'static [&'static str],
    never: &'static [&'static str],
}

/// Plays all scenarios, or those named, two at a time.
pub(crate) fn run_all(tally: &mut Tally, names: &[String]) {
    println!("== the kernel in QEMU");
    let mut wanted: Vec<&Scenario> = Vec::new();
    for name in names {
        match SCENARIOS
            .iter()
            .find(|scenario| scenario.name == name.as_str())
        {
            Some(scenario) => wanted.push(scenario),
            None => tally.fail(format!("there is no scenario {name}")),
        }
    }
    if names.is_empty() {
        wanted = SCENARIOS.iter().collect();
    }
    let kernels = match qemu::find().and_then(|_| Parts::build(None, Flavour::Plain)) {
        Ok(plain) => Kernels::new(plain),
        Err(error) => {
            println!("FAILED: {error:#}");
            for scenario in wanted {
                tally.fail(scenario.title());
            }
            return;
        }
    };
    let lacking = Lacking::find();
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(tally);
    std::thread::scope(|scope| {
        for _ in 0..NR_AT_ONCE {
            scope.spawn(|| {
                while let Some(scenario) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    scenario.run(&kernels, &lacking, &tally);
                }
            });
        }
    });
}

/// What is booted.
struct Kernels {
    plain: Parts,
    /// Built for the first scenario that wants it, or why it cannot be.
    kasan: OnceLock<Result<Parts, String>>,
}

impl Kernels {
    const fn new(plain: Parts) -> Self {
        let kasan = OnceLock::new();
        Self { plain, kasan }
    }

    fn parts(&self, flavour: Flavour) -> Result<&Parts> {
        match flavour {
            Flavour::Plain => Ok(&self.plain),
            Flavour::Kasan => {
                let build = || Parts::build(None, flavour).map_err(|error| format!("{error:#}"));
                let parts = self.kasan.get_or_init(build).as_ref();
                parts.map_err(|why| anyhow!("{why}"))
            }
        }
    }
}

/// What this machine cannot have, and why; only the scenarios that need it are skipped.
struct Lacking {
    busybox: Option<String>,
    programs: Option<String>,
    source: Option<String>,
    uefi: Option<String>,
}

impl Lacking {
    fn find() -> Self {
        let why = |error: anyhow::Error| format!("{error:#}");
        let source = toolchain::find_with_source().err().map(why);
        let uefi = qemu::firmware().err().map(why);
        Self {
            busybox: initramfs::busybox().err().map(why),
            programs: initramfs::programs().err().map(why),
            uefi: uefi.or_else(|| source.clone()),
            source,
        }
    }
}

impl Scenario {
    fn title(&self) -> String {
        format!("scenario::{}", self.name)
    }

    fn run(&self, kernels: &Kernels, lacking: &Lacking, tally: &Mutex<&mut Tally>) {
        let lock = || {
            tally
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        if let Some(why) = self.lacks(lacking) {
            return lock().skip(&self.title(), why);
        }
        let start = Instant::now();
        let outcome = self.play(kernels);
        let mut tally = lock();
        match outcome {
            Ok(()) => {
                println!(
                    "{} ... ok ({:.1} s)",
                    self.title(),
                    start.elapsed().as_secs_f32()
                );
                tally.pass(1);
            }
            Err(error) => {
                println!("{} ... FAILED: {error:#}", self.title());
                tally.fail(self.title());
            }
        }
    }

    /// Why this machine cannot play it, if so.
    fn lacks<'a>(&self, lacking: &'a Lacking) -> Option<&'a str> {
        const PROGRAMS: &[&str] = &["exhaust", "fuzz", "hog", "segv"];
        const APPLETS: &[&str] = &["busybox", "cat", "echo", "ls", "ps", "sh"];
        if self.machine.contains(&"--uefi") && lacking.uefi.is_some() {
            return lacking.uefi.as_deref();
        }
        if self.machine.contains(&"--kasan") && lacking.source.is_some() {
            return lacking.source.as_deref();
        }
        match &self.play {
            Play::Programs => lacking.programs.as_deref(),
            Play::Shell(steps)
                if steps.iter().any(|step| calls(step.line, PROGRAMS))
                    && lacking.programs.is_some() =>
            {
                lacking.programs.as_deref()
            }
            Play::Shell(steps) if steps.iter().any(|step| calls(step.line, APPLETS)) => {
                lacking.busybox.as_deref()
            }
            Play::Slabinfo(_) => lacking.busybox.as_deref(),
            _ => None,
        }
    }

    fn play(&self, kernels: &Kernels) -> Result<()> {
        let mut flags = Flags::new(self.machine.iter().map(|&word| word.to_owned()));
        let uefi = flags.flag("--uefi");
        let flavour = Flavour::from_flags(&mut flags);
        let cmdline = flags.values("--cmdline")?;
        let machine = Machine::from_flags(&mut flags)?;
        let word = match self.play {
            Play::Selftest { .. } | Play::Ends { .. } => "selftest",
            Play::Shell(_) | Play::Slabinfo(_) | Play::Programs | Play::Crash { .. } => "exec",
        };
        let words = [&[word.to_owned()], cmdline.as_slice()].concat();
        let parts = kernels.parts(flavour)?;
        let door = parts.door(self.name, uefi, &words.join(" "))?;
        let mut guest = self.start(&machine, &door)?;
        let outcome = self.judge(&mut guest);
        guest.stop();
        outcome.with_context(|| format!("the serial line is in {}", self.log().display()))
    }

    fn start(&self, machine: &Machine, door: &Door) -> Result<Guest> {
        Guest::start(machine.command(door, &self.log())?, false)
    }

    fn log(&self) -> std::path::PathBuf {
        proc::target_dir()
            .join("xtask/log")
            .join(format!("{}.log", self.name))
    }

    fn judge(&self, guest: &mut Guest) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        match &self.play {
            Play::Selftest { says } => {
                ended(guest, deadline)?;
                expect(guest.text(), says, NEVER)?;
                expect(guest.text(), SELFTEST_SAYS, &[" ... FAILED"])?;
                accounting_adds_up(guest.text())?;
                let is_checked = self.machine.contains(&"--kasan");
                let most_ms = MOST_BOOT_MS * if is_checked { KASAN_FACTOR } else { 1 };
                ensure!(
                    boot_to_summary_ms(guest.text())? <= most_ms,
                    "the boot took more than {most_ms} ms"
                );
                ensure!(exit_code(guest)? == 0, "it failed");
                Ok(())
            }
            Play::Ends { says } => {
                ended(guest, deadline)?;
                expect(guest.text(), says, &[])?;
                ensure!(exit_code(guest)? != 0, "exit code 0");
                Ok(())
            }
            Play::Shell(steps) | Play::Slabinfo(steps) => {
                prompt(guest, deadline)?;
                for step in *steps {
                    step.play(guest, deadline)
                        .with_context(|| format!("`{}`", step.line))?;
                }
                if matches!(self.play, Play::Slabinfo(_)) {
                    let command = "cat /proc/slabinfo";
                    let (text, status) = guest
                        .exec(command, deadline)
                        .map_err(|(_, text)| anyhow!("`{command}` printed {text:?}"))?;
                    ensure!(status == 0, "`{command}`: status {status}");
                    procps::read(&text)?;
                }
                guest.send(b"poweroff\n");
                ended(guest, deadline)?;
                expect(guest.text(), &[], NEVER)
            }
            Play::Programs => {
                prompt(guest, deadline)?;
                for (name, _) in initramfs::programs()? {
                    let reply = guest.exec(&name, deadline);
                    self_check(reply).with_context(|| format!("`{name}`"))?;
                }
                expect(guest.text(), &[], NEVER)
            }
            Play::Crash { line, says } => {
                prompt(guest, deadline)?;
                guest.send(format!("{line}\n").as_bytes());
                ended(guest, deadline)?;
                expect(guest.text(), says, &[])?;
                ensure!(exit_code(guest)? != 0, "exit code 0");
                Ok(())
            }
        }
    }
}

impl Step {
    fn play(&self, guest: &mut Guest, deadline: Instant) -> Result<()> {
        let (text, status) = match guest.exec(self.line, deadline) {
            Ok(reply) => reply,
            Err((Wait::TimedOut, text)) => bail!("does not come back; it printed {text:?}"),
            Err((_, text)) => bail!("ended the guest; it printed {text:?}"),
        };
        expect(&text, self.says, self.never)?;
        ensure!(
            self.status.is_none_or(|wanted| wanted == status),
            "status {status}, printed {text:?}"
        );
        Ok(())
    }
}

/// A program that checks itself printed what held, nothing that failed, and ended well.
fn self_check(reply: Result<(String, u8), (Wait, String)>) -> Result<()> {
    let (text, status) =
        reply.map_err(|(_, text)| anyhow!("does not come back; it printed {text:?}"))?;
    expect(&text, &["ok: "], &["FAILED"])?;
    ensure!(status == 0, "status {status}: {:?}", last_lines(&text));
    Ok(())
}

/// Is the first word of the line one of these?
fn calls(line: &str, words: &[&str]) -> bool {
    line.split(' ')
        .next()
        .is_some_and(|word| words.contains(&word))
}

fn ended(guest: &mut Guest, deadline: Instant) -> Result<()> {
    ensure!(
        guest.wait_for_end(deadline) == Wait::Ended,
        "still running after {} s",
        LIMIT.as_secs()
    );
    Ok(())
}

fn prompt(guest: &mut Guest, deadline: Instant) -> Result<()> {
    match guest.wait_for(PROMPT, deadline) {
        Wait::Found => Ok(()),
        Wait::Ended => bail!(
            "the guest stopped before its prompt: {:?}",
            last_lines(guest.text())
        ),
        Wait::TimedOut => bail!("no prompt after {} s", LIMIT.as_secs()),
    }
}

fn exit_code(guest: &Guest) -> Result<u8> {
    guest
        .exit_code()
        .context("no exit code: a triple fault looks like this")
}

/// Adds the kernel's accounting up again: `accounting: free 1 + allocated 2 + reserved 3 = present 6`.
fn accounting_adds_up(text: &str) -> Result<()> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("accounting: "))
        .context("no accounting line")?;
    let numbers: Vec<u64> = line
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    let [free, allocated, reserved, present] = numbers[..] else {
        bail!("not four numbers: {line}")
    };
    ensure!(
        free > 0 && free + allocated + reserved == present,
        "does not add up: {line}"
    );
    Ok(())
}

/// What the kernel measured: `boot to summary: 605 ms`.
fn boot_to_summary_ms(text: &str) -> Result<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("boot to summary: "))
        .context("no time from boot to summary")?;
    line.trim_end_matches(" ms")
        .parse()
        .with_context(|| format!("no number: {line}"))
}

fn expect(text: &str, says: &[&str], never: &[&str]) -> Result<()> {
    for words in says {
        ensure!(
            text.contains(words),
            "does not say {words:?}, but {:?}",
            last_lines(text)
        );
    }
    for words in never {
        ensure!(
            !text.contains(words),
            "says {words:?}: {:?}",
            last_lines(text)
        );
    }
    Ok(())
}

/// Enough of the end to see what went wrong.
fn last_lines(text: &str) -> String {
    const NR_LINES: usize = 8;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(NR_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::table::step;
    use super::*;

    /// Plays a scenario on a shell script that stands in for the kernel.
    fn play(play: Play, script: &str) -> Result<()> {
        let scenario = Scenario {
            name: "stand_in",
            machine: &[],
            play,
        };
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        scenario.judge(&mut Guest::start(shell, false)?)
    }

    #[test]
    fn selftests_pass_only_with_code_0_and_no_failure() {
        const GOOD: &str = "echo identity map gone, none is W+X, lower half is empty
            echo 'accounting: free 7 + allocated 1 + reserved 2 = present 10'
            echo 'selftest: 3 passed, 0 failed in 5 ms'
            echo 'boot to summary: 605 ms'
            echo 'kmm-exit: 0'";
        let selftest = |script: &str| {
            play(
                Play::Selftest {
                    says: &["selftest"],
                },
                script,
            )
        };
        selftest(GOOD).unwrap();
        for (good, bad) in [
            ("exit: 0", "exit: 1"),
            ("kmm-exit", "silence"),
            ("none is W+X", "one is W+X"),
            ("reserved 2", "reserved 3"),
            ("accounting", "guess"),
            ("605 ms", "30001 ms"),
            ("0 failed", "1 failed"),
            (
                "echo 'selftest:",
                "echo 'selftest x ... FAILED: y'; echo 'selftest:",
            ),
            (
                "echo 'selftest:",
                "echo 'panicked at a.rs'; echo 'selftest:",
            ),
        ] {
            assert!(selftest(&GOOD.replace(good, bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_step_fails_on_words_and_on_status() {
        const STEPS: &[Step] = &[step("free", &["Mem:"])];
        let script = "printf 'kmm> '; read x; echo \"$x\"; echo 'Mem: 1'; echo 'kmm-status: 0'; printf 'kmm> '; read x; echo; echo 'kmm-exit: 0'";
        assert!(play(Play::Shell(STEPS), script).is_ok());
        assert!(play(Play::Shell(STEPS), &script.replace("Mem: 1", "nothing")).is_err());
        assert!(
            play(
                Play::Shell(STEPS),
                &script.replace("status: 0", "status: 1")
            )
            .is_err()
        );
        assert!(play(Play::Shell(STEPS), "printf 'kmm> '; read x; echo gone").is_err());
        assert!(play(Play::Shell(STEPS), "echo no prompt").is_err());
    }

    #[test]
    fn a_boot_that_ends_says_why_and_fails() {
        let ends = || Play::Ends {
            says: &["too little memory"],
        };
        assert!(play(ends(), "echo too little memory; echo 'kmm-exit: 3'").is_ok());
        assert!(play(ends(), "echo too little memory; echo 'kmm-exit: 0'").is_err());
        assert!(play(ends(), "echo too little memory").is_err());
        assert!(play(ends(), "echo something else; echo 'kmm-exit: 3'").is_err());
    }

    #[test]
    fn a_crash_is_reported_and_is_no_triple_fault() {
        let crash = || Play::Crash {
            line: "crash stack",
            says: &["guard page"],
        };
        let script = "printf 'kmm> '; read x; echo guard page; echo 'kmm-exit: 4'";
        assert!(play(crash(), script).is_ok());
        assert!(play(crash(), &script.replace("guard page", "something")).is_err());
        assert!(play(crash(), &script.replace("kmm-exit: 4", "")).is_err());
        assert!(
            play(
                crash(),
                "echo no prompt; echo guard page; echo 'kmm-exit: 4'"
            )
            .is_err()
        );
    }

    #[test]
    fn a_program_that_checks_itself_is_believed_when_it_fails() {
        let reply = |text: &str, status| self_check(Ok((text.to_owned(), status)));
        assert!(reply("ok: it holds\n", 0).is_ok());
        assert!(reply("ok: it holds\n", 1).is_err());
        assert!(reply("ok: it holds\nFAILED: not this\n", 0).is_err());
        assert!(reply("", 0).is_err());
        assert!(self_check(Err((Wait::TimedOut, "ok: so far".to_owned()))).is_err());
    }

    #[test]
    fn only_what_needs_something_absent_is_skipped() {
        let lacking = Lacking {
            busybox: Some("no apt".to_owned()),
            programs: None,
            source: Some("no source".to_owned()),
            uefi: Some("no OVMF".to_owned()),
        };
        let skipped = |name: &str| {
            SCENARIOS
                .iter()
                .find(|scenario| scenario.name == name)
                .unwrap()
                .lacks(&lacking)
        };
        assert_eq!(skipped("busybox"), Some("no apt"));
        assert_eq!(skipped("selftest_uefi"), Some("no OVMF"));
        assert_eq!(skipped("kasan"), Some("no source"));
        assert_eq!(skipped("selftest"), None);
        assert_eq!(skipped("programs"), None);
    }

    #[test]
    fn names_are_unique() {
        for (at, scenario) in SCENARIOS.iter().enumerate() {
            assert!(
                SCENARIOS[..at]
                    .iter()
                    .all(|other| other.name != scenario.name),
                "{}",
                scenario.name
            );
        }
    }
}
