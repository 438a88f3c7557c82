//! Self-tests of memory management.
#![expect(unsafe_code, reason = "reads and writes what it allocated, loads CR3")]

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use kmm::fault::{FaultCause, NoFile};
use kmm::frame::{Gfp, Order, PAGE_SIZE, PageFlags, Pfn, VirtAddr};
use kmm::host::{PageBlock, PhysMap as _};
use kmm::pagetable_walker::Span;
use kmm::vma::{MmapReq, Prot};
use kmm::{AddressSpace, AuditReport, check};

use super::host::KernelHost;
use super::{boot, count_tests, guard_tests, kfence_tests, machine, manager, mem_map, phys};
use crate::arch::usercopy::{self, probe};
use crate::boot::{DIRECT_MAP, image};
use crate::ensure;
use crate::fs;
use crate::process::{self, Mm};
use crate::selftest::{Failure, Outcome, Test};

/// Self-tests of memory management.
pub const TESTS: &[Test] = &[
    Test {
        name: "mm::final_tables_are_proven",
        run: final_tables_are_proven,
    },
    Test {
        name: "mm::guard_page_under_the_boot_stack_is_unmapped",
        run: boot_stack_has_a_guard,
    },
    Test {
        name: "mm::frames_add_up",
        run: frames_add_up,
    },
    Test {
        name: "mm::texts_show_every_node",
        run: count_tests::texts_show_every_node,
    },
    Test {
        name: "mm::cpus_pass_on_what_they_count",
        run: count_tests::cpus_pass_on_what_they_count,
    },
    Test {
        name: "mm::no_reserved_frame_is_handed_out",
        run: no_reserved_frame_is_handed_out,
    },
    Test {
        name: "mm::addresses_and_descriptors_convert_both_ways",
        run: addresses_convert,
    },
    Test {
        name: "mm::collections_live_on_slub",
        run: collections_live_on_slub,
    },
    Test {
        name: "mm::kmalloc_serves_every_size",
        run: kmalloc_serves_every_size,
    },
    Test {
        name: "mm::a_broken_client_is_noticed",
        run: a_broken_client_is_noticed,
    },
    Test {
        name: "mm::kmap_is_the_direct_map",
        run: kmap_is_the_direct_map,
    },
    Test {
        name: "mm::vmalloc_has_guard_pages",
        run: vmalloc_has_guard_pages,
    },
    Test {
        name: "mm::freed_vmalloc_memory_is_unmapped",
        run: freed_vmalloc_memory_is_unmapped,
    },
    Test {
        name: "mm::ioremap_refuses_ram",
        run: ioremap_refuses_ram,
    },
    Test {
        name: "mm::a_hook_sees_new_slabs",
        run: guard_tests::a_hook_sees_new_slabs,
    },
    Test {
        name: "mm::what_belongs_to_the_kernel_is_not_mapped_twice",
        run: guard_tests::no_second_mapping,
    },
    Test {
        name: "mm::a_write_behind_a_sampled_object_is_reported",
        run: kfence_tests::write_behind,
    },
    Test {
        name: "mm::a_read_of_a_freed_sampled_object_is_reported",
        run: kfence_tests::read_after_free,
    },
    Test {
        name: "mm::kernel_mappings_are_seen_by_every_process",
        run: kernel_mappings_are_shared,
    },
    Test {
        name: "mm::kernel_mappings_survive_their_first_process",
        run: kernel_mappings_survive,
    },
    Test {
        name: "mm::stale_translations_are_flushed",
        run: stale_translations_are_flushed,
    },
    Test {
        name: "mm::anonymous_memory_reads_zero_and_is_private_after_fork",
        run: fork_copies_on_write,
    },
    Test {
        name: "mm::exhausted_memory_is_an_error",
        run: exhausted_memory_is_an_error,
    },
];

/// Checks every frame, table and count of the machine.
pub fn audit() -> Result<AuditReport, Failure> {
    let mut mms: Vec<Arc<Mm>> = Vec::new();
    process::for_each_task(|task| {
        let new = task
            .mm()
            .filter(|mm| !mms.iter().any(|known| Arc::ptr_eq(known, mm)));
        mms.extend(new);
    });
    let spaces: Vec<_> = mms.iter().map(|mm| mm.space()).collect();
    let map = mem_map();
    let file_frames = map
        .range()
        .iter()
        .filter(|&pfn| map.page(pfn).test(PageFlags::FILE));
    let nr_file_frames = file_frames.clone().count();
    ensure!(
        nr_file_frames == fs::nr_frames(),
        "{nr_file_frames} frames of files, {} counted",
        fs::nr_frames()
    );
    // Each file has one reference to each of its frames.
    let held = |f: &mut dyn FnMut(Pfn)| file_frames.clone().for_each(f);
    manager()
        .audit(spaces.iter().map(|space| &**space), held)
        .map_err(Failure::of)
}

