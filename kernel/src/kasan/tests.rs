//! Clients that are broken on purpose: each is reported, with its class and its object, and the kernel goes on.
#![expect(unsafe_code, reason = "the clients touch what they may not")]

use alloc::alloc::{alloc, dealloc};
use alloc::string::ToString;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::hint::black_box;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use kmm::frame::{Gfp, Order, PAGE_SIZE, VirtAddr};
use kmm::host::PhysMap as _;
use kmm::slub::CacheArgs;
use kmm_kasan::{AccessKind, BugKind, Report};

use super::on;
use crate::ensure;
use crate::mm::{manager, phys};
use crate::selftest::{Failure, Outcome, Test};

/// Self-tests of KASAN, which come last: the last of them says whether any test before has found a bug.
pub const TESTS: &[Test] = &[
    Test {
        name: "kasan::a_write_behind_an_object_is_reported",
        run: write_behind,
    },
    Test {
        name: "kasan::a_read_before_an_object_is_reported",
        run: read_before,
    },
    Test {
        name: "kasan::a_copy_that_is_too_long_is_reported",
        run: copy_too_long,
    },
    Test {
        name: "kasan::a_use_after_free_is_reported",
        run: use_after_free,
    },
    Test {
        name: "kasan::a_double_free_is_reported_and_refused",
        run: double_free,
    },
    Test {
        name: "kasan::freeing_the_middle_is_reported_and_refused",
        run: free_of_the_middle,
    },
    Test {
        name: "kasan::objects_of_named_caches_are_watched",
        run: named_cache,
    },
    Test {
        name: "kasan::large_allocations_are_watched",
        run: large_allocation,
    },
    Test {
        name: "kasan::a_read_behind_an_area_is_reported",
        run: read_behind_an_area,
    },
    Test {
        name: "kasan::a_use_of_a_freed_page_is_reported",
        run: use_of_a_freed_page,
    },
    Test {
        name: "kasan::nothing_else_was_reported",
        run: nothing_else,
    },
];

/// Bugs that were asked for.
static NR_EXPECTED: AtomicUsize = AtomicUsize::new(0);

/// The one bug that `client` has, which is of class `kind`.
fn bug_of(kind: BugKind, client: impl FnOnce()) -> Result<Report, Failure> {
    on::take_last();
    let before = on::nr_bugs();
    client();
    let found = on::nr_bugs() - before;
    NR_EXPECTED.fetch_add(found, Ordering::Relaxed);
    ensure!(found == 1, "{found} reports");
    let report = on::take_last().ok_or("no report")?;
    ensure!(report.kind == kind, "reported as {}", report.kind);
    Ok(report)
}

/// Calls `client` with an object of `size_bytes` bytes, which it may free.
fn with_object<R>(size_bytes: usize, client: impl FnOnce(*mut u8, Layout) -> R) -> R {
    let Ok(layout) = Layout::from_size_align(size_bytes, 8) else {
        unreachable!("8 is a power of two")
    };
    // SAFETY: of some size.
    let object = black_box(unsafe { alloc(layout) });
    client(object, layout)
}

fn free(object: *mut u8, layout: Layout) {
    // SAFETY: the objects of these tests are theirs; some free them wrongly on purpose, which KASAN refuses.
    unsafe { dealloc(object, layout) };
}

fn read(at: *mut u8) {
    // SAFETY: mapped memory, whoever has it: an object of these tests or what lies beside it.
    black_box(unsafe { at.read_volatile() });
}

fn write_behind() -> Outcome {
    with_object(123, |object, layout| {
        let report = bug_of(BugKind::SlabOutOfBounds, || {
            // SAFETY: breaks the rules on purpose; the redzone behind the object belongs to nobody.
            unsafe { object.wrapping_add(123).write_volatile(1) };
        })?;
        free(object, layout);
        let access = report.access.ok_or("no access")?;
        ensure!(access.kind == AccessKind::Write && access.size_bytes == 1);
        let known = report.object.ok_or("no object")?;
        ensure!(known.slot.start.as_usize() == object.addr() && known.requested_bytes == 123);
        let text = report.to_string();
        for part in [
            "BUG: KASAN: slab-out-of-bounds in ",
            "Write of size 1 at addr ",
            "0 bytes to the right of\n allocated 123-byte region [",
            "Memory state around the buggy address:\n",
            " 00 03",
            " fc fc",
        ] {
            ensure!(text.contains(part), "the report lacks {part:?}");
        }
        Ok(())
    })
}

fn read_before() -> Outcome {
    with_object(64, |object, layout| {
        let report = bug_of(BugKind::SlabOutOfBounds, || read(object.wrapping_sub(1)))?;
        free(object, layout);
        ensure!(
            report
                .access
                .is_some_and(|access| access.kind == AccessKind::Read)
        );
        // It lies in the redzone of whatever is before.
        ensure!(report.addr.as_usize() == object.addr() - 1);
        Ok(())
    })
}

fn copy_too_long() -> Outcome {
    with_object(24, |object, layout| {
        let from = black_box([7_u8; 32]);
        let count = black_box(32);
        let report = bug_of(BugKind::SlabOutOfBounds, || {
            // SAFETY: breaks the rules on purpose; the redzone behind the object belongs to nobody.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr(), object, count) };
        })?;
        free(object, layout);
        let access = report.access.ok_or("no access")?;
        ensure!(access.kind == AccessKind::Write && access.size_bytes == 32);
        ensure!(report.addr.as_usize() == object.addr() + 24);
        Ok(())
    })
}

