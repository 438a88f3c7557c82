//! /proc: what the kernel knows, as text. The text of memory is kmm's; here are the files. Linux: fs/proc.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::sync::atomic::Ordering;

use kmm::frame::PAGE_SIZE;
use kmm::procfs::maps::{MapLine, Name, Perms};
use kmm::procfs::pages_to_kb;
use kmm::procfs::pid::{Stat, Statm, Status, StatusMemory, TaskState};
use kmm::vma::{VmFlags, Vma};
use spin::Mutex;

use super::inode::{Inode, Meta, Node, mode};
use super::{Result, cmdline, tty};
use crate::arch::{timer, usercopy};
use crate::fallible::{self, Text};
use crate::mm;
use crate::process::{self, MapFile, Mm, Pid, State, Task};
use crate::syscall::{Errno, VERSION};

const FILE_PERMISSIONS: u32 = 0o444;
const DIR_PERMISSIONS: u32 = 0o555;
const LINK_PERMISSIONS: u32 = 0o777;
const NS_PER_TICK: u64 = 1_000_000_000 / timer::HZ;
const TTY_S0: i32 = 0x440;
/// Linux: `PF_KTHREAD`.
const FLAG_KERNEL_THREAD: u32 = 0x20_0000;
/// Inode numbers: files of /proc itself, then a block for each process.
const FIRST_PID_INODE: u64 = 0x1000;
const INODES_PER_PID: u64 = 32;
const MAX_CMDLINE_BYTES: usize = 4096;

/// A file of /proc.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProcNode {
    /// /proc.
    Root,
    /// /proc/self.
    MySelf,
    /// /proc/NAME.
    File(ProcFile),
    /// /proc/PID.
    PidDir(Pid),
    /// /proc/PID/NAME.
    PidFile(Pid, PidFile),
}