/// Walks the final tables and compares with what they were to map.
pub fn prove_tables() -> Result<check::TableReport, check::TableFault> {
    let machine = machine();
    machine.manager.vmalloc().with_root(|root, mapper| {
        check::kernel_tables(
            &mapper,
            root,
            &machine.space,
            machine.memory,
            machine.manager.kfence_frames(),
            boot::image_parts(),
        )
    })
}

fn final_tables_are_proven() -> Outcome {
    prove_tables().map(drop).map_err(Failure::of)
}

fn boot_stack_has_a_guard() -> Outcome {
    let guard = image::boot_stack_guard();
    ensure!(
        probe(guard.start).is_none() && probe(guard.end - 8).is_none(),
        "the guard page is mapped"
    );
    ensure!(probe(guard.end).is_some(), "the stack above it is not");
    Ok(())
}

fn frames_add_up() -> Outcome {
    let sum = manager().pages().accounting();
    ensure!(sum.adds_up(), "{sum:?}");
    let ram: usize = machine().memory.iter().map(|range| range.nr_pages()).sum();
    ensure!(
        sum.present == ram,
        "{ram} frames of RAM, {} present",
        sum.present
    );
    audit().map(drop)
}

/// Takes everything that can be had.
fn take_all() -> Vec<PageBlock> {
    let mut blocks = Vec::with_capacity(4096);
    for order in Order::all().rev() {
        while blocks.len() < blocks.capacity() {
            match manager()
                .page_alloc()
                .alloc_pages_nowait(Gfp::KERNEL | Gfp::MEMALLOC | Gfp::NOWARN, order)
            {
                Ok(block) => blocks.push(block),
                Err(_) => break,
            }
        }
    }
    blocks
}

fn no_reserved_frame_is_handed_out() -> Outcome {
    let image: Vec<_> = boot::image_parts()
        .map(|part| part.phys.as_u64()..part.phys.as_u64() + (part.range.end - part.range.start))
        .collect();
    // From here to the end of the blocks nothing can be allocated.
    let blocks = take_all();
    let reserved = |pfn: Pfn| {
        let phys = pfn.phys().as_u64();
        let in_ram = machine().memory.iter().any(|range| range.contains(pfn));
        let in_image = image.iter().any(|part| part.contains(&phys));
        phys < 1 << 20 || !in_ram || in_image || mem_map().page(pfn).test(PageFlags::RESERVED)
    };
    let bad = blocks
        .iter()
        .flat_map(|block| block.range().iter())
        .find(|&pfn| reserved(pfn));
    for block in blocks {
        manager().page_alloc().free_pages(block);
    }
    ensure!(bad.is_none(), "frame {bad:?} was handed out");
    Ok(())
}

fn addresses_convert() -> Outcome {
    let map = mem_map();
    for pfn in machine().memory.iter().flat_map(|range| range.iter()) {
        ensure!(map.pfn(map.page(pfn)) == Some(pfn), "descriptor of {pfn}");
        let Some(ptr) = phys().direct(pfn) else {
            return Err(format!("frame {pfn} lies outside the direct map").into());
        };
        ensure!(
            ptr.addr().get() as u64 == DIRECT_MAP + pfn.phys().as_u64(),
            "address of {pfn}"
        );
        ensure!(phys().virt_to_pfn(ptr) == Some(pfn), "frame at {ptr:p}");
    }
    Ok(())
}

fn collections_live_on_slub() -> Outcome {
    let before = manager().slub().nr_pages().total();
    let mut tree = BTreeMap::new();
    for key in 0..2000_u32 {
        tree.insert(key.wrapping_mul(2_654_435_761), format!("value {key}"));
    }
    let grown = manager().slub().nr_pages().total();
    ensure!(grown > before, "2000 strings took no page");
    for key in 0..2000_u32 {
        let value = tree.remove(&key.wrapping_mul(2_654_435_761));
        ensure!(value == Some(format!("value {key}")), "{key}: {value:?}");
    }
    let large = vec![0x5a_u8; 3 << 20];
    ensure!(large.iter().all(|&byte| byte == 0x5a));
    drop((tree, large));
    manager().slub().validate().map_err(Failure::of)
}

