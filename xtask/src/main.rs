//! All automation of the workspace: `cargo xtask help` lists the commands.
//!
//! One file per command (`run`, `test`, `ci`, ...), and below them the parts that they share: `toolchain` finds a way to build
//! for the kernel's target, `apt` installs what is missing, `qemu` writes QEMU's command line, `guest` talks to the serial line.
#![forbid(unsafe_code)]

mod apt;
mod bench;
mod ci;
mod cpio;
mod deep;
mod disk;
mod examples;
mod flags;
mod guest;
mod image;
mod initramfs;
mod kernel;
mod loom;
mod probe;
mod proc;
mod qemu;
mod run;
mod scenarios;
mod symbols;
mod tally;
mod test;
mod tidy;
mod toolchain;

use std::process::ExitCode;

use flags::Flags;

const HELP: &str = "\
cargo xtask COMMAND

  run      build the kernel and boot it in QEMU, with a shell on the serial line
             --selftest       print the self-test summary and exit with its code
             --exec CMD       type CMD at the shell prompt and print what it says (repeatable)
             --kasan          with KASAN: the compiler checks every access to memory
             --uefi           boot the UEFI disk image instead of the PVH entry
             --mem SIZE       512M unless told; --smp N; --numa N; --machine M; --cpu C
             --cmdline WORDS  more words for the kernel's command line
             --kernel ELF     boot this one instead of building ours
             --gdb            wait for a debugger on port 1234
             --timeout SECS   when to give up on --selftest and --exec
             -- ARGS          for QEMU
  image    write the UEFI disk image for a real machine
             --cmdline WORDS  the kernel's command line
  test     host tests, then the kernel's scenarios in QEMU; the last line is `N passed, N failed`
             --host | --qemu  one half only; --scenario NAME (repeatable)
  ci       formatting, lints, tidy, documentation, builds for the kernel's target, packages, then `test`
             --quick          without `test`
  bench    measurements against peers: tables, and target/bench/rows.tsv
             --quick          fewer and shorter rounds
             --figure ID      (repeatable) only that one; --list names them; --area frames|objects
             --only NAME      (repeatable) only ours and peers of that name
             --instructions   count ours under valgrind instead; --figure NAME, --size 64M (repeatable)
             --guest          the kernel's own paths, in instructions of its guest, against Linux; --figure NAME, --kernel ELF
             --growth         instructions of ours on 64 MiB to 1 TiB, and what boot costs; --figure NAME, --size 64M
             --fragmentation  what requests of different mobility leave for huge pages; --seed N
             --save           keep a copy in benches/results/; by itself, measure and keep everything
  probe    highmem is nothing on 64 bits, shown in machine code
  deep     what takes long: says what it would do; --run does it all, with --seeds N
             --fuzz [SECONDS] | --asan | --loom | --mutants   only that
  tidy     check floors, the feature table, unsafe without proof, file sizes, links
  setup    install what is missing, and nothing else
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_else(|| "help".to_owned());
    let flags = Flags::new(args);
    if cfg!(windows) {
        eprintln!("xtask: Windows is not supported; inside WSL it works as on Linux");
        return ExitCode::from(2);
    }
    let result = match command.as_str() {
        "run" => run::main(flags),
        "image" => image::main(flags),
        "tidy" => tidy::main(flags),
        "test" => test::main(flags),
        "ci" => ci::main(flags),
        "bench" => bench::main(flags),
        "deep" => deep::main(flags),
        "probe" => probe::main(flags),
        "setup" => setup(flags),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(0)
        }
        other => Err(anyhow::anyhow!(
            "no command {other:?}; `cargo xtask help` lists them"
        )),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn setup(flags: Flags) -> anyhow::Result<u8> {
    flags.finish()?;
    let tools = toolchain::find()?;
    println!("kernel toolchain: {}", tools.name);
    println!("qemu: {}", qemu::find()?.display());
    println!(
        "user programs: {}",
        initramfs::busybox().map_or_else(|e| format!("{e:#}"), |p| p.display().to_string())
    );
    Ok(0)
}
