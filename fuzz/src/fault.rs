//! What is decided about a fault never lets a program do what its area forbids.

use kmm_fault::{Access, Area, Decision, FaultCause, PteState, decide};
use kmm_vma::VmFlags;

use crate::Tape;

/// Runs an input.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    while !tape.is_empty() {
        let cause = FaultCause::from_error_code(tape.word());
        let flags = VmFlags::from_bits_truncate(tape.word());
        let area = match tape.below(8) {
            0 => Area::Hole,
            1 => Area::BelowStack,
            _ => Area::Mapped {
                flags,
                file: tape.one_in(2),
            },
        };
        let bits = tape.byte();
        let pte = match tape.below(8) {
            0 => PteState::None,
            1 => PteState::Elsewhere,
            _ => PteState::Present {
                reachable: bits & 1 != 0,
                writable: bits & 2 != 0,
                executable: bits & 4 != 0,
            },
        };
        let decision = decide(cause, area, pte);
        let refused = matches!(
            decision,
            Decision::Segv(_) | Decision::Bus | Decision::Corrupt | Decision::KernelExec
        );
        match area {
            Area::Hole => assert!(refused),
            Area::BelowStack => assert!(refused || decision == Decision::GrowStack),
            Area::Mapped { flags, .. } => {
                assert_ne!(decision, Decision::GrowStack);
                let forbidden = match cause.access() {
                    Access::Write => !flags.contains(VmFlags::WRITE),
                    Access::Exec => !flags.contains(VmFlags::EXEC),
                    Access::Read => false,
                };
                assert!(refused || !forbidden, "{cause:?} {flags:?}: {decision:?}");
            }
        }
    }
}
