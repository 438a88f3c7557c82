//! A way to build for `x86_64-unknown-none` on this machine.
//!
//! A stock Rust has no library for that target. What is there already is taken first, then what can be fetched, each attempt
//! bounded in time:
//!
//! 1. the target's library in the Rust that runs xtask (`rustup target add`),
//! 2. a nightly with `rust-src`, which builds the library (`-Zbuild-std`), or else that of the Rust that runs xtask, with
//!    `RUSTC_BOOTSTRAP=1`,
//! 3. the distribution's Rust with its library source, built in the same way under `RUSTC_BOOTSTRAP=1`; on Debian 12 the packages
//!    are `rustc-web cargo-web rust-web-src`, elsewhere `rustc cargo rust-src`.
//!
//! `KMM_TOOLCHAIN=rustup` keeps to 1 and 2, `KMM_TOOLCHAIN=distro` to 3.

use core::time::Duration;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{apt, proc};

pub(crate) const TARGET: &str = "x86_64-unknown-none";
/// The workspace's `rust-version`, minor part.
const OLDEST_MINOR: u32 = 85;
/// After this a way that hangs is given up, and the next one taken.
const ATTEMPT: Duration = Duration::from_secs(60);
const BUILD_STD: [&str; 2] = [
    "-Zbuild-std=core,alloc,compiler_builtins",
    "-Zbuild-std-features=compiler-builtins-mem",
];
/// Package names of the distribution's Rust: Debian 12's newer one, then the plain one.
const DISTRO_SETS: [[&str; 3]; 2] = [
    ["rustc-web", "cargo-web", "rust-web-src"],
    ["rustc", "cargo", "rust-src"],
];

const RUSTFLAGS: &str = "CARGO_TARGET_X86_64_UNKNOWN_NONE_RUSTFLAGS";
/// The compiler checks every access by a call; variables on stacks and global ones are not watched.
const KASAN: [&str; 6] = [
    "--cfg=kasan",
    "-Zsanitizer=kernel-address",
    "-Cllvm-args=-asan-instrumentation-with-call-threshold=0",
    "-Cllvm-args=-asan-stack=0",
    "-Cllvm-args=-asan-globals=0",
    "-Cllvm-args=-asan-kernel-mem-intrinsic-prefix=1",
];

/// How to call cargo for the kernel's target.
pub(crate) struct Toolchain {
    pub(crate) name: String,
    cargo: PathBuf,
    rustc: PathBuf,
    build_std: bool,
    /// Needs `RUSTC_BOOTSTRAP=1`: a stable compiler with build-std.
    bootstrap: bool,
    /// Goes in front of PATH: where `rust-lld` is.
    lld_dir: Option<PathBuf>,
    /// A linker to name where there is no `rust-lld`.
    linker: Option<&'static str>,
}

/// Finds the first way that this machine has, installing one if there is none.
pub(crate) fn find() -> Result<Toolchain> {
    let (rustup, distro) = allowed()?;
    let present = (rustup.then(host_with_target).flatten())
        .or_else(|| rustup.then(rustup_with_source).flatten())
        .or_else(|| distro.then(distro_with_source).flatten());
    if let Some(tools) = present {
        return Ok(tools);
    }
    let mut tried = Vec::new();
    if rustup {
        match fetch_by_rustup() {
            Ok(tools) => return Ok(tools),
            Err(error) => tried.push(format!("{error:#}")),
        }
    }
    if distro {
        match fetch_by_apt() {
            Ok(tools) => return Ok(tools),
            Err(error) => tried.push(format!("{error:#}")),
        }
    }
    bail!(
        "no way to build for {TARGET}:\n  {}\nthe usual way is: rustup target add {TARGET}",
        tried.join("\n  ")
    )
}

