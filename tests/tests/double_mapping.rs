//! What belongs to slabs, page tables or the kernel image is not mapped a second time, if that is asked for.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "names of tests say what they prove; mappings are taken back"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kmm::fault::{FaultCause, FaultError, FileError, FilePage, FileSource, NoFile};
use kmm::frame::{Gfp, Order, PAGE_SIZE, Pfn, PfnRange, VirtAddr};
use kmm::host::{PageReq, PageSource as _, PhysMap as _, SlabHook};
use kmm::pagetable_walker::{FrameOwner, Level, MapError, PteFlags, TableCounter};
use kmm::slub::CacheArgs;
use kmm::vma::{MapFlags, MmapReq, Prot};
use kmm::vmalloc::VmallocError;
use kmm::{AddressSpace, Early, Hooks};
use kmm_sim::{Config, Machine};
use kmm_tests::{Booted, KERNEL_IMAGE, boot, boot_as, boot_with_hooks};

const PAGE: u64 = PAGE_SIZE as u64;
const DATA: PteFlags = PteFlags::RW.union(PteFlags::NX);

fn guarded() -> Booted {
    boot_as(Config::with_mib(32), Early::with_map_guard).unwrap()
}

type Space = AddressSpace<Machine, NoFile>;

/// A frame of each kind that has an owner, and whose it is.
fn owned(booted: &Booted, space: &Space) -> Vec<(Pfn, FrameOwner)> {
    let slub = booted.manager.slub();
    let phys = booted.machine.phys();
    let cache = slub.cache_create(&CacheArgs::new("task_struct", 3000));
    let named = slub.alloc(cache.unwrap(), Gfp::KERNEL).unwrap();
    let general = slub.kmalloc(64, Gfp::KERNEL).unwrap();
    let large = slub.kmalloc(5 * PAGE_SIZE, Gfp::KERNEL).unwrap();
    let at = |object| phys.virt_to_pfn(object).unwrap();
    let image = |byte: u64| Pfn::new(usize::try_from(byte / PAGE).unwrap());
    vec![
        (at(named), FrameOwner::Slab),
        (at(named) + 1, FrameOwner::Slab),
        (at(general), FrameOwner::Slab),
        (at(large), FrameOwner::Slab),
        (at(large) + 3, FrameOwner::Slab),
        (at(large) + 7, FrameOwner::Slab),
        (space.root(), FrameOwner::PageTable),
        (booted.manager.kernel_half().pfn(), FrameOwner::PageTable),
        (image(KERNEL_IMAGE.start), FrameOwner::KernelImage),
        (image(KERNEL_IMAGE.end - 1), FrameOwner::KernelImage),
    ]
}

/// Pages that the test owns.
fn own_pages(booted: &Booted, count: usize) -> Vec<Pfn> {
    let pages = booted.manager.page_alloc();
    let take = || pages.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
    (0..count).map(|_| take().into_raw().0).collect()
}

#[test]
fn vmap_refuses_what_belongs_to_somebody() {
    let booted = guarded();
    let manager = booted.manager;
    let space = Space::new(manager).unwrap();
    let own = own_pages(&booted, 1200);
    let mine = manager.vmalloc().vmap(&own, DATA).unwrap();
    // SAFETY: nobody uses it.
    unsafe { manager.vmalloc().vunmap(mine) }.unwrap();
    for (nr, (pfn, owner)) in owned(&booted, &space).into_iter().enumerate() {
        let before = (
            manager.vmalloc().areas().count(),
            manager.pages().nr_free_pages(),
            manager.kernel_tables().nr_tables(),
        );
        // Also behind a thousand pages that are fine, some of which are mapped by then.
        let mut frames = own[..[0, 1, 600, 1199][nr % 4]].to_vec();
        frames.push(pfn);
        let refused = manager.vmalloc().vmap(&frames, DATA);
        assert_eq!(refused, Err(VmallocError::Owned(owner)), "{pfn}");
        let after = (
            manager.vmalloc().areas().count(),
            manager.pages().nr_free_pages(),
            manager.kernel_tables().nr_tables(),
        );
        assert_eq!(after, before, "all or nothing");
        assert_eq!(manager.map_guard().nr_refused(), nr + 1);
    }
    manager.vmalloc().validate().unwrap();
}

