//! The bytes of SRAT and SLIT, of which none is trusted.

use kmm_frame::{PfnRange, PhysAddr};

use super::NumaError;

/// An entry in force.
pub(super) enum Affinity {
    Cpu { apic_id: u32, domain: u32 },
    Memory(Memory),
}

pub(super) struct Memory {
    pub(super) range: PfnRange,
    pub(super) domain: u32,
    flags: u32,
}

impl Memory {
    pub(super) const fn is_hotpluggable(&self) -> bool {
        self.flags & MEMORY_HOTPLUGGABLE != 0
    }

    pub(super) const fn is_non_volatile(&self) -> bool {
        self.flags & MEMORY_NON_VOLATILE != 0
    }
}

pub(super) const REVISION: usize = 8;
const HEADER_LEN: usize = 36;
pub(super) const SRAT_FIXED_LEN: usize = HEADER_LEN + 12;
pub(super) const SLIT_LOCALITIES: usize = HEADER_LEN;
pub(super) const SLIT_FIXED_LEN: usize = HEADER_LEN + 8;
pub(super) const ENTRY_CPU: u8 = 0;
pub(super) const ENTRY_MEMORY: u8 = 1;
pub(super) const ENTRY_X2APIC: u8 = 2;
const CPU_LEN: usize = 16;
const MEMORY_LEN: usize = 40;
const X2APIC_LEN: usize = 24;
const ENABLED: u32 = 1;
const MEMORY_HOTPLUGGABLE: u32 = 2;
const MEMORY_NON_VOLATILE: u32 = 4;

impl Affinity {
    /// `None` for what is not in force.
    pub(super) fn read(entry: &[u8], revision: u8) -> Result<Option<Self>, NumaError> {
        let long_enough = match entry[0] {
            ENTRY_CPU => entry.len() >= CPU_LEN,
            ENTRY_MEMORY => entry.len() >= MEMORY_LEN,
            ENTRY_X2APIC => entry.len() >= X2APIC_LEN,
            _ => return Ok(None),
        };
        if !long_enough {
            return Err(NumaError::Entry);
        }
        let field = |at: usize| read_u32(entry, at).ok_or(NumaError::Entry);
        let wide = |at: usize| read_u64(entry, at).ok_or(NumaError::Entry);
        // The upper bytes of a domain were reserved in the first revision (and still are in what QEMU says).
        let domain_mask = if revision >= 2 { u32::MAX } else { 0xff };
        let is_enabled = |at: usize| Ok::<_, NumaError>(field(at)? & ENABLED != 0);
        Ok(match entry[0] {
            ENTRY_CPU if is_enabled(4)? => {
                let low = u32::from(entry[2]);
                let high = field(8)? & 0xffff_ff00;
                Some(Self::Cpu {
                    apic_id: u32::from(entry[3]),
                    domain: (high | low) & domain_mask,
                })
            }
            ENTRY_X2APIC if is_enabled(12)? => Some(Self::Cpu {
                apic_id: field(8)?,
                domain: field(4)?,
            }),
            ENTRY_MEMORY if is_enabled(28)? => {
                let (start, len) = (wide(8)?, wide(16)?);
                let end = start.checked_add(len).ok_or(NumaError::Range)?;
                let (first, end) = (PhysAddr::new(start).pfn(), PhysAddr::new(end).pfn());
                Some(Self::Memory(Memory {
                    range: PfnRange::new(first, end),
                    domain: field(2)? & domain_mask,
                    flags: field(28)?,
                }))
            }
            _ => None,
        })
    }
}

/// The entries of the table, each with its first two bytes at least.
pub(super) fn entries(srat: &[u8]) -> impl Iterator<Item = Result<&[u8], NumaError>> {
    let mut rest = &srat[SRAT_FIXED_LEN..];
    core::iter::from_fn(move || {
        let len = usize::from(*rest.get(1)?);
        if len < 2 || len > rest.len() {
            rest = &[];
            return Some(Err(NumaError::Entry));
        }
        let (entry, after) = rest.split_at(len);
        rest = after;
        Some(Ok(entry))
    })
}

/// As much of the bytes as the table says that it has.
pub(super) fn table(
    bytes: &[u8],
    signature: [u8; 4],
    fixed_len: usize,
) -> Result<&[u8], NumaError> {
    if bytes.get(..4).ok_or(NumaError::Length)? != signature {
        return Err(NumaError::Signature);
    }
    let len = read_u32(bytes, 4).ok_or(NumaError::Length)?;
    let len = usize::try_from(len).map_err(|_| NumaError::Length)?;
    let table = bytes.get(..len).ok_or(NumaError::Length)?;
    if len < fixed_len {
        return Err(NumaError::Length);
    }
    match table.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte)) {
        0 => Ok(table),
        _ => Err(NumaError::Checksum),
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*field))
}

pub(super) fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*field))
}
