//! Programs: from a file to an address space that is ready to run. Linux: fs/exec.c, fs/binfmt_elf.c, fs/binfmt_script.c.
//!
//! The new address space is built beside the old one, its stack filled through it, and only then put in its place: whatever
//! fails, the old program goes on and is told. Nothing of the file is read but its head: pages come by fault.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use kmm::frame::{PAGE_SIZE, VirtAddr};
use kmm::vma::{MapFlags, Prot, VmFlags};

use super::elf::{HEAD_BYTES, PHDR_BYTES, Plan, Segment, USER_END};
use super::files::Fd;
use super::space::{Program, errno, with_mm};
use super::stack_image::{ARGS_BYTES_MAX, Contents, StackImage, at};
use super::task::{Blueprint, NAME_BYTES, Pid, Task, owned, short_name};
use super::{MapFile, Mm, current, map_request, random, scheduler, wait};
use crate::arch::{self, TrapFrame, timer, usercopy};
use crate::fallible;
use crate::fs::{Inode, LastLink, Node, OpenFile, Place};
use crate::syscall::Errno;

/// Mapped for the stack at the start; it grows by faults. Linux: 128 KiB and the arguments.
const STACK_BYTES: u64 = 128 << 10;
/// Most `#!` lines before a program. Linux: `BINPRM_MAX_RECURSION`.
const SCRIPTS_MAX: usize = 4;
/// Longest `#!` line. Linux: `BINPRM_BUF_SIZE`.
const SCRIPT_LINE_BYTES: usize = 256;

/// A program that is ready to run.
struct Loaded {
    mm: Arc<Mm>,
    entry: u64,
    stack_pointer: u64,
    name: [u8; NAME_BYTES],
}

/// Runs the file at `path` in place of the running program. On success `frame` is the new program's. Linux: `execve`.
///
/// # Errors
/// Linux's; the old program goes on.
pub fn exec(
    frame: &mut TrapFrame,
    path: &[u8],
    args: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
) -> Result<(), Errno> {
    let task = current();
    let cwd = task.fs.lock().cwd.clone();
    let loaded = load(&cwd, path, args, &env)?;
    let old = task.replace_mm(Some(loaded.mm));
    task.activate_mm();
    drop(old);
    wait::finish_vfork(&task);
    task.set_name(&loaded.name);
    while let Some(fd) = take_close_on_exec(&task) {
        drop(fd);
    }
    {
        let mut actions = task.actions.lock();
        actions.reset_handlers();
        task.signals.update_ignored(&actions);
    }
    task.signals
        .set_alt_stack(super::signal::AltStack::default());
    arch::context::reset_user_state();
    *frame = TrapFrame::new_user(loaded.entry, loaded.stack_pointer);
    Ok(())
}

/// The lock is released before the file is dropped: closing may wake others.
fn take_close_on_exec(task: &Task) -> Option<Fd> {
    task.files.lock().take_close_on_exec()
}

/// Is there a program at `path`? Linux tells that before it looks at the arguments.
///
/// # Errors
/// As for [`exec`].
pub fn check_executable(path: &[u8]) -> Result<(), Errno> {
    let cwd = current().fs.lock().cwd.clone();
    check_mode(&cwd.resolve(path, LastLink::Follow)?.inode())
}

/// Starts a program as a child of the running task, in a session of its own, with `stdio` as its three standard files.
///
/// If that is the terminal, somebody has to give it to the program's group: [`crate::fs::tty::set_owner`].
///
/// # Errors
/// As for [`exec`].
pub fn spawn(path: &str, args: &[&str], env: &[&str], stdio: &Arc<OpenFile>) -> Result<Pid, Errno> {
    let loaded = load(&Place::root(), path.as_bytes(), owned(args)?, &owned(env)?)?;
    let mut blueprint = Blueprint::bare("", current().pid);
    for _ in 0..3 {
        blueprint.files.insert(
            0,
            Fd {
                file: Arc::clone(stdio),
                close_on_exec: false,
            },
        )?;
    }
    blueprint.mm = Some(loaded.mm);
    let frame = TrapFrame::new_user(loaded.entry, loaded.stack_pointer);
    let task = Task::new_user(blueprint, &frame, None)?;
    task.set_name(&loaded.name);
    let pid = task.pid;
    scheduler::add(task)?;
    Ok(pid)
}

