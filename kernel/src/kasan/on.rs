//! The kernel's sanitizer: who is told what, and what is told of bugs.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use kmm::frame::{Gfp, Order, PAGE_SIZE, Pfn, VirtAddr};
use kmm::host::{Backtrace, Freed, Misuse, ObjectSlot, Owners, Sanitizer};
use kmm_kasan::{Access, Kasan, KasanConfig, KasanStorage, LinearShadow, Report};
use spin::Once;

use crate::arch::backtrace;
use crate::boot::DIRECT_MAP;
use crate::process;
use crate::symbols;
use crate::sync::{IrqSpinLock, RawIrqSpinLock};

/// Code that asks before each access has larger frames. Linux: `KASAN_STACK_ORDER`.
pub const STACK_FACTOR: usize = 2;

/// Is told of objects, areas, and by [`PageOwners`] of pages.
pub static SANITIZER: KernelSanitizer = KernelSanitizer;
/// Passes pages on to [`SANITIZER`].
pub static OWNERS: PageOwners = PageOwners;

pub(super) type KernelShadow = LinearShadow<2>;
type KernelKasan = Kasan<KernelShadow, RawIrqSpinLock, Caller, fn(&Report)>;

static KASAN: Once<KernelKasan> = Once::new();
/// The last bug, for tests.
static LAST: IrqSpinLock<Option<Report>> = IrqSpinLock::new(None);
static PANICS: AtomicBool = AtomicBool::new(false);

/// What is told before there is a shadow is forgotten: until then all memory may be touched.
#[derive(Debug)]
pub struct KernelSanitizer;

/// Starts with `shadow`. After the first bug the kernel stops, or it goes on. Linux: `kasan.fault=panic`, `kasan.fault=report`.
pub(super) fn start(shadow: KernelShadow, storage: KasanStorage, panics: bool) {
    PANICS.store(panics, Ordering::Relaxed);
    let mut config = KasanConfig::new(on_bug as fn(&Report));
    config.name_of = name_of;
    config.is_own = is_own;
    KASAN.call_once(|| Kasan::new(shadow, Caller, storage, config));
}

/// Reports an access that may not be made.
pub(super) fn check(access: Access, ip: usize) {
    if let Some(kasan) = KASAN.get() {
        kasan.check(access, Some(ip));
    }
}

/// How many bugs were reported.
pub(super) fn nr_bugs() -> usize {
    KASAN.get().map_or(0, Kasan::nr_bugs)
}

/// The last bug, unless it was asked for already.
pub(super) fn take_last() -> Option<Report> {
    LAST.lock().take()
}

fn on_bug(report: &Report) {
    println!("{report}");
    *LAST.lock() = Some(*report);
    assert!(!PANICS.load(Ordering::Relaxed), "kasan.fault=panic is set");
}

fn name_of(address: usize, out: &mut dyn fmt::Write) -> fmt::Result {
    match symbols::lookup(address as u64) {
        Some(_) => write!(out, "{}", symbols::Symbolised(address as u64)),
        None => write!(out, "{address:#018x}"),
    }
}

/// The way from who allocates or frees to the sanitizer.
fn is_own(address: usize) -> bool {
    const OWN: [&str; 8] = [
        "kmm_kasan",
        "kmm_kernel::kasan::on",
        "kmm_kernel::heap",
        "kmm::page_alloc",
        "kmm_slub",
        "alloc::alloc",
        "__rustc",
        "__rust_",
    ];
    is_code_of(address, &OWN)
}

/// Whether what stands at `address` is code of the object allocator: it keeps its lists in free objects, and nobody else may
/// touch those. Linux: `KASAN_SANITIZE_slub.o := n`.
pub(super) fn is_slubs(address: usize) -> bool {
    is_code_of(address, &["kmm_slub"])
}

/// Whether the function at `address` has a name that begins with one of `paths`.
fn is_code_of(address: usize, paths: &[&str]) -> bool {
    let Some((name, _)) = symbols::lookup(address as u64) else {
        return false;
    };
    let mut shown = Beginning::default();
    // One that is longer than there is room is cut off.
    let _ = write!(shown, "{:#}", rustc_demangle::demangle(name));
    // Methods are shown as `<the::Type as a::Trait>::method`.
    let text = shown.text().trim_start_matches('<');
    paths.iter().any(|path| text.starts_with(path))
}

