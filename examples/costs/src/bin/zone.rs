#![no_std]
#![no_main]

#[path = "../host.rs"]
mod host;

use core::hint::black_box;
use core::ptr::NonNull;

use host::*;
use kmm_frame::Gfp;
use kmm_host::{PageReq, PageSource};
use kmm_zone::{NodeLayouts, WATERMARK_SCALE_FACTOR, X86_64, ZoneLayout, ZoneStorage, Zones};

fn run() {
    let layout = NodeLayouts::single(ZoneLayout::new::<X86_64>(frames()));
    let room = NonNull::new(any() as *mut u8).unwrap();
    // SAFETY: never run.
    let storage = unsafe { ZoneStorage::new_in(&layout, 1, room) };
    let zones = Zones::<Lock, _, _>::new(map(), OneCpu, phys(), &layout, storage).unwrap();
    zones.add_present(frames());
    zones.free_at_boot(frames()).unwrap();
    zones.init_watermarks(zones.default_min_free_kbytes(), WATERMARK_SCALE_FACTOR);
    let gfp = black_box(Gfp::KERNEL | Gfp::ZERO);
    let (block, pressure) = zones.alloc_pages(PageReq::new(order(), gfp)).unwrap();
    _ = black_box(pressure);
    zones.free(black_box(block));
    zones.stats().for_each(|stat| _ = black_box(stat));
}
