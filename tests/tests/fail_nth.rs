//! Whatever is done to address spaces, vmalloc and object caches: the first, the second, each page that it asks for is refused in
//! turn. Then it fails, or does without; nothing is lost, and what it was done to is as it was.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "names of tests say what they prove; the test is alone"
)]

use kmm::fault::FaultCause;
use kmm::frame::{Gfp, Order, PAGE_SIZE, Pfn, VirtAddr};
use kmm::host::PageBlock;
use kmm::pagetable_walker::{PteFlags, Span};
use kmm::slub::CacheArgs;
use kmm::vma::{MapFlags, MmapReq, Prot, RemapFlags, RemapReq};
use kmm::{AddressSpace, Manager};
use kmm_sim::{Config, Machine};
use kmm_tests::{MemFile, boot};

const PAGE: u64 = PAGE_SIZE as u64;
const RW: Prot = Prot::READ.union(Prot::WRITE);
/// No operation here asks for more pages one after the other.
const MOST: usize = 300;

type Space = AddressSpace<Machine, MemFile>;

/// All pages that a kind of request can have.
struct Hog {
    manager: &'static Manager<Machine>,
    taken: Vec<PageBlock>,
}

impl Hog {
    /// Takes all that requests with `gfp` can have, but for `left` pages.
    fn new(manager: &'static Manager<Machine>, gfp: Gfp, left: usize) -> Self {
        let pages = manager.page_alloc();
        let gfp = gfp | Gfp::NOWARN;
        let next = || pages.alloc_pages_nowait(gfp, Order::ZERO).ok();
        let mut taken: Vec<_> = core::iter::from_fn(next).collect();
        for block in taken.drain(taken.len() - left..) {
            pages.free_pages(block);
        }
        Self { manager, taken }
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        for block in self.taken.drain(..) {
            self.manager.page_alloc().free_pages(block);
        }
    }
}

/// What can be seen of an address space: its areas, and the frame behind each page.
#[derive(PartialEq, Debug)]
struct Seen {
    areas: Vec<(VirtAddr, VirtAddr, u64)>,
    pages: Vec<(VirtAddr, Pfn)>,
}

fn seen(space: &Space) -> Seen {
    let mut pages = Vec::new();
    for (range, _) in space.vmas() {
        space.for_each(range, |span| {
            if let Span::Mapped(leaf) | Span::NotPresent(leaf) = span {
                pages.push((leaf.va, leaf.pfn()));
            }
        });
    }
    let area = |(range, vma): (core::ops::Range<VirtAddr>, &kmm::vma::Vma<MemFile>)| {
        (range.start, range.end, vma.flags.bits())
    };
    Seen {
        areas: space.vmas().map(area).collect(),
        pages,
    }
}

/// Pages that somebody has, those apart that object caches keep for the next time.
fn held(manager: &Manager<Machine>) -> usize {
    manager.slub().shrink_all();
    let slabs = manager.slub().nr_pages().total();
    manager.pages().accounting().allocated - slabs
}

/// Objects in use, of the named cache or of all.
fn objects(manager: &Manager<Machine>) -> usize {
    let of_users = |name: &str| !name.starts_with("kmem_cache");
    let infos = manager.slub().cache_infos();
    infos
        .filter(|info| of_users(info.name))
        .map(|info| info.active_objs)
        .sum()
}

