//! The decision for every cause, area and entry, against a table that is read from top to bottom.

use kmm_fault::{Area, Decision, FaultCause, PteState, SegvCode, decide};
use kmm_vma::VmFlags;

use Decision::{
    Anonymous, Bus, CopyOnWrite, Corrupt, FileCopy, FileRead, FileShared, GrowStack, KernelExec,
    MakeWritable, Spurious, SwapIn, Widen, ZeroPage,
};

const MAPERR: Decision = Decision::Segv(SegvCode::MapErr);
const ACCERR: Decision = Decision::Segv(SegvCode::AccErr);

/// The first row that fits decides. `?` fits any letter, `*` anything.
///
/// The cause: `R` a reserved bit was set; `K` a key, an enclave or the like refused; `u` user or `k` kernel; `r`, `w` or
/// `x`. The area: `hole`, `stack` (above), or `rwx`, `s`hared, `f`ile, `d`evice. The entry: `none`, `swap`, or
/// `u` reachable, `w`ritable, e`x`ecutable.
const TABLE: [(&str, &str, &str, Decision); 29] = [
    // Whose fault it is.
    ("R???", "*", "*", Corrupt),
    ("??kx", "*", "*", KernelExec),
    // Nothing there.
    ("????", "hole", "*", MAPERR),
    ("????", "stack", "*", GrowStack),
    // There, but not for this.
    ("?K??", "*", "*", ACCERR),
    ("???r", "---???", "*", ACCERR),
    ("???w", "?-????", "*", ACCERR),
    ("???x", "??-???", "*", ACCERR),
    // Allowed, but no page.
    ("????", "??????", "swap", SwapIn),
    ("????", "????-d", "none", Bus),
    ("???w", "???-f?", "none", FileCopy),
    ("???w", "???sf?", "none", FileShared),
    ("????", "????f?", "none", FileRead),
    ("???w", "???---", "none", Anonymous),
    ("????", "???---", "none", ZeroPage),
    ("????", "???s--", "none", Anonymous),
    // Allowed, and a page, but the entry allows less.
    ("???w", "???s??", "?-?", MakeWritable),
    ("???w", "????-d", "?-?", Bus),
    ("???w", "???-??", "?-?", CopyOnWrite),
    ("???w", "??????", "-w?", Widen),
    ("???x", "??????", "??-", Widen),
    ("???x", "??????", "-??", Widen),
    ("???r", "??????", "-??", Widen),
    // Allowed by now.
    ("???w", "??????", "uw-", Spurious),
    ("???w", "??????", "uwx", Spurious),
    ("???x", "??????", "u-x", Spurious),
    ("???x", "??????", "uwx", Spurious),
    ("???r", "??????", "u-?", Spurious),
    ("???r", "??????", "uw?", Spurious),
];

fn fits(pattern: &str, text: &str) -> bool {
    let letters = || pattern.chars().zip(text.chars());
    pattern == "*"
        || (pattern.len() == text.len() && letters().all(|(p, letter)| p == '?' || p == letter))
}

/// The letters whose bits are set, `-` for the others.
fn letters(bits: u32, names: &str) -> String {
    let name = |(nr, name)| if bits >> nr & 1 == 1 { name } else { '-' };
    names.chars().enumerate().map(name).collect()
}

fn causes() -> impl Iterator<Item = (FaultCause, String)> {
    let key = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 15 | 1 << 31_u64;
    let low = (0..256_u64).flat_map(|low| [0, 1 << 15, 1 << 31].map(|high| low | high));
    low.filter_map(move |code| {
        let access = match code & (1 << 1 | 1 << 4) {
            0b0_0000 => 'r',
            0b0_0010 => 'w',
            0b1_0000 => 'x',
            _ => return None, // no CPU writes while it fetches
        };
        let text = [
            if code & 8 != 0 { 'R' } else { '-' },
            if code & key != 0 { 'K' } else { '-' },
            if code & 4 != 0 { 'u' } else { 'k' },
            access,
        ];
        Some((FaultCause::from_error_code(code), text.iter().collect()))
    })
}

fn areas() -> Vec<(Area, String)> {
    let mut areas = vec![
        (Area::Hole, "hole".into()),
        (Area::BelowStack, "stack".into()),
    ];
    for bits in 0..64_u32 {
        for device in [VmFlags::PFNMAP, VmFlags::IO] {
            let mut flags = VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC;
            flags.set(VmFlags::READ, bits & 1 != 0);
            flags.set(VmFlags::WRITE, bits & 2 != 0);
            flags.set(VmFlags::EXEC, bits & 4 != 0);
            flags.set(VmFlags::SHARED, bits & 8 != 0);
            flags.set(device, bits & 32 != 0);
            let file = bits & 16 != 0;
            areas.push((Area::Mapped { flags, file }, letters(bits, "rwxsfd")));
        }
    }
    areas
}

