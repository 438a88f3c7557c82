//! /proc/PID/stat, statm and status. Linux: fs/proc/array.c.

use core::fmt::{self, Write};

/// What a task does now.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum TaskState {
    /// Runs, or could.
    Running,
    /// Sleeps until something happens or a signal comes.
    #[default]
    Sleeping,
    /// Sleeps, deaf to signals.
    DiskSleep,
    /// Stopped by a signal.
    Stopped,
    /// Ended, not yet waited for.
    Zombie,
    /// Ended, being removed.
    Dead,
    /// A kernel thread without work.
    Idle,
}

impl TaskState {
    /// The letter in /proc/PID/stat.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Running => 'R',
            Self::Sleeping => 'S',
            Self::DiskSleep => 'D',
            Self::Stopped => 'T',
            Self::Zombie => 'Z',
            Self::Dead => 'X',
            Self::Idle => 'I',
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Sleeping => "sleeping",
            Self::DiskSleep => "disk sleep",
            Self::Stopped => "stopped",
            Self::Zombie => "zombie",
            Self::Dead => "dead",
            Self::Idle => "idle",
        }
    }
}

/// The 52 fields of /proc/PID/stat. `Display` is the line, with its end.
///
/// The names are those of proc(5). Times are in clock ticks. A kernel thread has no memory: `vsize` and what follows
/// it are 0 then, but `rsslim`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are those of proc(5)")]
pub struct Stat<'a> {
    pub pid: i32,
    pub comm: &'a str,
    pub state: TaskState,
    pub ppid: i32,
    pub pgrp: i32,
    pub session: i32,
    pub tty_nr: i32,
    pub tpgid: i32,
    pub flags: u32,
    pub minflt: u64,
    pub cminflt: u64,
    pub majflt: u64,
    pub cmajflt: u64,
    pub utime: u64,
    pub stime: u64,
    pub cutime: i64,
    pub cstime: i64,
    pub priority: i64,
    pub nice: i64,
    pub num_threads: i64,
    pub starttime: u64,
    pub vsize_bytes: u64,
    pub rss_pages: u64,
    pub rsslim_bytes: u64,
    pub startcode: u64,
    pub endcode: u64,
    pub startstack: u64,
    pub kstkesp: u64,
    pub kstkeip: u64,
    pub signal: u64,
    pub blocked: u64,
    pub sigignore: u64,
    pub sigcatch: u64,
    pub wchan: u64,
    pub exit_signal: i32,
    pub processor: i32,
    pub rt_priority: u32,
    pub policy: u32,
    pub delayacct_blkio_ticks: u64,
    pub guest_time: u64,
    pub cguest_time: i64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    pub exit_code: i32,
}

impl Default for Stat<'_> {
    /// A sleeping task of normal priority, in no session, without limits.
    fn default() -> Self {
        Self {
            pid: 0,
            comm: "",
            state: TaskState::default(),
            ppid: 0,
            pgrp: 0,
            session: 0,
            tty_nr: 0,
            tpgid: -1,
            flags: 0,
            minflt: 0,
            cminflt: 0,
            majflt: 0,
            cmajflt: 0,
            utime: 0,
            stime: 0,
            cutime: 0,
            cstime: 0,
            priority: 20,
            nice: 0,
            num_threads: 1,
            starttime: 0,
            vsize_bytes: 0,
            rss_pages: 0,
            rsslim_bytes: u64::MAX,
            startcode: 0,
            endcode: 0,
            startstack: 0,
            kstkesp: 0,
            kstkeip: 0,
            signal: 0,
            blocked: 0,
            sigignore: 0,
            sigcatch: 0,
            wchan: 0,
            exit_signal: 17, // SIGCHLD
            processor: 0,
            rt_priority: 0,
            policy: 0,
            delayacct_blkio_ticks: 0,
            guest_time: 0,
            cguest_time: 0,
            start_data: 0,
            end_data: 0,
            start_brk: 0,
            arg_start: 0,
            arg_end: 0,
            env_start: 0,
            env_end: 0,
            exit_code: 0,
        }
    }
}

impl fmt::Display for Stat<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.pid)?;
        write_comm(f, self.comm)?;
        write!(f, ") {}", self.state.letter())?;
        fields(f, [self.ppid, self.pgrp, self.session, self.tty_nr])?;
        fields(f, [self.tpgid])?;
        fields(f, [self.flags])?;
        fields(f, [self.minflt, self.cminflt, self.majflt, self.cmajflt])?;
        fields(f, [self.utime, self.stime])?;
        fields(f, [self.cutime, self.cstime, self.priority, self.nice])?;
        fields(f, [self.num_threads, 0])?;
        fields(f, [self.starttime, self.vsize_bytes, self.rss_pages])?;
        fields(f, [self.rsslim_bytes, self.startcode, self.endcode])?;
        fields(f, [self.startstack, self.kstkesp, self.kstkeip])?;
        fields(
            f,
            [self.signal, self.blocked, self.sigignore, self.sigcatch],
        )?;
        fields(f, [self.wchan, 0, 0])?;
        fields(f, [self.exit_signal, self.processor])?;
        fields(f, [self.rt_priority, self.policy])?;
        fields(f, [self.delayacct_blkio_ticks, self.guest_time])?;
        fields(f, [self.cguest_time])?;
        fields(f, [self.start_data, self.end_data, self.start_brk])?;
        fields(f, [self.arg_start, self.arg_end])?;
        fields(f, [self.env_start, self.env_end])?;
        writeln!(f, " {}", self.exit_code)
    }
}