/// Of a debugged cache (`slub_debug=FZPU`) a byte too many is reported when the object is freed; of any, what was never allocated.
fn a_broken_client_is_noticed() -> Outcome {
    let slub = manager().slub();
    let nr_bugs = || boot::NR_SLUB_BUGS.load(Ordering::Relaxed);
    let before = nr_bugs();
    let object = slub.kmalloc(8192, Gfp::KERNEL).map_err(Failure::of)?;
    let infos = slub.cache_infos();
    // KASAN has redzones of its own, and others look after them.
    let is_debugged = !cfg!(kasan)
        && infos
            .filter(|info| info.name == "kmalloc-8k")
            .any(|info| info.objsize > info.object_size);
    if is_debugged {
        // SAFETY: not of the object, but of its red zone, which is there.
        let behind = unsafe { object.add(8192) };
        // SAFETY: as above.
        unsafe { behind.write(0x41) };
    }
    // SAFETY: ours, and not used any more.
    unsafe { slub.kfree(object) };
    if !is_debugged {
        let mut on_stack = 0_u8;
        // SAFETY: a mistake on purpose, which is refused.
        unsafe { slub.kfree(NonNull::from(&mut on_stack)) };
    }
    ensure!(nr_bugs() == before + 1, "{} reports", nr_bugs() - before);
    slub.validate().map_err(Failure::of)
}

fn kmalloc_serves_every_size() -> Outcome {
    let slub = manager().slub();
    let mut objects = Vec::new();
    for size in (1..=9000)
        .step_by(37)
        .chain([16 << 10, 100_000, 1 << 20, 4 << 20])
    {
        let object = slub.kzalloc(size, Gfp::KERNEL).map_err(Failure::of)?;
        ensure!(
            slub.ksize(object) >= size,
            "{size} bytes got {}",
            slub.ksize(object)
        );
        // SAFETY: the object is ours, and at least `size` bytes long.
        let bytes = unsafe { core::slice::from_raw_parts_mut(object.as_ptr(), size) };
        ensure!(
            bytes.iter().all(|&byte| byte == 0),
            "{size} bytes are not zero"
        );
        let mark = (0..251).cycle().nth(objects.len()).unwrap_or(0);
        bytes.fill(mark);
        objects.push((object, size, mark));
    }
    for (object, size, mark) in objects {
        // SAFETY: as above.
        let bytes = unsafe { core::slice::from_raw_parts(object.as_ptr(), size) };
        ensure!(
            bytes.iter().all(|&byte| byte == mark),
            "object of {size} bytes was overwritten"
        );
        // SAFETY: it came from `kzalloc`, and is not used again.
        unsafe { slub.kfree(object) };
    }
    ensure!(
        slub.kzalloc((4 << 20) + 1, Gfp::KERNEL).is_err(),
        "more than 4 MiB from kmalloc"
    );
    slub.validate().map_err(Failure::of)
}

fn kmap_is_the_direct_map() -> Outcome {
    let mut block = manager()
        .page_alloc()
        .alloc_pages_nowait(Gfp::HIGHUSER, Order::ZERO)
        .map_err(Failure::of)?;
    let direct = phys().direct(block.pfn());
    let mapped = phys().with_page(&mut block, 0, |page| page.as_ptr());
    manager().page_alloc().free_pages(block);
    ensure!(direct == Some(mapped), "{direct:?} {mapped:?}");
    Ok(())
}

fn vmalloc_has_guard_pages() -> Outcome {
    let vmalloc = manager().vmalloc();
    for size in [1, PAGE_SIZE, PAGE_SIZE + 1, 64 << 10] {
        let addr = vmalloc
            .vzalloc(size, Gfp::KERNEL)
            .map_err(Failure::of)?
            .as_u64();
        let end = addr + size.next_multiple_of(PAGE_SIZE) as u64;
        let inside = (probe(addr), probe(end - 8));
        let outside = (probe(end), probe(end + PAGE_SIZE as u64 - 8));
        // SAFETY: nobody uses the area any more.
        unsafe { vmalloc.vfree(VirtAddr::new(addr)) }.map_err(Failure::of)?;
        ensure!(inside == (Some(0), Some(0)), "{size}: {inside:?} inside");
        ensure!(
            outside == (None, None),
            "{size}: {outside:?} in the guard page"
        );
    }
    Ok(())
}

