//! Self-tests of many CPUs; on one, those hold trivially.
#![expect(
    unsafe_code,
    reason = "reads system registers, changes page-table entries behind everybody's back"
)]

use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use kmm::AddressSpace;
use kmm::fault::{FaultCause, NoFile};
use kmm::frame::{Gfp, Order, PAGE_SIZE, Page, VirtAddr};
use kmm::host::{Context, Host as _, PageReq, PageSource as _, PhysMap as _, Sleep, TlbTarget};
use kmm::vma::{MmapReq, Prot};
use x86_64::registers::control::{Cr0, Cr4};
use x86_64::registers::model_specific::{Efer, LStar, Msr};

use super::bringup::StartError;
use super::trampoline::Trampoline;
use super::{
    Extent, Flush, MAX_CPUS, call_on, each, flush_tlb, mailbox, nr_online, nr_possible, nr_ticks,
    on_each_cpu, others, run_on, stress,
};
use crate::arch::{acpi, apic, interrupts, percpu, usercopy};
use crate::boot::image;
use crate::ensure;
use crate::mm::{self, KernelHost, STACK_BYTES, manager, phys};
use crate::process::PAGE_WAITS;
use crate::selftest::{Failure, Outcome, Test};
use crate::sync::IrqSpinLock;

/// Self-tests of many CPUs.
pub const TESTS: &[Test] = &[
    Test {
        name: "smp::every_cpu_answers",
        run: every_cpu_answers,
    },
    Test {
        name: "smp::every_cpu_has_its_own_stack_and_data",
        run: every_cpu_has_its_own_stack_and_data,
    },
    Test {
        name: "smp::every_cpu_is_set_up_like_the_boot_cpu",
        run: every_cpu_is_set_up_like_the_boot_cpu,
    },
    Test {
        name: "smp::faults_are_caught_on_every_cpu",
        run: faults_are_caught_on_every_cpu,
    },
    Test {
        name: "smp::every_cpu_has_ticks",
        run: every_cpu_has_ticks,
    },
    Test {
        name: "smp::cpus_call_each_other",
        run: cpus_call_each_other,
    },
    Test {
        name: "smp::cpus_that_rest_have_no_pages_at_hand",
        run: cpus_that_rest_have_no_pages_at_hand,
    },
    Test {
        name: "smp::locks_keep_cpus_apart",
        run: locks_keep_cpus_apart,
    },
    Test {
        name: "smp::page_locks_keep_cpus_apart",
        run: page_locks_keep_cpus_apart,
    },
    Test {
        name: "smp::a_cpu_reads_what_it_remembers_until_it_is_told",
        run: a_cpu_reads_what_it_remembers_until_it_is_told,
    },
    Test {
        name: "smp::user_memory_is_flushed_where_it_is_loaded",
        run: user_memory_is_flushed_where_it_is_loaded,
    },
    Test {
        name: "smp::cpus_that_flush_at_each_other_do_not_deadlock",
        run: cpus_that_flush_at_each_other_do_not_deadlock,
    },
    Test {
        name: "smp::a_cpu_that_is_not_there_is_left_out",
        run: a_cpu_that_is_not_there_is_left_out,
    },
    Test {
        name: "smp::nothing_is_left_in_the_first_megabyte",
        run: nothing_is_left_in_the_first_megabyte,
    },
    Test {
        name: "smp::stress_of_all_cpus_leaves_a_clean_audit",
        run: stress_leaves_a_clean_audit,
    },
];

/// What each CPU that is up says, by number.
fn ask_all<R: Send>(question: impl Fn() -> R + Sync) -> Result<Vec<(u32, R)>, Failure> {
    let answers = IrqSpinLock::new(Vec::with_capacity(MAX_CPUS));
    on_each_cpu(|cpu| {
        let answer = question();
        answers.lock().push((cpu, answer));
    });
    let mut answers = answers.into_inner();
    answers.sort_unstable_by_key(|&(cpu, _)| cpu);
    ensure!(
        answers.len() == nr_online(),
        "{} CPUs answered, {} are up",
        answers.len(),
        nr_online()
    );
    Ok(answers)
}