fn fields<T: fmt::Display, const N: usize>(
    f: &mut fmt::Formatter<'_>,
    values: [T; N],
) -> fmt::Result {
    values.iter().try_for_each(|value| write!(f, " {value}"))
}

/// The name, with newline and backslash told apart from those of the text.
fn write_comm(f: &mut fmt::Formatter<'_>, comm: &str) -> fmt::Result {
    for c in comm.chars() {
        match c {
            '\n' => f.write_str("\\n")?,
            '\\' => f.write_str("\\\\")?,
            _ => f.write_char(c)?,
        }
    }
    Ok(())
}

/// /proc/PID/statm, in pages. `Display` is the line, with its end.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Statm {
    /// The address space.
    pub size: u64,
    /// What of it is in memory.
    pub resident: u64,
    /// What of that is of files or shared.
    pub shared: u64,
    /// Code.
    pub text: u64,
    /// Data and stack.
    pub data: u64,
}

impl fmt::Display for Statm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, resident, shared) = (self.size, self.resident, self.shared);
        writeln!(
            f,
            "{size} {resident} {shared} {} 0 {} 0",
            self.text, self.data
        )
    }
}

/// What /proc/PID/status says of a process' memory, in KiB.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StatusMemory {
    /// The largest that the address space was.
    pub vm_peak_kb: u64,
    /// The address space.
    pub vm_size_kb: u64,
    /// Locked in memory.
    pub vm_lck_kb: u64,
    /// Pinned for devices.
    pub vm_pin_kb: u64,
    /// The most that was in memory.
    pub vm_hwm_kb: u64,
    /// In memory: anonymous.
    pub rss_anon_kb: u64,
    /// In memory: of files.
    pub rss_file_kb: u64,
    /// In memory: shared.
    pub rss_shmem_kb: u64,
    /// Private and writable, without the stack.
    pub vm_data_kb: u64,
    /// The stack.
    pub vm_stk_kb: u64,
    /// The program's code.
    pub vm_exe_kb: u64,
    /// Other code.
    pub vm_lib_kb: u64,
    /// Page tables.
    pub vm_pte_kb: u64,
    /// Swapped out.
    pub vm_swap_kb: u64,
    /// Whether huge pages may be used.
    pub thp_enabled: bool,
}

/// /proc/PID/status: the lines that concern identity, memory and threads, in Linux's order. `Display` is the text.
///
/// Lines about signals, capabilities, CPUs and security are left out.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Status<'a> {
    /// The program.
    pub name: &'a str,
    /// The file mode creation mask.
    pub umask: u32,
    /// What it does now.
    pub state: TaskState,
    /// The process.
    pub tgid: i32,
    /// The thread.
    pub pid: i32,
    /// The parent.
    pub ppid: i32,
    /// Real, effective, saved and file-system user.
    pub uid: [u32; 4],
    /// Real, effective, saved and file-system group.
    pub gid: [u32; 4],
    /// Places in the table of open files.
    pub fd_size: u32,
    /// Process group.
    pub pgrp: i32,
    /// Session.
    pub session: i32,
    /// Its memory; a kernel thread has none.
    pub memory: Option<StatusMemory>,
    /// Threads of the process.
    pub threads: u32,
}

impl fmt::Display for Status<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Name:\t")?;
        write_comm(f, self.name)?;
        writeln!(f, "\nUmask:\t{:04o}", self.umask)?;
        let (letter, word) = (self.state.letter(), self.state.word());
        writeln!(f, "State:\t{letter} ({word})")?;
        writeln!(f, "Tgid:\t{}\nNgid:\t0\nPid:\t{}", self.tgid, self.pid)?;
        writeln!(f, "PPid:\t{}\nTracerPid:\t0", self.ppid)?;
        for (label, [real, effective, saved, fs]) in [("Uid", self.uid), ("Gid", self.gid)] {
            writeln!(f, "{label}:\t{real}\t{effective}\t{saved}\t{fs}")?;
        }
        writeln!(f, "FDSize:\t{}\nGroups:\t ", self.fd_size)?;
        writeln!(f, "NStgid:\t{}\nNSpid:\t{}", self.tgid, self.pid)?;
        writeln!(f, "NSpgid:\t{}\nNSsid:\t{}", self.pgrp, self.session)?;
        if let Some(memory) = self.memory {
            write!(f, "{memory}")?;
        }
        writeln!(f, "Threads:\t{}", self.threads)
    }
}

impl fmt::Display for StatusMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rss_kb = self.rss_anon_kb + self.rss_file_kb + self.rss_shmem_kb;
        for (label, kb) in [
            ("VmPeak", self.vm_peak_kb),
            ("VmSize", self.vm_size_kb),
            ("VmLck", self.vm_lck_kb),
            ("VmPin", self.vm_pin_kb),
            ("VmHWM", self.vm_hwm_kb),
            ("VmRSS", rss_kb),
            ("RssAnon", self.rss_anon_kb),
            ("RssFile", self.rss_file_kb),
            ("RssShmem", self.rss_shmem_kb),
            ("VmData", self.vm_data_kb),
            ("VmStk", self.vm_stk_kb),
            ("VmExe", self.vm_exe_kb),
            ("VmLib", self.vm_lib_kb),
            ("VmPTE", self.vm_pte_kb),
            ("VmSwap", self.vm_swap_kb),
            ("HugetlbPages", 0),
        ] {
            writeln!(f, "{label}:\t{kb:>8} kB")?;
        }
        let thp_enabled = u8::from(self.thp_enabled);
        writeln!(f, "CoreDumping:\t0\nTHP_enabled:\t{thp_enabled}")
    }
}
