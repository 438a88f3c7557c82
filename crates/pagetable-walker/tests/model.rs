//! Random operations against a map of pages that knows nothing of tables, and against the simulated MMU's own walk.
#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    reason = "tests; usize has 64 bits"
)]

mod common;

use std::collections::BTreeMap;

use common::{MIB_2, PAGE, World, range};
use kmm_frame::{Pfn, PhysAddr, VirtAddr};
use kmm_host::CpuId;
use kmm_pagetable_walker::{Leaf, Level, Levels, MapError, Pte, PteFlags, Root, Span};
use kmm_sim::{Access, Fault, Mode, PageFault, Rng, seeded};

/// What one base page of the window is, by the oracle.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Known {
    pfn: usize,
    flags: PteFlags,
    /// A program wrote to it since it was mapped.
    written: bool,
}

const PAGES_EACH: u64 = 1536;
const KINDS: [PteFlags; 4] = [
    PteFlags::USER_RO,
    PteFlags::USER_ROX,
    PteFlags::USER_RW,
    PteFlags::USER_RW.union(PteFlags::SW9).union(PteFlags::PAT),
];

struct Model<'w> {
    world: &'w World,
    root: Root,
    /// Starts of the windows in which everything happens.
    windows: [u64; 2],
    known: BTreeMap<u64, Known>,
}

