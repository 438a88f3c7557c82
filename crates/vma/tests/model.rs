//! Random edits of a small address space against a map of its pages, compared page by page after each, with limits
//! that are met and allocations that fail.
#![allow(clippy::cast_possible_truncation, reason = "numbers of a small window")]

mod common;

use core::ops::Range;

use common::oracle::{Most, Oracle};
use common::{END, MIN, PAGE, small_layout, va};
use kmm_frame::VirtAddr;
use kmm_sim::{FailingHeap, Rng, seeded};
use kmm_vma::{Limits, MapFlags, Mm, MmapReq, Prot, RemapFlags, RemapReq, VmFlags, VmaError};

const MAY_ALL: VmFlags = VmFlags::MAYREAD
    .union(VmFlags::MAYWRITE)
    .union(VmFlags::MAYEXEC);

/// Files 1 to 4: all rights; read-only; write-only; not executable.
const FILES: [VmFlags; 4] = [
    MAY_ALL,
    VmFlags::MAYREAD.union(VmFlags::MAYEXEC),
    VmFlags::MAYWRITE,
    VmFlags::MAYREAD.union(VmFlags::MAYWRITE),
];

struct Script {
    rng: Rng,
    mm: Mm<u32>,
    oracle: Oracle,
    /// How often each kind of operation was done and not refused.
    done: [u32; 8],
    injected: u32,
    /// The operation, told when it goes wrong.
    now: String,
}

fn pages(range: &Range<VirtAddr>) -> Range<u64> {
    range.start.as_u64() / PAGE..range.end.as_u64() / PAGE
}

impl Script {
    fn new(mut rng: Rng) -> Self {
        let most = Most {
            total: 40 + rng.below(40),
            data: 20 + rng.below(40),
            stack: 3 + rng.below(12),
            locked: 6 + rng.below(20),
            areas: 8 + rng.below(20) as usize,
        };
        let limits = Limits {
            address_space_bytes: most.total * PAGE + 5,
            data_bytes: most.data * PAGE,
            stack_bytes: most.stack * PAGE,
            locked_bytes: most.locked * PAGE,
            map_count: most.areas,
        };
        let mut script = Self {
            rng,
            mm: Mm::new(small_layout(), limits),
            oracle: Oracle::new(most),
            done: [0; 8],
            injected: 0,
            now: String::new(),
        };
        script.set_heap();
        script
    }

    fn set_heap(&mut self) {
        let start = (MIN + self.rng.below(30)) * PAGE + self.rng.below(2) * 100;
        self.mm.set_brk_start(VirtAddr::new(start));
        (self.oracle.start_brk, self.oracle.brk) = (start, start);
    }

    fn addr(&mut self) -> u64 {
        let stray = u64::from(self.rng.one_in(20)) * 24;
        self.rng.below(END + 2) * PAGE + stray
    }

    fn len(&mut self) -> u64 {
        match self.rng.below(40) {
            0 => 0,
            1 => u64::MAX - self.rng.below(2 * PAGE),
            2 => self.rng.below(2 * END) * PAGE,
            n if n < 8 => self.rng.below(12 * PAGE),
            _ => (1 + self.rng.below(9)) * PAGE,
        }
    }

    fn prot(&mut self) -> Prot {
        Prot::from_bits_truncate(*self.rng.pick(&[0, 1, 1, 3, 3, 3, 5, 7, 2]))
    }

    /// Runs one operation on both, with an allocation that fails now and then; then the two must agree. A failed
    /// allocation may refuse what the oracle allows: then nothing may have changed.
    fn both<R, O: core::fmt::Debug>(
        &mut self,
        kind: usize,
        real: impl FnOnce(&mut Mm<u32>) -> Result<R, VmaError>,
        model: impl FnOnce(&mut Oracle) -> Result<O, VmaError>,
    ) -> Option<(R, O)> {
        let before = self.oracle.clone();
        let expected = model(&mut self.oracle);
        let fails = self.rng.one_in(3);
        let result = if fails {
            let allowed = self.rng.below(2) as u32;
            FailingHeap::after(allowed, || real(&mut self.mm))
        } else {
            real(&mut self.mm)
        };
        let both = match (result, expected) {
            (Ok(result), Ok(expected)) => {
                self.done[kind] += 1;
                Some((result, expected))
            }
            (Err(VmaError::NoMemory), Ok(_)) if fails => {
                self.injected += 1;
                self.oracle = before;
                None
            }
            (Err(got), Err(expected)) => {
                assert_eq!(got, expected, "{}", self.now);
                None
            }
            (Ok(_), Err(expected)) => panic!("allowed, but {expected:?}: {}", self.now),
            (Err(got), Ok(expected)) => panic!("{got:?}, but {expected:?}: {}", self.now),
        };
        self.oracle.assert_same(&self.mm, &self.now);
        both
    }

