//! The guest's file system: Debian's static busybox, our own programs from `user/`, and a few files, as one cpio archive.
//!
//! busybox is fetched into the target directory and used from there. It is GPL: it is never committed and never shipped.

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cpio::Archive;
use crate::{apt, proc, symbols, toolchain};

const FETCH: Duration = Duration::from_secs(60);
/// Applets to link where busybox cannot be asked for its list (it is a Linux program).
const COMMON_APPLETS: &str = "sh ash ls cat echo free ps head tail wc grep sed sort true false sleep mkdir rm cp mv kill uname env test expr seq";
const PROGRAM_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the archive `name` and returns its path.
///
/// The names of `kernel` go to `/boot/kmm.sym`, for its call traces; `cmdline` goes to `/etc/cmdline`, for the door that has no
/// command line of its own.
pub(crate) fn build(kernel: &Path, name: &str, cmdline: Option<&str>) -> Result<PathBuf> {
    let mut archive = Archive::new();
    for dir in ["bin", "dev", "etc", "proc", "tmp"] {
        archive.dir(dir);
    }
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n");
    archive.file(
        "etc/motd",
        0o644,
        b"kmm: a memory manager with a small kernel around it. Type help.\n",
    );
    match symbols::of(kernel) {
        Ok(table) => {
            archive.dir("boot");
            archive.file("boot/kmm.sym", 0o644, table.as_bytes());
        }
        Err(error) => eprintln!("  no names in the guest's call traces: {error:#}"),
    }
    if let Some(words) = cmdline {
        archive.file("etc/cmdline", 0o644, words.as_bytes());
    }
    match busybox() {
        Ok(path) => {
            archive.file("bin/busybox", 0o755, &fs::read(&path)?);
            let applets = proc::read(Command::new(&path).arg("--list"))
                .unwrap_or_else(|| COMMON_APPLETS.replace(' ', "\n"));
            for applet in applets.lines().filter(|name| *name != "busybox") {
                archive.link(&format!("bin/{applet}"), "busybox");
            }
        }
        Err(error) => eprintln!("  no busybox in the guest: {error:#}"),
    }
    match programs() {
        Ok(programs) => {
            for (name, path) in programs {
                archive.file(&format!("bin/{name}"), 0o755, &fs::read(path)?);
            }
        }
        Err(error) => eprintln!("  no programs of our own in the guest: {error:#}"),
    }
    let path = proc::work_dir("initramfs")?.join(format!("{name}.cpio"));
    fs::write(&path, archive.finish())?;
    Ok(path)
}

/// A static busybox: `KMM_BUSYBOX`, one fetched before, one fetched now, or the host's own if it is static.
pub(crate) fn busybox() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KMM_BUSYBOX") {
        return Ok(PathBuf::from(path));
    }
    let dir = proc::work_dir("busybox")?;
    let unpacked = ["bin/busybox", "usr/bin/busybox"].map(|path| dir.join("root").join(path));
    let found = || unpacked.iter().find(|path| path.is_file()).cloned();
    if let Some(path) = found() {
        return Ok(path);
    }
    let fetched = fetch(&dir);
    if let Some(path) = found() {
        return Ok(path);
    }
    let host = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    if let Some(path) = host.into_iter().find(|path| is_static(path)) {
        return Ok(path);
    }
    fetched.context(
        "set KMM_BUSYBOX to a static x86-64 busybox, or install Debian's busybox-static",
    )?;
    bail!("the package busybox-static holds no busybox")
}

