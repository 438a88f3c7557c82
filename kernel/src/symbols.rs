//! Names for addresses, from the file `boot/kmm.sym` of the initramfs: lines `hexaddress name`, sorted by address.
//!
//! The text is searched where it lies, without an allocation, so a panic at any time can use it.

use core::fmt;

use spin::Once;

use crate::boot::{BootInfo, cpio, image, pvh, uefi};

static TABLE: Once<&'static str> = Once::new();

/// Finds the table. Without one, addresses stay numbers; one of another build is refused.
pub fn init(boot: &BootInfo) {
    let Some(table) = cpio::find(boot.initrd_bytes(), "boot/kmm.sym")
        .and_then(|bytes| core::str::from_utf8(bytes).ok())
    else {
        return;
    };
    let landmarks = [pvh::entry_point(), uefi::entry_point()];
    if landmarks
        .iter()
        .all(|&(name, address)| find(table, address) == Some((name, 0)))
    {
        TABLE.call_once(|| table);
    } else {
        println!("symbols: /boot/kmm.sym belongs to another build");
    }
}

/// Whether there are names at all.
#[cfg(kasan)]
pub fn are_known() -> bool {
    TABLE.is_completed()
}

fn parse_line(line: &str) -> Option<(u64, &str)> {
    let (address, name) = line.split_once(' ')?;
    Some((u64::from_str_radix(address, 16).ok()?, name))
}

/// The last line at or below `address`, and how far it lies below.
pub fn lookup(address: u64) -> Option<(&'static str, u64)> {
    find(TABLE.get()?, address)
}

/// Bisects `table` by byte offset: each probe moves to the start of the line that it hits.
fn find(table: &str, address: u64) -> Option<(&str, u64)> {
    let line_at = |offset: usize| {
        let start = table.as_bytes()[..offset]
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |newline| newline + 1);
        let line = table[start..].split('\n').next().unwrap_or("");
        (start, line)
    };
    let (mut low, mut high) = (0, table.len());
    let mut best = None;
    while low < high {
        let (start, line) = line_at(low + (high - low) / 2);
        match parse_line(line) {
            Some((found, name)) if found <= address => {
                best = Some((name, address - found));
                low = start + line.len() + 1;
            }
            _ => high = start,
        }
    }
    best
}

/// Shows an address as `name+offset`, if it is in the image's text and has a name.
pub struct Symbolised(pub u64);

impl fmt::Display for Symbolised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !image::text().contains(&self.0) {
            return f.write_str("?");
        }
        match lookup(self.0) {
            Some((name, offset)) => write!(f, "{:#}+{offset:#x}", rustc_demangle::demangle(name)),
            None => f.write_str("?"),
        }
    }
}
