//! QEMU's command line.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::flags::Flags;
use crate::{apt, proc};

/// From a node to itself, and what comes to it for each node in between and for the last. ACPI, "System Locality Information Table".
const LOCAL_DISTANCE: u32 = 10;
const DISTANCE_STEP: u32 = 10;

/// The machine to boot on.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) machine: String,
    pub(crate) cpu: String,
    pub(crate) mem: String,
    pub(crate) smp: u32,
    pub(crate) numa: u32,
    pub(crate) gdb: bool,
    pub(crate) extra: Vec<String>,
}

impl Default for Machine {
    fn default() -> Self {
        let (machine, cpu, mem) = ("q35".to_owned(), "max".to_owned(), "512M".to_owned());
        Self {
            machine,
            cpu,
            mem,
            smp: 1,
            numa: 0,
            gdb: false,
            extra: Vec::new(),
        }
    }
}

/// What to boot: the kernel itself, or the disk image through the firmware.
pub(crate) enum Door {
    Pvh {
        kernel: PathBuf,
        initramfs: Option<PathBuf>,
        cmdline: String,
    },
    Uefi {
        image: PathBuf,
    },
}

impl Machine {
    /// The machine that the flags describe; words for QEMU itself are added by the caller.
    pub(crate) fn from_flags(flags: &mut Flags) -> Result<Self> {
        let standard = Self::default();
        Ok(Self {
            machine: flags.value("--machine")?.unwrap_or(standard.machine),
            cpu: flags.value("--cpu")?.unwrap_or(standard.cpu),
            mem: flags.value("--mem")?.unwrap_or(standard.mem),
            smp: flags.number("--smp")?.unwrap_or(standard.smp),
            numa: flags.number("--numa")?.unwrap_or(standard.numa),
            gdb: flags.flag("--gdb"),
            extra: Vec::new(),
        })
    }

