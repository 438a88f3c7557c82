//! Nodes from the firmware's tables SRAT and SLIT (ACPI 6.5, 5.2.16 and 5.2.17). Linux: drivers/acpi/numa/srat.c.
//!
//! The tables are bytes that anybody may have written: lengths, sums and every value are checked, and whatever they say,
//! the result is a [`Topology`] in which each frame of RAM is of a node. A table that makes no sense is not used at all;
//! [`NumaReport`] says why.

mod acpi;

use core::fmt;

use kmm_frame::{MAX_NODES, NodeId, PfnRange, Topology, TopologyError};

use acpi::{
    Affinity, ENTRY_CPU, ENTRY_MEMORY, ENTRY_X2APIC, Memory, REVISION, SLIT_FIXED_LEN,
    SLIT_LOCALITIES, SRAT_FIXED_LEN, entries, read_u64, table,
};

/// What a machine says of its nodes.
#[derive(Clone, Copy, Debug)]
pub struct NumaTables<'a> {
    /// The System Resource Affinity Table, header and all.
    pub srat: &'a [u8],
    /// The System Locality Distance Information Table, if there is one.
    pub slit: Option<&'a [u8]>,
    /// The local APIC ids of the CPUs, by CPU number.
    pub apic_ids: &'a [u32],
    /// What is RAM, upwards, disjoint.
    pub ram: &'a [PfnRange],
}

/// Why a table was not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NumaError {
    /// It is shorter than its fixed part, or than it says.
    Length,
    /// It is another table.
    Signature,
    /// Its bytes do not add up to 0.
    Checksum,
    /// An entry is shorter than its kind has to be, or reaches out of the table.
    Entry,
    /// A range of memory wraps around.
    Range,
    /// Ranges of two nodes overlap.
    Overlap,
    /// More ranges than a [`Topology`] holds.
    TooManyRanges,
    /// More proximity domains than [`MAX_NODES`].
    TooManyNodes,
    /// It says of no memory whose it is.
    NoMemory,
    /// A distance to itself that is not 10, or one to another node that is not more.
    Distance,
}

impl fmt::Display for NumaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "shorter than it says",
            Self::Signature => "wrong signature",
            Self::Checksum => "wrong checksum",
            Self::Entry => "entry of wrong length",
            Self::Range => "range of memory wraps around",
            Self::Overlap => "ranges of two nodes overlap",
            Self::TooManyRanges => "too many ranges of memory",
            Self::TooManyNodes => "too many proximity domains",
            Self::NoMemory => "no memory in it",
            Self::Distance => "distances make no sense",
        })
    }
}

impl core::error::Error for NumaError {}

impl From<TopologyError> for NumaError {
    fn from(error: TopologyError) -> Self {
        match error {
            TopologyError::Overlap => Self::Overlap,
            TopologyError::TooManyRanges => Self::TooManyRanges,
            TopologyError::Distance => Self::Distance,
            _ => Self::TooManyNodes,
        }
    }
}

/// The nodes, and what of the tables was left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NumaReport {
    /// The nodes. One that has everything if the SRAT was not used.
    pub topology: Topology,
    /// Why the SRAT was not used.
    pub srat_error: Option<NumaError>,
    /// Why the SLIT was not used: every other node is 20 away then.
    pub slit_error: Option<NumaError>,
    /// Which proximity domain became which node.
    pub domains: Domains,
    /// Ranges of the SRAT that were left out since they hold no RAM: room for memory to be plugged in, mostly.
    pub nr_without_ram: usize,
    /// Ranges in force that can be unplugged.
    pub nr_hotpluggable: usize,
    /// Ranges in force that keep what is in them without power.
    pub nr_non_volatile: usize,
    /// Entries that are not enabled, or of a kind that says nothing of memory or of these CPUs.
    pub nr_ignored: usize,
    /// CPUs of the SRAT that the machine does not have.
    pub nr_unknown_cpus: usize,
    /// Frames of RAM that the SRAT says nothing of. They went to the node below them, else to node 0.
    pub nr_pages_nowhere: usize,
}

