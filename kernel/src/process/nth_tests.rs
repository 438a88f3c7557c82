//! The first, the second, each allocation for a program is refused in turn: the call fails with ENOMEM or does without, nothing is
//! lost, and what it was to change is as it was.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use kmm::frame::PAGE_SIZE;
use kmm::vma::{MmapReq, Prot};

use super::tests::output;
use super::{Mm, commands, fault, for_each_task, reap_all, spawn, wait, yield_now};
use crate::ensure;
use crate::fs::{Inode, Node, OpenFile, Place, flags, open, pipe};
use crate::heap;
use crate::mm;
use crate::selftest::{Failure, Outcome};
use crate::syscall::Errno;

/// Nothing here allocates more often.
const MOST: u64 = 2000;
const NAME: &[u8] = b"selftest-nth";
const PATH: &[u8] = b"/tmp/selftest-nth";

/// Something that a program may have done for it.
struct Case {
    name: &'static str,
    act: fn() -> Result<(), Errno>,
    /// Is it as if it had not been?
    is_undone: fn() -> bool,
    undo: fn(),
}

const CASES: &[Case] = &[
    Case {
        name: "a new file",
        act: || open_new().map(drop),
        is_undone: || !exists(),
        undo: remove,
    },
    Case {
        name: "pages of a file",
        act: || {
            let file = open_new()?;
            let page = [7; PAGE_SIZE / 8];
            (0..40).try_for_each(|nr| {
                let written = file.write_at(nr * page.len() as u64, &page)?;
                if written == page.len() {
                    Ok(())
                } else {
                    Err(Errno::NOMEM)
                }
            })
        },
        // What was written before stays, as a short write would.
        is_undone: || true,
        undo: remove,
    },
    Case {
        name: "a directory",
        act: || link(Inode::new_dir(0o755, 0)?),
        is_undone: || !exists(),
        undo: remove,
    },
    Case {
        name: "a symbolic link",
        act: || {
            let to = crate::fallible::copied(b"/bin/busybox")?;
            link(Inode::new(Node::Link(to), 0o777, 0)?)
        },
        is_undone: || !exists(),
        undo: remove,
    },
    Case {
        name: "a pipe",
        act: || pipe::new().map(drop),
        is_undone: || true,
        undo: || (),
    },
    Case {
        name: "a list of a directory",
        act: || {
            let dir = open(&Place::root(), b"/proc", 0, 0)?;
            dir.read_dir(&mut [0; 512]).map(drop)
        },
        is_undone: || true,
        undo: || (),
    },
    Case {
        name: "a text of /proc",
        act: || {
            let file = open(&Place::root(), b"/proc/slabinfo", 0, 0)?;
            file.read(&mut [0; 512]).map(drop)
        },
        is_undone: || true,
        undo: || (),
    },
    Case {
        name: "areas of an address space, and a copy of it",
        act: || {
            let mm = Mm::new()?;
            for nr in 1..20 {
                let prot = if nr % 2 == 0 { Prot::READ } else { Prot::WRITE };
                mm.mmap(MmapReq::anonymous(nr * PAGE_SIZE as u64, prot))?;
            }
            mm.fork().map(drop)
        },
        is_undone: || true,
        undo: || (),
    },
];

fn open_new() -> Result<Arc<OpenFile>, Errno> {
    let how = flags::CREATE | flags::EXCLUSIVE | flags::READ_WRITE;
    open(&Place::root(), PATH, how, 0o600)
}

fn tmp() -> Result<Arc<Inode>, Errno> {
    let (parent, _) = Place::root().resolve_parent(PATH)?;
    Ok(parent.inode())
}

fn link(inode: Arc<Inode>) -> Result<(), Errno> {
    tmp()?.link(NAME, inode)
}

fn exists() -> bool {
    tmp().is_ok_and(|dir| dir.lookup(NAME).is_ok())
}

