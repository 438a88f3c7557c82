//! Self-tests: programs of the initramfs, each of which checks what it does, and what they leave behind.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use kmm::frame::Page;
use kmm::host::Sleep;

use super::{
    PAGE_WAITS, Signal, commands, fault, nth_tests, spawn, spawn_kernel_thread, wait, yield_now,
};
use crate::ensure;
use crate::fs::{OpenFile, Place, flags, open};
use crate::mm;
use crate::selftest::{Failure, Outcome, Test};
use crate::syscall::Errno;

/// Self-tests of processes.
pub const TESTS: &[Test] = &[
    Test {
        name: "process::hello_finds_what_it_needs_on_its_stack",
        run: || program("hello"),
    },
    Test {
        name: "process::fork_copies_on_write",
        run: || program("forkcow"),
    },
    Test {
        name: "process::mmap_and_its_like_work",
        run: || program("mmap"),
    },
    Test {
        name: "process::the_heap_grows_and_shrinks",
        run: || program("brk"),
    },
    Test {
        name: "process::forbidden_accesses_are_sigsegv",
        run: || program("segv"),
    },
    Test {
        name: "process::bad_pointers_are_efault",
        run: || program("badptr"),
    },
    Test {
        name: "process::pipes_and_sigpipe_work",
        run: || program("pipes"),
    },
    Test {
        name: "process::signals_arrive",
        run: || program("signals"),
    },
    Test {
        name: "process::execve_takes_programs_and_refuses_the_rest",
        run: || program("exec"),
    },
    Test {
        name: "process::files_behave",
        run: || program("files"),
    },
    Test {
        name: "process::no_trick_on_the_cpu_harms_the_kernel",
        run: || program("machine"),
    },
    Test {
        name: "process::a_program_that_takes_all_memory_is_ended_alone",
        run: || program("hog"),
    },
    Test {
        name: "process::a_shell_with_pipes_runs",
        run: shell,
    },
    Test {
        name: "process::a_fault_tells_its_signal",
        run: fault_status,
    },
    Test {
        name: "process::a_corrupt_program_is_not_started",
        run: corrupt,
    },
    Test {
        name: "process::tasks_sleep_until_a_page_is_unlocked",
        run: page_lock,
    },
    Test {
        name: "process::each_allocation_of_a_call_may_fail",
        run: nth_tests::calls,
    },
    Test {
        name: "process::each_allocation_for_a_program_may_fail",
        run: nth_tests::programs,
    },
    Test {
        name: "process::programs_give_back_all_they_took",
        run: no_leak,
    },
];

/// What the page lock of the self-test is about.
static PAGE: Page = Page::new();
static NR_UNLOCKED: AtomicUsize = AtomicUsize::new(0);

const OUTPUT: &[u8] = b"/tmp/selftest-output";
const LINES_SHOWN: usize = 8;

/// A file for what a program says.
pub(super) fn output() -> Result<Arc<OpenFile>, Errno> {
    open(
        &Place::root(),
        OUTPUT,
        flags::CREATE | flags::TRUNCATE | flags::READ_WRITE | flags::APPEND,
        0o600,
    )
}

/// Runs a program, and tells its status as a shell does, and what it said.
fn run(words: &[&str]) -> Result<(i32, String), Errno> {
    let output = output()?;
    let path = format!("/bin/{}", words[0]);
    fault::set_reports(false);
    let status = spawn(&path, words, commands::ENVIRONMENT, &output).map(wait);
    fault::set_reports(true);
    let status = status?.map_or(-1, |ended| ended.shell_status());
    let size_bytes = output.inode().map_or(0, |inode| inode.size_bytes());
    let mut said = alloc::vec![0; usize::try_from(size_bytes).unwrap_or(0)];
    output.read_at(0, &mut said)?;
    // The text goes, the name stays.
    output.truncate(0)?;
    Ok((status, String::from_utf8_lossy(&said).into_owned()))
}