fn every_cpu_answers() -> Outcome {
    ensure!(nr_online() <= nr_possible() && nr_possible() <= MAX_CPUS);
    for (cpu, (asked, says)) in ask_all(percpu::cpu)?.into_iter().enumerate() {
        ensure!(
            asked == says && cpu == says as usize,
            "CPU {asked} says that it is {says}, in the place of {cpu}"
        );
    }
    let ids = ask_all(|| apic::local().map(apic::LocalApic::id))?;
    for (cpu, id) in ids {
        let listed = acpi::platform().and_then(|platform| platform.apic_ids().get(cpu as usize));
        ensure!(
            id.is_none() || id == listed.copied(),
            "CPU {cpu} has APIC {id:?}, the MADT says {listed:?}"
        );
    }
    for cpu in 0..nr_possible() {
        let cpu = u32::try_from(cpu).map_err(Failure::of)?;
        let says = run_on(cpu, percpu::cpu);
        let is_up = cpu == 0 || others() & (1 << cpu) != 0;
        ensure!(says == is_up.then_some(cpu), "CPU {cpu} says {says:?}");
    }
    Ok(())
}

fn every_cpu_has_its_own_stack_and_data() -> Outcome {
    let places = ask_all(|| {
        let local = 0_u8;
        let stack = (&raw const local).addr() as u64;
        (percpu::this(), stack, percpu::kernel_stack_top())
    })?;
    for &(cpu, (data, stack, top)) in &places {
        ensure!(
            (top - STACK_BYTES as u64..top).contains(&stack),
            "CPU {cpu} runs at {stack:#x}, its stack ends at {top:#x}"
        );
        ensure!(
            usercopy::probe(top - 8).is_some(),
            "the stack of CPU {cpu} is not mapped"
        );
        ensure!(
            usercopy::probe(top - STACK_BYTES as u64 - 8).is_none(),
            "the stack of CPU {cpu} has no guard page"
        );
        let same = places
            .iter()
            .filter(|&&(_, (other, _, other_top))| other == data || other_top == top);
        ensure!(same.count() == 1, "CPU {cpu} shares its data or its stack");
    }
    Ok(())
}

/// What makes a CPU behave: control registers, entry points, memory types, tables.
fn setup() -> [u64; 9] {
    /// As `sidt` stores it.
    #[repr(C, packed)]
    struct TablePointer {
        limit: u16,
        base: u64,
    }
    let mut idt = TablePointer { limit: 0, base: 0 };
    // SAFETY: stores ten bytes.
    unsafe { asm!("sidt [{}]", in(reg) &raw mut idt, options(nostack, preserves_flags)) };
    let msr = |number| {
        // SAFETY: registers that every 64-bit CPU has.
        unsafe { Msr::new(number).read() }
    };
    [
        Cr0::read_raw(),
        Cr4::read_raw(),
        Efer::read_raw(),
        LStar::read().as_u64(),
        msr(0xc000_0081), // STAR
        msr(0xc000_0084), // FMASK
        msr(0x277),       // PAT
        idt.base,
        u64::from(idt.limit),
    ]
}

fn every_cpu_is_set_up_like_the_boot_cpu() -> Outcome {
    let wanted = setup();
    for (cpu, found) in ask_all(setup)? {
        ensure!(found == wanted, "CPU {cpu}: {found:x?}, CPU 0: {wanted:x?}");
    }
    let root = mm::kernel_root();
    for (cpu, (loaded, are_on, depth)) in ask_all(|| {
        (
            mm::active_root(),
            interrupts::are_enabled(),
            interrupts::off_depth(),
        )
    })? {
        ensure!(cpu == 0 || loaded == root, "CPU {cpu} has loaded {loaded}");
        ensure!(are_on && depth == 0, "CPU {cpu} has interrupts off");
    }
    Ok(())
}

fn faults_are_caught_on_every_cpu() -> Outcome {
    let value = 0x1234_5678_9abc_def0_u64;
    let address = (&raw const value).addr() as u64;
    for (cpu, seen) in ask_all(|| (usercopy::probe(address), usercopy::probe(8)))? {
        ensure!(seen == (Some(value), None), "CPU {cpu} sees {seen:x?}");
    }
    for (cpu, result) in ask_all(|| usercopy::put_user(0x1000, 1_u32))? {
        ensure!(result.is_err(), "CPU {cpu} writes where nothing is mapped");
    }
    Ok(())
}

