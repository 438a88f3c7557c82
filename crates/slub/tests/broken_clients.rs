//! Clients that do it wrong in ways that `corpus.rs` has not: at memory that is no object, or that SLUB alone has; and all that
//! the text of a report says.
#![allow(
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;

use common::{Rig, config, destroy, fast_config, kfree, rig_with};
use kmm_frame::Gfp;
use kmm_host::{Backtrace, PageReq, PageSource, PhysMap};
use kmm_slub::{CacheArgs, Callers, ObjectReport, SlubBug, SlubBugKind as Kind, SlubConfig};

const ALLOC_SITE: usize = 0xffff_ffff_8110_a110;
const FREE_SITE: usize = 0xffff_ffff_8110_f4ee;
const LATER_SITE: usize = 0xffff_ffff_8110_1a7e;
const PID: u64 = 42;

/// What was reported: the report, and its text.
#[derive(Debug)]
struct Told {
    kind: Kind,
    cache: Option<&'static str>,
    object: Option<ObjectReport>,
    text: String,
}

thread_local! {
    static TOLD: RefCell<Vec<Told>> = const { RefCell::new(Vec::new()) };
    static SITE: Cell<usize> = const { Cell::new(0) };
}

fn keep(bug: &SlubBug) {
    let told = Told {
        kind: bug.kind,
        cache: bug.cache,
        object: bug.object.copied(),
        text: bug.to_string(),
    };
    TOLD.with_borrow_mut(|all| all.push(told));
}

struct Sites;

impl Backtrace for Sites {
    fn capture(&self, addresses: &mut [usize]) -> usize {
        for (depth, address) in addresses.iter_mut().enumerate().take(3) {
            *address = SITE.get() + 16 * depth;
        }
        3
    }

    fn tag(&self) -> u64 {
        PID
    }
}

fn debug(text: &'static str) -> SlubConfig {
    SlubConfig {
        on_bug: keep,
        debug: text,
        callers: Callers(&Sites),
        ..config()
    }
}

fn at(site: usize) {
    SITE.set(site);
}

/// As a client that minds its own business would.
fn kmalloc(rig: &Rig, size: usize) -> NonNull<u8> {
    at(ALLOC_SITE);
    rig.slub.kmalloc(size, Gfp::KERNEL).unwrap()
}

fn put(rig: &Rig, ptr: NonNull<u8>) {
    at(FREE_SITE);
    kfree(rig.slub, ptr);
    at(LATER_SITE);
}

fn write(ptr: NonNull<u8>, from: isize, len: usize, value: u8) {
    // SAFETY: within the page or its neighbours in the region: the mistake to be played.
    unsafe { ptr.offset(from).write_bytes(value, len) };
}

/// Where the mistake was made.
struct Culprit {
    object: NonNull<u8>,
    offset: isize,
}

const fn culprit(object: NonNull<u8>, offset: isize) -> Culprit {
    Culprit { object, offset }
}

struct Client {
    name: &'static str,
    run: fn(&Rig) -> Culprit,
    /// What is reported of a debugged cache.
    class: Kind,
    /// What is noticed without debugging: at once, or when CPUs' arrays are emptied.
    without: Option<Kind>,
    /// Whether the report names the object, and who allocated and who freed it.
    knows: [bool; 3],
}

const CLIENTS: &[Client] = &[
    Client {
        name: "write 64 bytes behind the end",
        run: |rig| {
            let ptr = kmalloc(rig, 64);
            write(ptr, 128, 1, 0x41);
            put(rig, ptr);
            culprit(ptr, 128)
        },
        class: Kind::RightRedzone,
        without: None,
        knows: [true, true, false],
    },
    Client {
        name: "free list's word overwritten",
        run: |rig| {
            let (_stays, ptr) = (kmalloc(rig, 64), kmalloc(rig, 64));
            put(rig, ptr);
            // In its slab the object has the word at its start, or behind its red zone if it has one.
            rig.slub.shrink_all();
            let info = rig
                .slub
                .cache_infos()
                .find(|info| info.name == "kmalloc-64");
            let word = if info.unwrap().objsize > 64 { 136 } else { 0 };
            write(ptr, word, 8, 0x41);
            let _ = rig.slub.kmalloc(64, Gfp::KERNEL);
            culprit(ptr, 0)
        },
        class: Kind::CorruptFreelist,
        without: Some(Kind::CorruptFreelist),
        knows: [true, true, true],
    },
    Client {
        name: "free of the stack",
        run: |rig| {
            let mut on_stack = 0_u8;
            let ptr = NonNull::from(&mut on_stack);
            put(rig, ptr);
            culprit(ptr, 0)
        },
        class: Kind::OutsideDirectMap,
        without: Some(Kind::OutsideDirectMap),
        knows: [false; 3],
    },
    Client {
        name: "free of a page",
        run: |rig| {
            let block = rig.source.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
            let ptr = rig.machine.phys().direct(block.pfn()).unwrap();
            put(rig, ptr);
            rig.source.free(block);
            culprit(ptr, 0)
        },
        class: Kind::NotAllocated,
        without: Some(Kind::NotAllocated),
        knows: [false; 3],
    },
    Client {
        name: "double free of a large allocation",
        run: |rig| {
            let ptr = kmalloc(rig, 20_000);
            put(rig, ptr);
            kfree(rig.slub, ptr);
            culprit(ptr, 0)
        },
        class: Kind::NotAllocated,
        without: Some(Kind::NotAllocated),
        knows: [false; 3],
    },
];