#[test]
fn each_way_to_map_refuses_it() {
    let booted = guarded();
    let manager = booted.manager;
    let space = Space::new(manager).unwrap();
    let counter = TableCounter::new();
    let mapper = manager.mapper(&counter);
    let mut root = mapper.alloc_user_root(manager.kernel_half()).unwrap();
    let own = own_pages(&booted, 1)[0];
    let va = VirtAddr::new(0x4000_0000);
    let flags = PteFlags::USER_RW;
    for (pfn, owner) in owned(&booted, &space) {
        let before = counter.nr_tables();
        let error = Err(MapError::Owned(owner));
        let root = &mut root;
        assert_eq!(mapper.map_page(root, va, pfn, Level::Pte, flags), error);
        let first = pfn - 2;
        let range = va..va + 3 * PAGE;
        let rows = mapper.map_range(root, range.clone(), first.phys(), flags, Level::Pmd);
        assert!(matches!(rows, Err(MapError::Owned(_))), "{rows:?}");
        let frame = |nr| if nr == 2 { pfn } else { own };
        assert_eq!(mapper.map_frames(root, range.clone(), flags, frame), error);
        assert_eq!(mapper.may_map([own, pfn]), error);
        assert_eq!(mapper.translate(root, va), None, "nothing was entered");
        assert_eq!(counter.nr_tables(), before, "no table is left");
    }
    mapper
        .map_page(&mut root, va, own, Level::Pte, flags)
        .unwrap();
    // A large page that has one such frame in it.
    let huge = mapper.map_page(&mut root, va + (1 << 30), Pfn::ZERO, Level::Pmd, flags);
    assert_eq!(huge, Err(MapError::Owned(FrameOwner::KernelImage)));
}