macro_rules! names {
    ($(#[$doc:meta])* $kind:ident { $($variant:ident = $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $kind {
            $(#[doc = $name] $variant),*
        }

        impl $kind {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            fn by_name(name: &[u8]) -> Result<Self> {
                Self::ALL.iter().copied().find(|file| file.name().as_bytes() == name).ok_or(Errno::NOENT)
            }
        }
    };
}

names! {
    /// A file of /proc about the whole machine.
    ProcFile {
        Buddyinfo = "buddyinfo", Cmdline = "cmdline", Filesystems = "filesystems", Loadavg = "loadavg", Meminfo = "meminfo",
        Mounts = "mounts", Slabinfo = "slabinfo", Stat = "stat", Uptime = "uptime", Version = "version", Vmallocinfo = "vmallocinfo",
        Vmstat = "vmstat", Zoneinfo = "zoneinfo", Pagetypeinfo = "pagetypeinfo",
    }
}

names! {
    /// A file of /proc about a process.
    PidFile {
        Cmdline = "cmdline", Comm = "comm", Cwd = "cwd", Exe = "exe", Maps = "maps", Stat = "stat", Statm = "statm", Status = "status",
    }
}

impl PidFile {
    const fn is_link(self) -> bool {
        matches!(self, Self::Cwd | Self::Exe)
    }
}

impl ProcNode {
    /// The inode of the file. Each look makes a new one, with the same number.
    pub fn inode(self) -> Result<Arc<Inode>> {
        let permissions = match self.mode() {
            mode::DIR => DIR_PERMISSIONS,
            mode::LINK => LINK_PERMISSIONS,
            _ => FILE_PERMISSIONS,
        };
        let meta = Meta {
            permissions,
            mtime_s: 0,
            nr_links: 1,
        };
        fallible::arc(Inode {
            number: self.number(),
            meta: Mutex::new(meta),
            node: Node::Proc(self),
            above: Mutex::default(),
            _slot: None,
        })
    }

    /// Its type. Linux: `st_mode & S_IFMT`.
    pub const fn mode(self) -> u32 {
        match self {
            Self::Root | Self::PidDir(_) => mode::DIR,
            Self::MySelf => mode::LINK,
            Self::PidFile(_, file) if file.is_link() => mode::LINK,
            Self::File(_) | Self::PidFile(..) => mode::FILE,
        }
    }

    /// Its inode number.
    pub const fn number(self) -> u64 {
        match self {
            Self::Root => 1,
            Self::MySelf => 2,
            Self::File(file) => 3 + file as u64,
            Self::PidDir(pid) => FIRST_PID_INODE + pid.get() as u64 * INODES_PER_PID,
            Self::PidFile(pid, file) => Self::PidDir(pid).number() + 1 + file as u64,
        }
    }

    /// The file of that name in this directory.
    pub fn lookup(self, name: &[u8]) -> Result<Arc<Inode>> {
        match self {
            Self::Root if name == b"self" => Self::MySelf.inode(),
            Self::Root => match pid_of(name) {
                Some(pid) if process::find_task(pid).is_some() => Self::PidDir(pid).inode(),
                _ => Self::File(ProcFile::by_name(name)?).inode(),
            },
            Self::PidDir(pid) => Self::PidFile(pid, PidFile::by_name(name)?).inode(),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// What is in this directory.
    pub fn list(self) -> Result<Vec<(Vec<u8>, ProcNode)>> {
        let mut list = Vec::new();
        match self {
            Self::Root => {
                for &file in ProcFile::ALL {
                    add(&mut list, file.name().as_bytes(), Self::File(file))?;
                }
                add(&mut list, b"self", Self::MySelf)?;
                let mut pids = all_pids()?;
                pids.sort_unstable();
                for pid in pids {
                    let mut name = Text::default();
                    write!(name, "{pid}").map_err(|_| Errno::NOMEM)?;
                    fallible::push(&mut list, (name.0, Self::PidDir(pid)))?;
                }
            }
            Self::PidDir(pid) => {
                for &file in PidFile::ALL {
                    add(&mut list, file.name().as_bytes(), Self::PidFile(pid, file))?;
                }
            }
            _ => return Err(Errno::NOTDIR),
        }
        Ok(list)
    }

    /// Where a symbolic link leads.
    pub fn target(self) -> Result<Option<Vec<u8>>> {
        let place = match self {
            Self::MySelf => {
                let mut name = Text::default();
                write!(name, "{}", process::current().pid).map_err(|_| Errno::NOMEM)?;
                return Ok(Some(name.0));
            }
            Self::PidFile(pid, PidFile::Exe) => process::find_task(pid)
                .and_then(|task| task.mm())
                .and_then(|mm| mm.program().exe),
            Self::PidFile(pid, PidFile::Cwd) => {
                process::find_task(pid).map(|task| task.fs.lock().cwd.clone())
            }
            _ => None,
        };
        place.map(|place| place.path()).transpose()
    }

    /// What a file says now.
    pub fn text(self) -> Result<Vec<u8>> {
        let mut text = Text::default();
        let written = match self {
            Self::File(file) => write_file(file, &mut text),
            Self::PidFile(pid, file) => {
                let task = process::find_task(pid).ok_or(Errno::SRCH)?;
                write_pid_file(&task, file, &mut text)
            }
            _ => return Err(Errno::ISDIR),
        };
        // The only writer that fails is the one without memory.
        written.map_err(|_| Errno::NOMEM)?;
        Ok(text.0)
    }
}

fn pid_of(name: &[u8]) -> Option<Pid> {
    core::str::from_utf8(name).ok()?.parse().ok().map(Pid::new)
}

fn add(list: &mut Vec<(Vec<u8>, ProcNode)>, name: &[u8], node: ProcNode) -> Result<()> {
    fallible::push(list, (fallible::copied(name)?, node))
}

fn all_pids() -> Result<Vec<Pid>> {
    let mut count = 0;
    process::for_each_task(|_| count += 1);
    let mut pids = Vec::new();
    pids.try_reserve_exact(count)?;
    process::for_each_task(|task| pids.push(task.pid));
    Ok(pids)
}

fn write_file(file: ProcFile, out: &mut Text) -> fmt::Result {
    match file {
        ProcFile::Meminfo => mm::write_meminfo(out),
        ProcFile::Buddyinfo => mm::write_buddyinfo(out),
        ProcFile::Zoneinfo => mm::write_zoneinfo(out),
        ProcFile::Pagetypeinfo => mm::write_pagetypeinfo(out),
        ProcFile::Slabinfo => mm::write_slabinfo(out),
        ProcFile::Vmallocinfo => mm::write_vmallocinfo(out),
        ProcFile::Vmstat => mm::write_vmstat(out),
        ProcFile::Cmdline => writeln!(out, "{}", cmdline()),
        ProcFile::Filesystems => out.write_str("nodev\tproc\nnodev\ttmpfs\nnodev\trootfs\n"),
        ProcFile::Mounts => out.write_str("rootfs / rootfs rw 0 0\nproc /proc proc rw 0 0\n"),
        ProcFile::Version => writeln!(
            out,
            "{} version {} ({})",
            VERSION.system, VERSION.release, VERSION.version
        ),
        ProcFile::Uptime => {
            let hundredths = timer::now_ns() / 10_000_000;
            let idle = process::idle_ticks() * 100 / timer::HZ;
            writeln!(
                out,
                "{}.{:02} {}.{:02}",
                hundredths / 100,
                hundredths % 100,
                idle / 100,
                idle % 100
            )
        }
        ProcFile::Loadavg => {
            let (mut ready, mut all, mut last) = (0, 0, 0);
            process::for_each_task(|task| {
                all += 1;
                ready += u32::from(task.state() == State::Ready);
                last = last.max(task.pid.get());
            });
            writeln!(out, "0.00 0.00 0.00 {ready}/{all} {last}")
        }
        ProcFile::Stat => write_stat(out),
    }
}

/// /proc/stat: the lines that `top` and `vmstat` look for.
fn write_stat(out: &mut Text) -> fmt::Result {
    let (mut user, mut system, mut ready) = (0, 0, 0);
    process::for_each_task(|task| {
        user += task.times.user.load(Ordering::Relaxed);
        system += task.times.system.load(Ordering::Relaxed);
        ready += u32::from(task.state() == State::Ready);
    });
    let idle = process::idle_ticks();
    for cpu in ["cpu ", "cpu0"] {
        writeln!(out, "{cpu} {user} 0 {system} {idle} 0 0 0 0 0 0")?;
    }
    writeln!(
        out,
        "intr {}\nctxt {}\nbtime 0",
        timer::ticks(),
        process::nr_switches()
    )?;
    writeln!(out, "procs_running {ready}\nprocs_blocked 0")
}

fn write_pid_file(task: &Task, file: PidFile, out: &mut Text) -> fmt::Result {
    match file {
        PidFile::Comm => writeln!(out, "{}", task.name()),
        PidFile::Cmdline => write_cmdline(task, out),
        PidFile::Maps => task.mm().map_or(Ok(()), |mm| write_maps(&mm, out)),
        PidFile::Stat => write_pid_stat(task, out),
        PidFile::Statm => write!(
            out,
            "{}",
            task.mm().map_or(Statm::default(), |mm| statm(&mm))
        ),
        PidFile::Status => write_status(task, out),
        PidFile::Exe | PidFile::Cwd => Ok(()),
    }
}

/// The arguments lie in the process' own memory, which is looked at through its own tables.
fn write_cmdline(task: &Task, out: &mut Text) -> fmt::Result {
    let Some(mm) = task.mm() else { return Ok(()) };
    let args = mm.program().args;
    let len = usize::try_from(args.end - args.start)
        .unwrap_or(0)
        .min(MAX_CMDLINE_BYTES);
    out.0.try_reserve_exact(len).map_err(|_| fmt::Error)?;
    out.0.resize(len, 0);
    let copied = process::with_memory_of(&mm, || usercopy::copy_from_user(&mut out.0, args.start));
    if copied.is_err() {
        // The program has unmapped its own arguments.
        out.0.clear();
    }
    Ok(())
}

/// What areas come to, by use.
#[derive(Default)]
struct Areas {
    code_pages: u64,
    data_pages: u64,
    stack_pages: u64,
}

fn areas(mm: &Mm) -> Areas {
    let program = mm.program();
    let mut areas = Areas::default();
    for (range, vma) in mm.space().vmas() {
        let pages = (range.end - range.start) / PAGE_SIZE as u64;
        if vma.flags.contains(VmFlags::GROWSDOWN) {
            areas.stack_pages += pages;
        } else if range.contains(&kmm::frame::VirtAddr::new(program.code.start)) {
            areas.code_pages += pages;
        } else if vma.is_private() && vma.flags.contains(VmFlags::WRITE) {
            areas.data_pages += pages;
        }
    }
    areas
}

fn statm(mm: &Mm) -> Statm {
    let stat = mm.space().stat();
    let areas = areas(mm);
    Statm {
        size: stat.total_vm_pages,
        resident: stat.usage.rss_pages(),
        shared: stat.usage.file_pages,
        text: areas.code_pages,
        data: areas.data_pages + areas.stack_pages,
    }
}

fn task_state(task: &Task) -> TaskState {
    match task.state() {
        State::Ready => TaskState::Running,
        State::Blocked => TaskState::Sleeping,
        State::Zombie => TaskState::Zombie,
    }
}

fn number(pid: Pid) -> i32 {
    i32::try_from(pid.get()).unwrap_or(0)
}

fn write_pid_stat(task: &Task, out: &mut Text) -> fmt::Result {
    let name = task.name();
    let times = &task.times;
    let ticks = |counter: &core::sync::atomic::AtomicU64| {
        i64::try_from(counter.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
    };
    let has_tty = !task.is_kernel_thread();
    let mut stat = Stat {
        pid: number(task.pid),
        comm: core::str::from_utf8(name.as_bytes()).unwrap_or("?"),
        state: task_state(task),
        ppid: number(task.parent()),
        pgrp: number(task.group()),
        session: number(task.session()),
        tty_nr: if has_tty { TTY_S0 } else { 0 },
        tpgid: tty::foreground().filter(|_| has_tty).map_or(-1, number),
        flags: if has_tty { 0 } else { FLAG_KERNEL_THREAD },
        utime: times.user.load(Ordering::Relaxed),
        stime: times.system.load(Ordering::Relaxed),
        cutime: ticks(&times.children_user),
        cstime: ticks(&times.children_system),
        starttime: task.start_ns / NS_PER_TICK,
        signal: task.signals.pending().bits(),
        blocked: task.signals.blocked().bits(),
        sigignore: task.signals.ignored().bits(),
        exit_code: task
            .exit_requested()
            .map_or(0, |status| i32::try_from(status.bits()).unwrap_or(0)),
        ..Stat::default()
    };
    if let Some(mm) = task.mm() {
        let program = mm.program();
        let usage = mm.space().stat();
        stat.minflt = usage.usage.min_flt;
        stat.majflt = usage.usage.maj_flt;
        stat.vsize_bytes = usage.total_vm_pages * PAGE_SIZE as u64;
        stat.rss_pages = usage.usage.rss_pages();
        (stat.startcode, stat.endcode) = (program.code.start, program.code.end);
        stat.startstack = program.stack_start;
        stat.start_brk = program.heap_start;
        (stat.arg_start, stat.arg_end) = (program.args.start, program.args.end);
    }
    write!(out, "{stat}")
}

fn write_status(task: &Task, out: &mut Text) -> fmt::Result {
    let name = task.name();
    let memory = task.mm().map(|mm| {
        let stat = mm.space().stat();
        let areas = areas(&mm);
        StatusMemory {
            vm_peak_kb: pages_to_kb(stat.total_vm_pages),
            vm_size_kb: pages_to_kb(stat.total_vm_pages),
            vm_lck_kb: pages_to_kb(stat.locked_vm_pages),
            vm_hwm_kb: pages_to_kb(stat.usage.rss_pages()),
            rss_anon_kb: pages_to_kb(stat.usage.anon_pages),
            rss_file_kb: pages_to_kb(stat.usage.file_pages),
            vm_data_kb: pages_to_kb(areas.data_pages),
            vm_stk_kb: pages_to_kb(areas.stack_pages),
            vm_exe_kb: pages_to_kb(areas.code_pages),
            vm_pte_kb: pages_to_kb(stat.nr_tables as u64),
            ..StatusMemory::default()
        }
    });
    let status = Status {
        name: core::str::from_utf8(name.as_bytes()).unwrap_or("?"),
        umask: task.fs.lock().umask,
        state: task_state(task),
        tgid: number(task.pid),
        pid: number(task.pid),
        ppid: number(task.parent()),
        fd_size: 64,
        pgrp: number(task.group()),
        session: number(task.session()),
        memory,
        threads: 1,
        ..Status::default()
    };
    write!(out, "{status}")
}

fn write_maps(mm: &Mm, out: &mut Text) -> fmt::Result {
    let program = mm.program();
    let space = mm.space();
    let heap = space.mm().start_brk().as_u64()..space.mm().current_brk().as_u64();
    for (range, vma) in space.vmas() {
        let path = vma.file.as_ref().map(|file| file.place.path());
        let path = path.transpose().map_err(|_| fmt::Error)?;
        let path = path
            .as_deref()
            .map(|path| core::str::from_utf8(path).unwrap_or("?"));
        let is_heap =
            !heap.is_empty() && range.start.as_u64() < heap.end && heap.start < range.end.as_u64();
        let is_stack =
            range.start.as_u64() <= program.stack_start && program.stack_start < range.end.as_u64();
        let name = match path {
            Some(path) => Name::File(path),
            None if is_stack => Name::Special("[stack]"),
            None if is_heap => Name::Special("[heap]"),
            None => Name::Anonymous,
        };
        write!(out, "{}", map_line(range, vma, name))?;
    }
    Ok(())
}

fn map_line<'a>(
    range: core::ops::Range<kmm::frame::VirtAddr>,
    vma: &Vma<MapFile>,
    name: Name<'a>,
) -> MapLine<'a> {
    MapLine {
        start: range.start,
        end: range.end,
        perms: Perms {
            read: vma.flags.contains(VmFlags::READ),
            write: vma.flags.contains(VmFlags::WRITE),
            exec: vma.flags.contains(VmFlags::EXEC),
            shared: !vma.is_private(),
        },
        offset_bytes: if vma.file.is_some() {
            vma.pgoff * PAGE_SIZE as u64
        } else {
            0
        },
        dev: if vma.file.is_some() { (0, 1) } else { (0, 0) },
        inode: vma.file.as_ref().map_or(0, |file| file.inode().number),
        name,
    }
}