    /// QEMU with the serial line on its standard input and output. A copy of what the guest prints goes to `log`.
    ///
    /// Always TCG: `/dev/kvm` may be there and not work, and the tests count on TCG's CPU models. Each CPU of the guest has a thread of its
    /// own, unless instructions are counted: then they take turns.
    pub(crate) fn command(&self, door: &Door, log: &Path) -> Result<Command> {
        let mut command = Command::new(find()?);
        command.args([
            "-accel",
            if self.counts_instructions() {
                "tcg,thread=single"
            } else {
                "tcg,thread=multi"
            },
            "-machine",
            &self.machine,
            "-cpu",
            &self.cpu,
            "-m",
            &self.mem,
            "-smp",
            &self.smp.to_string(),
        ]);
        command.args([
            "-nic",
            "none",
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
        ]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        command.args([
            "-chardev",
            &format!("stdio,id=line,logfile={}", log.display()),
            "-serial",
            "chardev:line",
        ]);
        match door {
            Door::Pvh {
                kernel,
                initramfs,
                cmdline,
            } => {
                command
                    .arg("-kernel")
                    .arg(kernel)
                    .args(["-append", cmdline]);
                if let Some(initramfs) = initramfs {
                    command.arg("-initrd").arg(initramfs);
                }
            }
            Door::Uefi { image } => {
                let (code, vars) = firmware()?;
                command.args([
                    "-drive",
                    &format!("if=pflash,format=raw,readonly=on,file={}", code.display()),
                ]);
                command.args([
                    "-drive",
                    &format!("if=pflash,format=raw,snapshot=on,file={}", vars.display()),
                ]);
                command.args([
                    "-drive",
                    &format!("if=virtio,format=raw,snapshot=on,file={}", image.display()),
                ]);
            }
        }
        self.numa_nodes(&mut command)?;
        if self.gdb {
            command.args(["-s", "-S"]);
        }
        command.args(&self.extra);
        Ok(command)
    }

    fn counts_instructions(&self) -> bool {
        self.extra.iter().any(|word| word == "-icount")
    }

    /// Memory and CPUs dealt out over the nodes, the last of which has what cannot be divided; each node is further away than the one before.
    fn numa_nodes(&self, command: &mut Command) -> Result<()> {
        if self.numa == 0 {
            return Ok(());
        }
        let all = mebibytes(&self.mem)?;
        let each = all / u64::from(self.numa);
        for node in 0..self.numa {
            let rest = all % u64::from(self.numa) * u64::from(node + 1 == self.numa);
            let size = each + rest;
            command.args([
                "-object",
                &format!("memory-backend-ram,id=node{node},size={size}M"),
            ]);
            let cpus: String = (0..self.smp)
                .filter(|cpu| cpu % self.numa == node)
                .map(|cpu| format!(",cpus={cpu}"))
                .collect();
            command.args([
                "-numa",
                &format!("node,nodeid={node},memdev=node{node}{cpus}"),
            ]);
        }
        for (from, to) in (0..self.numa).flat_map(|from| (0..from).map(move |to| (from, to))) {
            let distance = LOCAL_DISTANCE + DISTANCE_STEP * (from - to);
            command.args(["-numa", &format!("dist,src={to},dst={from},val={distance}")]);
        }
        Ok(())
    }
}

/// The QEMU program, installed if need be.
pub(crate) fn find() -> Result<PathBuf> {
    const PROGRAM: &str = "qemu-system-x86_64";
    if let Some(path) = std::env::var_os("KMM_QEMU") {
        return Ok(PathBuf::from(path));
    }
    if let Some(path) = proc::which(PROGRAM) {
        return Ok(path);
    }
    if cfg!(target_os = "macos") {
        bail!("{PROGRAM} is not on PATH; please type: brew install qemu");
    }
    apt::install(&["qemu-system-x86"]).with_context(|| format!("{PROGRAM} is not on PATH"))?;
    proc::which(PROGRAM).with_context(|| format!("{PROGRAM} is not on PATH after its installation"))
}

/// OVMF's code and variables.
pub(crate) fn firmware() -> Result<(PathBuf, PathBuf)> {
    let places = [
        (
            "/usr/share/OVMF/OVMF_CODE_4M.fd",
            "/usr/share/OVMF/OVMF_VARS_4M.fd",
        ),
        (
            "/usr/share/OVMF/OVMF_CODE.fd",
            "/usr/share/OVMF/OVMF_VARS.fd",
        ),
        (
            "/usr/share/edk2/ovmf/OVMF_CODE.fd",
            "/usr/share/edk2/ovmf/OVMF_VARS.fd",
        ),
        (
            "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
            "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
        ),
        (
            "/opt/homebrew/share/qemu/edk2-x86_64-code.fd",
            "/opt/homebrew/share/qemu/edk2-i386-vars.fd",
        ),
        (
            "/usr/local/share/qemu/edk2-x86_64-code.fd",
            "/usr/local/share/qemu/edk2-i386-vars.fd",
        ),
    ];
    let found = || {
        places
            .iter()
            .map(|(code, vars)| (PathBuf::from(code), PathBuf::from(vars)))
            .find(|(code, vars)| code.is_file() && vars.is_file())
    };
    if let Some(firmware) = found() {
        return Ok(firmware);
    }
    apt::install(&["ovmf"]).context("the UEFI door needs OVMF")?;
    found().context("the package ovmf holds no OVMF_CODE")
}

/// QEMU's `64M` or `8G` as a number of MiB.
fn mebibytes(text: &str) -> Result<u64> {
    let (digits, factor) = match text.char_indices().last() {
        Some((at, 'M' | 'm')) => (&text[..at], 1),
        Some((at, 'G' | 'g')) => (&text[..at], 1024),
        _ => (text, 1),
    };
    match digits.parse::<u64>() {
        Ok(number) => Ok(number * factor),
        Err(_) => bail!("{text:?} is no size of memory; write 512M or 8G"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_memory_are_read_as_qemu_reads_them() {
        assert_eq!(mebibytes("64M").unwrap(), 64);
        assert_eq!(mebibytes("8G").unwrap(), 8192);
        assert_eq!(mebibytes("512").unwrap(), 512);
        assert!(mebibytes("many").is_err());
        assert!(mebibytes("").is_err());
    }

    #[test]
    fn memory_and_cpus_are_dealt_out_over_the_nodes() {
        let machine = Machine {
            numa: 2,
            smp: 3,
            ..Machine::default()
        };
        let mut command = Command::new("qemu");
        machine.numa_nodes(&mut command).unwrap();
        let line = proc::line(&command);
        assert!(line.contains("id=node1,size=256M"), "{line}");
        assert!(
            line.contains("nodeid=0,memdev=node0,cpus=0,cpus=2"),
            "{line}"
        );
        assert!(line.contains("nodeid=1,memdev=node1,cpus=1"), "{line}");
        assert!(line.contains("dist,src=0,dst=1,val=20"), "{line}");
    }

    #[test]
    fn what_cannot_be_divided_goes_to_the_last_node() {
        let machine = Machine {
            numa: 3,
            mem: "512M".to_owned(),
            ..Machine::default()
        };
        let mut command = Command::new("qemu");
        machine.numa_nodes(&mut command).unwrap();
        let line = proc::line(&command);
        assert!(line.contains("id=node1,size=170M"), "{line}");
        assert!(line.contains("id=node2,size=172M"), "{line}");
        assert!(line.contains("dist,src=0,dst=2,val=30"), "{line}");
    }

    #[test]
    fn cpus_take_turns_where_instructions_are_counted() {
        let door = Door::Pvh {
            kernel: PathBuf::from("kernel"),
            initramfs: None,
            cmdline: String::new(),
        };
        let line = |extra: &[&str]| {
            let machine = Machine {
                extra: extra.iter().map(|&word| word.to_owned()).collect(),
                ..Machine::default()
            };
            machine
                .command(&door, Path::new("log"))
                .map(|command| proc::line(&command))
        };
        // Without QEMU there is no command.
        if let (Ok(usual), Ok(counted)) = (line(&[]), line(&["-icount", "shift=0"])) {
            assert!(usual.contains("tcg,thread=multi"), "{usual}");
            assert!(counted.contains("tcg,thread=single"), "{counted}");
        }
    }
}