/// A file whose pages are whatever frames the test says.
#[derive(Clone, Debug)]
struct Strange(Arc<Vec<Pfn>>, &'static kmm::Manager<Machine>);

impl PartialEq for Strange {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

// SAFETY: it breaks the rule that programs may read its pages: that is what is tested. Counts are raised.
unsafe impl FileSource for Strange {
    fn page(&self, pgoff: u64) -> Result<FilePage, FileError> {
        let nr = usize::try_from(pgoff).unwrap();
        let pfn = *self.0.get(nr).ok_or(FileError::BeyondEnd)?;
        self.1.mem_map().page(pfn).get();
        Ok(FilePage { pfn, major: false })
    }
}

#[test]
fn a_program_gets_an_error_instead_of_a_second_mapping() {
    let booted = guarded();
    let manager = booted.manager;
    let other = Space::new(manager).unwrap();
    let map = manager.mem_map();
    let mut owned = owned(&booted, &other);
    // References are to whole pages.
    owned.retain(|(pfn, _)| map.compound_head(*pfn) == *pfn);
    for (pfn, _) in &owned {
        map.page(*pfn).set_ref_count(1);
    }
    let frames: Vec<_> = owned.iter().map(|(pfn, _)| *pfn).collect();
    let mut space = AddressSpace::<Machine, Strange>::new(manager).unwrap();
    let file = Strange(Arc::new(frames), manager);
    for shared in [MapFlags::SHARED, MapFlags::PRIVATE] {
        let len = owned.len() as u64 * PAGE;
        let mut req = MmapReq::anonymous(len, Prot::READ | Prot::WRITE);
        req.flags = shared;
        req.file = Some((file.clone(), 0));
        let at = space.mmap(req).unwrap();
        for (nr, (pfn, owner)) in owned.iter().enumerate() {
            let addr = at + nr as u64 * PAGE;
            let page = manager.mem_map().page(*pfn);
            let before = (page.ref_count(), page.map_count(), page.flags());
            let mut causes = vec![FaultCause::USER];
            if shared == MapFlags::SHARED {
                causes.push(FaultCause::USER | FaultCause::WRITE);
            }
            for cause in causes {
                let refused = space.fault(addr, cause);
                assert_eq!(refused, Err(FaultError::Owned(*owner)), "{pfn}");
                assert_eq!(space.translate(addr), None);
                let after = (page.ref_count(), page.map_count(), page.flags());
                assert_eq!(after, before, "the reference went back");
            }
        }
    }
    assert_eq!(space.stat().usage.file_pages, 0);
}

#[test]
fn it_is_turned_on_and_off_while_the_machine_runs() {
    let booted = boot(Config::with_mib(32)).unwrap();
    let manager = booted.manager;
    let guard = manager.map_guard();
    assert!(!guard.is_on(), "off unless asked for");
    let object = manager.slub().kmalloc(64, Gfp::KERNEL).unwrap();
    let pfn = booted.machine.phys().virt_to_pfn(object).unwrap();
    let second = manager.vmalloc().vmap(&[pfn], DATA).unwrap();
    guard.turn_on();
    let refused = manager.vmalloc().vmap(&[pfn], DATA);
    assert_eq!(refused, Err(VmallocError::Owned(FrameOwner::Slab)));
    // What was mapped by then can be taken back.
    // SAFETY: nobody uses it.
    unsafe { manager.vmalloc().vunmap(second) }.unwrap();
    guard.turn_off();
    let third = manager.vmalloc().vmap(&[pfn], DATA).unwrap();
    // SAFETY: nobody uses it.
    unsafe { manager.vmalloc().vunmap(third) }.unwrap();
    assert_eq!(guard.nr_refused(), 1);
}

#[test]
fn frames_that_nobody_owns_any_more_may_be_mapped() {
    let booted = guarded();
    let manager = booted.manager;
    let slub = manager.slub();
    let large = slub.kmalloc(4 * PAGE_SIZE, Gfp::KERNEL).unwrap();
    let first = booted.machine.phys().virt_to_pfn(large).unwrap();
    let frames = PfnRange::with_len(first, 4);
    let all: Vec<_> = frames.iter().collect();
    let map = |frames: &[Pfn]| manager.vmalloc().vmap(frames, DATA);
    assert_eq!(map(&all), Err(VmallocError::Owned(FrameOwner::Slab)));
    // SAFETY: it came from there.
    unsafe { slub.kfree(large) };
    let block = manager
        .page_alloc()
        .alloc_pages_nowait(Gfp::KERNEL, Order::new(2).unwrap());
    let block = block.unwrap();
    assert_eq!(block.pfn(), first, "the block that was freed last");
    let mapped = map(&all).unwrap();
    // SAFETY: nobody uses it.
    unsafe { manager.vmalloc().vunmap(mapped) }.unwrap();
    manager.page_alloc().free_pages(block);
    // Memory of all other kinds comes as ever.
    let area = manager.vmalloc().vmalloc(100 << 10, Gfp::KERNEL).unwrap();
    // SAFETY: nobody uses it.
    unsafe { manager.vmalloc().vfree(area) }.unwrap();
    let mut space = Space::new(manager).unwrap();
    let at = space
        .mmap(MmapReq::anonymous(PAGE, Prot::READ | Prot::WRITE))
        .unwrap();
    space
        .fault(at, FaultCause::USER | FaultCause::WRITE)
        .unwrap();
    let spaces = [&space].into_iter();
    manager.audit(spaces, |_| {}).unwrap();
    assert_eq!(manager.map_guard().nr_refused(), 1);
}

#[derive(Debug, Default)]
struct Count(Mutex<BTreeMap<String, usize>>);

impl SlabHook for Count {
    fn slab_made(&self, _frames: PfnRange, cache: &str) {
        *self.0.lock().unwrap().entry(cache.into()).or_default() += 1;
    }
}

#[test]
fn a_hook_sees_every_new_slab_of_the_manager() {
    let count: &'static Count = Box::leak(Box::default());
    let hooks = Hooks {
        slabs: count,
        ..Hooks::default()
    };
    let booted = boot_with_hooks(Config::with_mib(32), |early| early, hooks).unwrap();
    let slub = booted.manager.slub();
    let cache = slub
        .cache_create(&CacheArgs::new("task_struct", 3000))
        .unwrap();
    for _ in 0..100 {
        slub.alloc(cache, Gfp::KERNEL).unwrap();
        slub.kmalloc(200, Gfp::KERNEL).unwrap();
    }
    let told = count.0.lock().unwrap().clone();
    for info in slub.cache_infos() {
        let made = told.get(info.name).copied().unwrap_or(0);
        assert_eq!(made, info.num_slabs, "{}", info.name);
    }
    assert!(told["task_struct"] >= 10 && told["kmalloc-224"] >= 1);
}