impl Model<'_> {
    fn random_range(&self, rng: &mut Rng) -> (u64, u64) {
        let base = rng.pick(&self.windows) / PAGE;
        let first = rng.below(PAGES_EACH);
        let longest = *rng.pick(&[4, 40, 600, PAGES_EACH]);
        let nr_pages = rng.range(1..longest + 1).min(PAGES_EACH - first);
        if rng.one_in(3) {
            // Whole large pages, so that these are seen too.
            let first = first / 512 * 512;
            return (
                base + first,
                (nr_pages.next_multiple_of(512)).min(PAGES_EACH - first),
            );
        }
        (base + first, nr_pages)
    }

    fn map(&mut self, rng: &mut Rng) {
        let (first, nr_pages) = self.random_range(rng);
        let flags = *rng.pick(&KINDS);
        let largest = *rng.pick(&[Level::Pte, Level::Pmd, Level::Pud]);
        let mut frame = rng.below(1 << 28);
        if !rng.one_in(4) {
            frame = frame / 512 * 512 + first % 512;
        }
        let occupied = self.known.range(first..first + nr_pages).next().is_some();
        let mapper = self.world.mapper();
        let pages = range(first * PAGE, nr_pages * PAGE);
        let phys = PhysAddr::new(frame * PAGE);
        let done = if rng.one_in(4) {
            let frame = |nth| Pfn::new(frame as usize + nth);
            mapper.map_frames(&mut self.root, pages, flags, frame)
        } else {
            mapper.map_range(&mut self.root, pages, phys, flags, largest)
        };
        match done {
            Ok(()) => {
                assert!(!occupied, "mapped over pages");
                for nth in 0..nr_pages {
                    let pfn = (frame + nth) as usize;
                    let page = Known {
                        pfn,
                        flags,
                        written: false,
                    };
                    self.known.insert(first + nth, page);
                }
            }
            Err(MapError::Occupied) => assert!(occupied, "nothing was mapped there"),
            Err(MapError::Alloc(_)) => assert!(self.world.pages.nr_failed() > 0),
            Err(other) => panic!("{other}"),
        }
    }

    /// One entry through a slot: replaced by a page or by what software may put there.
    fn set_slot(&mut self, rng: &mut Rng) {
        let (page, _) = self.random_range(rng);
        let mapper = self.world.mapper();
        let pfn = rng.index(1 << 28);
        let flags = if rng.one_in(3) {
            PteFlags::SW10
        } else {
            *rng.pick(&KINDS)
        };
        let mut gather = self.world.gather(&self.root);
        let Ok(mut slot) = mapper.leaf_slot(&mut self.root, VirtAddr::new(page * PAGE)) else {
            assert!(self.world.pages.nr_failed() > 0);
            return;
        };
        if slot.level() != Level::Pte {
            return;
        }
        gather.track(slot.leaf());
        let before = slot.set(Pte::new(Pfn::new(pfn), flags));
        gather.finish();
        let known = self.known.insert(
            page,
            Known {
                pfn,
                flags,
                written: false,
            },
        );
        assert_eq!(before.is_none(), known.is_none());
    }

    fn unmap(&mut self, rng: &mut Rng) {
        let (mut first, mut nr_pages) = self.random_range(rng);
        if rng.one_in(3) {
            (first, nr_pages) = (*rng.pick(&self.windows) / PAGE, PAGES_EACH);
        }
        let mut gone = Vec::new();
        let mut gather = self.world.gather(&self.root);
        let done = self.world.mapper().unmap_range(
            &mut self.root,
            range(first * PAGE, nr_pages * PAGE),
            &mut gather,
            |leaf, _| gone.push(leaf),
        );
        gather.finish();
        if done.is_err() {
            assert!(matches!(done, Err(MapError::Alloc(_))) && gone.is_empty());
            return;
        }
        let mut nr_told = 0;
        for leaf in gone {
            for (nth, page) in (0..).zip(pages_of(&leaf)) {
                let known = self
                    .known
                    .remove(&page)
                    .expect("told of a page that was not mapped");
                check(&leaf, nth, known);
                nr_told += 1;
                assert!((first..first + nr_pages).contains(&page));
            }
        }
        let left = self.known.range(first..first + nr_pages).count();
        assert_eq!(left, 0, "after {nr_told} pages were told");
    }

    fn protect(&mut self, rng: &mut Rng) {
        let (first, nr_pages) = self.random_range(rng);
        let to = *rng.pick(&KINDS);
        let mut gather = self.world.gather(&self.root);
        let done = self.world.mapper().protect_range(
            &mut self.root,
            range(first * PAGE, nr_pages * PAGE),
            &mut gather,
            |leaf| {
                if leaf.pte.is_present() {
                    let kept = leaf.flags() & PteFlags::AD;
                    leaf.pte.with_flags(to | kept, leaf.level)
                } else {
                    leaf.pte
                }
            },
        );
        gather.finish();
        if done.is_err() {
            assert!(matches!(done, Err(MapError::Alloc(_))));
            return;
        }
        for (_, known) in self.known.range_mut(first..first + nr_pages) {
            if known.flags.contains(PteFlags::P) {
                known.flags = to;
            }
        }
    }

    /// A program touches a page: the MMU must find what the oracle knows, and no stale translation.
    fn touch(&mut self, rng: &mut Rng) {
        let (page, _) = self.random_range(rng);
        let addr = VirtAddr::new(page * PAGE + rng.below(PAGE));
        let access = *rng.pick(&[Access::Read, Access::Write, Access::Execute]);
        let cpu = CpuId::new(u32::from(rng.one_in(2)));
        let machine = self.world.machine;
        let root = self.root.pfn();
        let mut result = machine.access(cpu, root, addr, access, Mode::User);
        if result.is_err() {
            // A translation whose rights were widened may fault once more.
            result = machine.access(cpu, root, addr, access, Mode::User);
        }
        let known = self.known.get_mut(&page);
        let known = known.filter(|known| known.flags.contains(PteFlags::P));
        match (result, known) {
            (Ok(phys), Some(known)) => {
                assert_eq!(phys.pfn().index(), known.pfn);
                assert_eq!(phys.page_offset(), addr.page_offset());
                assert!(allows(known.flags, access));
                known.written |= access == Access::Write;
            }
            (Err(Fault::Page(fault)), Some(known)) => {
                assert!(!allows(known.flags, access), "{fault}");
                assert_eq!(fault.error_code & PageFault::PRESENT, PageFault::PRESENT);
            }
            (Err(Fault::Page(fault)), None) => assert_eq!(fault.error_code & PageFault::PRESENT, 0),
            (result, known) => panic!("{result:?} where the oracle has {known:?}"),
        }
    }

    fn has_large_page(&self) -> bool {
        let windows = self.windows.iter();
        let mut spans = windows.flat_map(|start| {
            self.world
                .spans(&self.root, range(*start, PAGES_EACH * PAGE))
        });
        spans.any(|span| matches!(span, Span::Mapped(leaf) if leaf.level == Level::Pmd))
    }

    /// Compares everything: by the mapper's reading and by the MMU's.
    fn compare(&self) {
        let world = self.world;
        for window in self.windows {
            let mut next = window / PAGE;
            let mut after_hole = false;
            for span in world.spans(&self.root, range(window, PAGES_EACH * PAGE)) {
                let Span::Hole(hole) = &span else {
                    let (Span::Mapped(leaf) | Span::NotPresent(leaf)) = span else {
                        panic!("unknown span");
                    };
                    assert_eq!(leaf.va.page_number(), next);
                    for (nth, page) in (0..).zip(pages_of(&leaf)) {
                        check(&leaf, nth, self.known[&page]);
                    }
                    next += leaf.nr_pages() as u64;
                    after_hole = false;
                    continue;
                };
                assert!(!after_hole, "two holes in a row");
                after_hole = true;
                assert_eq!(hole.start.page_number(), next);
                next = hole.end.page_number();
                let inside = self.known.range(hole.start.page_number()..next).next();
                assert_eq!(inside, None);
            }
            assert_eq!(next, window / PAGE + PAGES_EACH);
            for page in window / PAGE..next {
                let addr = VirtAddr::new(page * PAGE);
                let known = self.known.get(&page);
                let known = known.filter(|known| known.flags.contains(PteFlags::P));
                let seen = world.machine.translation(self.root.pfn(), addr);
                let frames = seen.map(|seen| (seen.phys + (addr - seen.va)).pfn().index());
                assert_eq!(frames, known.map(|known| known.pfn), "{addr}");
                if let (Some(seen), Some(known)) = (seen, known) {
                    assert_eq!(seen.writable, allows(known.flags, Access::Write));
                    assert_eq!(seen.executable, allows(known.flags, Access::Execute));
                    assert!(seen.user);
                }
            }
        }
    }
}

