//! Self-tests of files.

use alloc::vec::Vec;

use super::content::Content;
use super::cpio::CpioError;
use super::inode::Node;
use super::open;
use super::path::{LastLink, Place};
use super::unpack::{Unpacked, unpack};
use crate::ensure;
use crate::heap;
use crate::mm;
use crate::selftest::{Failure, Outcome, Random, Test};
use crate::syscall::Errno;

/// Self-tests of files.
pub const TESTS: &[Test] = &[
    Test {
        name: "fs::contents_match_a_plain_vector",
        run: contents,
    },
    Test {
        name: "fs::an_archive_becomes_a_tree",
        run: archive,
    },
    Test {
        name: "fs::a_corrupt_archive_keeps_what_comes_before",
        run: corrupt_archive,
    },
    Test {
        name: "fs::proc_tells_about_memory",
        run: proc,
    },
    Test {
        name: "fs::refused_allocations_are_enomem",
        run: refused,
    },
];

const SEED: u64 = 0x5eed_f11e;
const OPERATIONS: u32 = 2000;
const SPACE_BYTES: u64 = 40_000;

static BACKING: [u8; 10_000] = {
    let mut bytes = [0; 10_000];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = (at % 251).to_le_bytes()[0];
        at += 1;
    }
    bytes
};

/// The first round fills caches; the second must not take anything more.
fn contents() -> Outcome {
    random_operations()?;
    let before = mm::pages_held();
    random_operations()?;
    let after = mm::pages_held();
    ensure!(after <= before, "{} pages more are held", after - before);
    Ok(())
}

/// Random writes, reads, cuts and first touches of a backed file, each compared with a vector.
fn random_operations() -> Outcome {
    let mut random = Random::new(SEED);
    let mut content = Content::backed(&BACKING);
    let mut model = BACKING.to_vec();
    for operation in 0..OPERATIONS {
        let at = random.next() % SPACE_BYTES;
        let len = usize::try_from(random.next() % 9000).unwrap_or(0);
        match random.next() % 4 {
            0 => {
                let bytes: Vec<u8> = (0..len).map(|_| random.next().to_le_bytes()[0]).collect();
                let written = content.write(at, &bytes).map_err(Failure::of)?;
                ensure!(
                    written == len,
                    "seed {SEED:#x}, operation {operation}: wrote {written} of {len}"
                );
                let start = usize::try_from(at).unwrap_or(0);
                if len > 0 {
                    model.resize(model.len().max(start + len), 0);
                    model[start..start + len].copy_from_slice(&bytes);
                }
            }
            1 => {
                content.truncate(at).map_err(Failure::of)?;
                model.resize(usize::try_from(at).unwrap_or(0), 0);
            }
            2 => {
                let page = content.page(at / 4096).map_err(Failure::of)?;
                ensure!(
                    page.is_some() == (at / 4096 * 4096 < model.len() as u64),
                    "seed {SEED:#x}, operation {operation}: page of {at}"
                );
                if let Some(pfn) = page {
                    give_back(pfn);
                }
            }
            _ => {}
        }
        let mut read = alloc::vec![1; len];
        let got = content.read(at, &mut read);
        let start = usize::try_from(at).unwrap_or(0).min(model.len());
        let expected = &model[start..model.len().min(start + len)];
        ensure!(
            read[..got] == *expected,
            "seed {SEED:#x}, operation {operation}: {got} bytes at {at} differ"
        );
        ensure!(
            content.size_bytes() == model.len() as u64,
            "seed {SEED:#x}, operation {operation}: size"
        );
    }
    Ok(())
}

#[expect(unsafe_code, reason = "gives a reference back")]
fn give_back(pfn: kmm::frame::Pfn) {
    // SAFETY: the reference that `Content::page` took for us.
    unsafe { mm::put_page(pfn) };
}

macro_rules! entry {
    ($mode:literal, $links:literal, $size:literal, $name_size:literal, $name:literal, $contents:literal) => {
        concat!(
            "070701", "00000005", $mode, "00000000", "00000000", $links, "00000000", $size,
            "00000000", "00000000", "00000000", "00000000", $name_size, "00000000", $name,
            $contents
        )
    };
}

/// Names are padded to where 110 bytes and they end on a multiple of four.
static ARCHIVE: &str = concat!(
    entry!(
        "000041ed",
        "00000002",
        "00000000",
        "00000004",
        "dir\0\0\0",
        ""
    ),
    entry!(
        "000081a4",
        "00000001",
        "00000005",
        "00000006",
        "dir/a\0",
        "hello\0\0\0"
    ),
    entry!(
        "000081a4",
        "00000001",
        "00000002",
        "0000000a",
        "deep/er/b\0",
        "ok\0\0"
    ),
    entry!(
        "0000a1ff",
        "00000001",
        "00000005",
        "00000004",
        "lnk\0\0\0",
        "dir/a\0\0\0"
    ),
    entry!(
        "000081a4", "00000001", "00000001", "00000006", "../up\0", "x\0\0\0"
    ),
    entry!(
        "000081a4",
        "00000001",
        "00000001",
        "00000008",
        "dir/a/b\0\0\0",
        "x\0\0\0"
    ),
    entry!(
        "000081a4",
        "00000002",
        "00000000",
        "00000004",
        "one\0\0\0",
        ""
    ),
    entry!(
        "000081a4",
        "00000002",
        "00000004",
        "00000004",
        "two\0\0\0",
        "same"
    ),
    entry!(
        "00000000",
        "00000001",
        "00000000",
        "0000000b",
        "TRAILER!!!\0\0\0\0",
        ""
    ),
);