    fn mmap(&mut self) {
        let addr = if self.rng.one_in(4) { 0 } else { self.addr() };
        let mut flags = *self.rng.pick(&[2, 2, 2, 2, 1, 1, 3, 0]);
        flags |= *self.rng.pick(&[0, 0, 0x10, 0x10, 0x10, 0x10_0000]);
        for (bit, rare) in [(0x100, 8), (0x2000, 6), (0x4000, 12)] {
            if self.rng.one_in(rare) {
                flags |= bit;
            }
        }
        let file = *self.rng.pick(&[0, 0, 1, 1, 1, 2, 3, 4, 5]);
        let req = MmapReq {
            addr: VirtAddr::new(addr),
            len_bytes: self.len(),
            prot: self.prot(),
            flags: MapFlags::from_bits_truncate(if file == 5 { flags | 0x20 } else { flags }),
            file: (file > 0).then(|| {
                let odd = u64::from(self.rng.one_in(8));
                let pgoff = if self.rng.one_in(60) {
                    u64::MAX - 1
                } else {
                    addr / PAGE + odd
                };
                (file, pgoff)
            }),
            may: FILES
                .get(file as usize - usize::from(file > 0))
                .map_or(VmFlags::empty(), |may| *may),
        };
        let for_model = req.clone();
        self.now = format!("{req:x?}");
        let both = self.both(0, |mm| mm.mmap(req), |oracle| oracle.mmap(&for_model));
        if let Some((mapped, (range, replaced))) = both {
            assert_eq!(pages(&mapped.range), range);
            assert_eq!(mapped.replaced, replaced);
        }
    }

    fn munmap(&mut self) {
        let (addr, len) = (self.addr(), self.len());
        self.now = format!("munmap {addr:#x} {len:#x}");
        let both = self.both(
            1,
            |mm| mm.munmap(VirtAddr::new(addr), len),
            |oracle| oracle.munmap(addr, len),
        );
        if let Some((range, expected)) = both {
            assert_eq!(pages(&range), expected);
        }
    }

    fn mprotect(&mut self) {
        let (addr, len, prot) = (self.addr(), self.len(), self.prot());
        self.now = format!("mprotect {addr:#x} {len:#x} {prot:?}");
        let both = self.both(
            2,
            |mm| mm.mprotect(VirtAddr::new(addr), len, prot),
            |oracle| oracle.mprotect(addr, len, u64::from(prot.bits())),
        );
        if let Some((protected, changed)) = both {
            assert_eq!(!protected.range.is_empty(), changed);
            if changed {
                assert_eq!(protected.range.start.as_u64(), addr);
                assert_eq!(
                    protected.range.end.as_u64(),
                    (addr + len).div_ceil(PAGE) * PAGE
                );
            }
        }
    }

    fn set_flags(&mut self) {
        let first = self.rng.below(END);
        let range = first..first + 1 + self.rng.below(6);
        let flags = *self
            .rng
            .pick(&[VmFlags::DONTEXPAND, VmFlags::PFNMAP, VmFlags::DONTCOPY]);
        let set = self.rng.one_in(3);
        let at = va(range.start)..va(range.end);
        self.now = format!("flags {range:?} {flags:?} {set}");
        let _ = self.both(
            3,
            |mm| {
                if set {
                    mm.set_flags(at, flags)
                } else {
                    mm.clear_flags(at, flags)
                }
            },
            |oracle| {
                oracle.reflag(&range, |old| {
                    if set {
                        old | flags.bits()
                    } else {
                        old & !flags.bits()
                    }
                })
            },
        );
    }