fn entries() -> Vec<(PteState, String)> {
    let mut entries = vec![
        (PteState::None, "none".into()),
        (PteState::Elsewhere, "swap".into()),
    ];
    for bits in 0..8_u32 {
        let state = PteState::Present {
            reachable: bits & 1 != 0,
            writable: bits & 2 != 0,
            executable: bits & 4 != 0,
        };
        entries.push((state, letters(bits, "uwx")));
    }
    entries
}

#[test]
fn every_combination_is_decided_as_the_table_says() {
    let mut used = [0_u32; TABLE.len()];
    let (areas, entries) = (areas(), entries());
    for (cause, cause_text) in causes() {
        for (area, area_text) in &areas {
            for (entry, entry_text) in &entries {
                let row = TABLE.iter().position(|(cause, area, entry, _)| {
                    fits(cause, &cause_text) && fits(area, area_text) && fits(entry, entry_text)
                });
                let row = row
                    .unwrap_or_else(|| panic!("no row for {cause_text} {area_text} {entry_text}"));
                used[row] += 1;
                assert_eq!(
                    decide(cause, *area, *entry),
                    TABLE[row].3,
                    "{cause_text} {area_text} {entry_text}: row {row}"
                );
            }
        }
    }
    for (row, used) in TABLE.iter().zip(used) {
        assert!(used > 0, "row {row:?} decides nothing");
    }
}

/// No decision to wait and see may come up again and again: what is spurious must be allowed by the entry.
#[test]
fn only_what_the_entry_allows_is_spurious() {
    for (cause, cause_text) in causes() {
        for (area, _) in areas() {
            for (entry, entry_text) in entries() {
                if decide(cause, area, entry) != Spurious {
                    continue;
                }
                let right = match &cause_text[3..] {
                    "w" => "w",
                    "x" => "x",
                    _ => "u",
                };
                assert!(entry_text.contains('u') && entry_text.contains(right));
            }
        }
    }
}

const USER_READ: FaultCause = FaultCause::USER;
const USER_WRITE: FaultCause = FaultCause::USER.union(FaultCause::WRITE);
const READ_ONLY: Area = Area::Mapped {
    flags: VmFlags::READ,
    file: false,
};
const READ_WRITE: Area = Area::Mapped {
    flags: VmFlags::READ.union(VmFlags::WRITE),
    file: false,
};
const PRESENT_READ_ONLY: PteState = PteState::Present {
    reachable: true,
    writable: false,
    executable: false,
};

/// The cases that the manuals of Linux walk through: one area that may only be read, one that may be written.
#[test]
fn read_only_and_read_write_areas() {
    let refused = FaultCause::PRESENT;
    for (cause, area, entry, expected) in [
        (USER_READ, READ_ONLY, PteState::None, ZeroPage),
        (USER_WRITE, READ_ONLY, PteState::None, ACCERR),
        (USER_WRITE | refused, READ_ONLY, PRESENT_READ_ONLY, ACCERR),
        (USER_READ, READ_WRITE, PteState::None, ZeroPage),
        (USER_WRITE, READ_WRITE, PteState::None, Anonymous),
        (
            USER_WRITE | refused,
            READ_WRITE,
            PRESENT_READ_ONLY,
            CopyOnWrite,
        ),
        (USER_READ | refused, READ_WRITE, PRESENT_READ_ONLY, Spurious),
        (USER_READ, Area::Hole, PteState::None, MAPERR),
        (USER_WRITE, Area::BelowStack, PteState::None, GrowStack),
        // The kernel copies for a program: the same, as it may only do what the program may.
        (FaultCause::empty(), READ_ONLY, PteState::None, ZeroPage),
        (FaultCause::WRITE, READ_ONLY, PteState::None, ACCERR),
        (
            FaultCause::WRITE | refused,
            READ_WRITE,
            PRESENT_READ_ONLY,
            CopyOnWrite,
        ),
    ] {
        assert_eq!(
            decide(cause, area, entry),
            expected,
            "{cause} {area:?} {entry:?}"
        );
    }
    assert_eq!(
        (SegvCode::MapErr.si_code(), SegvCode::AccErr.si_code()),
        (1, 2)
    );
}
