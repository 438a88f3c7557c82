//! SRAT and SLIT as anybody may have written them: whatever they say, each frame of RAM is of a node that exists.

use kmm::adapt::numa::{NumaReport, NumaTables};
use kmm_frame::{MAX_NODES, Pfn, PfnRange};

use crate::Tape;

const HEADER: usize = 36;
const CHECKSUM: usize = 9;
const LOCAL: u8 = 10;

/// Runs an input.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let mut ram = Vec::new();
    let mut next = 0;
    for _ in 0..tape.below(8) {
        let start = next + tape.below(1 << 16);
        let range = PfnRange::with_len(Pfn::new(start), 1 + tape.below(1 << 16));
        next = range.end().index();
        ram.push(range);
    }
    let apic_ids: Vec<u32> = (0..tape.below(20)).map(|_| tape.below(64) as u32).collect();
    let slit = tape.one_in(2).then(|| slit(&mut tape));
    let srat = srat(&mut tape);
    let report = NumaReport::read(&NumaTables {
        srat: &srat,
        slit: slit.as_deref(),
        apic_ids: &apic_ids,
        ram: &ram,
    });
    check(&report, &ram, apic_ids.len());
}

fn check(report: &NumaReport, ram: &[PfnRange], nr_cpus: usize) {
    let nodes = report.topology.nodes();
    assert!((1..=MAX_NODES).contains(&nodes.len()));
    let exists = |node| nodes.clone().any(|known| known == node);
    for range in ram {
        for pfn in [range.start(), range.end() - 1] {
            assert!(exists(report.topology.node_of(pfn)));
        }
    }
    for cpu in 0..nr_cpus {
        assert!(exists(report.topology.node_of_cpu(cpu)));
    }
    let ranges = report.topology.ranges();
    let are_apart = |pair: &[kmm_frame::NodeRange]| pair[0].range.end() <= pair[1].range.start();
    assert!(ranges.windows(2).all(are_apart));
    for from in nodes.clone() {
        for to in nodes.clone() {
            let distance = report.topology.distance(from, to);
            assert_eq!(
                distance == LOCAL,
                from == to,
                "{from:?} to {to:?}: {distance}"
            );
        }
    }
}

/// Header, fixed part, entries: mostly right, now and then a byte of it is not.
fn srat(tape: &mut Tape<'_>) -> Vec<u8> {
    let mut body = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for _ in 0..tape.below(40) {
        let domain = tape.pick(&[0, 1, 2, 5, 0x1_0203]) + u32::from(tape.one_in(8));
        let flags = tape.pick(&[1, 1, 1, 3, 5, 0]);
        if tape.one_in(2) {
            let [low, high @ ..] = domain.to_le_bytes();
            body.extend([0, 16, low, tape.byte()]);
            body.extend(u32::to_le_bytes(flags));
            body.push(0);
            body.extend(high);
            body.extend([0; 4]);
        } else {
            let start = tape.below(1 << 17) as u64 * 4096;
            let len = if tape.one_in(16) {
                tape.word()
            } else {
                tape.below(1 << 17) as u64 * 4096
            };
            body.extend([1, 40]);
            body.extend(domain.to_le_bytes());
            body.extend([0; 2]);
            body.extend(start.to_le_bytes());
            body.extend(len.to_le_bytes());
            body.extend([0; 4]);
            body.extend(flags.to_le_bytes());
            body.extend([0; 8]);
        }
    }
    sealed(b"SRAT", body, tape)
}

fn slit(tape: &mut Tape<'_>) -> Vec<u8> {
    let n = tape.below(6);
    let mut body = (n as u64).to_le_bytes().to_vec();
    for at in 0..n * n {
        let is_local = at % (n + 1) == 0;
        body.push(if is_local {
            LOCAL
        } else {
            11 + tape.byte() % 40
        });
    }
    sealed(b"SLIT", body, tape)
}

fn sealed(signature: &[u8; 4], body: Vec<u8>, tape: &mut Tape<'_>) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend(((HEADER + body.len()) as u32).to_le_bytes());
    table.resize(HEADER, 0);
    table.extend(body);
    for _ in 0..tape.below(4) {
        let at = tape.below(table.len());
        table[at] = tape.byte();
    }
    if !tape.one_in(16) {
        table[CHECKSUM] = 0;
        let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        table[CHECKSUM] = sum.wrapping_neg();
    }
    let len = table.len()
        - if tape.one_in(16) {
            tape.below(table.len())
        } else {
            0
        };
    table.truncate(len);
    table
}