fn read(unpacked: &Unpacked, path: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut place = unpacked.root.clone();
    for name in path.split(|&byte| byte == b'/') {
        place = place.lookup(name)?;
    }
    match &place.node {
        Node::File(content) => {
            let mut bytes = alloc::vec![0; 64];
            let len = content.lock().read(0, &mut bytes);
            bytes.truncate(len);
            Ok(bytes)
        }
        Node::Link(to) => Ok(to.clone()),
        _ => Err(Errno::ISDIR),
    }
}

fn archive() -> Outcome {
    let unpacked = unpack(ARCHIVE.as_bytes()).map_err(Failure::of)?;
    ensure!(unpacked.fault.is_none(), "{:?}", unpacked.fault);
    for (path, expected) in [
        (&b"dir/a"[..], Ok(&b"hello"[..])),
        (b"deep/er/b", Ok(b"ok")),
        (b"lnk", Ok(b"dir/a")),
        (b"one", Ok(b"same")),
        (b"two", Ok(b"same")),
        (b"up", Err(Errno::NOENT)),
        (b"dir/a/b", Err(Errno::NOTDIR)),
        (b"dir", Err(Errno::ISDIR)),
    ] {
        let found = read(&unpacked, path);
        ensure!(
            found.as_deref().map_err(|error| *error) == expected,
            "{}: {found:?}",
            path.escape_ascii()
        );
    }
    ensure!(unpacked.nr_files == 6, "{} files", unpacked.nr_files);
    Ok(())
}

/// Cut at every length: never more than what the whole archive has, and always told.
fn corrupt_archive() -> Outcome {
    let whole = ARCHIVE.as_bytes();
    let mut most = 0;
    for len in 1..whole.len() - 4 {
        let unpacked = unpack(&whole[..len]).map_err(Failure::of)?;
        ensure!(
            matches!(unpacked.fault, Some((at, CpioError::Truncated)) if at <= len),
            "cut at {len}: {:?}",
            unpacked.fault
        );
        ensure!(
            unpacked.nr_files >= most,
            "cut at {len}: {} files, {most} before",
            unpacked.nr_files
        );
        most = unpacked.nr_files;
    }
    ensure!(most == 6, "{most} files");
    Ok(())
}

/// Opens files and directories and reads from them, while some allocations are refused: an infallible one among them would end
/// the kernel.
fn refused() -> Outcome {
    read_with_refusals()?;
    let before = mm::pages_held();
    read_with_refusals()?;
    let after = mm::pages_held();
    ensure!(after <= before, "{} pages more are held", after - before);
    Ok(())
}

fn read_with_refusals() -> Outcome {
    const SEEDS: u64 = 4;
    let files = proc_files().map_err(Failure::of)?;
    let (mut nr_refused, mut nr_read) = (0, 0);
    for (seed, path) in (1..=SEEDS).flat_map(|seed| files.iter().map(move |path| (seed, path))) {
        let _serving = heap::ForProgram::begin();
        heap::refuse_one_in(1 + seed * 3, seed);
        let read = open(&Place::root(), path, 0, 0).and_then(|file| {
            let mut buf = [0; 256];
            file.read_dir(&mut buf).or_else(|_| file.read(&mut buf))
        });
        heap::refuse_one_in(0, 0);
        match read {
            Ok(_) => nr_read += 1,
            Err(Errno::NOMEM) => nr_refused += 1,
            // Links without a target, and processes that have ended.
            Err(_) => {}
        }
    }
    ensure!(
        nr_refused > 0 && nr_read > 0,
        "{nr_refused} refused, {nr_read} read"
    );
    Ok(())
}

/// The paths of everything in /proc, of its first process, and of some more.
fn proc_files() -> Result<Vec<Vec<u8>>, Errno> {
    let mut paths = Vec::new();
    for dir in ["/proc", "/proc/1"] {
        let place = Place::root().resolve(dir.as_bytes(), LastLink::Follow)?;
        if let Node::Proc(node) = &place.inode().node {
            for (name, _) in node.list()? {
                paths.push([dir.as_bytes(), b"/", name.as_slice()].concat());
            }
        }
    }
    paths.extend(
        ["/", "/dev", "/bin", "/tmp/../proc/self/../1"].map(|path| path.as_bytes().to_vec()),
    );
    Ok(paths)
}

fn proc() -> Outcome {
    for (name, start) in [
        ("meminfo", "MemTotal:"),
        ("buddyinfo", "Node 0, zone"),
        ("zoneinfo", "Node 0, zone"),
        ("slabinfo", "slabinfo - version: 2.1"),
        ("vmallocinfo", "0x"),
        ("vmstat", "nr_free_pages"),
        ("uptime", ""),
        ("loadavg", ""),
        ("version", "Linux version"),
        ("1/stat", "1 ("),
        ("1/status", "Name:"),
        ("self/comm", "shell"),
    ] {
        let path = alloc::format!("/proc/{name}");
        let file = Place::root()
            .resolve(path.as_bytes(), LastLink::Follow)
            .map_err(Failure::of)?
            .inode();
        let Node::Proc(node) = &file.node else {
            return Err(Failure::from(alloc::format!("{path} is something else")));
        };
        let text = node.text().map_err(Failure::of)?;
        ensure!(
            text.starts_with(start.as_bytes()),
            "{path}: {}",
            text.iter()
                .take(60)
                .copied()
                .collect::<Vec<u8>>()
                .escape_ascii()
        );
        ensure!(text.ends_with(b"\n"), "{path} does not end its line");
    }
    Ok(())
}
