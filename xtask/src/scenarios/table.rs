//! The scenarios. `docs/features.md` may name one as a proof: `scenario::busybox`.

use super::{Play, Scenario, Step};

/// A command that succeeds and prints all of these.
pub(super) const fn step(line: &'static str, says: &'static [&'static str]) -> Step {
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
const SIGKILL: u8 = 9;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "selftest",
        machine: &[],
        play: Play::Selftest {
            says: &["booting through the PVH door", "pages of up to 1 GiB"],
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
        play: Play::Selftest {
            says: &["zone Normal: frames 0x100000.."],
        },
    },
    Scenario {
        name: "selftest_machine_pc",
        machine: &["--machine", "pc"],
        play: Play::Selftest { says: &[] },
    },
    Scenario {
        name: "selftest_cpu_qemu64",
        machine: &["--cpu", "qemu64"],
        play: Play::Selftest {
            says: &["pages of up to 2 MiB"],
        },
    },
    Scenario {
        name: "kasan",
        machine: &["--kasan"],
        play: Play::Selftest {
            says: &[
                "kasan: accesses are checked",
                "BUG: KASAN: slab-out-of-bounds in ",
                "BUG: KASAN: slab-use-after-free in ",
                "BUG: KASAN: double-free in ",
                "BUG: KASAN: invalid-free in ",
                "BUG: KASAN: vmalloc-out-of-bounds in ",
                "BUG: KASAN: use-after-free in ",
                "kasan::nothing_else_was_reported ... ok",
            ],
        },
    },
    Scenario {
        name: "kfence",
        machine: &["--smp", "2", "--cmdline", "kfence.sample_interval=20"],
        play: Play::Selftest {
            says: &[
                "kfence: 255 objects between hidden pages",
                "BUG: KFENCE: out-of-bounds write in ",
                "BUG: KFENCE: use-after-free read in ",
                "mm::a_write_behind_a_sampled_object_is_reported ... ok",
                "mm::a_read_of_a_freed_sampled_object_is_reported ... ok",
            ],
        },
    },
    Scenario {
        name: "smp",
        machine: &["--smp", "8"],
        play: Play::Selftest {
            says: &[
                "smp: 8 of 8 CPUs are up",
                "smp::stress_of_all_cpus_leaves_a_clean_audit ... ok",
            ],
        },
    },
    Scenario {
        name: "smp_uefi",
        machine: &["--uefi", "--smp", "2"],
        play: Play::Selftest {
            says: &["smp: 2 of 2 CPUs are up"],
        },
    },
    Scenario {
        name: "smp_shell",
        machine: &["--smp", "3", "--mem", "64M"],
        play: Play::Shell(&[
            step("stress 2000 1", &["3 CPUs", "audit clean"]),
            step("stress 1s 2", &["3 CPUs", "audit clean"]),
            step("sh -c 'for i in 1 2 3; do (echo $i) & done; wait'", &["3"]),
            step("stress 500 3", &["audit clean"]),
        ]),
    },
    Scenario {
        name: "smp_panic",
        machine: &["--smp", "4"],
        play: Play::Crash {
            line: "crash panic 2",
            says: &["CPU 2,", "as asked"],
        },
    },
    Scenario {
        name: "selftest_numa_2",
        machine: &["--numa", "2", "--smp", "2"],
        play: Play::Selftest { says: &[] },
    },
    Scenario {
        name: "selftest_uefi",
        machine: &["--uefi"],
        play: Play::Selftest {
            says: &["booting through the UEFI door"],
        },
    },
    Scenario {
        name: "selftest_uefi_64m",
        machine: &["--uefi", "--mem", "64M"],
        play: Play::Selftest { says: &[] },
    },
    Scenario {
        name: "selftest_uefi_8g",
        machine: &["--uefi", "--mem", "8G"],
        play: Play::Selftest { says: &[] },
    },
    Scenario {
        name: "too_little_memory",
        machine: &["--mem", "8M"],
        play: Play::Ends {
            says: &["kmm: cannot boot: too little memory", "KiB needed"],
        },
    },
    Scenario {
        name: "shell_commands",
        machine: &[],
        play: Play::Shell(&[
            step("help", &["poweroff", "buddyinfo"]),
            step("free", &["total", "used", "free"]),
            step("buddyinfo", &["Node 0, zone", "DMA"]),
            step("zoneinfo", &["pages free", "min", "low", "high"]),
            step("slabinfo", &["slabinfo - version: 2.1", "kmalloc-64"]),
            step("vmstat", &["nr_free_pages"]),
            step("ptdump", &["0xffff888000000000"]),
            step("stress", &[]),
            step("accounting", &["= present "]),
            Step {
                line: "no-such-command",
                status: Some(127),
                says: &["not found"],
                never: &[],
            },
        ]),
    },
    Scenario {
        name: "programs",
        machine: &[],
        play: Play::Programs,
    },
    Scenario {
        name: "busybox",
        machine: &[],
        play: Play::Shell(&[
            step("busybox echo one two", &["one two"]),
            step("ls /", &["bin", "proc"]),
            step("sh -c 'ls -l /bin | head'", &["busybox"]),
            step("cat /proc/meminfo", &["MemTotal:", "MemFree:", " kB"]),
            step("busybox free", &["Mem:"]),
            step("ps", &["PID", "ps"]),
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
                &["1", "2", "3", "all"],
            ),
            step(
                "sh -c 'cat /bin/busybox | md5sum; md5sum /bin/busybox'",
                &["  -", "  /bin/busybox"],
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
            step("cat /proc/self/maps", &["[stack]", "r-xp", "/bin/busybox"]),
            step("cat /proc/self/stat", &["(cat)"]),
            step("cat /proc/self/cmdline", &["cat"]),
        ]),
    },
    Scenario {
        name: "slabinfo",
        machine: &[],
        play: Play::Slabinfo(&[
            step(
                "sh -c 'mkdir /tmp/d; for i in 1 2 3 4 5 6 7 8 9; do echo $i >/tmp/d/$i; done; cat /tmp/d/* | sort -r | head -n 2'",
                &["9\n8"],
            ),
            step("sh -c 'ls -lR /bin /proc | grep -c busybox'", &[]),
            step("ps", &["ps"]),
            step("sh -c 'rm -r /tmp/d; ls /tmp'", &[]),
        ]),
    },
    Scenario {
        name: "bad_programs",
        machine: &[],
        play: Play::Shell(&[
            killed("segv null", SIGSEGV, &["SIGSEGV (MAPERR) at 0x0"]),
            killed(
                "segv kernel",
                SIGSEGV,
                &["SIGSEGV (MAPERR) at 0xffff888000000000"],
            ),
            killed("segv noncanonical", SIGSEGV, &["SIGSEGV (KERNEL)"]),
            killed("segv readonly", SIGSEGV, &["SIGSEGV (ACCERR)"]),
            killed("segv nx", SIGSEGV, &["SIGSEGV (ACCERR)"]),
            killed("segv stack", SIGSEGV, &["SIGSEGV"]),
            Step {
                line: "sh -c 'head -c 200 /bin/busybox >/tmp/cut; chmod +x /tmp/cut; /tmp/cut'",
                status: None,
                says: &[],
                never: &["usage"],
            },
            step("echo still here", &["still here"]),
        ]),
    },
    Scenario {
        name: "memory_exhausted",
        machine: &["--mem", "64M"],
        play: Play::Shell(&[
            Step {
                line: "hog all",
                status: Some(128 + SIGKILL),
                says: &["Out of memory: Killed process"],
                never: &["has it all"],
            },
            Step {
                line: "hog all",
                status: Some(128 + SIGKILL),
                says: &["Out of memory: Killed process"],
                never: &["has it all"],
            },
            step("echo still here", &["still here"]),
            step("hog 4", &["has it all"]),
        ]),
    },
    Scenario {
        name: "hostile_programs",
        machine: &["--mem", "64M"],
        play: Play::Shell(&[
            step("stackdepth", &["deepest: 0 of "]),
            step("exhaust", &["ok: fork-bomb", "ok: files", "ok: tables"]),
            step("fuzz 1 20 300", &["ok: the kernel lives"]),
            step("failslab 150 2", &[]),
            // Whether it can even be started is chance.
            Step {
                line: "fuzz 2 20 300",
                status: None,
                says: &[],
                never: &["FAILED"],
            },
            step("failslab 0", &[]),
            step("stackdepth", &["deepest: "]),
            step("selftest mm::frames_add_up", &["1 passed, 0 failed"]),
            step("accounting", &["= present "]),
            step("hog 4", &["has it all"]),
        ]),
    },
    Scenario {
        name: "kernel_stack_overflow",
        machine: &[],
        play: Play::Crash {
            line: "crash stack",
            says: &["guard page"],
        },
    },
    Scenario {
        name: "kernel_null_pointer",
        machine: &[],
        play: Play::Crash {
            line: "crash null",
            says: &[],
        },
    },
];