fn every_cpu_has_ticks() -> Outcome {
    let has_ticks = apic::local().is_some();
    for cpu in each(others()).filter(|_| has_ticks) {
        let before = nr_ticks(cpu);
        while nr_ticks(cpu) < before + 2 {
            core::hint::spin_loop();
        }
    }
    Ok(())
}

fn cpus_call_each_other() -> Outcome {
    // A virtual machine with more CPUs than there really are takes its time.
    let nr_calls = (32 / nr_online()).max(2) as u64;
    let counts = [const { AtomicU64::new(0) }; MAX_CPUS];
    let online = others() | 1;
    on_each_cpu(|_| {
        for _ in 0..nr_calls {
            for cpu in each(online) {
                let count = || {
                    counts[percpu::cpu() as usize].fetch_add(1, Ordering::Relaxed);
                };
                call_on(cpu, count);
            }
        }
    });
    for cpu in each(online) {
        let count = counts[cpu as usize].load(Ordering::Relaxed);
        ensure!(
            count == nr_calls * nr_online() as u64,
            "CPU {cpu} was called {count} times"
        );
    }
    let nobody = (0..64).find(|&cpu| online & (1 << cpu) == 0);
    ensure!(
        nobody.is_none_or(|cpu| !call_on(cpu, || ())),
        "a CPU that is not up answered"
    );
    Ok(())
}

/// Pages at hand on a CPU, of all zones.
fn nr_at_hand(cpu: u32) -> usize {
    let stats = manager().pages().all().flat_map(|zone| zone.pcp_stats());
    let of_cpu = stats.filter(|pcp| pcp.cpu.index() == cpu as usize);
    of_cpu.map(|pcp| pcp.count).sum()
}

fn cpus_that_rest_have_no_pages_at_hand() -> Outcome {
    let take_and_give = || {
        let pages = manager().pages();
        if let Ok(block) = pages.alloc(PageReq::new(Order::ZERO, Gfp::ATOMIC)) {
            pages.free(block);
        }
        nr_at_hand(percpu::cpu())
    };
    // Where memory is small, pages come one at a time, and none is left.
    let mut stats = manager().pages().all().flat_map(|zone| zone.pcp_stats());
    let few = stats.all(|pcp| pcp.limits.batch == 1);
    for (cpu, at_work) in ask_all(take_and_give)? {
        ensure!(few || at_work > 0, "CPU {cpu} keeps no page at hand");
    }
    for cpu in each(others()) {
        let rest = nr_at_hand(cpu);
        ensure!(rest == 0, "CPU {cpu} rests with {rest} pages");
        let nr_in_interrupt = AtomicU64::new(0);
        call_on(cpu, || {
            let is_told = manager().host().context() == Context::HardIrq;
            nr_in_interrupt.fetch_add(is_told.into(), Ordering::Relaxed);
            take_and_give();
        });
        let rest = nr_at_hand(cpu);
        ensure!(
            nr_in_interrupt.load(Ordering::Relaxed) == 1 && rest == 0,
            "CPU {cpu} rests with {rest} pages after a call"
        );
    }
    ensure!(manager().host().context() == Context::Process);
    let lock = IrqSpinLock::new(());
    let _locked = lock.lock();
    ensure!(manager().host().context() == Context::Atomic);
    Ok(())
}

fn locks_keep_cpus_apart() -> Outcome {
    const ROUNDS: u64 = 2000;
    let shared = IrqSpinLock::new((0_u64, 0_u64));
    on_each_cpu(|_| {
        for _ in 0..ROUNDS {
            let mut both = shared.lock();
            both.0 += 1;
            core::hint::black_box(&mut *both);
            both.1 += 1;
        }
    });
    let wanted = ROUNDS * nr_online() as u64;
    let found = shared.into_inner();
    ensure!(found == (wanted, wanted), "{found:?}, not twice {wanted}");
    Ok(())
}