fn allows(flags: PteFlags, access: Access) -> bool {
    match access {
        Access::Read => true,
        Access::Write => flags.contains(PteFlags::RW),
        Access::Execute => !flags.contains(PteFlags::NX),
    }
}

fn pages_of(leaf: &Leaf) -> core::ops::Range<u64> {
    let first = leaf.va.page_number();
    first..first + leaf.nr_pages() as u64
}

/// Whether page `nth` of `leaf` is what the oracle knows; hardware may have set A, must have set D where it wrote.
fn check(leaf: &Leaf, nth: usize, known: Known) {
    assert_eq!(leaf.pfn().index() + nth, known.pfn);
    let flags = leaf.flags() - PteFlags::AD - PteFlags::PS;
    assert_eq!(flags, known.flags - PteFlags::AD);
    assert!(
        !known.written || leaf.flags().contains(PteFlags::D),
        "a dirty bit was lost"
    );
}

fn random_operations(levels: Levels, seed: u64) {
    seeded(seed, |rng| {
        let world = World::new(levels);
        let (_kernel, half) = world.kernel();
        let before = world.tables.nr_tables();
        let outside = world.pages.inner().outstanding();
        let root = world.mapper().alloc_user_root(half).unwrap();
        let across_gib = 5 * common::GIB - MIB_2;
        let across_top = levels.user_end().as_u64() / 2 - MIB_2;
        let mut model = Model {
            world: &world,
            root,
            windows: [across_gib, across_top],
            known: BTreeMap::new(),
        };
        let (mut nr_refused, mut nr_large) = (0, 0);
        for _ in 0..1500 {
            if rng.one_in(2) {
                world.pages.fail_at(rng.below(2));
            }
            let failed = world.pages.nr_failed();
            match rng.below(8) {
                0..=2 => model.map(rng),
                3 => model.set_slot(rng),
                4 | 5 => model.unmap(rng),
                _ => model.protect(rng),
            }
            world.pages.disarm();
            nr_refused += world.pages.nr_failed() - failed;
            nr_large += usize::from(model.has_large_page());
            for _ in 0..20 {
                model.touch(rng);
            }
            model.compare();
            let nr_tables = world.tables.nr_tables();
            assert_eq!(nr_tables, world.machine.ptes().nr_tables());
            assert_eq!(
                nr_tables,
                before + 1 + world.tables_wanted(&model.root),
                "tables"
            );
        }
        assert!(nr_refused > 20, "failures were injected: {nr_refused}");
        assert!(nr_large > 100, "large pages were seen: {nr_large}");

        let mut root = model.root;
        let mut gather = world.gather(&root);
        let mut nr_left = 0;
        world
            .mapper()
            .free_user_tables(&mut root, &mut gather, |leaf, _| {
                nr_left += leaf.nr_pages();
            });
        assert_eq!(nr_left, model.known.len());
        world.mapper().free_root(root, &mut gather);
        gather.finish();
        assert_eq!(world.tables.nr_tables(), before);
        assert_eq!(world.pages.inner().outstanding(), outside);
    });
}

#[test]
fn random_operations_match_the_oracle_with_four_levels() {
    random_operations(Levels::Four, 0x6b6d_6d04);
}

#[test]
fn random_operations_match_the_oracle_with_five_levels() {
    random_operations(Levels::Five, 0x6b6d_6d05);
}
