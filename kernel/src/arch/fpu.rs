//! The x87 and SSE registers of user programs. The kernel itself is compiled without them, so they are touched at a switch only.
#![expect(unsafe_code, reason = "FXSAVE and FXRSTOR")]

use core::arch::asm;

const AREA_LEN: usize = 512;
/// Offset and initial value of the x87 control word: all exceptions masked, extended precision (what `fninit` sets).
const FCW: (usize, u16) = (0, 0x037f);
/// Offset and initial value of MXCSR: all exceptions masked.
const MXCSR: (usize, u32) = (24, 0x1f80);
/// Bits of MXCSR that may be set on every CPU with SSE2; others would make FXRSTOR fault.
const MXCSR_VALID: u32 = 0xffff;

/// An FXSAVE area.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub struct FpuState([u8; AREA_LEN]);

impl FpuState {
    /// The registers of a program that has just started.
    pub const fn init() -> Self {
        let mut area = [0; AREA_LEN];
        let fcw = FCW.1.to_le_bytes();
        area[FCW.0] = fcw[0];
        area[FCW.0 + 1] = fcw[1];
        let mxcsr = MXCSR.1.to_le_bytes();
        area[MXCSR.0] = mxcsr[0];
        area[MXCSR.0 + 1] = mxcsr[1];
        Self(area)
    }

    /// Stores the registers here.
    pub fn save(&mut self) {
        // SAFETY: 512 bytes, 16-byte aligned; CR4.OSFXSR is set.
        unsafe {
            asm!("fxsave64 [{}]", in(reg) self.0.as_mut_ptr(), options(nostack, preserves_flags))
        }
    }

    /// Loads the registers from here.
    pub fn restore(&self) {
        // SAFETY: as above; MXCSR in the area is valid: it came from `init`, `save` or `from_bytes`.
        unsafe {
            asm!("fxrstor64 [{}]", in(reg) self.0.as_ptr(), options(nostack, preserves_flags, readonly))
        }
    }

    /// The area as bytes, for signal frames and core dumps.
    pub fn bytes(&self) -> &[u8; AREA_LEN] {
        &self.0
    }

    /// An area from a program's bytes; bits of MXCSR that a CPU would refuse are cleared.
    pub fn from_bytes(mut area: [u8; AREA_LEN]) -> Self {
        let offset = MXCSR.0;
        let mxcsr = u32::from_le_bytes([
            area[offset],
            area[offset + 1],
            area[offset + 2],
            area[offset + 3],
        ]) & MXCSR_VALID;
        area[offset..offset + 4].copy_from_slice(&mxcsr.to_le_bytes());
        Self(area)
    }
}