/// Calls `act` on what `prepare` makes, with one page more each time, until nothing is refused. Between, all must be as before.
fn each<T>(
    what: &str,
    prepare: impl Fn(&'static Manager<Machine>) -> T,
    look: impl Fn(&T) -> Option<Seen>,
    act: impl Fn(&mut T) -> bool,
) {
    let booted = boot(Config::with_mib(8)).unwrap();
    let manager = booted.manager;
    let mut nr_refused = 0;
    // Those who may wait leave a reserve to those who may not; then that goes too.
    for gfp in [Gfp::KERNEL, Gfp::ATOMIC | Gfp::MEMALLOC] {
        let mut is_done = false;
        for left in 0..MOST {
            // Whatever is made once and stays, is there.
            drop(prepare(manager));
            let base = (held(manager), objects(manager));
            let mut state = prepare(manager);
            let before = (held(manager), objects(manager), look(&state));
            let hog = Hog::new(manager, gfp, left);
            is_done = act(&mut state);
            drop(hog);
            if !is_done {
                nr_refused += 1;
                let after = (held(manager), objects(manager), look(&state));
                assert_eq!(after, before, "{what}, after {left} pages");
                // And then it is possible.
                assert!(act(&mut state), "{what}, after {left} pages, again");
            }
            drop(state);
            let end = (held(manager), objects(manager));
            assert_eq!(end, base, "{what}, after {left} pages: a leak");
            if is_done {
                break;
            }
        }
        assert!(is_done, "{what} never got enough");
    }
    assert!(nr_refused > 0, "{what} asks for no page");
    manager.vmalloc().validate().unwrap();
    manager.slub().validate().unwrap();
    manager
        .audit(core::iter::empty::<&Space>(), |_| {})
        .unwrap();
}

/// A space with areas here and there, some pages of them, and a file.
fn lived_in(manager: &'static Manager<Machine>) -> (Space, VirtAddr) {
    let mut space = Space::new(manager).unwrap();
    let at = space.mmap(MmapReq::anonymous(64 * PAGE, RW)).unwrap();
    let file = MemFile::new(manager, 4);
    let mut req = MmapReq::anonymous(4 * PAGE, RW);
    req.flags = MapFlags::SHARED;
    req.file = Some((file, 0));
    let shared = space.mmap(req).unwrap();
    for nr in [0, 1, 5, 63] {
        space
            .fault(at + nr * PAGE, FaultCause::USER | FaultCause::WRITE)
            .unwrap();
    }
    space.fault(shared + PAGE, FaultCause::USER).unwrap();
    (space, at)
}

fn look((space, _): &(Space, VirtAddr)) -> Option<Seen> {
    Some(seen(space))
}

#[test]
fn a_new_address_space() {
    each(
        "new",
        |manager| (manager, None),
        |_| None,
        |(manager, space): &mut (&'static Manager<Machine>, Option<Space>)| {
            *space = Space::new(manager).ok();
            space.is_some()
        },
    );
}

#[test]
fn the_first_touch_of_a_page() {
    each("touch", lived_in, look, |(space, at)| {
        let cause = FaultCause::USER | FaultCause::WRITE;
        space.fault(*at + 7 * PAGE, cause).is_ok()
    });
    let far = VirtAddr::new(0x10_0000_0000);
    let with_far_area = |manager| {
        let (mut space, _) = lived_in(manager);
        let req = MmapReq::anonymous(PAGE, RW).fixed_at(far);
        space.mmap(req).unwrap();
        (space, far)
    };
    each(
        "touch where no table is",
        with_far_area,
        look,
        |(space, at)| {
            space
                .fault(*at, FaultCause::USER | FaultCause::WRITE)
                .is_ok()
        },
    );
}

#[test]
fn the_first_touch_of_a_page_of_a_file() {
    // A page that the file has read stays in its cache, mapped or not.
    let prepare = |manager| {
        let mut space = Space::new(manager).unwrap();
        let file = MemFile::new(manager, 1);
        let mut req = MmapReq::anonymous(PAGE, RW);
        req.flags = MapFlags::SHARED;
        req.file = Some((file, 0));
        let other = space.mmap(req.clone()).unwrap();
        space.fault(other, FaultCause::USER).unwrap();
        let far = VirtAddr::new(0x10_0000_0000);
        let at = space.mmap(req.fixed_at(far)).unwrap();
        (space, at)
    };
    each("touch a file", prepare, look, |(space, at)| {
        space
            .fault(*at, FaultCause::USER | FaultCause::WRITE)
            .is_ok()
    });
}

#[test]
fn a_write_to_a_shared_page() {
    let forked = |manager| {
        let (mut space, at) = lived_in(manager);
        let child = space.fork().unwrap();
        (space, at, child)
    };
    each(
        "copy on write",
        forked,
        |(space, _, child)| {
            let mut both = seen(space);
            both.pages.extend(seen(child).pages);
            Some(both)
        },
        |(space, at, _)| {
            space
                .fault(*at, FaultCause::USER | FaultCause::WRITE)
                .is_ok()
        },
    );
}

#[test]
fn a_fork() {
    each(
        "fork",
        |manager| (lived_in(manager), None),
        |(parent, _)| look(parent),
        |((space, _), child): &mut ((Space, VirtAddr), Option<Space>)| {
            *child = space.fork().ok();
            child.is_some()
        },
    );
}

#[test]
fn areas_that_move_and_break() {
    each("mremap", lived_in, look, |(space, at)| {
        let to = VirtAddr::new(0x20_0000_0000);
        let req = RemapReq {
            old_addr: *at,
            old_len_bytes: 64 * PAGE,
            new_len_bytes: 70 * PAGE,
            flags: RemapFlags::MAYMOVE | RemapFlags::FIXED,
            new_addr: to,
        };
        space.mremap(&req).is_ok()
    });
}

#[test]
fn vmalloc_and_its_kin() {
    let area = |manager: &'static Manager<Machine>| (manager, None::<VirtAddr>);
    type Area = (&'static Manager<Machine>, Option<VirtAddr>);
    let free = |(manager, area): &mut Area| {
        if let Some(addr) = area.take() {
            // SAFETY: nobody uses it.
            unsafe { manager.vmalloc().vfree(addr) }.unwrap();
        }
    };
    each(
        "vmalloc",
        area,
        |_| None,
        |state| {
            state.1 = state.0.vmalloc().vmalloc(40 * PAGE_SIZE, Gfp::KERNEL).ok();
            let got = state.1.is_some();
            free(state);
            got
        },
    );
    let some_pages: Vec<Pfn> = (256..256 + 1100).map(Pfn::new).collect();
    each(
        "vmap",
        area,
        |_| None,
        |state| {
            let flags = PteFlags::RW | PteFlags::NX;
            match state.0.vmalloc().vmap(&some_pages, flags) {
                // SAFETY: nobody uses it.
                Ok(addr) => unsafe { state.0.vmalloc().vunmap(addr) }.is_ok(),
                Err(_) => false,
            }
        },
    );
}

#[test]
fn objects_of_a_cache_and_of_all_sizes() {
    let manager_alone = |manager: &'static Manager<Machine>| manager;
    each(
        "a cache",
        manager_alone,
        |_| None,
        |manager| {
            let slub = manager.slub();
            let Ok(cache) = slub.cache_create(&CacheArgs::new("victim", 3000)) else {
                return false;
            };
            let mut objects = Vec::new();
            while objects.len() < 40 {
                match slub.alloc(cache, Gfp::KERNEL) {
                    Ok(object) => objects.push(object),
                    Err(_) => break,
                }
            }
            let got_all = objects.len() == 40;
            for object in objects {
                // SAFETY: it came from there.
                unsafe { slub.free(cache, object) };
            }
            // SAFETY: nobody else has it.
            unsafe { slub.cache_destroy(cache) }.unwrap();
            got_all
        },
    );
    each(
        "kmalloc",
        manager_alone,
        |_| None,
        |manager| {
            let slub = manager.slub();
            let sizes = [8, 100, 1000, 5000, 9000, 70_000];
            let got: Vec<_> = sizes
                .iter()
                .map(|size| slub.kzalloc(*size, Gfp::KERNEL))
                .collect();
            let got_all = got.iter().all(Result::is_ok);
            for object in got.into_iter().flatten() {
                // SAFETY: it came from there.
                unsafe { slub.kfree(object) };
            }
            got_all
        },
    );
}