fn remove() {
    let Ok(dir) = tmp() else { return };
    if let (Ok(inode), Ok(names)) = (dir.lookup(NAME), dir.names()) {
        let removed = names.lock().remove(NAME);
        inode.unlinked();
        drop(removed);
    }
}

/// Pages that are held, and objects in use: exact where no freed ones wait.
fn taken() -> (usize, usize) {
    let infos = mm::manager().slub().cache_infos();
    let of_kmalloc = infos.filter(|info| info.name.starts_with("kmalloc-"));
    let objects = of_kmalloc.map(|info| info.active_objs).sum();
    (mm::pages_held(), if cfg!(kasan) { 0 } else { objects })
}

/// Waits until no program runs any more. Those whose parent has ended are the shell's.
fn all_have_ended() -> bool {
    const PATIENCE: usize = 1_000_000;
    (0..PATIENCE).any(|_| {
        reap_all();
        let mut is_over = true;
        for_each_task(|task| is_over &= task.is_kernel_thread());
        if !is_over {
            yield_now();
        }
        is_over
    })
}

/// Runs `act` as for a program, its `nth` allocation refused; how many there were.
fn refused<R>(nth: u64, act: impl FnOnce() -> R) -> (R, u64) {
    let serving = heap::ForProgram::begin();
    heap::refuse_nth(nth);
    let result = act();
    let nr_asked = heap::refuse_nth(0);
    drop(serving);
    (result, nr_asked)
}

pub(super) fn calls() -> Outcome {
    for case in CASES {
        let name = case.name;
        // What is made once and stays, is there.
        (case.act)().map_err(|error| Failure::from(format!("{name}: {error}")))?;
        (case.undo)();
        let mut nr_refused = 0;
        for nth in 1.. {
            ensure!(nth < MOST, "{name} allocates without end");
            let before = taken();
            let (result, nr_asked) = refused(nth, case.act);
            match result {
                Ok(()) => {}
                Err(Errno::NOMEM) => {
                    nr_refused += 1;
                    ensure!((case.is_undone)(), "{name}: half done at {nth}");
                }
                Err(error) => return Err(Failure::from(format!("{name}, {nth}: {error}"))),
            }
            (case.undo)();
            let after = taken();
            ensure!(after == before, "{name}, {nth}: {before:?} {after:?}");
            if nr_asked < nth {
                break;
            }
        }
        ensure!(nr_refused > 0, "{name}: nothing was refused");
    }
    mm::manager().slub().validate().map_err(Failure::of)
}

/// All that a program has done for it from its start to its end: tasks, tables, files, signals.
pub(super) fn programs() -> Outcome {
    for name in ["hello", "forkcow"] {
        let path: String = format!("/bin/{name}");
        let run = |nth| {
            let output = output()?;
            fault::set_reports(false);
            let (started, nr_asked) = refused(nth, || {
                spawn(&path, &[name], commands::ENVIRONMENT, &output).map(wait)
            });
            fault::set_reports(true);
            output.truncate(0)?;
            drop(output);
            Ok((started, nr_asked))
        };
        let of = |error: Errno| Failure::from(format!("{name}: {error}"));
        run(0).map_err(of)?.0.map_err(of)?;
        let mut nr_refused = 0;
        for nth in 1.. {
            ensure!(nth < MOST, "{name} allocates without end");
            let before = taken();
            let (started, nr_asked) = run(nth).map_err(of)?;
            match started {
                Ok(_) => {}
                Err(Errno::NOMEM) => nr_refused += 1,
                Err(error) => return Err(of(error)),
            }
            ensure!(all_have_ended(), "{name}, {nth}: somebody runs for ever");
            let after = taken();
            ensure!(after == before, "{name}, {nth}: {before:?} {after:?}");
            if nr_asked < nth {
                break;
            }
        }
        ensure!(nr_refused > 0, "{name}: nothing was refused");
    }
    mm::manager().slub().validate().map_err(Failure::of)
}