fn fetch(dir: &Path) -> Result<()> {
    if proc::which("apt-get").is_none() || proc::which("dpkg-deb").is_none() {
        bail!("without apt busybox-static cannot be fetched");
    }
    if apt::candidate("busybox-static").is_none() {
        apt::update()?;
    }
    let mut download = Command::new("apt-get");
    download
        .args(["download", "-q", "busybox-static:amd64"])
        .current_dir(dir);
    let done = proc::quiet("fetching busybox-static", &mut download, FETCH)?;
    if !done.ok {
        bail!("`apt-get download busybox-static` failed: {}", done.tail(1));
    }
    let package = fs::read_dir(dir)?
        .flatten()
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|ext| ext == "deb"));
    let package = package.context("`apt-get download` left no package")?;
    proc::loud(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(package)
            .arg(dir.join("root")),
    )
}

/// An ELF file for x86-64 without a program interpreter.
fn is_static(path: &Path) -> bool {
    const PT_INTERP: u32 = 3;
    const EM_X86_64: u16 = 62;
    let Ok(bytes) = fs::read(path) else {
        return false;
    };
    let half = |at: usize| {
        bytes
            .get(at..at + 2)
            .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
    };
    let word = |at: usize| {
        bytes
            .get(at..at + 4)
            .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    };
    let (table, size, count) = (
        word(32) as usize,
        usize::from(half(54)),
        usize::from(half(56)),
    );
    bytes.starts_with(b"\x7fELF\x02")
        && half(18) == EM_X86_64
        && (0..count).all(|i| word(table + i * size) != PT_INTERP)
}

/// Compiles each `user/NAME.rs` to a static Linux program.
///
/// They are `no_std` and `no_main`, so the host's own compiler and its linker are enough: no C compiler, no libc.
/// `user/rt/mem.rs` supplies the memory functions that the compiler calls.
pub(crate) fn programs() -> Result<Vec<(String, PathBuf)>> {
    let sources = proc::root().join("user");
    let Ok(files) = fs::read_dir(&sources) else {
        return Ok(Vec::new());
    };
    let mut sources: Vec<PathBuf> = files
        .flatten()
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
        .collect();
    sources.sort();
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    let rustc = toolchain::host_rustc();
    if !toolchain::has_library(&rustc, PROGRAM_TARGET) {
        bail!(
            "this Rust has no library for {PROGRAM_TARGET}; please type: rustup target add {PROGRAM_TARGET}"
        );
    }
    let out = proc::work_dir("user")?;
    let mem = out.join("mem.o");
    compile(
        &rustc,
        &proc::root().join("user/rt/mem.rs"),
        &mem,
        &["--crate-type=lib".as_ref(), "--emit=obj".as_ref()],
    )?;
    let mut programs = Vec::new();
    for source in sources {
        let name = source
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let path = out.join(&name);
        let link_mem = format!("-Clink-arg={}", mem.display());
        let args = [
            "-Cstrip=debuginfo",
            "-Clinker=rust-lld",
            "-Clinker-flavor=ld.lld",
            "-Clink-arg=-static",
            "-Clink-arg=--defsym=rust_eh_personality=0",
            &link_mem,
        ];
        compile(&rustc, &source, &path, &args.map(AsRef::as_ref))?;
        programs.push((name, path));
    }
    Ok(programs)
}

fn compile(rustc: &Path, source: &Path, out: &Path, args: &[&std::ffi::OsStr]) -> Result<()> {
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    let shared = proc::root().join("user/rt");
    let parts = [shared, source.with_extension("")]
        .into_iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .flatten()
        .map(|file| file.path());
    let inputs: Vec<PathBuf> = parts
        .chain([source.to_path_buf(), std::env::current_exe()?])
        .collect();
    if modified(out).is_some() && inputs.iter().all(|input| modified(out) > modified(input)) {
        return Ok(());
    }
    let mut command = Command::new(rustc);
    command.args([
        "--edition=2024",
        "-Copt-level=2",
        "-Cpanic=abort",
        "-Crelocation-model=static",
        "-Ctarget-feature=+crt-static",
    ]);
    command
        .args(["--target", PROGRAM_TARGET])
        .args(args)
        .arg("-o")
        .arg(out)
        .arg(source)
        .current_dir(proc::root());
    proc::loud(&mut command)
}