fn freed_vmalloc_memory_is_unmapped() -> Outcome {
    let vmalloc = manager().vmalloc();
    let free = manager().pages().accounting().free;
    let addr = vmalloc
        .vzalloc(8 * PAGE_SIZE, Gfp::KERNEL)
        .map_err(Failure::of)?;
    ensure!(probe(addr.as_u64()) == Some(0));
    // SAFETY: nobody uses the area any more.
    unsafe { vmalloc.vfree(addr) }.map_err(Failure::of)?;
    ensure!(probe(addr.as_u64()).is_none(), "freed memory can be read");
    // SAFETY: the address names no area, which is what is being tried.
    ensure!(unsafe { vmalloc.vfree(addr) }.is_err(), "freed twice");
    ensure!(
        manager().pages().accounting().free == free,
        "frames were lost"
    );
    vmalloc.validate().map_err(Failure::of)
}

fn ioremap_refuses_ram() -> Outcome {
    let ram = machine().memory.iter().find(|range| !range.is_empty());
    let phys = ram.map_or(0, |range| range.start().phys().as_u64());
    ensure!(
        super::ioremap(phys, PAGE_SIZE).is_none(),
        "RAM was remapped"
    );
    Ok(())
}

/// Runs `f` on the tables of `space`.
fn on_tables_of<R>(space: &AddressSpace<KernelHost, NoFile>, f: impl FnOnce() -> R) -> R {
    let before = super::active_root();
    // SAFETY: the space lives through this call; nothing else but interrupts runs meanwhile, and they touch no user memory.
    unsafe { super::activate(space.root()) };
    let result = f();
    // SAFETY: what was loaded before.
    unsafe { super::activate(before) };
    result
}

pub(super) fn new_space() -> Result<AddressSpace<KernelHost, NoFile>, Failure> {
    AddressSpace::new(manager()).map_err(Failure::of)
}

/// F47: what is mapped below the shared entries of the kernel half later is seen through every root at once.
fn kernel_mappings_are_shared() -> Outcome {
    let (one, other) = (new_space()?, new_space()?);
    let addr = manager()
        .vmalloc()
        .vzalloc(PAGE_SIZE, Gfp::KERNEL)
        .map_err(Failure::of)?;
    // SAFETY: the page is ours.
    unsafe { (addr.as_u64() as *mut u64).write_volatile(0x1122_3344_5566_7788) };
    let seen = [&one, &other].map(|space| on_tables_of(space, || probe(addr.as_u64())));
    // SAFETY: nobody uses the area any more.
    unsafe { manager().vmalloc().vfree(addr) }.map_err(Failure::of)?;
    let gone = [&one, &other].map(|space| on_tables_of(space, || probe(addr.as_u64())));
    ensure!(seen == [Some(0x1122_3344_5566_7788); 2], "{seen:x?}");
    ensure!(gone == [None; 2], "{gone:x?} after vfree");
    Ok(())
}

/// F47 d: the first process ends; what was mapped while it ran stays.
fn kernel_mappings_survive() -> Outcome {
    let mut first = new_space()?;
    let addr = on_tables_of(&first, || {
        manager().vmalloc().vzalloc(PAGE_SIZE, Gfp::ATOMIC)
    })
    .map_err(Failure::of)?;
    let child = first.fork().map_err(Failure::of)?;
    drop(first);
    let seen = on_tables_of(&child, || probe(addr.as_u64()));
    drop(child);
    let still = probe(addr.as_u64());
    // SAFETY: nobody uses the area any more.
    unsafe { manager().vmalloc().vfree(addr) }.map_err(Failure::of)?;
    ensure!(seen == Some(0) && still == Some(0), "{seen:?}, {still:?}");
    Ok(())
}