    fn mremap(&mut self) {
        let req = RemapReq {
            old_addr: VirtAddr::new(self.addr()),
            old_len_bytes: self.len(),
            new_len_bytes: self.len(),
            flags: RemapFlags::from_bits_truncate(*self.rng.pick(&[0, 1, 1, 3, 3, 3, 2])),
            new_addr: VirtAddr::new(self.addr()),
        };
        self.now = format!("{req:x?}");
        let target = self.mm.remap_target(&req);
        let injected = self.injected;
        let mut refused = None;
        let real = |mm: &mut Mm<u32>| mm.mremap(&req).inspect_err(|&error| refused = Some(error));
        let both = self.both(4, real, |oracle| oracle.mremap(&req));
        if self.injected == injected {
            let told = target.as_ref().err().copied();
            assert_eq!(
                told, refused,
                "remap_target told something else: {}",
                self.now
            );
        }
        let Some((remap, moved)) = both else {
            return;
        };
        assert_eq!(pages(&remap.range), moved.range);
        assert_eq!(remap.moved_from.as_ref().map(pages), moved.from);
        let dropped: Vec<_> = remap.dropped.iter().flatten().map(pages).collect();
        let expected: Vec<_> = moved
            .dropped
            .into_iter()
            .filter(|r| !r.is_empty())
            .collect();
        assert_eq!(dropped, expected);
        let expected = remap.moved_from.map(|from| {
            let start = remap.range.start;
            start..start + (from.end - from.start)
        });
        assert_eq!(target, Ok(expected), "remap_target told something else");
    }

    fn brk(&mut self) {
        if self.rng.one_in(30) {
            self.set_heap();
        }
        let new = match self.rng.below(4) {
            0 => self.rng.below(END * PAGE),
            1 => self.oracle.brk.saturating_sub(self.rng.below(3 * PAGE)),
            _ => self.oracle.brk + self.rng.below(4 * PAGE),
        };
        self.now = format!("brk {new:#x}");
        let both = self.both(
            5,
            |mm| {
                let old = mm.current_brk();
                match mm.brk(VirtAddr::new(new)) {
                    (end, None) if end == old && end.as_u64() != new => Err(VmaError::NoMemory),
                    done => Ok(done),
                }
            },
            |oracle| {
                let old = oracle.brk;
                match oracle.brk(new) {
                    None if oracle.brk == old && old != new => Err(VmaError::NoMemory),
                    gone => Ok((gone, oracle.brk)),
                }
            },
        );
        if let Some(((end, dropped), (gone, brk))) = both {
            assert_eq!(end.as_u64(), brk);
            assert_eq!(dropped.as_ref().map(pages), gone);
        }
    }

    fn expand_stack(&mut self) {
        let addr = self.addr();
        self.now = format!("stack {addr:#x}");
        let _ = self.both(
            6,
            |mm| mm.expand_stack(VirtAddr::new(addr)),
            |oracle| oracle.expand_stack(addr),
        );
    }

    fn fork(&mut self) {
        let child = self.mm.fork().expect("memory for a child");
        self.oracle.fork().assert_same(&child, "fork");
        if self.rng.one_in(2) {
            self.mm = child;
            self.oracle = self.oracle.fork();
        }
        self.done[7] += 1;
    }

    fn mapped_range(&mut self) {
        let (addr, len) = (self.addr(), self.len());
        let end = addr.checked_add(len);
        let end = end.and_then(|end| end.checked_next_multiple_of(PAGE));
        let expected = match end {
            Some(end) if addr % PAGE == 0 => {
                let range = addr / PAGE..end / PAGE;
                let mapped = |page| self.oracle.pages.contains_key(&page);
                if range.clone().all(mapped) {
                    Ok(range)
                } else {
                    Err(VmaError::NoMemory)
                }
            }
            _ => Err(VmaError::Invalid),
        };
        let got = self.mm.mapped_range(VirtAddr::new(addr), len);
        assert_eq!(got.map(|range| pages(&range)), expected);
    }

    fn step(&mut self) {
        match self.rng.below(24) {
            0..=7 => self.mmap(),
            8..=9 => self.munmap(),
            10..=13 => self.mprotect(),
            14 => self.set_flags(),
            15..=18 => self.mremap(),
            19..=20 => self.brk(),
            21..=22 => self.expand_stack(),
            _ => {
                self.mapped_range();
                if self.rng.one_in(10) {
                    self.fork();
                }
            }
        }
    }
}

#[test]
fn random_edits_match_the_oracle() {
    seeded(0x5eed, |seeds| {
        let mut done = [0; 8];
        let mut injected = 0;
        for _ in 0..60 {
            let seed = seeds.next_u64();
            let mut script = Script::new(Rng::new(seed));
            for _ in 0..500 {
                script.step();
            }
            for (sum, n) in done.iter_mut().zip(script.done) {
                *sum += n;
            }
            injected += script.injected;
        }
        println!("done: {done:?}, refused by injected failures: {injected}");
        assert!(
            done.iter().all(|&n| n > 50),
            "a kind was hardly tried: {done:?}"
        );
        assert!(injected > 50, "few failures met anything: {injected}");
    });
}
