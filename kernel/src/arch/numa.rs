//! Which node memory and CPUs are of, from the ACPI tables SRAT and SLIT.
//!
//! They are read once, early, through the provisional direct map; what is in them is `kmm`'s business.
#![expect(unsafe_code, reason = "looks at tables as bytes")]

use acpi::sdt::{SdtHeader, Signature};
use acpi::{AcpiTable, PhysicalMapping};
use kmm::adapt::numa::{NumaReport, NumaTables};
use kmm::frame::{NodeId, PAGE_SIZE, PfnRange, Topology};

use super::acpi::{Handler, platform, tables};
use crate::boot::BootInfo;

#[repr(transparent)]
struct Srat(SdtHeader);

// SAFETY: a table begins with its header, and no more than that is read through the type.
unsafe impl AcpiTable for Srat {
    const SIGNATURE: Signature = Signature::SRAT;
    fn header(&self) -> &SdtHeader {
        &self.0
    }
}

#[repr(transparent)]
struct Slit(SdtHeader);

// SAFETY: as for the other.
unsafe impl AcpiTable for Slit {
    const SIGNATURE: Signature = Signature::SLIT;
    fn header(&self) -> &SdtHeader {
        &self.0
    }
}

/// The nodes of the machine whose RAM is `ram`: one where the firmware tells of none, or nothing that makes sense.
pub fn read(boot: &BootInfo, ram: &[PfnRange]) -> Topology {
    let Some(tables) = tables(boot).ok() else {
        return Topology::single();
    };
    let Ok(srat) = tables.find_table::<Srat>() else {
        println!("numa: no SRAT: one node");
        return Topology::single();
    };
    let slit = tables.find_table::<Slit>().ok();
    let apic_ids = platform().map_or(&[][..], |platform| platform.apic_ids());
    let report = NumaReport::read(&NumaTables {
        srat: bytes(&srat),
        slit: slit.as_ref().map(bytes),
        apic_ids,
        ram,
    });
    print(&report, apic_ids.len());
    report.topology
}

/// The table as bytes: as many as were mapped and checked.
fn bytes<T: AcpiTable>(table: &PhysicalMapping<Handler, T>) -> &[u8] {
    let start = table.virtual_start().cast::<u8>();
    // SAFETY: the mapping has that many bytes, and nobody changes tables.
    unsafe { core::slice::from_raw_parts(start.as_ptr(), table.region_length()) }
}

fn print(report: &NumaReport, nr_cpus: usize) {
    if let Some(error) = report.srat_error {
        println!("numa: SRAT not used: {error}; one node");
        return;
    }
    let topology = &report.topology;
    println!(
        "numa: {} nodes; left out: {} ranges without RAM, {} CPUs that are not there, {} other entries",
        topology.nr_nodes(),
        report.nr_without_ram,
        report.nr_unknown_cpus,
        report.nr_ignored,
    );
    if report.nr_pages_nowhere > 0 {
        let kib = report.nr_pages_nowhere * (PAGE_SIZE >> 10);
        println!("numa: {kib} KiB are of no node: given to the nearest below");
    }
    if let Some(error) = report.slit_error {
        println!("numa: SLIT not used: {error}");
    }
    for (node, domain) in topology.nodes().zip(report.domains.as_slice()) {
        print_node(topology, node, *domain, nr_cpus);
    }
}

fn print_node(topology: &Topology, node: NodeId, domain: u32, nr_cpus: usize) {
    print!("numa: node {}, domain {domain}: frames", node.index());
    for range in topology.ranges_of(node) {
        print!(" {}..{}", range.start(), range.end());
    }
    print!(", CPUs");
    for cpu in (0..nr_cpus).filter(|&cpu| topology.node_of_cpu(cpu) == node) {
        print!(" {cpu}");
    }
    print!(", distances");
    for other in topology.nodes() {
        print!(" {}", topology.distance(node, other));
    }
    println!();
}
