//! The kernel's own names, for its call traces: `/boot/kmm.sym` of the initramfs, lines `hexaddress name`, sorted by address.

use core::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

const SECTION_HEADER_LEN: usize = 64;
const SYMBOL_LEN: usize = 24;
const SYMBOL_TABLE: u64 = 2;
/// The low half of `st_info`: no type (assembly labels), and functions.
const WANTED_TYPES: [u8; 2] = [0, 2];
const EXECUTABLE: u64 = 4;

/// The table of the kernel at `path`.
pub(crate) fn of(path: &Path) -> Result<String> {
    let elf = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    table(&elf).with_context(|| format!("no symbols in {}", path.display()))
}

fn table(elf: &[u8]) -> Result<String> {
    ensure!(
        elf.starts_with(b"\x7fELF\x02\x01"),
        "not a 64-bit little-endian ELF file"
    );
    let start = number(elf, 40, 8)?;
    let nr_sections = number(elf, 60, 2)?;
    let section = |nr: u64| {
        start
            .checked_add(nr * SECTION_HEADER_LEN as u64)
            .context("sections out of range")
    };
    let mut is_text = Vec::new();
    for nr in 0..nr_sections {
        is_text.push(number(elf, section(nr)? + 8, 8)? & EXECUTABLE != 0);
    }
    let mut symbols = Vec::new();
    for nr in 0..nr_sections {
        let header = section(nr)?;
        if number(elf, header + 4, 4)? != SYMBOL_TABLE {
            continue;
        }
        let strings = number(elf, section(number(elf, header + 40, 4)?)? + 24, 8)?;
        let (offset, len_bytes) = (number(elf, header + 24, 8)?, number(elf, header + 32, 8)?);
        for at in (0..len_bytes / SYMBOL_LEN as u64).map(|nr| offset + nr * SYMBOL_LEN as u64) {
            let kind = number(elf, at + 4, 1)?.to_le_bytes()[0] & 15;
            let index = usize::try_from(number(elf, at + 6, 2)?)?;
            if WANTED_TYPES.contains(&kind) && is_text.get(index) == Some(&true) {
                let name = name(elf, strings + number(elf, at, 4)?)?;
                symbols.push((number(elf, at + 8, 8)?, name));
            }
        }
    }
    symbols.retain(|(_, name)| !name.is_empty() && !name.starts_with(".L"));
    symbols.sort_unstable();
    symbols.dedup_by_key(|symbol| symbol.0);
    ensure!(!symbols.is_empty(), "the file is stripped");
    let mut text = String::new();
    for (address, name) in symbols {
        writeln!(text, "{address:x} {name}")?;
    }
    Ok(text)
}

fn number(elf: &[u8], at: u64, len: usize) -> Result<u64> {
    let at = usize::try_from(at)?;
    let field = elf.get(at..at + len).context("the file is cut short")?;
    let mut bytes = [0; 8];
    bytes[..len].copy_from_slice(field);
    Ok(u64::from_le_bytes(bytes))
}

fn name(elf: &[u8], at: u64) -> Result<&str> {
    let rest = elf
        .get(usize::try_from(at)?..)
        .context("the file is cut short")?;
    let end = rest
        .iter()
        .position(|&byte| byte == 0)
        .context("a name without an end")?;
    Ok(core::str::from_utf8(&rest[..end])?)
}