/// Finds a compiler with its library's source, which is what the UEFI bootloader's build wants.
///
/// The distribution's comes first here: its version is one that the bootloader was tried with.
pub(crate) fn find_with_source() -> Result<Toolchain> {
    let (rustup, distro) = allowed()?;
    let present = (distro.then(distro_with_source).flatten())
        .or_else(|| rustup.then(rustup_with_source).flatten());
    if let Some(tools) = present {
        return Ok(tools);
    }
    let mut last = anyhow::anyhow!("no toolchain is allowed");
    if distro {
        match fetch_by_apt() {
            Ok(tools) => return Ok(tools),
            Err(error) => last = error,
        }
    }
    if rustup {
        proc::quiet(
            "rustup component add rust-src",
            Command::new("rustup").args(["component", "add", "rust-src"]),
            ATTEMPT,
        )?;
        return rustup_with_source().ok_or_else(|| {
            last.context(
                "no source of Rust's library; the usual way is: rustup component add rust-src",
            )
        });
    }
    Err(last)
}

/// Which ways may be taken: rustup's, the distribution's.
fn allowed() -> Result<(bool, bool)> {
    match std::env::var("KMM_TOOLCHAIN").unwrap_or_default().as_str() {
        "" => Ok((true, true)),
        "rustup" => Ok((true, false)),
        "distro" => Ok((false, true)),
        other => bail!("KMM_TOOLCHAIN={other:?}: neither rustup nor distro"),
    }
}

impl Toolchain {
    /// `cargo SUBCOMMAND` for the kernel's target with the kernel's flags, in a target directory of its own.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.cargo);
        command.arg(subcommand);
        self.equip(&mut command);
        command
    }

    /// `cargo SUBCOMMAND` for a kernel in which the compiler checks every access, and the target directory that it has to itself.
    /// The library is checked too, so this wants its source.
    ///
    /// Built in parts, without link-time optimization: it is quicker to build so, and slow anyway.
    pub(crate) fn kasan_cargo(&self, subcommand: &str) -> (Command, PathBuf) {
        let mut command = self.cargo(subcommand);
        let mut flags = self.flags();
        flags.extend(KASAN.map(str::to_owned));
        let target_dir = target_dir().join("kasan");
        command
            .env(RUSTFLAGS, flags.join(" "))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", &target_dir)
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        (command, target_dir)
    }

    /// `cargo SUBCOMMAND` for the kernel's target with nothing else that is ours: for a stranger's workspace.
    pub(crate) fn strangers_cargo(&self, subcommand: &str, target_dir: &Path) -> Command {
        let mut command = self.cargo(subcommand);
        command
            .env_remove(RUSTFLAGS)
            .env("CARGO_TARGET_DIR", target_dir);
        if let Some(linker) = self.linker {
            command.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", linker);
        }
        command
    }

    /// Does it belong to the distribution?
    pub(crate) fn is_distro(&self) -> bool {
        self.rustc.starts_with("/usr/bin")
    }

    /// `cargo clippy`, if this toolchain has it.
    pub(crate) fn clippy(&self) -> Option<Command> {
        let program = self.cargo.with_file_name("cargo-clippy");
        let mut command = Command::new(program.is_file().then_some(program)?);
        command.arg("clippy");
        self.equip(&mut command);
        command.env("CARGO", &self.cargo);
        Some(command)
    }

    /// `cargo SUBCOMMAND` with this toolchain for a build that chooses its own targets (the UEFI image).
    ///
    /// No `CARGO_TARGET_DIR`: the bootloader's build script runs cargo again, which would wait for the lock of that directory
    /// for ever. Use `--target-dir`.
    pub(crate) fn bare_cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.cargo);
        command.arg(subcommand);
        proc::scrub(&mut command);
        command
            .env("RUSTC", &self.rustc)
            .env("CARGO", &self.cargo)
            .env("RUSTC_BOOTSTRAP", "1");
        command
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_TARGET_DIR");
        if self.linker.is_some() {
            command.env("CARGO_TARGET_X86_64_UNKNOWN_UEFI_LINKER", "lld-link");
        }
        command.env("PATH", self.path());
        command
    }

    fn equip(&self, command: &mut Command) {
        proc::scrub(command);
        command.current_dir(proc::root()).args(["--target", TARGET]);
        // A RUSTFLAGS in the environment would replace the target's own.
        command
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("CARGO_BUILD_TARGET");
        command.env(RUSTFLAGS, self.flags().join(" "));
        command
            .env("CARGO_TARGET_DIR", target_dir())
            .env("RUSTC", &self.rustc);
        if self.build_std {
            command.args(BUILD_STD);
        }
        if self.bootstrap {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command.env("PATH", self.path());
    }

    /// The kernel's own.
    fn flags(&self) -> Vec<String> {
        let mut flags = vec![
            "-Crelocation-model=static".to_owned(),
            "-Ccode-model=kernel".to_owned(),
            "-Cforce-frame-pointers=yes".to_owned(),
        ];
        flags.extend(self.linker.map(|linker| format!("-Clinker={linker}")));
        flags
    }

    fn path(&self) -> OsString {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = self
            .lld_dir
            .iter()
            .cloned()
            .chain(std::env::split_paths(&path));
        std::env::join_paths(dirs).unwrap_or(path)
    }
}

