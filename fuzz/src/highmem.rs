//! Frames outside the permanent map, seen through windows that nest, against their contents.

use core::cell::Cell;
use core::ptr::NonNull;

use kmm_frame::{PAGE_SIZE, Pfn, VirtAddr};
use kmm_highmem::{WindowDepth, WindowMap, Windows};
use kmm_host::{CpuId, CpuPin, Cpus, DirectMap, PhysMap};

use crate::Tape;
use crate::lent::Lent;

const LOW_PAGES: usize = 4;
const NR_PAGES: usize = 16;
const NR_CPUS: usize = 2;
const WINDOWS: usize = 4;

/// One thread plays all CPUs.
#[derive(Default)]
struct OneThread(Cell<u32>);

// SAFETY: one thread plays all CPUs, so none runs while another does.
unsafe impl Cpus for &OneThread {
    fn nr_cpus(&self) -> usize {
        NR_CPUS
    }

    fn with_pin<R>(&self, f: impl FnOnce(CpuPin<'_>) -> R) -> R {
        // SAFETY: the thread plays one CPU at a time.
        f(unsafe { CpuPin::new(CpuId::new(self.0.get())) })
    }
}

/// Windows that are the frames themselves; they watch that they are opened and closed in order.
struct Direct {
    ram: DirectMap,
    open: [[Cell<Option<Pfn>>; WINDOWS]; NR_CPUS],
}

// SAFETY: a frame is shown where it is.
unsafe impl Windows for &Direct {
    const PER_CPU: usize = WINDOWS;

    unsafe fn show(&self, cpu: CpuId, window: usize, pfn: Pfn) -> NonNull<[u8; PAGE_SIZE]> {
        let before = self.open[cpu.index()][window].replace(Some(pfn));
        assert_eq!(before, None, "window in use");
        self.ram.direct(pfn).expect("RAM").cast()
    }

    unsafe fn hide(&self, cpu: CpuId, window: usize) {
        let windows = &self.open[cpu.index()];
        assert!(
            windows[window + 1..]
                .iter()
                .all(|window| window.get().is_none()),
            "out of order"
        );
        assert!(windows[window].take().is_some(), "window is empty");
    }
}

/// Runs an input.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let layout =
        std::alloc::Layout::from_size_align(NR_PAGES * PAGE_SIZE, PAGE_SIZE).expect("small");
    let memory = Lent::new(layout);
    let base = memory.base().as_ptr().expose_provenance() as u64;
    // SAFETY: the frames are there as long as they are used.
    let ram = unsafe { DirectMap::new(VirtAddr::new(base), Pfn::new(NR_PAGES)) };
    let windows = Direct {
        ram,
        open: Default::default(),
    };
    let cpus = OneThread::default();
    let (_depths, depths) = Lent::array(NR_CPUS, WindowDepth::new);
    let map = WindowMap::new(ram, Pfn::new(LOW_PAGES), &windows, &cpus, depths);
    let mut model = [0_u8; NR_PAGES];
    while !tape.is_empty() {
        cpus.0.set(tape.below(NR_CPUS) as u32);
        nest(&map, &mut model, &mut tape, &mut Vec::new());
        let open = windows
            .open
            .iter()
            .flatten()
            .filter(|window| window.get().is_some());
        assert_eq!(open.count(), 0, "a window is left open");
    }
}

/// Opens a frame, changes it, and perhaps opens another inside.
fn nest(
    map: &impl PhysMap,
    model: &mut [u8; NR_PAGES],
    tape: &mut Tape<'_>,
    above: &mut Vec<usize>,
) {
    let pfn = tape.below(NR_PAGES);
    if above.contains(&pfn) || above.len() == WINDOWS {
        return;
    }
    let deeper = tape.one_in(2);
    // SAFETY: one thread, and no frame twice at a time.
    unsafe {
        map.with_pfn(Pfn::new(pfn), |mut page| {
            assert!(
                page.bytes_mut().iter().all(|byte| *byte == model[pfn]),
                "contents of {pfn}"
            );
            model[pfn] = tape.byte();
            page.bytes_mut().fill(model[pfn]);
            if deeper {
                above.push(pfn);
                nest(map, model, tape, above);
                above.pop();
            }
            assert!(
                page.bytes_mut().iter().all(|byte| *byte == model[pfn]),
                "contents of {pfn}"
            );
        });
    }
}