/// Makes an address space of the file at `path`.
fn load(
    cwd: &Place,
    path: &[u8],
    mut args: Vec<Vec<u8>>,
    env: &[Vec<u8>],
) -> Result<Loaded, Errno> {
    if args.is_empty() {
        fallible::push(&mut args, fallible::copied(path)?)?;
    }
    let mut exec_path = fallible::copied(path)?;
    let mut nr_scripts = 0;
    let (place, inode, head) = loop {
        let place = cwd.resolve(&exec_path, LastLink::Follow)?;
        let inode = place.inode();
        let head = read_head(&inode)?;
        let Some(script) = Script::parse(&head) else {
            break (place, inode, head);
        };
        nr_scripts += 1;
        if nr_scripts > SCRIPTS_MAX {
            return Err(Errno::LOOP);
        }
        // The interpreter, its argument if there is one, and the script take the place of the first word.
        args.try_reserve(2)?;
        args[0] = exec_path;
        if let Some(argument) = script.argument {
            args.insert(0, fallible::copied(argument)?);
        }
        args.insert(0, fallible::copied(script.interpreter)?);
        exec_path = fallible::copied(script.interpreter)?;
    };
    let plan = Plan::new(&head, inode.size_bytes()).map_err(|_| Errno::NOEXEC)?;
    let total_bytes: usize = args
        .iter()
        .chain(env)
        .map(|word| word.len() + 1 + size_of::<u64>())
        .sum();
    if total_bytes > ARGS_BYTES_MAX {
        return Err(Errno::TOOBIG);
    }
    let image = stack_image(&plan, &args, env, &exec_path)?;
    let file = MapFile::new(place.clone(), inode);
    let mm = Mm::new()?;
    map_program(&mm, &plan, &file)?;
    let stack = USER_END
        - STACK_BYTES
            .max(image.bytes.len() as u64 + STACK_BYTES / 2)
            .next_multiple_of(PAGE_SIZE as u64)..USER_END;
    let stack_prot = if plan.exec_stack {
        Prot::READ | Prot::WRITE | Prot::EXEC
    } else {
        Prot::READ | Prot::WRITE
    };
    map_anonymous(
        &mm,
        stack,
        stack_prot,
        MapFlags::GROWSDOWN | MapFlags::STACK,
    )?;
    with_mm(&mm, || {
        for segment in plan.segments().iter().filter(|segment| segment.write) {
            let tail = segment.tail();
            usercopy::clear_user(
                tail.start,
                usize::try_from(tail.end - tail.start).unwrap_or(0),
            )?;
        }
        usercopy::copy_to_user(image.pointer, &image.bytes)
    })
    .map_err(|_| Errno::NOMEM)?;
    let code = plan.segments().iter().find(|segment| segment.exec);
    mm.set_program(Program {
        exe: Some(place),
        code: code.map_or(0..0, |segment| {
            segment.addr..segment.addr + segment.file_bytes
        }),
        heap_start: plan.end(),
        stack_start: image.pointer,
        args: image.args,
    });
    let name = exec_path
        .rsplit(|&byte| byte == b'/')
        .next()
        .unwrap_or_default();
    let name = short_name(name);
    Ok(Loaded {
        mm,
        entry: plan.entry,
        stack_pointer: image.pointer,
        name,
    })
}

fn check_mode(inode: &Inode) -> Result<(), Errno> {
    const ANY_EXECUTE: u32 = 0o111;
    match inode.node {
        Node::File(_) if inode.mode() & ANY_EXECUTE != 0 => Ok(()),
        _ => Err(Errno::ACCES),
    }
}

