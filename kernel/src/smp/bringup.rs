//! How the other CPUs start: INIT, STARTUP, STARTUP, one after the other. Linux: `do_boot_cpu`, `trampoline_64.S`.
//!
//! A CPU starts in real mode in the first megabyte, which the boot allocator keeps out of the way for that. There the trampoline lies for as
//! long as CPUs are being started, with page tables of its own: the kernel's upper half, and in the lower half the one page of the
//! trampoline, to be read and executed. The kernel's own tables never show it. The first thing that a CPU does in the kernel's text is to load
//! those. Then everything in the first megabyte is zero again.
//!
//! A CPU that does not answer in time gets another INIT, which keeps it from coming late; should it come all the same, it finds no stack, and
//! halts. A CPU of another kind than the boot CPU halts by itself. Both are told and left out.
#![expect(
    unsafe_code,
    reason = "writes the trampoline and its tables; what starts there enters from assembly"
)]

use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::arch::global_asm;
use core::fmt;
use core::mem::forget;
use core::ptr;
use core::slice;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::{MAILBOXES, MAX_CPUS, ONLINE, bit, jobs, mailbox, nr_online};
use crate::arch::apic::{self, Ipi};
use crate::arch::percpu::{self, PerCpu};
use crate::arch::{self, acpi, cpu, interrupts, timer};
use crate::boot::{BootInfo, DIRECT_MAP, RegionKind};
use crate::mm;

global_asm!(include_str!("trampoline.S"), options(att_syntax));

const PAGE: u64 = 4096;
const FIRST_MEGABYTE: u64 = 1 << 20;
/// The code, and a table for each level above it.
const NR_PAGES: u64 = 5;
const TABLE_LEN: usize = 512;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;

// Intel's MultiProcessor Specification, B.4: what to wait between the interrupts.
const AFTER_INIT_NS: u64 = 10_000_000;
const AFTER_STARTUP_NS: u64 = 200_000;
/// A CPU needs microseconds to start; that of a busy virtual machine more.
const PATIENCE_NS: u64 = 2_000_000_000;

/// What a CPU says of itself, in its mailbox.
const SILENT: u32 = 0;
const UP: u32 = 1;
const OTHER_KIND: u32 = 2;
const OTHER_CPU: u32 = 3;

/// The stack for the CPU that is being started; who takes it leaves 0 behind. Known to the assembly.
#[unsafe(no_mangle)]
static ap_stack_top: AtomicU64 = AtomicU64::new(0);
/// Where the trampoline lay; 0 for nowhere.
static LAST_BASE: AtomicU64 = AtomicU64::new(0);
/// The data of its own for the CPU that is being started.
static AP_DATA: AtomicPtr<PerCpu> = AtomicPtr::new(ptr::null_mut());

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static trampoline_gdt_base: u8;
    static trampoline_to_32: u8;
    static trampoline_to_64: u8;
    static trampoline_cr3: u8;
}

/// Why a CPU is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StartError {
    /// There is no memory for its stack and its data.
    OutOfMemory,
    /// It does not come.
    NoAnswer,
    /// It came, and was not seen again.
    Lost,
    /// It lacks what the boot CPU has.
    OtherKind,
    /// Its number is not the one that was called.
    OtherCpu,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfMemory => "there is no memory for its stack",
            Self::NoAnswer => "it does not answer",
            Self::Lost => "it got lost on its way",
            Self::OtherKind => "it is of another kind than the boot CPU",
            Self::OtherCpu => "another CPU came in its place",
        })
    }
}

impl core::error::Error for StartError {}

/// Starts all CPUs that the MADT lists.
///
/// # Context
/// Once, on the boot CPU; clocks, local APIC and memory management are up.
pub fn init(boot: &BootInfo) {
    mailbox(0).state.store(UP, Ordering::Relaxed);
    let apic_ids = acpi::platform().map_or(&[][..], |platform| platform.apic_ids());
    let most = boot.value("maxcpus").and_then(|text| text.parse().ok());
    let most = most.unwrap_or(MAX_CPUS).clamp(1, MAX_CPUS);
    let wanted = apic_ids.len().min(most);
    if wanted > 1 {
        start_all(boot, &apic_ids[..wanted]);
    }
    println!(
        "smp: {} of {} CPUs are up",
        nr_online(),
        apic_ids.len().max(1)
    );
}

fn start_all(boot: &BootInfo, apic_ids: &[u32]) {
    if apic::local().is_none() {
        println!("smp: no local APIC, so no other CPU can be started");
        return;
    }
    let Some(trampoline) = Trampoline::new(boot) else {
        println!("smp: no room below 1 MiB, so no other CPU can be started");
        return;
    };
    for (cpu, &apic_id) in (0..).zip(apic_ids).skip(1) {
        if let Err(why) = trampoline.start(cpu, apic_id) {
            println!("smp: CPU {cpu} (APIC {apic_id:#x}) is left out: {why}");
        }
    }
}