/// Where cargo puts what is built for the kernel's target; apart from the host's, so that neither waits for the other's lock.
pub(crate) fn target_dir() -> PathBuf {
    proc::target_dir().join("kernel")
}

/// The folder of `rust-lld` in this Rust's sysroot, or on PATH.
pub(crate) fn lld_dir(rustc: &Path) -> Option<PathBuf> {
    let own = sysroot(rustc).and_then(|sysroot| {
        let dir = sysroot
            .join("lib/rustlib")
            .join(host_triple(rustc)?)
            .join("bin");
        dir.join("rust-lld").is_file().then_some(dir)
    });
    own.or_else(|| proc::which("rust-lld").and_then(|path| path.parent().map(Path::to_path_buf)))
}

/// A program that can take sections out of an ELF file.
pub(crate) fn objcopy() -> Option<PathBuf> {
    let own = lld_dir(&host_rustc())
        .map(|dir| dir.join("rust-objcopy"))
        .filter(|path| path.is_file());
    own.or_else(|| {
        ["llvm-objcopy", "objcopy"]
            .iter()
            .find_map(|name| proc::which(name))
    })
}

/// The compiler that runs on the host.
pub(crate) fn host_rustc() -> PathBuf {
    // `cargo run` under rustup has set PATH so that this is the compiler that built xtask.
    std::env::var_os("RUSTC")
        .map(PathBuf::from)
        .or_else(|| proc::which("rustc"))
        .unwrap_or_else(|| PathBuf::from("rustc"))
}

/// Has this compiler a library for `target`?
pub(crate) fn has_library(rustc: &Path, target: &str) -> bool {
    let Some(dir) =
        proc::read(Command::new(rustc).args(["--print", "target-libdir", "--target", target]))
    else {
        return false;
    };
    let Ok(files) = std::fs::read_dir(dir) else {
        return false;
    };
    files
        .flatten()
        .any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
}

fn host_with_target() -> Option<Toolchain> {
    let rustc = real(&host_rustc())?;
    has_library(&rustc, TARGET).then(|| Toolchain {
        name: format!("{} with the target's library", version(&rustc)),
        cargo: rustc.with_file_name("cargo"),
        lld_dir: None,
        linker: None,
        rustc,
        build_std: false,
        bootstrap: false,
    })
}

fn rustup_with_source() -> Option<Toolchain> {
    let host = real(&host_rustc());
    nightlies()
        .into_iter()
        .filter_map(|name| toolchain_rustc(&name))
        .chain(host)
        .find(|rustc| has_source(rustc) && !rustc.starts_with("/usr/bin"))
        .and_then(|rustc| with_source(rustc, None))
}

fn nightlies() -> Vec<String> {
    let list = proc::read(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    let names = list
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| name.starts_with("nightly"))
        .map(str::to_owned)
        .collect()
}

fn distro_with_source() -> Option<Toolchain> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    if !rustc.with_file_name("cargo").is_file()
        || minor_version(&rustc)? < OLDEST_MINOR
        || !has_source(&rustc)
    {
        return None;
    }
    with_source(rustc, lld_dir(&host_rustc()))
}

