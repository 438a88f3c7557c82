//! Areas of a program against a map of its pages: access of each page, nothing more.

use std::collections::BTreeMap;

use kmm_frame::{PAGE_SIZE, VirtAddr};
use kmm_vma::{Limits, Mm, MmLayout, MmapReq, Prot, VmFlags};

use crate::Tape;

const PAGE: u64 = PAGE_SIZE as u64;
const FIRST: u64 = 4;
const END: u64 = 200;
const PROTS: [Prot; 4] = [
    Prot::empty(),
    Prot::READ,
    Prot::READ.union(Prot::WRITE),
    Prot::READ.union(Prot::EXEC),
];

/// Runs an input.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let layout = MmLayout {
        min_addr: VirtAddr::new(FIRST * PAGE),
        task_size: VirtAddr::new(END * PAGE),
        mmap_base: VirtAddr::new((END - 16) * PAGE),
        stack_guard_gap_bytes: 3 * PAGE,
    };
    let limits = Limits {
        map_count: 4 + tape.below(60),
        ..Limits::default()
    };
    let mut mm: Mm<u32> = Mm::new(layout, limits);
    let mut model: BTreeMap<u64, Prot> = BTreeMap::new();
    while !tape.is_empty() {
        let first = tape.below(END as usize + 4) as u64;
        let nr_pages = tape.below(40) as u64;
        let odd = tape.pick(&[0, 0, 0, 0, 1, 4095]);
        let (addr, len) = (VirtAddr::new(first * PAGE), nr_pages * PAGE + odd);
        let prot = tape.pick(&PROTS);
        let before = mm.map_count();
        match tape.below(6) {
            0 | 1 => {
                let req = MmapReq::anonymous(len, prot).fixed_at(addr);
                if let Ok(mapped) = mm.mmap(req) {
                    assert_eq!(mapped.range.start, addr);
                    set(&mut model, &mapped.range, Some(prot));
                }
            }
            2 => {
                let req = MmapReq::anonymous(len, prot);
                if let Ok(mapped) = mm.mmap(req) {
                    let pages =
                        mapped.range.start.as_u64() / PAGE..mapped.range.end.as_u64() / PAGE;
                    assert!(model.range(pages).next().is_none(), "over what was there");
                    set(&mut model, &mapped.range, Some(prot));
                }
            }
            3 => match mm.munmap(addr, len) {
                Ok(range) => set(&mut model, &range, None),
                Err(_) => assert_eq!(mm.map_count(), before),
            },
            4 => match mm.mprotect(addr, len, prot) {
                Ok(_) => {
                    let end = addr.as_u64() + len.next_multiple_of(PAGE);
                    set(&mut model, &(addr..VirtAddr::new(end)), Some(prot));
                }
                Err(_) => assert_eq!(mm.map_count(), before),
            },
            _ => {
                let found = mm.lookup(addr).map(|(_, vma)| vma.flags);
                assert_eq!(found.map(access), model.get(&first).copied());
            }
        }
        mm.validate();
        check(&mm, &model);
    }
    let copy = mm.fork().expect("memory");
    check(&copy, &model);
}

fn set(model: &mut BTreeMap<u64, Prot>, range: &core::ops::Range<VirtAddr>, prot: Option<Prot>) {
    for page in range.start.as_u64() / PAGE..range.end.as_u64() / PAGE {
        match prot {
            Some(prot) => model.insert(page, prot),
            None => model.remove(&page),
        };
    }
}

fn access(flags: VmFlags) -> Prot {
    let bits = [
        (VmFlags::READ, Prot::READ),
        (VmFlags::WRITE, Prot::WRITE),
        (VmFlags::EXEC, Prot::EXEC),
    ];
    let set = bits.into_iter().filter(|(flag, _)| flags.contains(*flag));
    set.fold(Prot::empty(), |all, (_, prot)| all | prot)
}

fn check(mm: &Mm<u32>, model: &BTreeMap<u64, Prot>) {
    let pages = mm.iter().flat_map(|(range, vma)| {
        let prot = access(vma.flags);
        (range.start.as_u64() / PAGE..range.end.as_u64() / PAGE).map(move |page| (page, prot))
    });
    assert!(pages.eq(model.iter().map(|(page, prot)| (*page, *prot))));
    assert_eq!(mm.total_vm_pages(), model.len() as u64);
}