/// Proximity domains by node. Linux: `pxm_to_node`, `node_to_pxm`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Domains {
    of_node: [u32; MAX_NODES],
    len: usize,
}

impl Domains {
    /// The domain of each node.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        &self.of_node[..self.len]
    }

    /// The node of a domain.
    #[must_use]
    pub fn node(&self, domain: u32) -> Option<NodeId> {
        let node = self.as_slice().iter().position(|&known| known == domain)?;
        u8::try_from(node).ok().map(NodeId::new)
    }

    fn add(&mut self, domain: u32) -> Result<(), NumaError> {
        if self.node(domain).is_none() {
            let slot = self.of_node.get_mut(self.len);
            *slot.ok_or(NumaError::TooManyNodes)? = domain;
            self.len += 1;
        }
        Ok(())
    }
}

impl NumaReport {
    /// Reads the tables.
    #[must_use]
    pub fn read(tables: &NumaTables<'_>) -> Self {
        let mut report = match Self::read_srat(tables) {
            Ok(report) => report,
            Err(error) => {
                return Self {
                    srat_error: Some(error),
                    ..Self::single()
                };
            }
        };
        if let Some(slit) = tables.slit {
            report.slit_error = report.read_slit(slit).err();
        }
        report
    }

    /// One node.
    const fn single() -> Self {
        Self {
            topology: Topology::single(),
            srat_error: None,
            slit_error: None,
            domains: Domains {
                of_node: [0; MAX_NODES],
                len: 1,
            },
            nr_without_ram: 0,
            nr_hotpluggable: 0,
            nr_non_volatile: 0,
            nr_ignored: 0,
            nr_unknown_cpus: 0,
            nr_pages_nowhere: 0,
        }
    }

    fn read_srat(tables: &NumaTables<'_>) -> Result<Self, NumaError> {
        let srat = table(tables.srat, *b"SRAT", SRAT_FIXED_LEN)?;
        let revision = srat[REVISION];
        let mut report = Self::single();
        report.domains = collect_domains(srat, revision)?;
        report.topology = Topology::new(report.domains.len).map_err(|_| NumaError::NoMemory)?;
        // What the table says, RAM or not: a table whose ranges overlap cannot be trusted.
        let mut claimed = report.topology.clone();
        let mut any_memory = false;
        for entry in entries(srat) {
            match Affinity::read(entry?, revision)? {
                None => report.nr_ignored += 1,
                Some(Affinity::Cpu { apic_id, domain }) => {
                    report.add_cpu(tables, apic_id, domain)?
                }
                Some(Affinity::Memory(memory)) => {
                    any_memory = true;
                    let node = report.domains.node(memory.domain);
                    let node = node.ok_or(NumaError::TooManyNodes)?;
                    claimed.add_range(memory.range, node)?;
                    report.add_memory(tables, &memory, node)?;
                }
            }
        }
        if !any_memory {
            return Err(NumaError::NoMemory);
        }
        report.nr_pages_nowhere = cover(&mut report.topology, tables.ram)?;
        Ok(report)
    }

    fn add_cpu(
        &mut self,
        tables: &NumaTables<'_>,
        apic_id: u32,
        domain: u32,
    ) -> Result<(), NumaError> {
        let node = self.domains.node(domain).ok_or(NumaError::TooManyNodes)?;
        let cpu = tables.apic_ids.iter().position(|&known| known == apic_id);
        let known = cpu.map(|cpu| self.topology.set_cpu_node(cpu, node));
        if !matches!(known, Some(Ok(()))) {
            self.nr_unknown_cpus += 1;
        }
        Ok(())
    }

