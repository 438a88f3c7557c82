//! Virtual memory: areas of the kernel, page tables, areas of a program.
#![expect(unsafe_code, reason = "frees what it allocated")]

use alloc::format;
use alloc::vec::Vec;

use kmm::frame::{Gfp, PAGE_SIZE, VirtAddr};
use kmm::vma::{Limits, Mm, MmLayout, MmapReq, Prot};

use super::Figure;
use super::meter::{Meter, opaque};
use crate::mm;

pub(super) const FIGURES: &[Figure] = &[
    Figure {
        name: "vmalloc-pair",
        run: vmalloc_pairs,
    },
    Figure {
        name: "page-walk",
        run: page_walk,
    },
    Figure {
        name: "find-vma",
        run: find_vma,
    },
];

/// Bytes of an area, and how many pairs make a sample.
const SIZES: [(usize, usize); 3] = [(4 << 10, 100), (64 << 10, 50), (1 << 20, 10)];

fn vmalloc(size: usize) -> VirtAddr {
    match mm::manager().vmalloc().vmalloc(size, Gfp::KERNEL) {
        Ok(addr) => addr,
        Err(error) => panic!("{error}"),
    }
}

fn vfree(addr: VirtAddr) {
    // SAFETY: what `vmalloc` returned, and nobody uses it.
    if let Err(error) = unsafe { mm::manager().vmalloc().vfree(addr) } {
        panic!("{error}");
    }
}

fn vmalloc_pairs(meter: &Meter) {
    for (size, n) in SIZES {
        meter.few(format!("vmalloc-pair-{size}"), n, || {
            vfree(vmalloc(opaque(size)));
        });
    }
}

/// From an address of the kernel to its frame, four levels down.
fn page_walk(meter: &Meter) {
    let area = vmalloc(PAGE_SIZE);
    mm::manager().vmalloc().with_root(|root, mapper| {
        meter.each("page-walk", || {
            let va = VirtAddr::new(opaque(area.as_usize()) as u64);
            match mapper.translate(root, va) {
                Some(phys) => opaque(phys.as_usize()),
                None => panic!("{va} is mapped"),
            };
        });
    });
    vfree(area);
}

fn find_vma(meter: &Meter) {
    for nr_areas in [10, 2000] {
        lookups(meter, nr_areas);
    }
}

/// Looks random addresses up among areas of one page with holes between them.
fn lookups(meter: &Meter, nr_areas: u64) {
    const FIRST: u64 = 1 << 30;
    const STRIDE: u64 = 4 * PAGE_SIZE as u64;
    /// A prime: addresses come in an order that no cache of the last one found helps with.
    const STEP: u64 = 7919;
    let mut mm = Mm::<()>::new(MmLayout::default(), Limits::default());
    for nr in 0..nr_areas {
        let addr = VirtAddr::new(FIRST + nr * STRIDE);
        let req = MmapReq::anonymous(PAGE_SIZE as u64, Prot::READ).fixed_at(addr);
        if let Err(error) = mm.mmap(req) {
            panic!("{error}");
        }
    }
    let addresses: Vec<u64> = (0..256)
        .map(|nr| FIRST + nr * STEP % nr_areas * STRIDE)
        .collect();
    let mut at = 0_u8;
    meter.each(format!("find-vma-{nr_areas}"), || {
        at = at.wrapping_add(1);
        match mm.find(VirtAddr::new(addresses[usize::from(at)])) {
            Some((range, vma)) => {
                opaque(range.start.as_usize());
                opaque(core::ptr::from_ref(vma).addr());
            }
            None => panic!("no area"),
        }
    });
}
