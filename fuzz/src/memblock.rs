//! Memblock: maps and requests of any shape leave lists sorted, disjoint and accounted for; a refused request changes nothing.

use kmm_frame::memblock::{FirmwareKind, FirmwareRegion, FirstMegabyte, Memblock, Reserved};
use kmm_frame::{PAGE_SIZE, PfnRange, PhysAddr};

use crate::Tape;

const PAGE: u64 = PAGE_SIZE as u64;
const KINDS: [FirmwareKind; 6] = [
    FirmwareKind::Usable,
    FirmwareKind::Reserved,
    FirmwareKind::AcpiReclaimable,
    FirmwareKind::AcpiNvs,
    FirmwareKind::Bad,
    FirmwareKind::Bootloader,
];
const MOST_REGIONS: usize = 40;

/// Near the others, so that they meet; sometimes anywhere.
fn address(tape: &mut Tape<'_>) -> u64 {
    if tape.one_in(16) {
        tape.word()
    } else {
        0xf_0000 + tape.below(256) as u64 * PAGE + tape.pick(&[0, 0, 0, 1, 512, PAGE - 1])
    }
}

fn size(tape: &mut Tape<'_>) -> u64 {
    if tape.one_in(32) {
        tape.word()
    } else {
        tape.below(64) as u64 * PAGE + tape.pick(&[0, 0, 0, 1, 512, PAGE - 1])
    }
}

/// Runs an input.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let mut memblock = Memblock::new();
    let regions: Vec<FirmwareRegion> = (0..tape.below(MOST_REGIONS))
        .map(|_| {
            let (start, size) = (address(&mut tape), size(&mut tape));
            FirmwareRegion::new(start, start.wrapping_add(size), tape.pick(&KINDS))
        })
        .collect();
    let policy = tape.pick(&[FirstMegabyte::Skip, FirstMegabyte::Use]);
    // Too many regions are an error, like all others.
    let _ = memblock.add_firmware_map(regions, policy);
    check(&memblock);
    while !tape.is_empty() {
        let before = text(&memblock);
        let (start, size) = (PhysAddr::new(address(&mut tape)), size(&mut tape));
        let refused = match tape.below(7) {
            0 => memblock.add(start, size).is_err(),
            1 => memblock.remove(start, size).is_err(),
            2 => memblock.reserve(start, size, Reserved::Module).is_err(),
            3 => memblock.release(start, size, Reserved::Module).is_err(),
            4 => memblock.free(start, size).is_err(),
            5 => memblock.trim_span(tape.below(64)).is_err(),
            _ => {
                let align = 1 << tape.below(24);
                let end = PhysAddr::new(address(&mut tape));
                match memblock.alloc(size, align, start..end) {
                    Err(_) => true,
                    Ok(at) => {
                        assert_eq!(at.as_u64() % align, 0);
                        assert!(at >= start && at.as_u64() + size <= end.as_u64());
                        let frames = PfnRange::covering(at, PhysAddr::new(at.as_u64() + size));
                        assert!(memblock.free_ranges().all(|free| !free.overlaps(frames)));
                        false
                    }
                }
            }
        };
        if refused {
            assert_eq!(text(&memblock), before, "refused, yet changed");
        }
        check(&memblock);
    }
    let nr_free: usize = memblock.free_ranges().map(PfnRange::nr_pages).sum();
    if let Ok(free) = memblock.hand_over() {
        assert_eq!(free.map(PfnRange::nr_pages).sum::<usize>(), nr_free);
        assert!(memblock.add(PhysAddr::ZERO, PAGE).is_err(), "handed over");
    }
}

fn text(memblock: &Memblock) -> String {
    let memory: Vec<_> = memblock.memory().collect();
    let reserved: Vec<_> = memblock.reserved().collect();
    format!("{memory:?} {reserved:?}")
}

fn check(memblock: &Memblock) {
    let memory: Vec<_> = memblock.memory().collect();
    assert!(memory.iter().all(|range| range.start < range.end));
    assert!(
        memory.windows(2).all(|pair| pair[0].end < pair[1].start),
        "{memory:?}"
    );
    let reserved: Vec<PfnRange> = memblock
        .reserved()
        .map(|reservation| reservation.range)
        .collect();
    assert!(
        reserved
            .windows(2)
            .all(|pair| pair[0].end() <= pair[1].start()),
        "{reserved:?}"
    );
    let frames: Vec<PfnRange> = memblock.memory_frames().collect();
    let mut nr_free = 0;
    let mut before: Option<PfnRange> = None;
    for free in memblock.free_ranges() {
        assert!(!free.is_empty());
        assert!(
            before.is_none_or(|before| before.end() < free.start()),
            "not sorted, or touching"
        );
        assert!(
            frames.iter().any(|memory| memory.contains_range(free)),
            "{free:?} is no memory"
        );
        assert!(
            reserved.iter().all(|kept| !kept.overlaps(free)),
            "{free:?} is reserved"
        );
        nr_free += free.nr_pages();
        before = Some(free);
    }
    let accounting = memblock.accounting();
    assert_eq!(accounting.nr_free(), nr_free);
    assert_eq!(
        accounting.nr_pages(),
        frames.iter().map(|range| range.nr_pages()).sum::<usize>()
    );
}