/// Pages of the first megabyte, in use while it lives.
pub(super) struct Trampoline {
    base: u64,
}

impl Trampoline {
    /// Lays it out. `None` if the firmware left no room.
    pub(super) fn new(boot: &BootInfo) -> Option<Self> {
        let base = find_room(boot)?;
        LAST_BASE.store(base, Ordering::Relaxed);
        Some(Self::at(base))
    }

    /// Once more in the same place. For tests: at one CPU there was none, and there is none now.
    pub(super) fn again() -> Option<Self> {
        let base = LAST_BASE.load(Ordering::Relaxed);
        (base != 0).then(|| Self::at(base))
    }

    fn at(base: u64) -> Self {
        let mut trampoline = Self { base };
        trampoline.clear();
        trampoline.write_tables();
        trampoline.write_code();
        trampoline
    }

    fn words(&self) -> *mut [u64] {
        let start = usize::try_from(DIRECT_MAP + self.base).unwrap_or(0);
        let len = usize::try_from(NR_PAGES * PAGE / 8).unwrap_or(0);
        ptr::slice_from_raw_parts_mut(ptr::with_exposed_provenance_mut(start), len)
    }

    /// All of it, by way of the direct map.
    fn memory(&mut self) -> &mut [u64] {
        // SAFETY: RAM of the first megabyte, which nobody else uses.
        unsafe { &mut *self.words() }
    }

    fn page(&mut self, nr: usize) -> &mut [u64] {
        &mut self.memory()[nr * TABLE_LEN..][..TABLE_LEN]
    }

    fn clear(&mut self) {
        self.memory().fill(0);
        // The compiler must not think that nobody looks.
        core::hint::black_box(self.memory());
    }

    /// Is nothing left of it, wherever it was?
    pub(super) fn is_clear() -> bool {
        let base = LAST_BASE.load(Ordering::Relaxed);
        if base == 0 {
            return true;
        }
        let gone = Self { base };
        // SAFETY: as in `memory`.
        let is_clear = unsafe { &*gone.words() }.iter().all(|&word| word == 0);
        forget(gone);
        is_clear
    }

    /// Page 1 is the top table, 2 to 4 are those below.
    fn write_tables(&mut self) {
        let kernel = DIRECT_MAP + mm::kernel_root().phys().as_u64();
        let kernel = ptr::with_exposed_provenance(usize::try_from(kernel).unwrap_or(0));
        // SAFETY: a table; it never changes once it is loaded.
        let kernel: &[u64] = unsafe { slice::from_raw_parts(kernel, TABLE_LEN) };
        let half = TABLE_LEN / 2;
        self.page(1)[half..].copy_from_slice(&kernel[half..]);
        for (level, below) in [(1, 2), (2, 3), (3, 4)] {
            // The first megabyte is in the first entry of each.
            let below = self.base + below * PAGE;
            self.page(level)[0] = below | PRESENT | WRITABLE;
        }
        // The code, not to be written.
        let base = self.base;
        self.page(4)[usize::try_from(base / PAGE).unwrap_or(0)] = base | PRESENT;
    }

    fn write_code(&mut self) {
        let start = &raw const trampoline_start;
        let len = (&raw const trampoline_end).addr() - start.addr();
        // SAFETY: the code as it was linked.
        let code = unsafe { slice::from_raw_parts(start, len) };
        let mut page = [0; 8 * TABLE_LEN];
        page[..len].copy_from_slice(code);
        let mut patch = |place: *const u8, more: u64| {
            let word = &mut page[place.addr() - start.addr()..][..4];
            let linked = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            let value = linked + u32::try_from(more).unwrap_or(0);
            word.copy_from_slice(&value.to_le_bytes());
        };
        patch(&raw const trampoline_gdt_base, self.base);
        patch(&raw const trampoline_to_32, self.base);
        patch(&raw const trampoline_to_64, self.base);
        patch(&raw const trampoline_cr3, self.base + PAGE);
        for (word, bytes) in self.page(0).iter_mut().zip(page.chunks_exact(8)) {
            *word = bytes
                .iter()
                .rev()
                .fold(0, |word, &byte| word << 8 | u64::from(byte));
        }
    }

    /// Starts one CPU, and waits until it is up.
    ///
    /// # Errors
    /// [`StartError`]; it is not up then, and will not be.
    pub(super) fn start(&self, cpu: u32, apic_id: u32) -> Result<(), StartError> {
        self.start_within(cpu, apic_id, PATIENCE_NS)
    }