fn read_head(inode: &Inode) -> Result<Vec<u8>, Errno> {
    check_mode(inode)?;
    let Node::File(content) = &inode.node else {
        return Err(Errno::ACCES);
    };
    let mut head = Vec::new();
    head.try_reserve_exact(HEAD_BYTES)?;
    head.resize(HEAD_BYTES, 0);
    let len = content.lock().read(0, &mut head);
    head.truncate(len);
    Ok(head)
}

fn stack_image(
    plan: &Plan,
    args: &[Vec<u8>],
    env: &[Vec<u8>],
    exec_path: &[u8],
) -> Result<StackImage, Errno> {
    let mut noise = [0; 16];
    random::fill(&mut noise);
    let hwcap = raw_cpuid::cpuid!(1).edx;
    let auxv = [
        (at::HWCAP, u64::from(hwcap)),
        (at::PAGESZ, PAGE_SIZE as u64),
        (at::CLKTCK, timer::HZ),
        (at::PHDR, plan.phdr_addr.unwrap_or(0)),
        (at::PHENT, PHDR_BYTES as u64),
        (at::PHNUM, u64::from(plan.nr_phdrs)),
        (at::BASE, 0),
        (at::FLAGS, 0),
        (at::ENTRY, plan.entry),
        (at::UID, 0),
        (at::EUID, 0),
        (at::GID, 0),
        (at::EGID, 0),
        (at::SECURE, 0),
    ];
    Ok(StackImage::new(
        USER_END,
        &Contents {
            args,
            env,
            exec_path,
            random: noise,
            auxv: &auxv,
        },
    )?)
}

fn map_program(mm: &Mm, plan: &Plan, file: &MapFile) -> Result<(), Errno> {
    for segment in plan.segments() {
        let (pages, zeros) = (segment.file_pages(), segment.zero_pages());
        if segment.file_bytes != 0 {
            let pgoff = segment.offset_bytes / PAGE_SIZE as u64;
            let may = VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC;
            let flags = MapFlags::PRIVATE | MapFlags::FIXED;
            mm.mmap(map_request(
                pages,
                prot(segment),
                flags,
                Some((file.clone(), pgoff)),
                may,
            ))?;
        }
        if !zeros.is_empty() {
            map_anonymous(mm, zeros, prot(segment), MapFlags::empty())?;
        }
    }
    mm.space().set_brk_start(VirtAddr::new(plan.end()));
    Ok(())
}

fn map_anonymous(mm: &Mm, at: Range<u64>, prot: Prot, more: MapFlags) -> Result<(), Errno> {
    let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::FIXED | more;
    let may = VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC;
    let req = map_request(at, prot, flags, None, may);
    mm.space().mmap(req).map(drop).map_err(errno)
}

fn prot(segment: &Segment) -> Prot {
    let mut prot = Prot::empty();
    prot.set(Prot::READ, segment.read);
    prot.set(Prot::WRITE, segment.write);
    prot.set(Prot::EXEC, segment.exec);
    prot
}

/// A first line that names the program to run the file with.
struct Script<'a> {
    interpreter: &'a [u8],
    argument: Option<&'a [u8]>,
}

impl<'a> Script<'a> {
    fn parse(head: &'a [u8]) -> Option<Self> {
        let line = head.strip_prefix(b"#!")?;
        let line = &line[..line.len().min(SCRIPT_LINE_BYTES)];
        let line = line.split(|&byte| byte == b'\n').next()?.trim_ascii();
        let (interpreter, argument) = match line.iter().position(u8::is_ascii_whitespace) {
            Some(space) => (&line[..space], Some(line[space..].trim_ascii())),
            None => (line, None),
        };
        (!interpreter.is_empty()).then_some(Self {
            interpreter,
            argument,
        })
    }
}