/// A compiler with its library's source, if there is a linker for it.
fn with_source(rustc: PathBuf, other_lld_dir: Option<PathBuf>) -> Option<Toolchain> {
    let lld_dir = lld_dir(&rustc).or(other_lld_dir);
    let linker = (lld_dir.is_none() && proc::which("ld.lld").is_some()).then_some("ld.lld");
    if lld_dir.is_none() && linker.is_none() {
        return None;
    }
    let version = version(&rustc);
    Some(Toolchain {
        bootstrap: !version.contains("nightly"),
        name: format!("{version}, building the library"),
        cargo: rustc.with_file_name("cargo"),
        rustc,
        build_std: true,
        lld_dir,
        linker,
    })
}

fn fetch_by_rustup() -> Result<Toolchain> {
    if proc::which("rustup").is_none() {
        bail!("rustup is not installed");
    }
    proc::quiet(
        "rustup target add",
        Command::new("rustup").args(["target", "add", TARGET]),
        ATTEMPT,
    )?;
    if let Some(tools) = host_with_target() {
        return Ok(tools);
    }
    let mut add = Command::new("rustup");
    add.args(["component", "add", "rust-src"]);
    if let Some(nightly) = nightlies().first() {
        add.args(["--toolchain", nightly]);
    }
    proc::quiet("rustup component add rust-src", &mut add, ATTEMPT)?;
    if let Some(tools) = rustup_with_source() {
        return Ok(tools);
    }
    bail!("rustup could fetch neither the target's library nor the library's source")
}

fn fetch_by_apt() -> Result<Toolchain> {
    if proc::which("apt-get").is_none() {
        bail!("this machine has no apt");
    }
    let set = || {
        DISTRO_SETS
            .iter()
            .find(|set| candidate_minor(set[0]).is_some_and(|minor| minor >= OLDEST_MINOR))
    };
    if set().is_none() {
        apt::update()?;
    }
    let Some(set) = set() else {
        bail!("apt knows no Rust of version 1.{OLDEST_MINOR} or later")
    };
    apt::install(set)?;
    if lld_dir(Path::new("/usr/bin/rustc"))
        .or_else(|| lld_dir(&host_rustc()))
        .is_none()
    {
        apt::install(&["lld"])?;
    }
    distro_with_source().with_context(|| format!("{} do not make a toolchain", set.join(" ")))
}

/// The minor version of the Rust that apt would install: 96 for `1.96.0+dfsg1-1`.
fn candidate_minor(package: &str) -> Option<u32> {
    apt::candidate(package)?
        .strip_prefix("1.")?
        .split('.')
        .next()?
        .parse()
        .ok()
}

fn has_source(rustc: &Path) -> bool {
    sysroot(rustc).is_some_and(|sysroot| {
        sysroot
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .is_file()
    })
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    proc::read(Command::new(rustc).args(["--print", "sysroot"])).map(PathBuf::from)
}

/// The compiler behind rustup's proxy, if `rustc` is one.
fn real(rustc: &Path) -> Option<PathBuf> {
    let real = sysroot(rustc)?.join("bin/rustc");
    Some(if real.is_file() {
        real
    } else {
        rustc.to_path_buf()
    })
}

fn toolchain_rustc(name: &str) -> Option<PathBuf> {
    proc::read(Command::new("rustup").args(["which", "rustc", "--toolchain", name]))
        .map(PathBuf::from)
}

fn version(rustc: &Path) -> String {
    proc::read(Command::new(rustc).arg("--version")).unwrap_or_else(|| rustc.display().to_string())
}

fn host_triple(rustc: &Path) -> Option<String> {
    let text = proc::read(Command::new(rustc).arg("-vV"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
}

fn minor_version(rustc: &Path) -> Option<u32> {
    proc::read(Command::new(rustc).arg("--version"))?
        .strip_prefix("rustc 1.")?
        .split('.')
        .next()?
        .parse()
        .ok()
}