fn program(name: &str) -> Outcome {
    let (status, said) = run(&[name]).map_err(|error| Failure::from(format!("{name}: {error}")))?;
    if status != 0 {
        let failed: Vec<&str> = said
            .lines()
            .filter(|line| !line.starts_with("ok"))
            .collect();
        let shown = failed
            .iter()
            .rev()
            .take(LINES_SHOWN)
            .rev()
            .copied()
            .collect::<Vec<_>>()
            .join("\n  ");
        return Err(Failure::from(format!(
            "{name} returned {status}:\n  {shown}"
        )));
    }
    Ok(())
}

fn page_lock() -> Outcome {
    fn lock_and_unlock() {
        PAGE_WAITS.lock(&mut Sleep::grant(), &PAGE);
        NR_UNLOCKED.fetch_add(1, Ordering::Relaxed);
        // Others run while this one has it.
        yield_now();
        PAGE_WAITS.unlock(&PAGE);
    }
    NR_UNLOCKED.store(0, Ordering::Relaxed);
    PAGE_WAITS.lock(&mut Sleep::grant(), &PAGE);
    for _ in 0..3 {
        spawn_kernel_thread("lock", lock_and_unlock);
    }
    while !PAGE.has_waiters() {
        yield_now();
    }
    for _ in 0..10 {
        yield_now();
    }
    let early = NR_UNLOCKED.load(Ordering::Relaxed);
    PAGE_WAITS.unlock(&PAGE);
    for _ in 0..100 {
        yield_now();
    }
    ensure!(early == 0, "{early} tasks got a lock that was held");
    let late = NR_UNLOCKED.load(Ordering::Relaxed);
    ensure!(late == 3, "{late} of 3 tasks got the lock");
    ensure!(PAGE.flags().is_empty(), "left: {:?}", PAGE.flags());
    Ok(())
}

/// An unmodified program of Linux: Debian's busybox. Where the initramfs has none, there is nothing to try.
fn shell() -> Outcome {
    const SCRIPT: &str = "for i in 3 1 2; do echo $i; done | sort | head -n 2 | wc -l; ls /proc/self/exe && (exit 7); echo $?; sleep 0.02 & wait; echo end";
    match run(&["busybox", "sh", "-c", SCRIPT]) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(Failure::from(format!("busybox: {error}"))),
        Ok((status, said)) => {
            ensure!(
                status == 0 && said == "2\n/proc/self/exe\n7\nend\n",
                "status {status}, said {said:?}"
            );
            Ok(())
        }
    }
}

fn fault_status() -> Outcome {
    let (status, said) =
        run(&["segv", "null"]).map_err(|error| Failure::from(format!("segv: {error}")))?;
    ensure!(
        status == 128 + i32::from(Signal::SEGV.number()),
        "status {status}, said {said:?}"
    );
    Ok(())
}

fn corrupt() -> Outcome {
    let path = "/tmp/selftest-corrupt";
    let flags = flags::CREATE | flags::TRUNCATE | flags::READ_WRITE;
    let file = open(&Place::root(), path.as_bytes(), flags, 0o755)
        .map_err(|error| Failure::from(format!("{error}")))?;
    let start = |file: &Arc<OpenFile>| spawn(path, &[path], &[], file);
    for head in [
        &b"\x7fELF"[..],
        b"\x7fELF\x02\x01\x01",
        &[0; 64],
        b"garbage",
    ] {
        file.truncate(0)
            .and_then(|()| file.write_at(0, head))
            .map_err(|error| Failure::from(format!("{error}")))?;
        let started = start(&file);
        ensure!(started == Err(Errno::NOEXEC), "{head:?}: {started:?}");
    }
    file.truncate(0)
        .map_err(|error| Failure::from(format!("{error}")))?;
    Ok(())
}

/// The first run brings files and caches in; the second must not take anything more.
fn no_leak() -> Outcome {
    for name in ["forkcow", "mmap", "pipes"] {
        program(name)?;
        let before = mm::pages_held();
        program(name)?;
        let after = mm::pages_held();
        ensure!(
            after <= before,
            "{name}: {} pages more are held",
            after - before
        );
    }
    Ok(())
}
