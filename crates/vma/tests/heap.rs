//! The break: to the byte, refused, absent, inherited.

mod common;

use common::{PAGE, fixed, linux, picture, task_size, va};
use kmm_frame::VirtAddr;
use kmm_vma::{Limits, MapFlags, Mm, VmFlags};

#[test]
fn the_break_is_exact_to_the_byte() {
    let mut mm = linux();
    let start = 100 * PAGE + 24;
    mm.set_brk_start(VirtAddr::new(start));
    let brk = |mm: &mut Mm<u32>, to: u64| {
        let (end, dropped) = mm.brk(VirtAddr::new(to));
        mm.validate();
        (end.as_u64(), dropped)
    };
    assert_eq!(brk(&mut mm, 0), (start, None), "a question");
    assert_eq!(
        brk(&mut mm, start + 1),
        (start + 1, None),
        "within the page"
    );
    assert_eq!(mm.total_vm_pages(), 0, "that page is the program's own");
    assert_eq!(brk(&mut mm, start + PAGE), (start + PAGE, None));
    assert_eq!(mm.total_vm_pages(), 1);
    assert_eq!(brk(&mut mm, 110 * PAGE), (110 * PAGE, None));
    assert_eq!(mm.total_vm_pages(), 9);
    let (_, heap) = mm.lookup(va(105)).expect("the heap");
    assert_eq!(heap.flags & VmFlags::ACCESS, VmFlags::READ | VmFlags::WRITE);
    // Down: what is dropped is whole pages.
    assert_eq!(brk(&mut mm, 109 * PAGE + 1), (109 * PAGE + 1, None));
    assert_eq!(
        brk(&mut mm, 105 * PAGE + 1),
        (105 * PAGE + 1, Some(va(106)..va(110)))
    );
    assert_eq!(mm.total_vm_pages(), 5);
    assert_eq!(brk(&mut mm, start), (start, Some(va(101)..va(106))));
    assert_eq!(mm.map_count(), 0);
    assert_eq!(brk(&mut mm, start - 1), (start, None), "below the start");
}

#[test]
fn a_refused_break_stays_where_it_was() {
    let mut mm = linux();
    let mut limits = Limits {
        data_bytes: 8 * PAGE,
        ..Limits::default()
    };
    mm.set_limits(limits);
    mm.set_brk_start(va(100));
    mm.set_data_segment(2 * PAGE);
    let at = va(103);
    assert_eq!(mm.brk(at), (at, None));
    let refuse = |mm: &mut Mm<u32>, to: VirtAddr, why: &str| {
        let before = picture(mm);
        assert_eq!(mm.brk(to), (at, None), "{why}");
        assert_eq!(picture(mm), before, "{why}");
    };
    refuse(
        &mut mm,
        va(106) + 1,
        "RLIMIT_DATA counts the program's data, to the byte",
    );
    limits.data_bytes = u64::MAX;
    limits.address_space_bytes = 6 * PAGE;
    mm.set_limits(limits);
    refuse(&mut mm, va(107), "RLIMIT_AS");
    mm.set_limits(Limits::default());
    refuse(&mut mm, VirtAddr::new(u64::MAX), "wraps");
    refuse(
        &mut mm,
        VirtAddr::new(task_size() + 1),
        "beyond the task size",
    );
    assert!(mm.mmap(fixed(110 * PAGE, PAGE)).is_ok());
    refuse(&mut mm, va(110), "one page stays free below a mapping");
    refuse(&mut mm, va(112), "a mapping is in the way");
    assert_eq!(mm.brk(va(109)), (va(109), None));
    let mut stack = fixed(1000 * PAGE, PAGE);
    stack.flags |= MapFlags::GROWSDOWN;
    assert!(mm.munmap(va(110), PAGE).is_ok());
    assert!(mm.mmap(stack).is_ok());
    assert_eq!(
        mm.brk(va(1000 - 256)),
        (va(109), None),
        "the guard gap and a page"
    );
    assert_eq!(mm.brk(va(1000 - 257)), (va(1000 - 257), None));
}

#[test]
fn a_heap_below_the_lowest_address_does_not_grow() {
    let mut mm = linux();
    mm.set_brk_start(va(14));
    assert_eq!(mm.brk(va(20)), (va(14), None));
    mm.set_brk_start(va(16));
    assert_eq!(mm.brk(va(20)), (va(20), None));
}

#[test]
fn a_child_has_its_parents_heap_and_limits() {
    let mut mm = linux();
    mm.set_limits(Limits {
        data_bytes: 8 * PAGE,
        ..Limits::default()
    });
    mm.set_brk_start(va(100));
    mm.set_data_segment(2 * PAGE);
    assert_eq!(mm.brk(va(103)), (va(103), None));
    let mut child = mm.fork().expect("memory");
    assert_eq!((child.start_brk(), child.current_brk()), (va(100), va(103)));
    assert_eq!(child.brk(va(106) + 1), (va(103), None), "the data counts");
    assert_eq!(child.brk(va(106)), (va(106), None));
    assert_eq!(mm.current_brk(), va(103));
}
