//! Every bit of the error code becomes a typed cause, also from the `x86_64` crate's type.

use kmm_fault::{Access, FaultCause};
use x86_64::structures::idt::PageFaultErrorCode;

/// The manual's table (SDM 3A, figure 4-12; AMD APM 2, 8.4.2): bit, meaning, and what the report says.
const BITS: [(u32, FaultCause, &str); 10] = [
    (0, FaultCause::PRESENT, "kernel read, not allowed"),
    (1, FaultCause::WRITE, "kernel write, not present"),
    (2, FaultCause::USER, "user read, not present"),
    (3, FaultCause::RESERVED, "kernel read, reserved bit set"),
    (
        4,
        FaultCause::FETCH,
        "kernel instruction fetch, not present",
    ),
    (5, FaultCause::PROTECTION_KEY, "kernel read, protection key"),
    (6, FaultCause::SHADOW_STACK, "kernel read, shadow stack"),
    (7, FaultCause::HYPERVISOR, "kernel read, hypervisor"),
    (15, FaultCause::SGX, "kernel read, enclave"),
    (31, FaultCause::REVERSE_MAP, "kernel read, reverse map"),
];

#[test]
fn each_bit_is_decoded_and_no_other() {
    for bit in 0..64 {
        let cause = FaultCause::from_error_code(1 << bit);
        let known = BITS.iter().find(|(known, ..)| *known == bit);
        let expected = known.map_or(FaultCause::empty(), |(_, cause, _)| *cause);
        assert_eq!(cause, expected, "bit {bit}");
        if let Some((_, _, text)) = known {
            assert_eq!(cause.to_string(), *text);
        }
    }
    assert_eq!(
        FaultCause::all().bits().count_ones() as usize,
        BITS.len(),
        "a bit that the table does not have"
    );
}

#[test]
fn what_was_tried_follows_from_two_bits() {
    for code in 0..1_u64 << 16 {
        let expected = match (code >> 1 & 1, code >> 4 & 1) {
            (1, _) => Access::Write,
            (0, 1) => Access::Exec,
            _ => Access::Read,
        };
        assert_eq!(FaultCause::from_error_code(code).access(), expected);
    }
}

#[test]
fn the_x86_64_crates_error_code_has_the_same_bits() {
    for (theirs, ours) in [
        (
            PageFaultErrorCode::PROTECTION_VIOLATION,
            FaultCause::PRESENT,
        ),
        (PageFaultErrorCode::CAUSED_BY_WRITE, FaultCause::WRITE),
        (PageFaultErrorCode::USER_MODE, FaultCause::USER),
        (PageFaultErrorCode::MALFORMED_TABLE, FaultCause::RESERVED),
        (PageFaultErrorCode::INSTRUCTION_FETCH, FaultCause::FETCH),
        (
            PageFaultErrorCode::PROTECTION_KEY,
            FaultCause::PROTECTION_KEY,
        ),
        (PageFaultErrorCode::SHADOW_STACK, FaultCause::SHADOW_STACK),
        (PageFaultErrorCode::SGX, FaultCause::SGX),
        (PageFaultErrorCode::RMP, FaultCause::REVERSE_MAP),
    ] {
        assert_eq!(FaultCause::from_error_code(theirs.bits()), ours);
    }
    let theirs = PageFaultErrorCode::all().bits();
    let decoded = FaultCause::from_error_code(theirs);
    assert_eq!(
        u64::from(decoded.bits()),
        theirs,
        "nothing of theirs is lost"
    );
}