#[test]
fn debugging_names_class_object_offset_and_who_had_it() {
    for client in CLIENTS {
        let name = client.name;
        let rig = rig_with(debug("FZPU"));
        let Culprit { object, offset } = (client.run)(&rig);
        let all = TOLD.take();
        assert_eq!(all.len(), 1, "{name}: {all:?}");
        let told = &all[0];
        assert_eq!(told.kind, client.class, "{name}: {}", told.text);
        let [knows_object, knows_alloc, knows_free] = client.knows;
        assert_eq!(told.object.is_some(), knows_object, "{name}");
        if let Some(report) = told.object {
            assert_eq!(report.object, object.addr().get(), "{name}: {}", told.text);
            assert_eq!(report.offset, offset, "{name}: {}", told.text);
            assert!(told.text.contains(&format!("BUG {} (Not", report.cache)));
            let sites = [report.allocated, report.freed];
            let sites = sites.map(|track| track.map(|track| track.addresses()[0]));
            let wanted = [
                knows_alloc.then_some(ALLOC_SITE),
                knows_free.then_some(FREE_SITE),
            ];
            assert_eq!(sites, wanted, "{name}: {}", told.text);
        }
        rig.slub.validate().unwrap();
        assert_eq!(rig.slub.check_objects(), 0, "{name}: restored");
        // It goes on.
        let more: Vec<_> = (0..100).map(|_| kmalloc(&rig, 64)).collect();
        more.into_iter().for_each(|ptr| kfree(rig.slub, ptr));
        rig.slub.validate().unwrap();
        assert!(TOLD.take().is_empty(), "{name}");
    }
}

/// The table of README.md: "Mistakes".
#[test]
fn what_is_noticed_without_debugging() {
    for client in CLIENTS {
        let rig = rig_with(SlubConfig {
            on_bug: keep,
            ..fast_config()
        });
        (client.run)(&rig);
        rig.slub.shrink_all();
        let kinds: Vec<_> = TOLD.take().iter().map(|told| told.kind).collect();
        let wanted: Vec<_> = client.without.into_iter().collect();
        assert_eq!(kinds, wanted, "{}", client.name);
    }
}

/// Without debugging the pattern is not there; with it a reader sees it, and a user of fresh memory another.
#[test]
fn reading_after_free_and_before_writing_shows_poison() {
    let rig = rig_with(debug("P"));
    let ptr = kmalloc(&rig, 64);
    // SAFETY: 64 bytes of the region; a cache that is debugged has the object to itself.
    let bytes = || unsafe { ptr.cast::<[u8; 64]>().read() };
    assert_eq!(bytes(), [0x5a; 64], "fresh");
    put(&rig, ptr);
    let mut poisoned = [0x6b; 64];
    poisoned[63] = 0xa5;
    assert_eq!(bytes(), poisoned, "free");
    let zeroed = rig.slub.kzalloc(64, Gfp::KERNEL).unwrap();
    assert_eq!((zeroed, bytes()), (ptr, [0; 64]));
    kfree(rig.slub, ptr);
    assert!(TOLD.take().is_empty());
    rig.assert_clean();
}

/// Line by line as Linux does, addresses apart.
#[test]
fn the_text_is_that_of_linux() {
    let rig = rig_with(debug("FZPU,kmalloc-32"));
    let ptr = kmalloc(&rig, 32);
    put(&rig, ptr);
    assert_eq!(kmalloc(&rig, 32), ptr);
    write(ptr, 0, 32, b'x');
    write(ptr, 32, 2, 0x41);
    put(&rig, ptr);
    let text = TOLD.take().remove(0).text;
    let start = ptr.addr().get();
    let info = rig
        .slub
        .cache_infos()
        .find(|info| info.name == "kmalloc-32");
    let objects = info.unwrap().objperslab;
    let slab = start & !4095;
    let at = start - slab;
    let stack = |site: usize| {
        let row = |depth: usize| format!("\n {:#018x}", site + 16 * depth);
        format!("{site:#018x} cpu=0 pid=42{}{}{}", row(0), row(1), row(2))
    };
    let row = |label: &str, from: usize, hex: &str, text: &str| {
        format!(
            "{label}  {:016x}: {hex}  {text}\n",
            start.wrapping_add(from)
        )
    };
    let cc = ["cc"; 16].join(" ");
    let wanted = [
        "=".repeat(77) + "\n",
        "BUG kmalloc-32 (Not tainted): Right Redzone overwritten\n".into(),
        "-".repeat(77) + "\n\n",
        format!(
            "{:#018x}-{:#018x} @offset={}. First byte 0x41 instead of 0xcc\n",
            start + 32,
            start + 33,
            at + 32
        ),
        format!("Allocated in {}\n", stack(ALLOC_SITE)),
        format!("Freed in {}\n", stack(FREE_SITE)),
        format!("Slab {slab:#018x} objects={objects} used=1 fp="),
    ]
    .concat();
    assert!(
        text.starts_with(&wanted),
        "{text}\n--- is not ---\n{wanted}"
    );
    let wanted = [
        row("Redzone", 0_usize.wrapping_sub(16), &cc, &".".repeat(16)),
        row("Object ", 0, &["78"; 16].join(" "), &"x".repeat(16)),
        row("Object ", 16, &["78"; 16].join(" "), &"x".repeat(16)),
        row(
            "Redzone",
            32,
            &format!("41 41{}", &cc[5..]),
            &format!("AA{}", ".".repeat(14)),
        ),
    ]
    .concat();
    assert!(text.contains(&wanted), "{text}\n--- lacks ---\n{wanted}");
    let fix = format!(
        "FIX kmalloc-32: Restoring Right Redzone {:#018x}-{:#018x}=0xcc",
        start + 32,
        start + 33
    );
    assert!(
        text.ends_with(&fix),
        "{text}\n--- does not end with ---\n{fix}"
    );
    rig.assert_clean();
}