fn use_after_free() -> Outcome {
    with_object(200, |object, layout| {
        free(object, layout);
        let report = bug_of(BugKind::SlabUseAfterFree, || read(object.wrapping_add(8)))?;
        let known = report.object.ok_or("no object")?;
        ensure!(known.slot.start.as_usize() == object.addr());
        let freed = known.freed.ok_or("nobody freed it")?;
        ensure!(!known.allocated.addresses().is_empty() && !freed.addresses().is_empty());
        Ok(())
    })
}

fn double_free() -> Outcome {
    with_object(48, |object, layout| {
        free(object, layout);
        bug_of(BugKind::DoubleFree, || free(object, layout))?;
        Ok(())
    })
}

fn free_of_the_middle() -> Outcome {
    with_object(256, |object, layout| {
        bug_of(BugKind::InvalidFree, || {
            free(object.wrapping_add(64), layout)
        })?;
        free(object, layout);
        Ok(())
    })
}

/// Asked directly, not through the heap.
fn named_cache() -> Outcome {
    let slub = manager().slub();
    let cache = slub
        .cache_create(&CacheArgs::new("kasan_victim", 100))
        .map_err(Failure::of)?;
    let victim = slub.alloc(cache, Gfp::KERNEL).map_err(Failure::of)?;
    let start = victim.as_ptr();
    let free = |at: *mut u8| {
        if let Some(object) = NonNull::new(at) {
            // SAFETY: an object of the cache, or a mistake on purpose, which KASAN refuses.
            unsafe { slub.free(cache, object) };
        }
    };
    let mut reports = Vec::new();
    reports.push(bug_of(BugKind::SlabOutOfBounds, || {
        // SAFETY: breaks the rules on purpose; the redzone behind the object belongs to nobody.
        unsafe { start.wrapping_add(100).write_volatile(1) };
    })?);
    reports.push(bug_of(BugKind::InvalidFree, || {
        free(start.wrapping_add(8))
    })?);
    free(start);
    reports.push(bug_of(BugKind::SlabUseAfterFree, || read(start))?);
    reports.push(bug_of(BugKind::DoubleFree, || free(start))?);
    for report in &reports {
        let known = report.object.ok_or("no object")?;
        ensure!(
            known.cache() == "kasan_victim" && known.slot.start.as_usize() == start.addr(),
            "{} is of {}",
            report.kind,
            known.cache()
        );
        let text = report.to_string();
        ensure!(
            text.contains("which belongs to the cache kasan_victim of size "),
            "the report does not name the cache"
        );
    }
    // SAFETY: nobody else has the cache.
    unsafe { slub.cache_destroy(cache) }.map_err(Failure::of)
}

fn large_allocation() -> Outcome {
    let slub = manager().slub();
    let size_bytes = 5 * PAGE_SIZE + 10;
    let object = slub.kmalloc(size_bytes, Gfp::KERNEL).map_err(Failure::of)?;
    let start = object.as_ptr();
    read(start.wrapping_add(size_bytes - 1));
    let report = bug_of(BugKind::SlabOutOfBounds, || {
        read(start.wrapping_add(size_bytes))
    });
    // SAFETY: it came from there, and is read once more, on purpose.
    unsafe { slub.kfree(object) };
    ensure!(
        report?
            .object
            .is_some_and(|known| known.cache() == "kmalloc-large")
    );
    bug_of(BugKind::UseAfterFree, || read(start))?;
    Ok(())
}

fn read_behind_an_area() -> Outcome {
    let size_bytes = PAGE_SIZE + 100;
    let vmalloc = manager().vmalloc();
    let area = vmalloc
        .vmalloc(size_bytes, Gfp::KERNEL)
        .map_err(Failure::of)?;
    let start: *mut u8 = ptr::with_exposed_provenance_mut(area.as_usize());
    let report = bug_of(BugKind::VmallocOutOfBounds, || {
        read(start.wrapping_add(size_bytes - 1));
        read(start.wrapping_add(size_bytes));
    });
    // SAFETY: the area is ours, and nobody uses it.
    unsafe { vmalloc.vfree(area) }.map_err(Failure::of)?;
    let known = report?.object.ok_or("no area")?;
    ensure!(known.is_area && known.slot.start == area);
    Ok(())
}

fn use_of_a_freed_page() -> Outcome {
    let pages = manager().page_alloc();
    let block = pages
        .alloc_pages_nowait(Gfp::KERNEL, Order::ZERO)
        .map_err(Failure::of)?;
    let page = phys().direct(block.pfn()).ok_or("no address")?.as_ptr();
    read(page);
    pages.free_pages(block);
    let report = bug_of(BugKind::UseAfterFree, || read(page.wrapping_add(100)))?;
    ensure!(report.addr == VirtAddr::new(page.addr() as u64 + 100));
    Ok(())
}

fn nothing_else() -> Outcome {
    let (found, expected) = (on::nr_bugs(), NR_EXPECTED.load(Ordering::Relaxed));
    ensure!(
        found == expected,
        "{} bugs that no test asked for",
        found - expected
    );
    Ok(())
}