    /// As [`Self::start`], with another idea of how long that may take.
    pub(super) fn start_within(
        &self,
        cpu: u32,
        apic_id: u32,
        patience_ns: u64,
    ) -> Result<(), StartError> {
        let local = apic::local().ok_or(StartError::NoAnswer)?;
        let stack = mm::alloc_kernel_stack().ok_or(StartError::OutOfMemory)?;
        // SAFETY: the type has a size.
        let data = unsafe { alloc(Layout::new::<PerCpu>()) }.cast::<PerCpu>();
        if data.is_null() {
            return Err(StartError::OutOfMemory);
        }
        // SAFETY: the memory was allocated just now, for this.
        unsafe { PerCpu::new_in(data, cpu) };
        let state = &mailbox(cpu).state;
        state.store(SILENT, Ordering::Relaxed);
        AP_DATA.store(data, Ordering::Release);
        ap_stack_top.store(stack.top(), Ordering::SeqCst);

        local.send(apic_id, Ipi::Init);
        timer::spin_ns(AFTER_INIT_NS);
        let page = u8::try_from(self.base / PAGE).unwrap_or(0);
        let has_answered = || state.load(Ordering::Acquire) != SILENT;
        for patience_ns in [AFTER_STARTUP_NS, patience_ns] {
            if ap_stack_top.load(Ordering::SeqCst) != 0 {
                local.send(apic_id, Ipi::Startup(page));
            }
            spin_until(patience_ns, has_answered);
        }
        let outcome = match state.load(Ordering::Acquire) {
            UP => Ok(()),
            OTHER_KIND => Err(StartError::OtherKind),
            OTHER_CPU => Err(StartError::OtherCpu),
            _ => {
                local.send(apic_id, Ipi::Init);
                timer::spin_ns(AFTER_INIT_NS);
                ONLINE.fetch_and(!bit(cpu), Ordering::SeqCst);
                Err(StartError::Lost)
            }
        };
        if ap_stack_top.swap(0, Ordering::SeqCst) != 0 {
            // SAFETY: allocated above with this layout; no CPU has come to use it, and the next will not be given it.
            unsafe { dealloc(data.cast(), Layout::new::<PerCpu>()) };
            return Err(StartError::NoAnswer);
        }
        // A CPU that has come keeps what it was given, whatever became of it.
        forget(stack);
        outcome
    }
}

impl Drop for Trampoline {
    fn drop(&mut self) {
        self.clear();
    }
}

fn spin_until(most_ns: u64, is_done: impl Fn() -> bool) {
    let start_ns = timer::now_ns();
    while !is_done() && timer::now_ns().saturating_sub(start_ns) < most_ns {
        core::hint::spin_loop();
    }
}

/// The highest room in the first megabyte that is RAM by all accounts, and not page 0.
pub(super) fn find_room(boot: &BootInfo) -> Option<u64> {
    let regions = boot.memory_map.regions();
    let is_free = |start: u64| {
        let end = start + NR_PAGES * PAGE;
        let within = |kind: RegionKind| kind == RegionKind::Usable;
        regions
            .iter()
            .any(|region| within(region.kind) && region.start <= start && end <= region.end)
            && !regions
                .iter()
                .any(|region| !within(region.kind) && region.start < end && start < region.end)
    };
    (1..=(FIRST_MEGABYTE / PAGE - NR_PAGES))
        .rev()
        .map(|page| page * PAGE)
        .find(|&start| is_free(start))
}

/// The first function of another CPU: on the trampoline's tables, on its own stack, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn ap_entry(stack_top: u64) -> ! {
    // SAFETY: the kernel's own tables, which are never freed.
    unsafe { cpu::write_cr3(mm::kernel_root().phys().as_u64()) };
    let data = AP_DATA.load(Ordering::Acquire);
    // SAFETY: `start_within` made it for this CPU, which has taken the stack that goes with it, and lets it live.
    unsafe { percpu::init(data) };
    percpu::set_kernel_stack(stack_top);
    let me = percpu::cpu();
    let state = &MAILBOXES[me as usize].state;
    if !arch::init_early_on_ap() {
        state.store(OTHER_KIND, Ordering::Release);
        cpu::halt_forever();
    }
    mm::init_on_ap();
    let wanted = acpi::platform().and_then(|platform| platform.apic_ids().get(me as usize));
    match apic::local() {
        Some(local) => {
            local.enable_here();
            if wanted.is_some_and(|&wanted| wanted != local.id()) {
                state.store(OTHER_CPU, Ordering::Release);
                cpu::halt_forever();
            }
        }
        None => cpu::halt_forever(),
    }
    timer::start_on_ap();
    ONLINE.fetch_or(bit(me), Ordering::SeqCst);
    // What was remembered before others knew whom to tell.
    cpu::flush_all();
    state.store(UP, Ordering::Release);
    interrupts::enable();
    jobs::idle()
}