/// The CPU keeps a translation until it is flushed (this emulator does so too): an address that is given to another frame
/// must not show the old one.
fn stale_translations_are_flushed() -> Outcome {
    let vmalloc = manager().vmalloc();
    let frame_of = |addr| vmalloc.with_root(|root, mapper| mapper.translate(root, addr));
    let mut kept = Vec::new();
    let mut nr_moved = 0;
    for _ in 0..32 {
        let addr = vmalloc
            .vmalloc(PAGE_SIZE, Gfp::KERNEL)
            .map_err(Failure::of)?;
        let before = frame_of(addr);
        // SAFETY: the page is ours.
        unsafe { (addr.as_u64() as *mut u64).write_volatile(0x0bad_0bad) };
        // SAFETY: nobody uses the area any more.
        unsafe { vmalloc.vfree(addr) }.map_err(Failure::of)?;
        // Whoever gets the frame keeps its contents.
        kept.push(
            manager()
                .page_alloc()
                .alloc_pages_nowait(Gfp::KERNEL, Order::ZERO)
                .map_err(Failure::of)?,
        );
        let again = vmalloc
            .vzalloc(PAGE_SIZE, Gfp::KERNEL)
            .map_err(Failure::of)?;
        let (after, seen) = (frame_of(again), probe(again.as_u64()));
        // SAFETY: nobody uses the area any more.
        unsafe { vmalloc.vfree(again) }.map_err(Failure::of)?;
        nr_moved += usize::from(again == addr && before != after);
        ensure!(seen == Some(0), "a fresh page shows {seen:x?}");
    }
    for block in kept {
        manager().page_alloc().free_pages(block);
    }
    ensure!(
        nr_moved > 0,
        "no address ever got another frame, so nothing was tried"
    );
    Ok(())
}

/// Writes a number at `addr` of a space, through faults, as a program does.
fn poke(space: &mut AddressSpace<KernelHost, NoFile>, addr: VirtAddr, value: u64) -> Outcome {
    for _ in 0..3 {
        if on_tables_of(space, || usercopy::put_user(addr.as_u64(), value)).is_ok() {
            return Ok(());
        }
        space
            .fault(addr, FaultCause::USER | FaultCause::WRITE)
            .map_err(Failure::of)?;
    }
    Err("the page faults for ever".into())
}

fn peek(space: &mut AddressSpace<KernelHost, NoFile>, addr: VirtAddr) -> Result<u64, Failure> {
    for _ in 0..3 {
        if let Ok(value) = on_tables_of(space, || usercopy::get_user(addr.as_u64())) {
            return Ok(value);
        }
        space.fault(addr, FaultCause::USER).map_err(Failure::of)?;
    }
    Err("the page faults for ever".into())
}

fn fork_copies_on_write() -> Outcome {
    let free = manager().pages().accounting().free;
    let mut parent = new_space()?;
    let len = 8 * PAGE_SIZE as u64;
    let at = parent
        .mmap(MmapReq::anonymous(len, Prot::READ | Prot::WRITE))
        .map_err(Failure::of)?;
    ensure!(peek(&mut parent, at)? == 0, "fresh memory is not zero");
    let zero = parent.translate(at).map(|leaf| leaf.pfn());
    ensure!(
        zero == Some(manager().zero_page()),
        "a read took a page of its own"
    );
    poke(&mut parent, at, 1)?;
    let mut child = parent.fork().map_err(Failure::of)?;
    let mut grandchild = child.fork().map_err(Failure::of)?;
    poke(&mut child, at, 2)?;
    poke(&mut grandchild, at, 3)?;
    let values = [
        peek(&mut parent, at)?,
        peek(&mut child, at)?,
        peek(&mut grandchild, at)?,
    ];
    ensure!(values == [1, 2, 3], "{values:?}");
    let mut entries = 0;
    child.for_each(at..at + len, |span| {
        entries += usize::from(matches!(span, Span::Mapped(_)))
    });
    ensure!(entries == 1, "{entries} pages mapped, one touched");
    drop((child, parent, grandchild));
    ensure!(
        manager().pages().accounting().free == free,
        "frames were lost"
    );
    Ok(())
}

fn exhausted_memory_is_an_error() -> Outcome {
    let before = manager().pages().accounting();
    let blocks = take_all();
    let slub = manager().slub();
    let refused = slub.kmalloc(2 << 20, Gfp::KERNEL).is_err()
        && manager().vmalloc().vmalloc(64 << 20, Gfp::KERNEL).is_err()
        && Vec::<u8>::new().try_reserve_exact(4 << 20).is_err();
    let full = blocks.len() == blocks.capacity();
    for block in blocks {
        manager().page_alloc().free_pages(block);
    }
    ensure!(refused || full, "memory was served that is not there");
    let after = manager().pages().accounting();
    ensure!(
        before.free <= after.free + slub.nr_pages().total(),
        "{before:?} {after:?}"
    );
    audit().map(drop)
}
