//! Where the host has words for each CPU, they lead to the same pagesets as the lists of the zones do.
#![allow(
    unsafe_code,
    missing_docs,
    reason = "a test that stands for a host kernel"
)]

mod common;

use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use common::{Random, ThreadCpus, Tiny, frames, memory, order, run_on, storage_for};
use kmm_frame::{Gfp, MemMap, Page, Pfn};
use kmm_host::{CpuId, CpuPin, Cpus, DirectMap, LOCAL_WORDS, PageBlock, PageReq, PageSource};
use kmm_zone::{NodeLayouts, ZoneLayout, Zones};

type Lock = spin::Mutex<()>;
type Words = [AtomicPtr<()>; LOCAL_WORDS];

struct WordCpus(&'static [Words; 2]);

// SAFETY: as for `ThreadCpus`; the words are this machine's alone.
unsafe impl Cpus for WordCpus {
    const HAS_LOCAL_WORDS: bool = true;

    fn nr_cpus(&self) -> usize {
        self.0.len()
    }

    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        ThreadCpus(self.0.len()).with_pin(f)
    }

    fn local_word(&self, pin: CpuPin<'_>, nr: usize) -> *mut () {
        self.0[pin.cpu().index()][nr].load(Relaxed)
    }

    fn set_local_word(&self, cpu: CpuId, nr: usize, word: *mut ()) {
        self.0[cpu.index()][nr].store(word, Relaxed);
    }
}

fn machine<C: Cpus>(cpus: C) -> Zones<Lock, C, DirectMap> {
    let ram = frames(0, 4096);
    let pages: Vec<Page> = ram.iter().map(|_| Page::new()).collect();
    let map = MemMap::new(ram, pages.leak()).unwrap();
    let layouts = NodeLayouts::single(ZoneLayout::new::<Tiny>(ram));
    let storage = storage_for(&layouts, 2);
    let zones = Zones::new(map, cpus, memory(ram), &layouts, storage).unwrap();
    zones.add_present(ram);
    zones.free_at_boot(ram).unwrap();
    zones.init_watermarks(64, 10);
    zones
}

/// One request of many, counted or not.
fn take<C: Cpus>(
    zones: &Zones<Lock, C, DirectMap>,
    req: PageReq,
    is_counted: bool,
) -> Option<PageBlock> {
    let taken = if is_counted {
        zones.alloc_pages(req)
    } else {
        zones.alloc_frozen_pages(req)
    };
    taken.ok().map(|(block, _)| block)
}

fn give<C: Cpus>(zones: &Zones<Lock, C, DirectMap>, block: PageBlock, is_counted: bool) {
    if is_counted {
        zones.free(block);
    } else {
        zones.free_frozen_pages(block);
    }
}

#[test]
fn requests_get_the_same_pages_with_words_and_without() {
    let words: &'static [Words; 2] = Box::leak(Box::default());
    let (with, without) = (machine(WordCpus(words)), machine(ThreadCpus(2)));
    let mut random = Random::new("requests_get_the_same_pages", 0x17);
    let mut held: Vec<([PageBlock; 2], bool)> = Vec::new();
    let pfns = |blocks: &[PageBlock; 2]| -> [Pfn; 2] { [0, 1].map(|nr| blocks[nr].pfn()) };
    for _ in 0..4000 {
        run_on(u32::try_from(random.below(2)).unwrap());
        if random.below(5) < 3 {
            let gfps = [
                Gfp::KERNEL,
                Gfp::DMA,
                Gfp::KERNEL | Gfp::DMA32,
                Gfp::HIGHUSER_MOVABLE,
            ];
            let req = PageReq::new(
                order(u8::try_from(random.below(2)).unwrap()),
                gfps[random.below(gfps.len())],
            );
            let is_counted = random.below(2) == 0;
            match (
                take(&with, req, is_counted),
                take(&without, req, is_counted),
            ) {
                (Some(one), Some(other)) => {
                    let blocks = [one, other];
                    let [one, other] = pfns(&blocks);
                    assert_eq!(one, other, "{req:?}");
                    held.push((blocks, is_counted));
                }
                (None, None) => {}
                found => panic!("{found:?}"),
            }
        } else if !held.is_empty() {
            let ([one, other], is_counted) = held.swap_remove(random.below(held.len()));
            give(&with, one, is_counted);
            give(&without, other, is_counted);
        }
    }
    for ([one, other], is_counted) in held {
        give(&with, one, is_counted);
        give(&without, other, is_counted);
    }
    with.validate().unwrap();
    without.validate().unwrap();
}
