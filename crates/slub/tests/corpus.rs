//! Clients that do it wrong, on every back end: with debugging on each is reported with its class, its object and its offset, and
//! who had it; and what of it is noticed with debugging off is written down here, as in README.md.
#![allow(
    clippy::cast_possible_truncation,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

#[allow(dead_code, reason = "each test file uses its part of this")]
#[path = "conformance/back_ends.rs"]
mod back_ends;

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;

use back_ends::{BackEnd, OfSlab, OfSlob, OfSlub, Rig, rig_with};
use common::fast_config;
use kmm_frame::Gfp;
use kmm_host::Backtrace;
use kmm_slub::{
    CacheArgs, Callers, Kmem, KmemCache, ObjectReport, SlubBug, SlubBugKind as Kind, SlubConfig,
};

const ALLOC_SITE: usize = 0xffff_ffff_8110_a110;
const FREE_SITE: usize = 0xffff_ffff_8110_f4ee;
const LATER_SITE: usize = 0xffff_ffff_8110_1a7e;

type Told = (Kind, Option<ObjectReport>, String);

thread_local! {
    static TOLD: RefCell<Vec<Told>> = const { RefCell::new(Vec::new()) };
    static SITE: Cell<usize> = const { Cell::new(LATER_SITE) };
}

fn keep(bug: &SlubBug) {
    TOLD.with_borrow_mut(|all| all.push((bug.kind, bug.object.copied(), bug.to_string())));
}

struct Sites;

impl Backtrace for Sites {
    fn capture(&self, addresses: &mut [usize]) -> usize {
        addresses[0] = SITE.get();
        1
    }
}

/// What a client has.
struct Machine<'a>(&'a dyn Kmem);

impl Machine<'_> {
    fn kmalloc(&self, size: usize) -> NonNull<u8> {
        let _at = At::new(ALLOC_SITE);
        self.0.kmalloc(size, Gfp::KERNEL).unwrap()
    }

    fn cache(&self, name: &'static str, size: usize) -> KmemCache {
        self.0.cache_create(&CacheArgs::new(name, size)).unwrap()
    }

    fn alloc(&self, cache: KmemCache) -> NonNull<u8> {
        let _at = At::new(ALLOC_SITE);
        self.0.alloc(cache, Gfp::KERNEL).unwrap()
    }

    fn kfree(&self, ptr: NonNull<u8>) {
        let _at = At::new(FREE_SITE);
        // SAFETY: objects of the test's, or what must be refused.
        unsafe { self.0.kfree(ptr) };
    }

    fn free(&self, cache: KmemCache, ptr: NonNull<u8>) {
        let _at = At::new(FREE_SITE);
        // SAFETY: as above.
        unsafe { self.0.free(cache, ptr) };
    }

    fn destroy(&self, cache: KmemCache) -> bool {
        // SAFETY: only the test knows the cache.
        unsafe { self.0.cache_destroy(cache) }.is_ok()
    }
}

/// Who runs, for a while.
struct At;

impl At {
    fn new(site: usize) -> Self {
        SITE.set(site);
        Self
    }
}

impl Drop for At {
    fn drop(&mut self) {
        SITE.set(LATER_SITE);
    }
}

/// `ptr`, so many bytes on.
fn near(ptr: NonNull<u8>, offset: isize) -> NonNull<u8> {
    // SAFETY: within the machine's memory, as no client goes far.
    unsafe { ptr.offset(offset) }
}

fn write(ptr: NonNull<u8>, from: isize, len: usize) {
    // SAFETY: the machine's memory; that it is not the client's is what is tested.
    unsafe { near(ptr, from).write_bytes(0x41, len) };
}

struct Client {
    name: &'static str,
    /// Its object, and how far from there the mistake was.
    run: fn(&Machine) -> (NonNull<u8>, isize),
    class: Kind,
    /// Whether it is known who freed it.
    was_freed: bool,
    /// What is noticed with debugging off, at the latest when the allocator shrinks: of `Slub`, `Slab`, `Slob`.
    without: [Option<Kind>; 3],
}

