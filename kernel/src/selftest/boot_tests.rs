//! Firmware structures, good and hostile, and the cpio reader.

use core::ops::Range;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::{Outcome, Test};
use crate::boot::pvh::{self, ReadPhys, StartInfoError};
use crate::boot::{BootError, BootInfo, Door, MAX_REGIONS, RegionKind, cpio};
use crate::ensure;

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "boot::start_info_is_read",
        run: start_info_is_read,
    },
    Test {
        name: "boot::bad_start_info_is_refused",
        run: bad_start_info_is_refused,
    },
    Test {
        name: "boot::map_never_forgets_reserved_memory",
        run: map_never_forgets_reserved_memory,
    },
    Test {
        name: "boot::too_little_memory_is_refused",
        run: too_little_memory_is_refused,
    },
    Test {
        name: "boot::cpio_survives_truncation",
        run: cpio_survives_truncation,
    },
];

/// Physical memory that starts at address 0x1000.
struct Fake(Vec<u8>);

const BASE: u64 = 0x1000;
const MEMMAP: u64 = 0x1100;
const CMDLINE: u64 = 0x1200;

impl ReadPhys for Fake {
    fn bytes(&self, range: Range<u64>) -> Option<&[u8]> {
        let start = usize::try_from(range.start.checked_sub(BASE)?).ok()?;
        let end = usize::try_from(range.end.checked_sub(BASE)?).ok()?;
        self.0.get(start..end)
    }
}

impl Fake {
    fn new(nr_memmap: u32) -> Self {
        let mut fake = Self(vec![0; 0x4000]);
        fake.put32(BASE, 0x336e_c578);
        fake.put32(BASE + 4, 1);
        fake.put64(BASE + 24, CMDLINE);
        fake.put64(BASE + 40, MEMMAP);
        fake.put32(BASE + 48, nr_memmap);
        fake.put64(MEMMAP, 0);
        fake.put64(MEMMAP + 8, 0x9fc00);
        fake.put32(MEMMAP + 16, 1);
        fake.put64(MEMMAP + 24, 0xffff_ffff_ffff_f000);
        fake.put64(MEMMAP + 32, 0x2000);
        fake.put32(MEMMAP + 40, 4);
        fake.put64(CMDLINE, u64::from_le_bytes(*b" a b=c\n\0"));
        fake
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        for (slot, byte) in self
            .0
            .iter_mut()
            .skip(usize::try_from(at.abs_diff(BASE)).unwrap_or(0))
            .zip(bytes)
        {
            *slot = *byte;
        }
    }

