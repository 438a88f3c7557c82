//! Each kind of bug has its class, and the text that Linux has for it.
#![allow(missing_docs, reason = "tests")]

mod common;

use common::{Caller, Lock, OnBug, START, access, kinds, reports, rig, run_as, shadow};
use kmm_frame::VirtAddr;
use kmm_host::{Freed, ObjectSlot, Sanitizer};
use kmm_kasan::{AccessKind, BugKind, Kasan, KasanConfig, KasanStorage};

const SLOT: ObjectSlot = ObjectSlot {
    start: VirtAddr::new(START.as_u64() + 0x180),
    size_bytes: 128,
    align: 8,
};

#[test]
fn an_overflow_is_reported_as_linux_does_it() {
    let kasan = rig(0x1000, 16, 16, 1 << 20);
    kasan.slab_taken(START, 0x1000);
    run_as(7);
    kasan.object_taken(SLOT, 115, "kmalloc-128");
    run_as(9);
    let touched = access(SLOT.start + 115, 1, AccessKind::Write);
    assert!(!kasan.check(touched, Some(0x4711)));
    let [report] = reports()[..] else {
        panic!("one report")
    };
    assert_eq!(
        report.to_string(),
        "\
==================================================================
BUG: KASAN: slab-out-of-bounds in 0x0000000000004711
Write of size 1 at addr ffff8880012301f3 by task 9

Call Trace:
 0x0000000000000090
 0x0000000000000091

Allocated by task 7:
 0x0000000000000070
 0x0000000000000071

The buggy address belongs to the object at ffff888001230180
 which belongs to the cache kmalloc-128 of size 128
The buggy address is located 0 bytes to the right of
 allocated 115-byte region [ffff888001230180, ffff8880012301f3)

Memory state around the buggy address:
 ffff888001230080: fc fc fc fc fc fc fc fc fc fc fc fc fc fc fc fc
 ffff888001230100: fc fc fc fc fc fc fc fc fc fc fc fc fc fc fc fc
>ffff888001230180: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 03 fc
                                                             ^
 ffff888001230200: fc fc fc fc fc fc fc fc fc fc fc fc fc fc fc fc
 ffff888001230280: fc fc fc fc fc fc fc fc fc fc fc fc fc fc fc fc
=================================================================="
    );
}