/// Each object that is left, with who allocated it; and none that was freed.
#[test]
fn destroying_a_cache_in_use_lists_every_leak() {
    let rig = rig_with(debug("U,leaky"));
    let cache = rig
        .slub
        .cache_create(&CacheArgs::new("leaky", 700))
        .unwrap();
    let objects: Vec<_> = (0..100)
        .map(|nr| {
            at(nr);
            rig.slub.alloc(cache, Gfp::KERNEL).unwrap()
        })
        .collect();
    for &object in objects.iter().step_by(3) {
        // SAFETY: of this cache, and not used again.
        unsafe { rig.slub.free(cache, object) };
    }
    assert!(destroy(rig.slub, cache).is_err());
    let mut all = TOLD.take();
    assert_eq!(all.remove(0).kind, Kind::Leaked(66));
    let mut leaked: Vec<_> = all
        .iter()
        .map(|told| {
            assert_eq!((told.kind, told.cache), (Kind::LeakedObject, Some("leaky")));
            let report = told.object.unwrap();
            (report.allocated.unwrap().addresses()[0], report.object)
        })
        .collect();
    leaked.sort_unstable();
    let wanted: Vec<_> = (0..100)
        .filter(|nr| nr % 3 != 0)
        .map(|nr| (nr, objects[nr].addr().get()))
        .collect();
    assert_eq!(leaked, wanted);
    for (_, object) in wanted {
        let object = objects.iter().find(|ptr| ptr.addr().get() == object);
        // SAFETY: as above.
        unsafe { rig.slub.free(cache, *object.unwrap()) };
    }
    destroy(rig.slub, cache).unwrap();
    rig.assert_clean();
}

/// Other caches keep their layout and their arrays.
#[test]
fn only_the_named_caches_are_debugged() {
    let rig = rig_with(SlubConfig {
        is_checked: false,
        ..debug("FZPU,kmalloc-64")
    });
    for info in rig.slub.cache_infos() {
        let is_named = info.name == "kmalloc-64";
        assert_eq!(
            info.objsize > 2 * info.object_size.max(64),
            is_named,
            "{info:?}"
        );
    }
    let ptrs: Vec<_> = (0..50).map(|_| kmalloc(&rig, 128)).collect();
    ptrs.into_iter().for_each(|ptr| kfree(rig.slub, ptr));
    let (ptr, end) = (kmalloc(&rig, 128), 128);
    write(ptr, end, 1, 0x41);
    put(&rig, ptr);
    assert_eq!(rig.slub.check_objects(), 0);
    assert!(TOLD.take().is_empty());
}

/// A constructed object is not poisoned: it keeps its state; its red zones are watched.
#[test]
fn constructed_objects_keep_their_state() {
    unsafe fn construct(object: NonNull<u8>) {
        // SAFETY: slub hands the constructor an object of 100 bytes.
        unsafe { object.write_bytes(7, 100) };
    }
    let rig = rig_with(debug("FZPU"));
    let args = CacheArgs::new("made", 100).ctor(construct);
    let cache = rig.slub.cache_create(&args).unwrap();
    for _ in 0..3 {
        let ptr = rig.slub.alloc(cache, Gfp::KERNEL).unwrap();
        // SAFETY: the object has 100 bytes, made by `construct`.
        assert_eq!(unsafe { ptr.cast::<[u8; 100]>().read() }, [7; 100]);
        // SAFETY: of this cache, and not used again.
        unsafe { rig.slub.free(cache, ptr) };
    }
    let ptr = rig.slub.alloc(cache, Gfp::KERNEL).unwrap();
    write(ptr, 100, 1, 7);
    // SAFETY: as above.
    unsafe { rig.slub.free(cache, ptr) };
    let kinds: Vec<_> = TOLD.take().iter().map(|told| told.kind).collect();
    assert_eq!(kinds, [Kind::RightRedzone]);
    rig.assert_clean();
}
