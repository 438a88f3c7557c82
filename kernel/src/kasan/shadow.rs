//! The shadow's memory: taken from memblock, mapped where Linux has it.
//!
//! All of the direct map up to the end of RAM has a shadow, and as much of the vmalloc range: areas lie in there then.
#![expect(unsafe_code, reason = "fills memory that memblock gave")]

use core::ops::Range;
use core::ptr;

use kmm::ImagePart;
use kmm::frame::memblock::{Memblock, MemblockError};
use kmm::frame::{PhysAddr, VirtAddr};
use kmm::host::ObjectSlot;
use kmm::pagetable_walker::PteFlags;
use kmm::pagetable_walker::layout::{Layout, RegionKind};
use kmm_kasan::{GRANULE_BYTES, KasanStorage, Poison, Record, Shadow as _};

use super::callbacks;
use super::on::{self, KernelShadow};
use crate::boot::{BootInfo, DIRECT_MAP};

/// The shadow is mapped by 2 MiB.
const ALIGN_BYTES: u64 = 2 << 20;
/// The least part of the vmalloc range in which areas may lie.
const LEAST_VMALLOC_BYTES: u64 = 256 << 20;
/// Objects and areas that are remembered, and freed objects that wait.
const NR_RECORDS: usize = 8192;
const NR_WAITING: usize = 8192;
const OFFSET: u64 = KernelShadow::X86_64_OFFSET;

/// Memory and its shadow.
struct Window {
    range: Range<VirtAddr>,
    shadow: PhysAddr,
}

impl Window {
    fn reserve(
        memblock: &mut Memblock,
        boot: &BootInfo,
        start: VirtAddr,
        size_bytes: u64,
    ) -> Result<Self, MemblockError> {
        let size_bytes = size_bytes.next_multiple_of(ALIGN_BYTES * GRANULE_BYTES as u64);
        let within = PhysAddr::ZERO..PhysAddr::new(boot.mapped_end);
        let shadow_bytes = size_bytes / GRANULE_BYTES as u64;
        Ok(Self {
            range: start..start + size_bytes,
            shadow: memblock.alloc(shadow_bytes, ALIGN_BYTES, within)?,
        })
    }

    fn size_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn part(&self) -> ImagePart {
        let shadow_of = |addr| KernelShadow::shadow_of(OFFSET, addr);
        ImagePart {
            range: shadow_of(self.range.start)..shadow_of(self.range.end),
            phys: self.shadow,
            flags: PteFlags::KERNEL,
        }
    }
}

/// What memblock gave.
pub struct ShadowMemory {
    direct: Window,
    vmalloc: Window,
    storage: KasanStorage,
    panics: bool,
}

impl ShadowMemory {
    /// Takes what is needed: a quarter of all memory, and a little.
    ///
    /// # Errors
    /// There is not so much.
    pub fn reserve(memblock: &mut Memblock, boot: &BootInfo) -> Result<Self, MemblockError> {
        let ram_bytes = memblock.spanned().end().phys().as_u64();
        let vmalloc = Layout::FOUR.region(RegionKind::Vmalloc).range().start;
        let vmalloc_bytes = ram_bytes.max(LEAST_VMALLOC_BYTES);
        let direct = Window::reserve(memblock, boot, VirtAddr::new(DIRECT_MAP), ram_bytes)?;
        let vmalloc = Window::reserve(memblock, boot, vmalloc, vmalloc_bytes)?;
        let storage = KasanStorage {
            records: nothing::<Record>(memblock, boot, NR_RECORDS)?,
            waiting: nothing::<ObjectSlot>(memblock, boot, NR_WAITING)?,
        };
        println!(
            "kasan: shadow of {} MiB for the direct map, of {} MiB for vmalloc",
            direct.size_bytes() >> 23,
            vmalloc.size_bytes() >> 23,
        );
        Ok(Self {
            direct,
            vmalloc,
            storage,
            panics: boot.value("kasan.fault") == Some("panic"),
        })
    }

    /// What the final tables map.
    pub fn parts(&self) -> impl Iterator<Item = ImagePart> + use<> {
        [self.direct.part(), self.vmalloc.part()].into_iter()
    }

    /// The part of the vmalloc range that has a shadow.
    pub fn watched_part(&self, vmalloc: Range<VirtAddr>) -> Range<VirtAddr> {
        vmalloc.start..self.vmalloc.range.end.min(vmalloc.end)
    }

    /// From now on accesses are checked. The final tables are loaded.
    pub fn switch_on(self) {
        let (direct, vmalloc) = (self.direct, self.vmalloc);
        let bytes = (direct.size_bytes(), vmalloc.size_bytes());
        let windows = [direct.range.clone(), vmalloc.range.clone()];
        // The image and all else in the upper half has no shadow, and may be touched.
        let free_from = VirtAddr::new(1 << 63);
        // SAFETY: the final tables map the shadows, memblock gave their memory, for ever.
        let shadow = unsafe { KernelShadow::new(OFFSET, windows, free_from) };
        #[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits here")]
        {
            shadow.unpoison(direct.range.start, bytes.0 as usize);
            shadow.poison(
                vmalloc.range.start,
                bytes.1 as usize,
                Poison::VMALLOC_INVALID,
            );
        }
        on::start(shadow, self.storage, self.panics);
        callbacks::switch_on(bytes.0, bytes.1);
        println!("kasan: accesses are checked");
    }
}

/// Room for so many values, all `None`, in memory that is never given back.
fn nothing<T>(
    memblock: &mut Memblock,
    boot: &BootInfo,
    count: usize,
) -> Result<&'static mut [Option<T>], MemblockError> {
    const { assert!(align_of::<Option<T>>() <= 4096) };
    let within = PhysAddr::ZERO..PhysAddr::new(boot.mapped_end);
    let size_bytes = (count * size_of::<Option<T>>()) as u64;
    let phys = memblock.alloc(size_bytes, 4096, within)?;
    let first = (VirtAddr::new(DIRECT_MAP) + phys.as_u64()).as_usize();
    let first: *mut Option<T> = ptr::with_exposed_provenance_mut(first);
    for nr in 0..count {
        // SAFETY: memblock gave this memory, which the provisional tables map.
        unsafe { first.wrapping_add(nr).write(None) };
    }
    // SAFETY: written just now; nobody else has it, for ever.
    Ok(unsafe { core::slice::from_raw_parts_mut(first, count) })
}
