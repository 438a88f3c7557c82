//! Writing to a free page is found out when it is handed out again.
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use common::{Log, Pool, bits, fill, frames, machine, read, req, source};
use kmm_frame::{Gfp, PAGE_SIZE, Pfn};
use kmm_host::PageSource;
use kmm_layers::{Corruption, POISON, Poisoner};
use kmm_sim::seeded;

/// What was written where, in frames that are free.
type Written = BTreeMap<(Pfn, usize), u8>;

/// What has to be reported of a frame.
fn expected(written: &Written, pfn: Pfn) -> Option<(usize, usize, u32)> {
    let wrong: Vec<_> = written
        .range((pfn, 0)..(pfn + 1, 0))
        .filter(|(_, byte)| **byte != 0xaa)
        .collect();
    let first = wrong.first()?.0.1;
    let last = wrong.last()?.0.1;
    let bits = wrong
        .iter()
        .map(|(_, byte)| (**byte ^ 0xaa).count_ones())
        .sum();
    Some((first, last - first + 1, bits))
}

#[test]
fn what_was_written_to_free_pages_is_reported_and_nothing_else() {
    seeded(0xaa, |rng| {
        let machine = machine();
        let log: Log<Corruption> = Log::new();
        let source = Pool::new(machine);
        let pages = Poisoner::new(
            &source,
            *machine.phys(),
            frames(machine),
            bits(frames(machine)),
            |c| {
                log.push(*c);
            },
        );
        let mut live = Vec::new();
        let mut free: Vec<Pfn> = Vec::new();
        let mut written = Written::new();
        let mut found = 0;
        for _ in 0..3000 {
            match rng.below(4) {
                0 | 1 => {
                    let gfp = *rng.pick(&[Gfp::KERNEL, Gfp::KERNEL | Gfp::ZERO]);
                    let Ok(mut block) = pages.alloc(req(rng.below(3) as u8, gfp)) else {
                        continue;
                    };
                    let mut reports = log.take().into_iter();
                    for pfn in block.range().iter() {
                        if let Some((offset, len, nr_bits)) = expected(&written, pfn) {
                            let report = reports.next().unwrap();
                            assert_eq!((report.pfn, report.offset, report.len), (pfn, offset, len));
                            assert_eq!(
                                (report.nr_bits, report.is_single_bit()),
                                (nr_bits, nr_bits == 1)
                            );
                            found += 1;
                        }
                        written.retain(|(other, _), _| *other != pfn);
                        free.retain(|other| *other != pfn);
                        if gfp.contains(Gfp::ZERO) {
                            assert!(read(machine, pfn).iter().all(|byte| *byte == 0));
                        }
                    }
                    assert_eq!(reports.next(), None);
                    fill(machine, &mut block, 0x5a);
                    live.push(block);
                }
                2 if !live.is_empty() => {
                    let block = live.swap_remove(rng.index(live.len()));
                    free.extend(block.range().iter());
                    pages.free(block);
                }
                3 if !free.is_empty() => {
                    let pfn = *rng.pick(&free);
                    let offset = rng.index(PAGE_SIZE);
                    let byte = if rng.one_in(2) {
                        POISON ^ (1 << rng.below(8))
                    } else {
                        rng.next_u64() as u8
                    };
                    machine.write_phys(pfn.phys() + offset as u64, &[byte]);
                    written.insert((pfn, offset), byte);
                }
                _ => {}
            }
        }
        assert!(found > 20, "{found} corruptions found");
        live.into_iter().for_each(|block| pages.free(block));
        source.assert_nothing_outstanding();
    });
}

#[test]
fn frames_that_were_never_freed_here_are_not_looked_at() {
    let machine = machine();
    let log = Log::new();
    let all = frames(machine);
    // Room for bits of the first 64 frames only.
    let pages = Poisoner::new(
        source(machine),
        *machine.phys(),
        all,
        &bits(all)[..1],
        |c: &Corruption| log.push(*c),
    );
    let blocks: Vec<_> = (0..128)
        .map(|_| pages.alloc(req(0, Gfp::KERNEL)).unwrap())
        .collect();
    assert_eq!(log.take(), []);
    let outside = blocks
        .iter()
        .filter(|block| block.pfn() - all.start() >= 64)
        .count();
    assert!(outside > 0);
    blocks.into_iter().for_each(|block| pages.free(block));
}

#[test]
fn reports_say_where_and_what() {
    let report = |offset, len, nr_bits, first| {
        let mut bytes = [POISON; Corruption::SHOWN];
        bytes[0] = first;
        Corruption {
            pfn: Pfn::new(0x10),
            offset,
            len,
            bytes,
            nr_bits,
        }
        .to_string()
    };
    assert_eq!(
        report(7, 1, 1, 0xab),
        "pagealloc: single bit error: pfn 0x10 offset 0x7 length 1: ab"
    );
    assert_eq!(
        report(4090, 3, 9, 0),
        "pagealloc: memory corruption: pfn 0x10 offset 0xffa length 3: 00 aa aa"
    );
    let long = report(0, 4096, 99, 1);
    assert!(
        long.ends_with(": 01 aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa"),
        "{long}"
    );
}
