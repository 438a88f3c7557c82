//! The demo kernel's parsers on hostile input: whatever the bytes, an answer, and an answer that can be acted on.
//!
//! The parsers are the kernel's own files. Random tests print their seed; to replay one, put it in the place of `SEED`.
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "tests")]

#[path = "../../kernel/src/fs/cpio.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the kernel's module, of which the tests use what they need"
)]
mod cpio;
#[path = "../../kernel/src/process/elf.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the kernel's module, of which the tests use what they need"
)]
mod elf;

use cpio::{CpioError, Entries, Entry};
use elf::{ElfError, HEAD_BYTES, PHDR_BYTES, Plan, USER_END, USER_START};

const SEED: u64 = 0x1f_0e1f;
const ROUNDS: usize = 20_000;
const EHDR_BYTES: usize = 64;
const PAGE: u64 = 4096;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
const R: u32 = 4;
const W: u32 = 2;
const X: u32 = 1;

/// xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

#[derive(Clone, Copy)]
struct Phdr {
    kind: u32,
    flags: u32,
    offset: u64,
    addr: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

const TEXT: Phdr = Phdr {
    kind: PT_LOAD,
    flags: R | X,
    offset: 0,
    addr: 0x40_0000,
    file_bytes: 0x1800,
    memory_bytes: 0x1800,
};
const DATA: Phdr = Phdr {
    kind: PT_LOAD,
    flags: R | W,
    offset: 0x1800,
    addr: 0x40_2800,
    file_bytes: 0x300,
    memory_bytes: 0x2300,
};
const STACK: Phdr = Phdr {
    kind: PT_GNU_STACK,
    flags: R | W,
    offset: 0,
    addr: 0,
    file_bytes: 0,
    memory_bytes: 0,
};
const FILE_BYTES: u64 = 0x2000;

/// An ELF file with these program headers, cut to what the kernel looks at.
fn file(e_type: u16, phdrs: &[Phdr]) -> Vec<u8> {
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    bytes.resize(16, 0);
    bytes.extend(e_type.to_le_bytes());
    bytes.extend(62_u16.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    for word in [0x40_1000_u64, EHDR_BYTES as u64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    for half in [EHDR_BYTES, PHDR_BYTES, phdrs.len(), 64, 0, 0] {
        bytes.extend((half as u16).to_le_bytes());
    }
    assert_eq!(bytes.len(), EHDR_BYTES);
    for phdr in phdrs {
        bytes.extend(phdr.kind.to_le_bytes());
        bytes.extend(phdr.flags.to_le_bytes());
        for word in [
            phdr.offset,
            phdr.addr,
            phdr.addr,
            phdr.file_bytes,
            phdr.memory_bytes,
            PAGE,
        ] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.resize(FILE_BYTES as usize, 0xcc);
    bytes
}

fn plan(phdrs: &[Phdr]) -> Result<Plan, ElfError> {
    Plan::new(&file(2, phdrs)[..HEAD_BYTES], FILE_BYTES)
}

/// What the loader relies on, whatever the file was.
fn check_plan(plan: &Plan, file_bytes: u64) {
    let mut end = USER_START;
    assert!(!plan.segments().is_empty());
    for segment in plan.segments() {
        let start = segment.addr - segment.addr % PAGE;
        assert!(start >= end, "{segment:x?} overlaps what is below");
        end = (segment.addr + segment.memory_bytes).next_multiple_of(PAGE);
        assert!(end <= USER_END.next_multiple_of(PAGE));
        assert!(segment.file_bytes <= segment.memory_bytes);
        assert!(segment.offset_bytes + segment.file_bytes <= file_bytes);
        assert_eq!(segment.addr % PAGE, segment.offset_bytes % PAGE);
        let (file, zeros, tail) = (segment.file_pages(), segment.zero_pages(), segment.tail());
        assert!(file.start >= start && zeros.end <= end);
        assert!(zeros.is_empty() || segment.file_bytes == 0 || zeros.start == file.end);
        assert!(tail.is_empty() || (file.contains(&tail.start) && tail.end == file.end));
    }
    assert_eq!(plan.end(), end);
}

#[test]
fn a_plain_program_is_planned() {
    let plan = plan(&[TEXT, DATA, STACK]).unwrap();
    check_plan(&plan, FILE_BYTES);
    assert_eq!(
        (plan.entry, plan.bias, plan.nr_phdrs, plan.exec_stack),
        (0x40_1000, 0, 3, false)
    );
    assert_eq!(plan.phdr_addr, Some(0x40_0000 + EHDR_BYTES as u64));
    let [text, data] = plan.segments() else {
        panic!("{} segments", plan.segments().len())
    };
    assert_eq!((text.read, text.write, text.exec), (true, false, true));
    assert_eq!(
        (text.file_pages(), text.zero_pages()),
        (0x40_0000..0x40_2000, 0x40_2000..0x40_2000)
    );
    assert_eq!(data.file_pages(), 0x40_2000..0x40_3000);
    assert_eq!(data.tail(), 0x40_2b00..0x40_3000);
    assert_eq!(data.zero_pages(), 0x40_3000..0x40_5000);
    assert_eq!(plan.end(), 0x40_5000);
}

#[test]
fn a_position_independent_program_is_moved() {
    let plan = Plan::new(&file(3, &[Phdr { addr: 0, ..TEXT }]), FILE_BYTES).unwrap();
    check_plan(&plan, FILE_BYTES);
    assert_ne!(plan.bias, 0);
    assert_eq!(plan.entry, plan.bias + 0x40_1000);
    assert_eq!(plan.segments()[0].addr, plan.bias);
}

#[test]
fn a_segment_of_zeros_alone_needs_no_file() {
    let zeros = Phdr {
        file_bytes: 0,
        offset: 0,
        addr: 0x50_0000,
        memory_bytes: 0x3000,
        ..DATA
    };
    let plan = plan(&[TEXT, zeros]).unwrap();
    check_plan(&plan, FILE_BYTES);
    assert_eq!(plan.segments()[1].zero_pages(), 0x50_0000..0x50_3000);
    assert!(plan.segments()[1].tail().is_empty());
}

#[test]
fn an_executable_stack_is_told() {
    assert!(
        plan(&[
            TEXT,
            Phdr {
                flags: R | W | X,
                ..STACK
            }
        ])
        .unwrap()
        .exec_stack
    );
}

#[test]
fn what_cannot_be_run_is_refused_with_its_reason() {
    let cases = [
        (plan(&[]), ElfError::SegmentCount),
        (plan(&[STACK]), ElfError::SegmentCount),
        (
            plan(&[
                Phdr {
                    kind: PT_INTERP,
                    ..TEXT
                },
                TEXT,
            ]),
            ElfError::NeedsInterpreter,
        ),
        (plan(&[Phdr { addr: 0, ..TEXT }]), ElfError::BadSegment),
        (
            plan(&[Phdr {
                addr: USER_START - PAGE,
                ..TEXT
            }]),
            ElfError::BadSegment,
        ),
        (
            plan(&[Phdr {
                addr: USER_END - PAGE,
                ..TEXT
            }]),
            ElfError::BadSegment,
        ),
        (
            plan(&[Phdr {
                addr: u64::MAX - 0xfff,
                ..TEXT
            }]),
            ElfError::BadSegment,
        ),
        (
            plan(&[Phdr {
                memory_bytes: u64::MAX,
                ..TEXT
            }]),
            ElfError::BadSegment,
        ),
        (
            plan(&[Phdr {
                memory_bytes: 1,
                ..TEXT
            }]),
            ElfError::BadSegment,
        ),
        (
            plan(&[Phdr {
                file_bytes: FILE_BYTES + 1,
                memory_bytes: FILE_BYTES + 1,
                ..TEXT
            }]),
            ElfError::BadSegment,
        ),
        (
            plan(&[Phdr {
                offset: u64::MAX - 0xfff,
                ..TEXT
            }]),
            ElfError::BadSegment,
        ),
        (plan(&[Phdr { offset: 1, ..TEXT }]), ElfError::BadSegment),
        (plan(&[DATA, TEXT]), ElfError::BadSegment),
        (plan(&[TEXT, TEXT]), ElfError::BadSegment),
        (
            plan(&[
                TEXT,
                Phdr {
                    addr: 0x40_1800,
                    ..DATA
                },
            ]),
            ElfError::BadSegment,
        ),
        (
            Plan::new(&file(1, &[TEXT]), FILE_BYTES),
            ElfError::WrongKind,
        ),
        (
            Plan::new(&file(4, &[TEXT]), FILE_BYTES),
            ElfError::WrongKind,
        ),
        (Plan::new(b"#!/bin/sh\n", 10), ElfError::NotElf),
        (Plan::new(&[], 0), ElfError::NotElf),
    ];
    for (number, (found, expected)) in cases.into_iter().enumerate() {
        assert_eq!(found, Err(expected), "case {number}");
    }
}

#[test]
fn a_header_of_another_machine_is_refused() {
    for (at, value, expected) in [
        (4, 1, ElfError::NotElf),      // 32-bit
        (5, 2, ElfError::WrongKind),   // big-endian
        (5, 3, ElfError::NotElf),      // neither
        (18, 40, ElfError::WrongKind), // Arm
        (54, 57, ElfError::BadProgramHeaders),
        (33, 0x10, ElfError::BadProgramHeaders), // headers behind what is looked at
        (57, 1, ElfError::BadProgramHeaders),    // more headers than fit there
    ] {
        let mut bytes = file(2, &[TEXT]);
        bytes[at] = value;
        assert_eq!(
            Plan::new(&bytes[..HEAD_BYTES], FILE_BYTES),
            Err(expected),
            "byte {at}"
        );
    }
}

#[test]
fn more_segments_than_the_plan_holds_are_refused() {
    let page = |nr: u64| Phdr {
        addr: 0x40_0000 + nr * PAGE,
        file_bytes: 16,
        memory_bytes: 16,
        ..TEXT
    };
    let fits: Vec<_> = (0..elf::SEGMENTS_MAX as u64).map(page).collect();
    check_plan(&plan(&fits).unwrap(), FILE_BYTES);
    let too_many: Vec<_> = (0..=elf::SEGMENTS_MAX as u64).map(page).collect();
    assert_eq!(plan(&too_many), Err(ElfError::SegmentCount));
}

#[test]
fn a_file_cut_anywhere_is_refused_or_planned_within_itself() {
    let whole = file(2, &[TEXT, DATA, STACK]);
    let needed = (DATA.offset + DATA.file_bytes) as usize;
    for len in 0..whole.len() {
        match Plan::new(&whole[..len.min(HEAD_BYTES)], len as u64) {
            Ok(plan) => {
                assert!(len >= needed, "cut at {len}");
                check_plan(&plan, len as u64);
            }
            Err(error) => assert!(len < needed, "cut at {len}: {error}"),
        }
    }
}

#[test]
fn flipped_bits_never_make_a_plan_that_cannot_be_carried_out() {
    let mut random = Random(SEED);
    let whole = file(2, &[TEXT, DATA, STACK]);
    let interesting = EHDR_BYTES + 3 * PHDR_BYTES;
    let (mut refused, mut planned) = (0, 0);
    for round in 0..ROUNDS {
        let mut bytes = whole[..HEAD_BYTES].to_vec();
        for _ in 0..=random.below(4) {
            let bit = random.below(interesting * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let len = if random.below(2) == 0 {
            bytes.len()
        } else {
            random.below(bytes.len())
        };
        match std::panic::catch_unwind(|| {
            Plan::new(&bytes[..len], FILE_BYTES).inspect(|plan| check_plan(plan, FILE_BYTES))
        }) {
            Ok(Ok(_)) => planned += 1,
            Ok(Err(_)) => refused += 1,
            Err(_) => panic!("round {round} of seed {SEED:#x}"),
        }
    }
    assert!(
        refused > ROUNDS / 10 && planned > ROUNDS / 10,
        "{refused} refused, {planned} planned"
    );
}

#[test]
fn noise_behind_a_good_identification_is_survived() {
    let mut random = Random(SEED ^ 1);
    for round in 0..ROUNDS {
        let mut bytes = file(2, &[TEXT]);
        bytes.truncate(random.below(512));
        for byte in bytes.iter_mut().skip(16) {
            *byte = random.next().to_le_bytes()[0];
        }
        if let Ok(plan) = Plan::new(&bytes, random.next() >> random.below(64)) {
            assert!(
                !plan.segments().is_empty(),
                "round {round} of seed {:#x}",
                SEED ^ 1
            );
        }
    }
}

/// Writes an archive in the slow and obvious way.
fn archive(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let closing = ("TRAILER!!!", 0, &[][..]);
    for (number, (name, mode, contents)) in entries.iter().copied().chain([closing]).enumerate() {
        let fields = [
            number,
            mode as usize,
            0,
            0,
            1,
            7,
            contents.len(),
            0,
            0,
            5,
            1,
            name.len() + 1,
            0,
        ];
        bytes.extend(b"070701");
        for field in fields {
            bytes.extend(format!("{field:08X}").bytes());
        }
        bytes.extend(name.bytes().chain([0]));
        while bytes.len() % 4 != 0 {
            bytes.push(0);
        }
        bytes.extend(contents);
        while bytes.len() % 4 != 0 {
            bytes.push(0);
        }
    }
    bytes
}

const FILES: &[(&str, u32, &[u8])] = &[
    ("bin", 0o04_0755, b""),
    ("bin/sh", 0o10_0755, b"#!not really"),
    ("a", 0o10_0644, b"1"),
    ("long/name/of/a/file", 0o10_0600, &[b'x'; 1000]),
    ("link", 0o12_0777, b"bin/sh"),
];

fn read(bytes: &[u8]) -> (Vec<Entry<'_>>, Option<CpioError>) {
    let mut entries = Vec::new();
    for entry in Entries::new(bytes) {
        match entry {
            Ok(entry) => entries.push(entry),
            Err(error) => return (entries, Some(error)),
        }
    }
    (entries, None)
}

#[test]
fn an_archive_reads_as_it_was_written() {
    let bytes = archive(FILES);
    let (entries, error) = read(&bytes);
    assert_eq!(error, None);
    assert_eq!(entries.len(), FILES.len());
    for (number, (entry, (name, mode, contents))) in entries.iter().zip(FILES).enumerate() {
        let found = (
            entry.name,
            entry.mode,
            entry.contents,
            entry.inode,
            entry.nr_links,
            entry.mtime_s,
            entry.device,
        );
        assert_eq!(
            found,
            (
                name.as_bytes(),
                *mode,
                *contents,
                number as u32,
                1,
                7,
                (5, 1)
            )
        );
    }
}

#[test]
fn an_archive_cut_anywhere_gives_what_comes_before() {
    let bytes = archive(FILES);
    let (whole, _) = read(&bytes);
    // The padding behind the closing entry's name may be missing.
    for len in 0..bytes.len() - 3 {
        let (entries, error) = read(&bytes[..len]);
        assert_eq!(error, Some(CpioError::Truncated), "cut at {len}");
        assert_eq!(entries, whole[..entries.len()], "cut at {len}");
    }
}

#[test]
fn faults_of_an_archive_are_told_apart() {
    let good = archive(FILES);
    let broken = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        read(&bytes).1
    };
    assert_eq!(broken(0, b'1'), Some(CpioError::BadMagic));
    assert_eq!(broken(5, b'7'), Some(CpioError::BadMagic));
    assert_eq!(broken(6 + 8 * 6, b'g'), Some(CpioError::BadNumber));
    assert_eq!(broken(6 + 8 * 6, b'f'), Some(CpioError::Truncated));
    assert_eq!(broken(6 + 8 * 11, b'f'), Some(CpioError::BadName));
    assert_eq!(broken(6 + 8 * 11 + 7, b'0'), Some(CpioError::BadName));
    assert_eq!(
        broken(110 + 3, b'!'),
        Some(CpioError::BadName),
        "a name without its end"
    );
    assert_eq!(
        broken(110 + 1, 0),
        Some(CpioError::BadName),
        "a name with an end inside"
    );
    let mut entries = Entries::new(&good[..50]);
    assert_eq!(entries.next(), Some(Err(CpioError::Truncated)));
    assert_eq!(entries.next(), None, "an error ends it");
}

#[test]
fn flipped_bits_of_an_archive_are_survived() {
    let mut random = Random(SEED ^ 2);
    let good = archive(FILES);
    for round in 0..ROUNDS {
        let mut bytes = good.clone();
        for _ in 0..=random.below(8) {
            let bit = random.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        bytes.truncate(random.below(bytes.len() + 1));
        let (entries, _) = read(&bytes);
        // Never more bytes than there are, and never for ever.
        let told: usize = entries
            .iter()
            .map(|entry| entry.name.len() + entry.contents.len())
            .sum();
        assert!(
            told <= bytes.len() && entries.len() <= bytes.len() / 110,
            "round {round} of seed {:#x}",
            SEED ^ 2
        );
    }
}