const NOTHING: [Option<Kind>; 3] = [None; 3];
const FREELIST: Option<Kind> = Some(Kind::CorruptFreelist);

const CLIENTS: &[Client] = &[
    Client {
        name: "overflow by 1",
        run: |machine| {
            let ptr = machine.kmalloc(64);
            write(ptr, 64, 1);
            machine.kfree(ptr);
            (ptr, 64)
        },
        class: Kind::RightRedzone,
        was_freed: false,
        without: [None, None, FREELIST],
    },
    Client {
        name: "overflow by 1 of what was asked for",
        run: |machine| {
            let ptr = machine.kmalloc(20);
            write(ptr, 20, 1);
            machine.kfree(ptr);
            (ptr, 20)
        },
        class: Kind::RightRedzone,
        was_freed: false,
        without: NOTHING,
    },
    Client {
        name: "overflow by 1 of an odd object",
        run: |machine| {
            let cache = machine.cache("odd", 61);
            let ptr = machine.alloc(cache);
            write(ptr, 61, 1);
            machine.free(cache, ptr);
            (ptr, 61)
        },
        class: Kind::RightRedzone,
        was_freed: false,
        without: NOTHING,
    },
    Client {
        name: "overflow by 64",
        run: |machine| {
            let ptr = machine.kmalloc(64);
            write(ptr, 64, 64);
            machine.kfree(ptr);
            (ptr, 64)
        },
        class: Kind::RightRedzone,
        was_freed: false,
        without: [None, None, FREELIST],
    },
    Client {
        name: "underflow",
        run: |machine| {
            let (_below, ptr) = (machine.kmalloc(64), machine.kmalloc(64));
            write(ptr, -3, 3);
            machine.kfree(ptr);
            (ptr, -3)
        },
        class: Kind::LeftRedzone,
        was_freed: false,
        without: NOTHING,
    },
    Client {
        name: "double free",
        run: |machine| {
            let (_other, ptr) = (machine.kmalloc(64), machine.kmalloc(64));
            machine.kfree(ptr);
            machine.kfree(ptr);
            (ptr, 0)
        },
        class: Kind::DoubleFree,
        was_freed: true,
        without: [Some(Kind::DoubleFree); 3],
    },
    Client {
        name: "free of the middle",
        run: |machine| {
            let ptr = machine.kmalloc(64);
            machine.kfree(near(ptr, 24));
            (ptr, 24)
        },
        class: Kind::Misaligned,
        was_freed: false,
        without: [Some(Kind::Misaligned); 3],
    },
    Client {
        name: "write after free",
        run: |machine| {
            let (_other, ptr) = (machine.kmalloc(64), machine.kmalloc(64));
            machine.kfree(ptr);
            write(ptr, 20, 2);
            (ptr, 20)
        },
        class: Kind::UseAfterFree,
        was_freed: true,
        without: NOTHING,
    },
    Client {
        name: "write of the first word after free",
        run: |machine| {
            let (_other, ptr) = (machine.kmalloc(64), machine.kmalloc(64));
            machine.kfree(ptr);
            // So that it is in its slab, if there is no debugging.
            machine.0.shrink_all();
            let before = TOLD.with_borrow(Vec::len);
            if before > 0 || is_debugged() {
                let again = machine.kmalloc(64);
                machine.kfree(again);
                write(again, 0, 8);
                return (again, 0);
            }
            write(ptr, 0, 8);
            (ptr, 0)
        },
        class: Kind::UseAfterFree,
        was_freed: true,
        without: [FREELIST, None, FREELIST],
    },
    Client {
        name: "wrong cache",
        run: |machine| {
            let (ours, theirs) = (machine.cache("ours", 64), machine.cache("theirs", 64));
            // With stock of the other cache a CPU takes its caller's word for it.
            let other = machine.alloc(theirs);
            machine.free(theirs, other);
            let ptr = machine.alloc(ours);
            machine.free(theirs, ptr);
            (ptr, 0)
        },
        class: Kind::WrongCache,
        was_freed: false,
        without: [None, None, Some(Kind::WrongCache)],
    },
    Client {
        name: "leak on destroy",
        run: |machine| {
            let cache = machine.cache("leaky", 64);
            let ptr = machine.alloc(cache);
            assert!(!machine.destroy(cache));
            (ptr, 0)
        },
        class: Kind::LeakedObject,
        was_freed: false,
        without: [Some(Kind::Leaked(1)); 3],
    },
];

