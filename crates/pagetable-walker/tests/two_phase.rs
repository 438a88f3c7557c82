//! From the tables that boot needs to the final ones, on the simulated machine.
#![allow(missing_docs, reason = "tests")]

mod common;

use common::{GIB, MIB_2};
use kmm_frame::{Pfn, PfnRange, PhysAddr, VirtAddr};
use kmm_host::{CpuId, NoTlb, TlbTarget};
use kmm_pagetable_walker::layout::Layout;
use kmm_pagetable_walker::{Level, Levels, Mapper, PteFlags, Span, TableCounter};
use kmm_sim::{Access, Config, FreeListSource, Machine, Mode};

#[test]
#[expect(unsafe_code, reason = "makes a mapper")]
fn the_final_tables_map_exactly_ram_at_page_offset_and_nothing_at_identity() {
    let mib = |start: usize, end: usize| PfnRange::new(Pfn::new(start << 8), Pfn::new(end << 8));
    let odd = PfnRange::new(Pfn::new((40 << 8) + 3), Pfn::new((44 << 8) + 5));
    for config in [
        Config::with_ram([mib(0, 1), mib(2, 32), odd]),
        Config::with_ram([mib(0, 1), mib(2, 32), odd]).five_levels(),
    ] {
        let levels = if config.nr_levels == 5 {
            Levels::Five
        } else {
            Levels::Four
        };
        let layout = Layout::for_levels(levels);
        let machine = Machine::new(config);
        let pages = FreeListSource::with_range(machine, mib(2, 4));
        let tables = TableCounter::new();
        // SAFETY: nobody reads or writes the mapped frames but through the simulated MMU.
        let mapper =
            unsafe { Mapper::new(machine.ptes(), &pages, machine.mem_map(), levels, &tables) };

        // Provisional: the first GiB one to one, and the same at PAGE_OFFSET.
        let mut root = mapper.alloc_root().unwrap();
        let rwx = PteFlags::P | PteFlags::RW;
        let identity = VirtAddr::ZERO..VirtAddr::new(GIB);
        mapper
            .map_range(&mut root, identity.clone(), PhysAddr::ZERO, rwx, Level::Pmd)
            .unwrap();
        let provisional = layout.va(PhysAddr::ZERO)..layout.va(PhysAddr::new(GIB));
        mapper
            .map_range(
                &mut root,
                provisional.clone(),
                PhysAddr::ZERO,
                rwx,
                Level::Pmd,
            )
            .unwrap();
        let run = |at| machine.access(CpuId::BOOT, root.pfn(), at, Access::Execute, Mode::Kernel);
        assert!(run(VirtAddr::new(3 * MIB_2)).is_ok());

        // Final: RAM at PAGE_OFFSET with the largest pages that fit, in tables of their own.
        let mut last = mapper.alloc_root().unwrap();
        for ram in machine.ram() {
            let (start, end) = (ram.start().phys(), ram.end().phys());
            let at = layout.va(start)..layout.va(end);
            mapper
                .map_range(&mut last, at, start, PteFlags::KERNEL, Level::Pud)
                .unwrap();
        }
        let mut spans = Vec::new();
        let kernel_half = levels.kernel_start()..VirtAddr::new(u64::MAX << 12);
        mapper
            .for_each(&last, kernel_half, |span| spans.push(span))
            .unwrap();
        mapper
            .for_each(&last, VirtAddr::ZERO..levels.user_end(), |span| {
                assert_eq!(
                    span,
                    Span::Hole(VirtAddr::ZERO..levels.user_end()),
                    "identity map"
                );
            })
            .unwrap();
        let mut frames = Vec::new();
        for span in spans {
            if let Span::Mapped(leaf) = span {
                assert_eq!(layout.pa(leaf.va), leaf.pfn().phys());
                assert!(leaf.flags().contains(PteFlags::G | PteFlags::NX));
                frames.extend(PfnRange::with_len(leaf.pfn(), leaf.nr_pages()).iter());
            } else {
                assert!(matches!(span, Span::Hole(_)));
            }
        }
        let ram: Vec<_> = machine
            .ram()
            .iter()
            .flat_map(|range| range.iter())
            .collect();
        assert_eq!(frames, ram, "exactly RAM");
        for pfn in machine.spanned().iter() {
            let seen = machine.translation(last.pfn(), layout.va(pfn.phys()));
            assert_eq!(
                seen.map(|seen| seen.phys <= pfn.phys()),
                machine.is_ram(pfn).then_some(true)
            );
            assert_eq!(
                machine.translation(last.pfn(), VirtAddr::new(pfn.phys().as_u64())),
                None
            );
        }
        // Largest pages: the middle range is 15 pages of 2 MiB; nothing is cut where it need not be.
        let inside = layout.va(PhysAddr::new(4 << 20));
        assert_eq!(mapper.walk(&last, inside).level, Level::Pmd);

        // The provisional tables go, and with them every table that they alone needed.
        let before = tables.nr_tables();
        let mut gather = mapper.gather(TlbTarget::Kernel, &NoTlb);
        let user = TlbTarget::User { root: root.pfn() };
        let mut low = mapper.gather(user, machine.tlb());
        mapper
            .unmap_range(&mut root, identity, &mut low, |_, _| {})
            .unwrap();
        low.finish();
        mapper
            .unmap_range(&mut root, provisional, &mut gather, |_, _| {})
            .unwrap();
        gather.finish();
        let nr_gone = 2 * (levels.top() as usize - 2);
        assert_eq!(tables.nr_tables(), before - nr_gone);
    }
}