/// The beginning of a text.
#[derive(Default)]
struct Beginning {
    bytes: [u8; 32],
    len: usize,
}

impl Beginning {
    fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Write for Beginning {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let len = text.len().min(room.len());
        room[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

/// Knows the kernel's stacks and tasks.
pub(super) struct Caller;

impl Backtrace for Caller {
    #[inline(never)]
    fn capture(&self, addresses: &mut [usize]) -> usize {
        let mut words = [0_u64; kmm_kasan::STACK_DEPTH];
        let count = backtrace::capture(&mut words).min(addresses.len());
        for (to, from) in addresses.iter_mut().zip(words) {
            *to = VirtAddr::new(from).as_usize();
        }
        count
    }

    fn tag(&self) -> u64 {
        process::pid_at_hand().map_or(0, |pid| pid.get().into())
    }
}

impl Sanitizer for KernelSanitizer {
    /// As that of a [`Kasan`], from the start: objects are found by it. Without names for addresses, objects are not watched:
    /// what slub does to free ones could not be told from what others do.
    fn redzone_bytes(&self, size_bytes: usize) -> usize {
        if symbols::are_known() {
            kmm_kasan::redzone_bytes(size_bytes)
        } else {
            0
        }
    }

    fn pages_taken(&self, start: VirtAddr, size_bytes: usize) {
        if let Some(kasan) = KASAN.get() {
            kasan.pages_taken(start, size_bytes);
        }
    }

    fn pages_given(&self, start: VirtAddr, size_bytes: usize) -> bool {
        KASAN
            .get()
            .is_none_or(|kasan| kasan.pages_given(start, size_bytes))
    }

    fn vmalloc(&self, start: VirtAddr, size_bytes: usize) {
        if let Some(kasan) = KASAN.get() {
            kasan.vmalloc(start, size_bytes);
        }
    }

    fn vfree(&self, start: VirtAddr, size_bytes: usize) {
        if let Some(kasan) = KASAN.get() {
            kasan.vfree(start, size_bytes);
        }
    }

    fn slab_taken(&self, start: VirtAddr, size_bytes: usize) {
        if let Some(kasan) = KASAN.get() {
            kasan.slab_taken(start, size_bytes);
        }
    }

    fn object_taken(&self, slot: ObjectSlot, requested_bytes: usize, cache: &str) {
        if let Some(kasan) = KASAN.get() {
            kasan.object_taken(slot, requested_bytes, cache);
        }
    }

    fn object_given(
        &self,
        at: VirtAddr,
        slot: Option<ObjectSlot>,
        let_go: &mut dyn FnMut(ObjectSlot),
    ) -> Freed {
        KASAN
            .get()
            .map_or(Freed::Now, |kasan| kasan.object_given(at, slot, let_go))
    }

    fn drain(&self, let_go: &mut dyn FnMut(ObjectSlot)) {
        if let Some(kasan) = KASAN.get() {
            kasan.drain(let_go);
        }
    }

    fn may_touch(&self, addr: VirtAddr) -> bool {
        KASAN.get().is_none_or(|kasan| kasan.may_touch(addr))
    }
}

/// Is on the way of every page.
pub struct PageOwners;

fn address_of(pfn: Pfn) -> VirtAddr {
    VirtAddr::new(DIRECT_MAP) + pfn.phys().as_u64()
}

impl Owners for PageOwners {
    const ENABLED: bool = true;

    fn took(&self, pfn: Pfn, order: Order, _gfp: Gfp) -> Result<(), Misuse> {
        SANITIZER.pages_taken(address_of(pfn), order.nr_pages() * PAGE_SIZE);
        Ok(())
    }

    fn gave(&self, pfn: Pfn, order: Order) -> Result<(), Misuse> {
        if SANITIZER.pages_given(address_of(pfn), order.nr_pages() * PAGE_SIZE) {
            Ok(())
        } else {
            Err(Misuse::DoubleFree)
        }
    }

    fn split(&self, _pfn: Pfn, _order: Order, _to: Order) {}

    fn describe(&self, _pfn: Pfn, _out: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }
}
