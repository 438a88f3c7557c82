//! The kernel in QEMU: the table of scenarios, and what plays them.
//!
//! A scenario boots a machine and does one of three things: it lets the kernel's self-tests run, types commands at the shell,
//! or watches a boot that is meant to end by itself. It fails when something expected was not printed, something forbidden was,
//! a status differs, or the guest went away or took too long.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::flags::Flags;
use crate::guest::{Guest, PROMPT, Wait};
use crate::qemu::{Door, Machine};
use crate::run::Parts;
use crate::tally::Tally;
use crate::{initramfs, proc, qemu};

/// Slow machines under load included; nothing is measured with it.
const LIMIT: Duration = Duration::from_secs(240);
/// QEMU's TCG uses one core for a guest with one CPU.
const NR_AT_ONCE: usize = 2;
/// No scenario may print these, unless it asks for them.
const NEVER: &[&str] = &["panicked at", "kernel panic", "BUG:"];

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
    /// The boot ends by itself with this code, or a failing one if there is none to name.
    Ends {
        code: Option<u8>,
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

/// A command that succeeds and prints all of these.
const fn step(line: &'static str, says: &'static [&'static str]) -> Step {
    Step {
        line,
        status: Some(0),
        says,
        never: &[],
    }
}

/// A program that a signal ends: 128 + its number, as shells say.
const fn killed(line: &'static str, signal: u8, says: &'static [&'static str]) -> Step {
    Step {
        line,
        status: Some(128 + signal),
        says,
        never: &[],
    }
}

const SIGSEGV: u8 = 11;

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "selftest",
        machine: &[],
        play: Play::Selftest {
            says: &["selftest: ", "boot to summary: "],
        },
    },
    Scenario {
        name: "selftest_64m",
        machine: &["--mem", "64M"],
        play: Play::Selftest { says: &[] },
    },
    Scenario {
        name: "selftest_8g",
        machine: &["--mem", "8G"],
        play: Play::Selftest { says: &[] },
    },
    Scenario {
        name: "selftest_machine_pc",
        machine: &["--machine", "pc"],
        play: Play::Selftest { says: &[] },
    },
    Scenario {
        name: "selftest_cpu_qemu64",
        machine: &["--cpu", "qemu64"],
        play: Play::Selftest { says: &[] },
    },
    Scenario {
        name: "selftest_smp_2",
        machine: &["--smp", "2"],
        play: Play::Selftest { says: &[] },
    },
    Scenario {
        name: "selftest_uefi",
        machine: &["--uefi"],
        play: Play::Selftest { says: &[] },
    },
    Scenario {
        name: "too_little_memory",
        machine: &["--mem", "4M"],
        play: Play::Ends {
            code: None,
            says: &["memory"],
        },
    },
    Scenario {
        name: "shell_commands",
        machine: &[],
        play: Play::Shell(&[
            step("help", &["poweroff"]),
            step("free", &["Mem"]),
            step("buddyinfo", &["Node 0, zone", "DMA"]),
            step("zoneinfo", &["pages free", "min", "low", "high"]),
            step("slabinfo", &["slabinfo - version: 2.1", "kmalloc-64"]),
            step("vmstat", &["nr_free_pages"]),
        ]),
    },
    Scenario {
        name: "busybox",
        machine: &[],
        play: Play::Shell(&[
            step("busybox echo one two", &["one two"]),
            step("ls /", &["bin", "proc"]),
            step("sh -c 'ls -l /bin | head'", &["busybox"]),
            step("cat /proc/meminfo", &["MemTotal:", "MemFree:", " kB"]),
            step("free", &["Mem:"]),
            step("ps", &["PID"]),
            step(
                "sh -c 'i=0; while [ $i -lt 5 ]; do i=$((i+1)); done; echo counted $i'",
                &["counted 5"],
            ),
            Step {
                line: "sh -c 'exit 7'",
                status: Some(7),
                says: &[],
                never: &[],
            },
        ]),
    },
    Scenario {
        name: "pipelines",
        machine: &[],
        play: Play::Shell(&[
            step("sh -c 'echo a b c | wc -w'", &["3"]),
            step(
                "sh -c 'cat /etc/passwd | grep root | sed s/root/changed/ | head -n 1'",
                &["changed:x:0:0"],
            ),
            step("sh -c 'yes | head -n 3 | wc -l'", &["3"]),
            step(
                "sh -c 'for i in 1 2 3; do (echo $i) & done; wait; echo all'",
                &["all"],
            ),
        ]),
    },
    Scenario {
        name: "proc_files",
        machine: &[],
        play: Play::Shell(&[
            step("cat /proc/buddyinfo", &["Node 0, zone"]),
            step("cat /proc/zoneinfo", &["Node 0, zone", "start_pfn"]),
            step("cat /proc/slabinfo", &["slabinfo - version: 2.1"]),
            step("cat /proc/vmallocinfo", &["0x"]),
            step("cat /proc/self/maps", &["[stack]", "r-xp"]),
            step("cat /proc/self/stat", &["(cat)"]),
        ]),
    },
    Scenario {
        name: "bad_programs",
        machine: &[],
        play: Play::Shell(&[
            killed("segv null", SIGSEGV, &["MAPERR"]),
            killed("segv kernel", SIGSEGV, &["segv"]),
            killed("segv noncanonical", SIGSEGV, &["segv"]),
            killed("segv readonly", SIGSEGV, &["ACCERR"]),
            killed("segv execute", SIGSEGV, &["ACCERR"]),
            Step {
                line: "sh -c 'echo rubbish >/tmp/x; chmod +x /tmp/x; /tmp/x'",
                status: None,
                says: &[],
                never: &[],
            },
            step("echo still here", &["still here"]),
        ]),
    },
    Scenario {
        name: "memory_exhausted",
        machine: &["--mem", "64M"],
        play: Play::Shell(&[
            Step {
                line: "eatmem",
                status: Some(128 + 9),
                says: &["eatmem"],
                never: &["survived"],
            },
            step("echo still here", &["still here"]),
        ]),
    },
];

/// Plays all scenarios, or those named, two at a time.
pub(crate) fn run_all(tally: &mut Tally, names: &[String]) {
    println!("== the kernel in QEMU");
    for name in names.iter().filter(|name| {
        !SCENARIOS
            .iter()
            .any(|scenario| scenario.name == name.as_str())
    }) {
        println!("there is no scenario {name}");
        tally.fail(name.clone());
    }
    let wanted: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| names.is_empty() || names.iter().any(|name| name == scenario.name))
        .collect();
    let parts = match prepare() {
        Ok(parts) => parts,
        Err(error) => {
            println!("FAILED: {error:#}");
            for scenario in wanted {
                tally.fail(format!("scenario::{}", scenario.name));
            }
            return;
        }
    };
    let has_busybox = initramfs::busybox();
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(tally);
    std::thread::scope(|scope| {
        for _ in 0..NR_AT_ONCE {
            scope.spawn(|| {
                while let Some(scenario) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = Instant::now();
                    let name = format!("scenario::{}", scenario.name);
                    if let (Err(why), true) = (&has_busybox, scenario.needs_busybox()) {
                        lock(&tally).skip(&name, &format!("{why:#}"));
                        continue;
                    }
                    let outcome = scenario.play(&parts);
                    let mut tally = lock(&tally);
                    match outcome {
                        Ok(()) => {
                            println!("{name} ... ok ({:.1} s)", start.elapsed().as_secs_f32());
                            tally.pass(1);
                        }
                        Err(error) => {
                            println!("{name} ... FAILED: {error:#}");
                            tally.fail(name);
                        }
                    }
                }
            });
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn prepare() -> Result<Parts> {
    qemu::find()?;
    Parts::build(None)
}

impl Scenario {
    fn needs_busybox(&self) -> bool {
        let own = [
            "segv",
            "eatmem",
            "help",
            "buddyinfo",
            "zoneinfo",
            "slabinfo",
            "vmstat",
        ];
        let Play::Shell(steps) = &self.play else {
            return false;
        };
        steps
            .iter()
            .any(|step| !own.iter().any(|name| step.line.starts_with(name)))
    }

    fn play(&self, parts: &Parts) -> Result<()> {
        let mut flags = Flags::new(self.machine.iter().map(|&word| word.to_owned()));
        let uefi = flags.flag("--uefi");
        let machine = Machine::from_flags(&mut flags)?;
        let word = match self.play {
            Play::Selftest { .. } | Play::Ends { .. } => "selftest",
            Play::Shell(_) => "exec",
        };
        let door = parts.door(self.name, uefi, word)?;
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
                expect(guest.text(), &["selftest: "], &[" ... FAILED"])?;
                match guest.exit_code() {
                    Some(0) => Ok(()),
                    Some(code) => bail!("exit code {code}"),
                    None => bail!("no exit code: a triple fault looks like this"),
                }
            }
            Play::Ends { code, says } => {
                ended(guest, deadline)?;
                expect(guest.text(), says, &[])?;
                let exit = guest
                    .exit_code()
                    .context("no exit code: a triple fault looks like this")?;
                ensure!(
                    exit != 0 && code.is_none_or(|code| code == exit),
                    "exit code {exit}"
                );
                Ok(())
            }
            Play::Shell(steps) => {
                match guest.wait_for(PROMPT, deadline) {
                    Wait::Found => {}
                    Wait::Ended => bail!("the guest stopped before its prompt"),
                    Wait::TimedOut => bail!("no prompt after {} s", LIMIT.as_secs()),
                }
                for step in *steps {
                    step.play(guest, deadline)
                        .with_context(|| format!("`{}`", step.line))?;
                }
                guest.send(b"poweroff\n");
                ended(guest, deadline)?;
                expect(guest.text(), &[], NEVER)
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

fn ended(guest: &mut Guest, deadline: Instant) -> Result<()> {
    ensure!(
        guest.wait_for_end(deadline) == Wait::Ended,
        "still running after {} s",
        LIMIT.as_secs()
    );
    Ok(())
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
        let selftest = || Play::Selftest {
            says: &["accounted"],
        };
        let good = "echo accounted; echo 'selftest: 3 passed, 0 failed'; echo 'kmm-exit: 0'";
        assert!(play(selftest(), good).is_ok());
        assert!(play(selftest(), &good.replace("exit: 0", "exit: 1")).is_err());
        assert!(play(selftest(), &good.replace("kmm-exit", "silence")).is_err());
        assert!(play(selftest(), &good.replace("accounted", "lost")).is_err());
        assert!(
            play(
                selftest(),
                &format!("echo 'selftest x ... FAILED: y'; {good}")
            )
            .is_err()
        );
        assert!(play(selftest(), &format!("echo 'panicked at a.rs'; {good}")).is_err());
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
        let ends = |code| Play::Ends {
            code,
            says: &["too little memory"],
        };
        assert!(play(ends(None), "echo too little memory; echo 'kmm-exit: 3'").is_ok());
        assert!(play(ends(Some(4)), "echo too little memory; echo 'kmm-exit: 3'").is_err());
        assert!(play(ends(None), "echo too little memory; echo 'kmm-exit: 0'").is_err());
        assert!(play(ends(None), "echo too little memory").is_err());
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