thread_local! {
    static IS_DEBUGGED: Cell<bool> = const { Cell::new(false) };
}

fn is_debugged() -> bool {
    IS_DEBUGGED.get()
}

fn rig<B: BackEnd>(debug: &'static str) -> Rig<B> {
    IS_DEBUGGED.set(!debug.is_empty());
    rig_with::<B>(SlubConfig {
        on_bug: keep,
        debug,
        callers: Callers(&Sites),
        ..fast_config()
    })
}

fn debugged<B: BackEnd>() {
    for debug in ["FZPUQ", "FZPU"] {
        for client in CLIENTS {
            let name = client.name;
            let rig = rig::<B>(debug);
            let (object, offset) = (client.run)(&Machine(&rig.kmem));
            if debug == "FZPU" && client.class == Kind::UseAfterFree {
                // Found when somebody gets it, if nothing waits.
                let got = [(); 3].map(|()| rig.kmem.kmalloc(64, Gfp::KERNEL).unwrap());
                got.into_iter().for_each(|ptr| rig.kfree(ptr));
            }
            rig.kmem.shrink_all();
            let mut told = TOLD.take();
            if client.class == Kind::LeakedObject {
                assert_eq!(told.remove(0).0, Kind::Leaked(1));
            }
            assert_eq!(told.len(), 1, "{name}: {told:?}");
            let (kind, report, text) = told.remove(0);
            let report = report.unwrap_or_else(|| panic!("{name}: {text}"));
            assert_eq!(kind, client.class, "{name}: {text}");
            assert_eq!(report.object, object.addr().get(), "{name}: {text}");
            assert_eq!(report.offset, offset, "{name}: {text}");
            assert!(text.contains(&format!("BUG {} (Not", report.cache)));
            let sites = [report.allocated, report.freed];
            let sites = sites.map(|track| track.map(|track| track.addresses()[0]));
            let freed = client.was_freed.then_some(FREE_SITE);
            assert_eq!(sites, [Some(ALLOC_SITE), freed], "{name}: {text}");
            assert_eq!(rig.kmem.check_objects(), 0, "{name}: restored");
            rig.kmem.validate().unwrap();
            // It goes on.
            let more: Vec<_> = (0..100)
                .map(|_| rig.kmem.kmalloc(64, Gfp::KERNEL).unwrap())
                .collect();
            more.into_iter().for_each(|ptr| rig.kfree(ptr));
            rig.kmem.shrink_all();
            rig.kmem.validate().unwrap();
            assert!(TOLD.take().is_empty(), "{name}");
        }
    }
}

fn undebugged<B: BackEnd>(nth: usize) {
    for client in CLIENTS {
        let rig = rig::<B>("");
        (client.run)(&Machine(&rig.kmem));
        rig.kmem.shrink_all();
        let more = [(); 3].map(|()| rig.kmem.kmalloc(64, Gfp::KERNEL).unwrap());
        let kinds: Vec<_> = TOLD.take().iter().map(|told| told.0).collect();
        let wanted: Vec<_> = client.without[nth].into_iter().collect();
        assert_eq!(kinds, wanted, "{}", client.name);
        assert_eq!(more.len(), 3);
    }
}

#[test]
fn slub_names_class_object_offset_and_who_had_it() {
    debugged::<OfSlub>();
}

#[test]
fn slab_names_class_object_offset_and_who_had_it() {
    debugged::<OfSlab>();
}

#[test]
fn slob_names_class_object_offset_and_who_had_it() {
    debugged::<OfSlob>();
}

/// The table of README.md, last columns.
#[test]
fn what_slub_notices_without_debugging() {
    undebugged::<OfSlub>(0);
}

#[test]
fn what_slab_notices_without_debugging() {
    undebugged::<OfSlab>(1);
}

#[test]
fn what_slob_notices_without_debugging() {
    undebugged::<OfSlob>(2);
}