/// CPUs without tasks: the boot CPU would sleep, which work must not.
fn page_locks_keep_cpus_apart() -> Outcome {
    const ROUNDS: u64 = 100;
    static PAGE: Page = Page::new();
    let words = [const { AtomicU64::new(0) }; 2];
    on_each_cpu(|cpu| {
        for _ in 0..ROUNDS * u64::from(cpu != 0) {
            PAGE_WAITS.lock(&mut Sleep::grant(), &PAGE);
            // Not added to in one step, so that two at a time lose some.
            for word in &words {
                word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            PAGE_WAITS.unlock(&PAGE);
        }
    });
    let wanted = ROUNDS * (nr_online() as u64 - 1);
    let found = words.map(AtomicU64::into_inner);
    ensure!(found == [wanted; 2], "{found:?}, not twice {wanted}");
    ensure!(PAGE.flags().is_empty(), "left: {:?}", PAGE.flags());
    Ok(())
}

/// A word of kernel memory as another CPU reads it.
fn read_on(cpu: u32, address: VirtAddr) -> Option<u64> {
    run_on(cpu, || usercopy::probe(address.as_u64())).flatten()
}

/// The CPU keeps a translation until it is flushed, and nobody but itself can do that (this emulator is like that too): so what another CPU
/// has read stays, until a shootdown.
fn a_cpu_reads_what_it_remembers_until_it_is_told() -> Outcome {
    const OLD: u64 = 0x01d0_01d0;
    const NEW: u64 = 0x5a5a_0002;
    /// A page for each: what QEMU keeps depends on the address, and on what else is touched meanwhile.
    const NR_TRIES: usize = 16;
    let vmalloc = manager().vmalloc();
    let area = vmalloc
        .vmalloc(PAGE_SIZE * NR_TRIES, Gfp::KERNEL)
        .map_err(Failure::of)?;
    let mut other = manager()
        .page_alloc()
        .alloc_pages_nowait(Gfp::KERNEL, Order::ZERO)
        .map_err(Failure::of)?;
    phys().with_page(&mut other, 0, |mut page| {
        page.bytes_mut()[..8].copy_from_slice(&NEW.to_le_bytes());
    });
    let mut wrong = None;
    let mut nr_stale = 0;
    for nr in 0..NR_TRIES {
        let addr = area + (nr * PAGE_SIZE) as u64;
        let word = core::ptr::with_exposed_provenance_mut::<u64>(addr.as_usize());
        // SAFETY: the page is ours.
        unsafe { word.write_volatile(OLD) };
        let Some((entry, 12)) = image::leaf_entry(addr.as_u64()) else {
            return Err("the area is not mapped by pages".into());
        };
        // SAFETY: the entry that maps our page, found just now; nobody else changes it.
        let before = unsafe { entry.read_volatile() };
        let after = (before & !image::ENTRY_ADDRESS) | other.pfn().phys().as_u64();
        let set = |value: u64| {
            // SAFETY: as above; both frames are ours.
            unsafe { entry.write_volatile(value) };
        };
        let page = Flush::Range(addr..addr + PAGE_SIZE as u64);
        for cpu in each(others()) {
            let first = read_on(cpu, addr);
            set(after);
            let unflushed = read_on(cpu, addr);
            flush_tlb(TlbTarget::Kernel, &page);
            let flushed = (read_on(cpu, addr), usercopy::probe(addr.as_u64()));
            set(before);
            flush_tlb(TlbTarget::Kernel, &page);
            nr_stale += u32::from(unflushed == Some(OLD));
            let is_right = first == Some(OLD)
                && (unflushed == Some(OLD) || unflushed == Some(NEW))
                && flushed == (Some(NEW), Some(NEW));
            if !is_right {
                wrong.get_or_insert((cpu, first, unflushed, flushed));
            }
        }
    }
    manager().page_alloc().free_pages(other);
    // SAFETY: nobody uses the area any more.
    unsafe { vmalloc.vfree(area) }.map_err(Failure::of)?;
    ensure!(wrong.is_none(), "{wrong:x?}");
    ensure!(
        nr_stale > 0 || nr_online() == 1,
        "no CPU ever remembered anything, so nothing was tried"
    );
    Ok(())
}

/// What is unmapped from a program is gone on the CPUs that have its tables, and only those were asked.
fn user_memory_is_flushed_where_it_is_loaded() -> Outcome {
    let mut space: AddressSpace<KernelHost, NoFile> =
        AddressSpace::new(manager()).map_err(Failure::of)?;
    let at = space
        .mmap(MmapReq::anonymous(
            2 * PAGE_SIZE as u64,
            Prot::READ | Prot::WRITE,
        ))
        .map_err(Failure::of)?;
    space
        .fault(at, FaultCause::USER | FaultCause::WRITE)
        .map_err(Failure::of)?;
    let cpus: Vec<u32> = each(others()).collect();
    let flushes = || {
        let count = |&cpu: &u32| mailbox(cpu).nr_flushes.load(Ordering::Relaxed);
        cpus.iter().map(count).collect::<Vec<u64>>()
    };
    let load = |root| {
        // SAFETY: the space lives until the kernel's own tables are loaded again; and those live for ever.
        move || unsafe { mm::activate(root) }
    };
    // Every second one runs the program.
    let runs = |index: usize| index % 2 == 0;
    for (index, &cpu) in cpus.iter().enumerate().filter(|&(index, _)| runs(index)) {
        run_on(cpu, load(space.root()));
        let seen = run_on(cpu, || usercopy::get_user::<u64>(at.as_u64()));
        ensure!(seen == Some(Ok(0)), "CPU {cpu} ({index}) sees {seen:x?}");
    }
    let before = flushes();
    space.munmap(at, PAGE_SIZE as u64).map_err(Failure::of)?;
    let after = flushes();
    let seen: Vec<_> = cpus
        .iter()
        .map(|&cpu| run_on(cpu, || usercopy::get_user::<u64>(at.as_u64())))
        .collect();
    for &cpu in &cpus {
        run_on(cpu, load(mm::kernel_root()));
    }
    drop(space);
    for (index, cpu) in cpus.iter().enumerate() {
        ensure!(
            seen[index] == Some(Err(usercopy::Fault)),
            "CPU {cpu} reads what is unmapped: {:x?}",
            seen[index]
        );
        ensure!(
            (after[index] > before[index]) == runs(index),
            "CPU {cpu} runs it: {}, flushed {} times",
            runs(index),
            after[index] - before[index]
        );
    }
    Ok(())
}

fn cpus_that_flush_at_each_other_do_not_deadlock() -> Outcome {
    let nr_rounds = (48 / nr_online()).max(3);
    let one_page = VirtAddr::new(image::text().start);
    let one_page = Flush::Range(one_page..one_page + PAGE_SIZE as u64);
    let shared = IrqSpinLock::new(0_usize);
    on_each_cpu(|_| {
        for _ in 0..nr_rounds {
            flush_tlb(TlbTarget::Kernel, &one_page);
            // Others wait for the lock with interrupts off, and this one for them.
            let mut count = shared.lock();
            flush_tlb(TlbTarget::Kernel, &Flush::All);
            *count += 1;
            drop(count);
            interrupts::without(|| flush_tlb(TlbTarget::Kernel, &one_page));
        }
    });
    let count = shared.into_inner();
    ensure!(count == nr_rounds * nr_online(), "{count} rounds");
    Ok(())
}

fn a_cpu_that_is_not_there_is_left_out() -> Outcome {
    const PATIENCE_NS: u64 = 20_000_000;
    let free_id = |platform: &acpi::Platform| {
        let listed = platform.apic_ids();
        (0..255).rev().find(|id| !listed.contains(id))
    };
    let Some(nobody) = acpi::platform().and_then(free_id) else {
        return Ok(());
    };
    let cpu = u32::try_from(nr_possible()).map_err(Failure::of)?;
    if apic::local().is_none() || cpu as usize >= MAX_CPUS {
        return Ok(());
    }
    let held = mm::pages_held();
    let Some(trampoline) = Trampoline::again() else {
        // One CPU: none was ever started.
        return Ok(());
    };
    let outcome = trampoline.start_within(cpu, nobody, PATIENCE_NS);
    drop(trampoline);
    ensure!(outcome == Err(StartError::NoAnswer), "{outcome:?}");
    ensure!(run_on(cpu, || ()).is_none(), "it runs");
    ensure!(mm::pages_held() == held, "its stack was not given back");
    every_cpu_answers()
}

fn nothing_is_left_in_the_first_megabyte() -> Outcome {
    ensure!(
        Trampoline::is_clear(),
        "the trampoline was not cleared away"
    );
    mm::prove_tables().map(drop).map_err(Failure::of)
}

fn stress_leaves_a_clean_audit() -> Outcome {
    const ROUNDS: u64 = 16_000;
    const SEED: u64 = 0x6b6d_6d21;
    let summary = stress(Extent::Rounds(ROUNDS / nr_online() as u64), SEED)?;
    ensure!(summary.is_thorough(), "{summary}");
    Ok(())
}
