#![no_std]
#![no_main]

#[path = "../host.rs"]
mod host;

use core::hint::black_box;

use host::*;
use kmm_frame::Gfp;
use kmm_host::{PageReq, PageSource};
use kmm_zone::{Pcp, WATERMARK_SCALE_FACTOR, X86_64, ZoneLayout, Zones};

static PCPS: [Pcp; 3] = [const { Pcp::new() }; 3];

fn run() {
    let layout = ZoneLayout::new::<X86_64>(frames());
    let zones = Zones::<Lock, _, _>::new(map(), OneCpu, phys(), layout, &PCPS).unwrap();
    zones.add_present(frames());
    zones.free_at_boot(frames()).unwrap();
    zones.init_watermarks(zones.default_min_free_kbytes(), WATERMARK_SCALE_FACTOR);
    let gfp = black_box(Gfp::KERNEL | Gfp::ZERO);
    let (block, pressure) = zones.alloc_pages(PageReq::new(order(), gfp)).unwrap();
    _ = black_box(pressure);
    zones.free(black_box(block));
    zones.stats().for_each(|stat| _ = black_box(stat));
}