#[test]
fn a_use_after_free_names_both_stacks() {
    let kasan = rig(0x1000, 16, 16, 1 << 20);
    kasan.slab_taken(START, 0x1000);
    run_as(1);
    kasan.object_taken(SLOT, 128, "dentry");
    run_as(2);
    assert_eq!(
        kasan.object_given(SLOT.start, Some(SLOT), &mut |_| {}),
        Freed::Later
    );
    run_as(3);
    let touched = access(SLOT.start + 8, 4, AccessKind::Read);
    assert!(!kasan.check(touched, None));
    let [report] = reports()[..] else {
        panic!("one report")
    };
    let text = report.to_string();
    for part in [
        "BUG: KASAN: slab-use-after-free in 0x0000000000000030\n\
         Read of size 4 at addr ffff888001230188 by task 3\n",
        "Allocated by task 1:\n 0x0000000000000010\n",
        "Freed by task 2:\n 0x0000000000000020\n",
        "cache dentry of size 128\n",
        "8 bytes inside of\n freed 128-byte region [ffff888001230180, ffff888001230200)\n",
        ">ffff888001230180: fa fb fb",
        // Under the second byte of the row.
        "\n                      ^\n",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

#[test]
fn the_stack_begins_with_the_culprit() {
    let kasan = rig(0x1000, 16, 16, 1 << 20);
    kasan.slab_taken(START, 0x1000);
    run_as(3);
    let touched = access(START, 4, AccessKind::Read);
    for (ip, stack) in [(0x31, &[0x31][..]), (0x99, &[0x30, 0x31])] {
        assert!(!kasan.check(touched, Some(ip)));
        let ip = Some(ip);
        let [report] = reports()[..] else {
            panic!("one report")
        };
        assert_eq!((report.ip, report.track.addresses()), (ip, stack));
    }
}

#[test]
fn what_is_freed_wrongly_is_named() {
    let kasan = rig(0x1000, 16, 16, 1 << 20);
    kasan.slab_taken(START, 0x1000);
    run_as(1);
    kasan.object_taken(SLOT, 128, "inode");
    let middle = SLOT.start + 16;
    let refused = kasan.object_given(middle, Some(SLOT), &mut |_| {});
    assert_eq!(refused, Freed::Refused);
    let text = reports()[0].to_string();
    assert!(text.contains("BUG: KASAN: invalid-free in"), "{text}");
    assert!(
        text.contains("Free of addr ffff888001230190 by task 1\n"),
        "{text}"
    );
    assert!(text.contains("16 bytes inside of"), "{text}");

    assert_eq!(
        kasan.object_given(SLOT.start, Some(SLOT), &mut |_| {}),
        Freed::Later
    );
    let again = kasan.object_given(SLOT.start, Some(SLOT), &mut |_| {});
    assert_eq!(again, Freed::Refused);
    let text = reports()[0].to_string();
    assert!(text.contains("BUG: KASAN: double-free in"), "{text}");
    assert!(text.contains("Freed by task 1:"), "{text}");
}

#[test]
fn pages_and_areas_have_classes_of_their_own() {
    let kasan = rig(0x4000, 16, 16, 1 << 20);
    let read = |addr| kasan.check(access(addr, 8, AccessKind::Read), None);
    assert!(kasan.pages_given(START, 0x1000));
    assert!(!read(START + 0xff8) && read(START + 0x1000));
    assert_eq!(kinds(), [BugKind::UseAfterFree]);
    assert!(!kasan.pages_given(START, 0x1000));
    assert_eq!(kinds(), [BugKind::DoubleFree]);
    kasan.pages_taken(START, 0x1000);
    assert!(read(START + 0xff8));

    run_as(5);
    kasan.vfree(START + 0x2000, 0x2000);
    kasan.vmalloc(START + 0x2000, 100);
    assert!(read(START + 0x2000 + 88) && !read(START + 0x2000 + 96));
    let [report] = reports()[..] else {
        panic!("one report")
    };
    assert_eq!(report.kind, BugKind::VmallocOutOfBounds);
    let text = report.to_string();
    let mapping = "belongs to the virtual mapping at\n [ffff888001232000, ffff888001232064) created by:\n 0x0000000000000050\n";
    assert!(text.contains(mapping), "{text}");
    kasan.vfree(START + 0x2000, 100);
    assert!(!read(START + 0x2000));
    assert_eq!(kinds(), [BugKind::VmallocOutOfBounds]);
}

#[test]
fn addresses_without_a_shadow_are_told_apart() {
    let kasan = rig(0x1000, 16, 16, 1 << 20);
    for (addr, size_bytes, kind) in [
        (0x10, 8, BugKind::NullDeref),
        (0x40_0000, 8, BugKind::UserMemoryAccess),
        (0xdead_0000_0000_0000, 1, BugKind::WildMemoryAccess),
        (START.as_u64(), usize::MAX, BugKind::OutOfBounds),
    ] {
        let touched = access(VirtAddr::new(addr), size_bytes, AccessKind::Read);
        assert!(!kasan.check(touched, None));
        let [report] = reports()[..] else {
            panic!("one report")
        };
        assert_eq!(report.kind, kind);
        let has_rows = report.to_string().contains("Memory state");
        assert_eq!(has_rows, kind == BugKind::OutOfBounds);
    }
    assert_eq!(kasan.nr_bugs(), 4);
}

#[test]
fn the_table_forgets_the_oldest_and_the_reports_go_on() {
    let kasan = rig(0x8000, 4, 16, 1 << 20);
    kasan.slab_taken(START, 0x8000);
    let slot = |nr: u64| ObjectSlot {
        start: START + nr * 0x1000 + 0x800,
        size_bytes: 64,
        align: 8,
    };
    (0..7).for_each(|nr| kasan.object_taken(slot(nr), 60, "many"));
    for nr in 0..7 {
        let touched = access(slot(nr).start + 60, 1, AccessKind::Write);
        assert!(!kasan.check(touched, None));
    }
    let known: Vec<bool> = reports()
        .iter()
        .enumerate()
        .map(|(nr, report)| {
            let start = slot(nr as u64).start;
            assert_eq!(report.kind, BugKind::SlabOutOfBounds);
            report
                .object
                .is_some_and(|object| object.slot.start == start)
        })
        .collect();
    assert_eq!(known, [false, false, false, true, true, true, true]);
}

#[test]
fn what_is_our_own_is_left_out_of_stacks() {
    let mut config = KasanConfig::new(common::keep as OnBug);
    config.is_own = |address| address == 0x20 || address == 0x31;
    let storage = KasanStorage {
        records: vec![None; 4].leak(),
        waiting: &mut [],
    };
    let kasan = Kasan::<_, Lock, _, _>::new(shadow(0x1000), Caller, storage, config);
    run_as(2);
    kasan.object_taken(SLOT, 128, "inode");
    run_as(3);
    let refused = kasan.object_given(SLOT.start + 8, Some(SLOT), &mut |_| {});
    assert_eq!(refused, Freed::Refused);
    let report = reports()[0];
    assert_eq!(report.culprit(), 0x30);
    let text = report.to_string();
    for part in [
        "invalid-free in 0x0000000000000030\n",
        // Only at the inner end.
        "Call Trace:\n 0x0000000000000030\n 0x0000000000000031\n\n",
        "Allocated by task 2:\n 0x0000000000000021\n\n",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}