    fn add_memory(
        &mut self,
        tables: &NumaTables<'_>,
        memory: &Memory,
        node: NodeId,
    ) -> Result<(), NumaError> {
        let ram = ram_within(tables.ram, memory.range);
        if ram.is_empty() {
            self.nr_without_ram += 1;
            return Ok(());
        }
        self.nr_hotpluggable += usize::from(memory.is_hotpluggable());
        self.nr_non_volatile += usize::from(memory.is_non_volatile());
        self.topology.add_range(ram, node)?;
        Ok(())
    }

    fn read_slit(&mut self, slit: &[u8]) -> Result<(), NumaError> {
        let slit = table(slit, *b"SLIT", SLIT_FIXED_LEN)?;
        let nr = read_u64(slit, SLIT_LOCALITIES).ok_or(NumaError::Length)?;
        let nr = usize::try_from(nr).map_err(|_| NumaError::Length)?;
        let cells = nr.checked_mul(nr).ok_or(NumaError::Length)?;
        let matrix = slit[SLIT_FIXED_LEN..].get(..cells);
        let matrix = matrix.ok_or(NumaError::Length)?;
        let cell = |from: usize, to: usize| matrix[from * nr + to];
        // Linux: `slit_valid`.
        let is_valid = |from, to| match cell(from, to) {
            distance if from == to => distance == kmm_frame::LOCAL_DISTANCE,
            distance => distance > kmm_frame::LOCAL_DISTANCE,
        };
        if !(0..nr).all(|from| (0..nr).all(|to| is_valid(from, to))) {
            return Err(NumaError::Distance);
        }
        let node_of = |row: usize| {
            u32::try_from(row)
                .ok()
                .and_then(|row| self.domains.node(row))
        };
        for from in 0..nr {
            let Some(node) = node_of(from) else { continue };
            for to in 0..nr {
                if let Some(other) = node_of(to) {
                    self.topology.set_distance(node, other, cell(from, to))?;
                }
            }
        }
        Ok(())
    }
}

/// The domains in the order in which Linux meets them: first x2APIC CPUs, then other CPUs, then memory.
fn collect_domains(srat: &[u8], revision: u8) -> Result<Domains, NumaError> {
    let mut domains = Domains::default();
    for kind in [ENTRY_X2APIC, ENTRY_CPU, ENTRY_MEMORY] {
        for entry in entries(srat) {
            let entry = entry?;
            if entry[0] == kind {
                match Affinity::read(entry, revision)? {
                    Some(Affinity::Cpu { domain, .. }) => domains.add(domain)?,
                    Some(Affinity::Memory(memory)) => domains.add(memory.domain)?,
                    None => {}
                }
            }
        }
    }
    Ok(domains)
}

/// From the first to the last frame of RAM in `range`.
fn ram_within(ram: &[PfnRange], range: PfnRange) -> PfnRange {
    let parts = ram.iter().map(|part| part.intersect(range));
    let mut parts = parts.filter(|part| !part.is_empty());
    let Some(first) = parts.next() else {
        return PfnRange::EMPTY;
    };
    let last = parts.next_back().unwrap_or(first);
    PfnRange::new(first.start(), last.end())
}

/// Gives RAM that is nobody's to the node below it, else to node 0; how many frames.
fn cover(topology: &mut Topology, ram: &[PfnRange]) -> Result<usize, NumaError> {
    let mut nr_pages = 0;
    for part in ram {
        let mut start = part.start();
        while start < part.end() {
            let rest = PfnRange::new(start, part.end());
            let mut taken = topology.ranges().iter();
            let next = taken.find_map(|taken| {
                let common = taken.range.intersect(rest);
                (!common.is_empty()).then_some(common)
            });
            let next = next.unwrap_or(PfnRange::new(part.end(), part.end()));
            let gap = PfnRange::new(start, next.start());
            let node = topology.node_of(gap.start());
            topology.add_range(gap, node)?;
            nr_pages += gap.nr_pages();
            start = next.end();
        }
    }
    Ok(nr_pages)
}