    fn put32(&mut self, at: u64, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn put64(&mut self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }
}

fn fresh() -> Box<BootInfo> {
    Box::new(BootInfo::new(Door::Pvh, pvh::MAPPED_END))
}

fn start_info_is_read() -> Outcome {
    let mut boot = fresh();
    let result = pvh::parse(&Fake::new(2), BASE, &mut boot);
    ensure!(result.is_ok(), "{result:?}");
    let regions = boot.memory_map.regions();
    ensure!(
        regions.len() == 2 && regions[0].end == 0x9fc00 && regions[0].kind == RegionKind::Usable,
        "{regions:?}"
    );
    ensure!(
        regions[1].end == u64::MAX && regions[1].kind == RegionKind::AcpiNvs,
        "a range that wraps ends at the end: {regions:?}"
    );
    ensure!(boot.cmdline() == "a b=c", "{:?}", boot.cmdline());
    ensure!(boot.has_word("a") && boot.value("b") == Some("c") && !boot.has_word("c"));
    ensure!(boot.initrd.is_none() && boot.rsdp.is_none());
    Ok(())
}

fn bad_start_info_is_refused() -> Outcome {
    let refuses = |fake: &Fake, at: u64| pvh::parse(fake, at, &mut fresh()).err();
    ensure!(refuses(&Fake::new(2), 0x8000_0000) == Some(StartInfoError::NotFound));
    ensure!(refuses(&Fake::new(2), u64::MAX - 3) == Some(StartInfoError::NotFound));
    ensure!(refuses(&Fake::new(2), MEMMAP) == Some(StartInfoError::NotFound));
    for nr_memmap in [0, 4097, u32::MAX] {
        ensure!(
            refuses(&Fake::new(nr_memmap), BASE) == Some(StartInfoError::BadMemoryMap),
            "count {nr_memmap}"
        );
    }
    let mut version_0 = Fake::new(2);
    version_0.put32(BASE + 4, 0);
    ensure!(refuses(&version_0, BASE) == Some(StartInfoError::NoMemoryMap));
    let mut wild_map = Fake::new(2);
    wild_map.put64(BASE + 40, u64::MAX - 8);
    ensure!(refuses(&wild_map, BASE) == Some(StartInfoError::BadMemoryMap));
    let mut wild_rest = Fake::new(2);
    wild_rest.put64(BASE + 16, u64::MAX - 8);
    wild_rest.put64(BASE + 24, u64::MAX - 8);
    wild_rest.put32(BASE + 12, 7);
    ensure!(
        refuses(&wild_rest, BASE).is_none(),
        "bad modules and command line are left out"
    );
    Ok(())
}

fn map_never_forgets_reserved_memory() -> Outcome {
    let mut boot = fresh();
    for nr in 0..MAX_REGIONS as u64 + 20 {
        boot.memory_map.push(nr << 20, 1 << 19, RegionKind::Usable);
        boot.memory_map.push(5, 0, RegionKind::Reserved);
    }
    for nr in 0..30 {
        boot.memory_map.push(nr << 20, 4096, RegionKind::Reserved);
    }
    let regions = boot.memory_map.regions();
    let nr_reserved = regions
        .iter()
        .filter(|region| region.kind == RegionKind::Reserved)
        .count();
    ensure!(
        regions.len() == MAX_REGIONS && nr_reserved == 30,
        "{} entries, {nr_reserved} reserved",
        regions.len()
    );
    ensure!(
        boot.memory_map.nr_dropped() == 50,
        "{} dropped",
        boot.memory_map.nr_dropped()
    );
    Ok(())
}

fn too_little_memory_is_refused() -> Outcome {
    let mut boot = fresh();
    ensure!(boot.check() == Err(BootError::NoUsableMemory));
    boot.memory_map.push(0, 1 << 20, RegionKind::Usable);
    let refusal = boot.check();
    ensure!(
        matches!(refusal, Err(BootError::TooLittleMemory { usable_bytes, .. }) if usable_bytes == 1 << 20),
        "{refusal:?}"
    );
    boot.memory_map.push(1 << 20, 63 << 20, RegionKind::Usable);
    ensure!(boot.check() == Ok(()));
    boot.initrd = Some(1 << 20..61 << 20);
    ensure!(boot.check().is_err(), "an initrd that leaves 4 MiB");
    Ok(())
}

fn cpio_survives_truncation() -> Outcome {
    let mut archive = Vec::new();
    for (name, data) in [
        ("./etc/cmdline", &b"selftest\n"[..]),
        ("boot/kmm.sym", b"1 a\n"),
        ("TRAILER!!!", b""),
    ] {
        archive.extend_from_slice(b"070701");
        let name_len = name.len() + 1;
        for field in [
            1,
            0o100_644,
            0,
            0,
            1,
            0,
            data.len(),
            0,
            0,
            0,
            0,
            name_len,
            0,
        ] {
            archive.extend_from_slice(alloc::format!("{field:08x}").as_bytes());
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    ensure!(cpio::find(&archive, "etc/cmdline") == Some(b"selftest\n"));
    ensure!(
        cpio::find(&archive, "boot/kmm.sym") == Some(b"1 a\n")
            && cpio::find(&archive, "none").is_none()
    );
    ensure!(cpio::entries(&archive).count() == 2);
    for len in 0..archive.len() {
        let nr = cpio::entries(&archive[..len]).count();
        ensure!(nr <= 2, "{nr} entries in {len} bytes");
    }
    for at in 0..archive.len() {
        let mut spoilt = archive.clone();
        spoilt[at] ^= 0x55;
        let _ = cpio::entries(&spoilt)
            .map(|entry| entry.data.len())
            .sum::<usize>();
    }
    Ok(())
}
