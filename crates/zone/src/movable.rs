//! How much of each node only movable pages may have. Linux: `find_zone_movable_pfns_for_nodes`, mm/mm_init.c.
//!
//! The machine says how much the kernel is to have (`kernelcore=`), or how much is to be movable (`movablecore=`). That is
//! spread over the nodes: each gives the kernel the same share of its lowest frames, a smaller node all it has, and those
//! that have more make up for it. Frames below the highest zone with memory are the kernel's anyway.

use core::fmt;

use kmm_frame::{MAX_NODES, MAX_ORDER, NodeId, Order, PAGE_SHIFT, Pfn, PfnRange, ZoneType};

use crate::NodeLayouts;
use crate::node::by_node;

/// A part of the memory of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Amount {
    /// So many frames.
    Pages(usize),
    /// So many hundredths; more than 100 count as 100.
    Percent(usize),
}

/// The text is no amount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAnAmount;

impl fmt::Display for NotAnAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither bytes with a suffix nor a percentage")
    }
}

impl core::error::Error for NotAnAmount {}

impl Amount {
    /// Nothing.
    pub const NONE: Self = Self::Pages(0);

    /// Reads the value of `kernelcore=` or `movablecore=`: `512M`, `2G`, `30%`, a plain number of bytes.
    /// Linux: `cmdline_parse_core`.
    ///
    /// # Errors
    /// [`NotAnAmount`].
    pub fn parse(text: &str) -> Result<Self, NotAnAmount> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, suffix) = text.split_at(digits);
        let number: usize = number.parse().map_err(|_| NotAnAmount)?;
        let shift = match suffix {
            "%" if number <= 100 => return Ok(Self::Percent(number)),
            "" => 0,
            "k" | "K" => 10,
            "m" | "M" => 20,
            "g" | "G" => 30,
            "t" | "T" => 40,
            _ => return Err(NotAnAmount),
        };
        let bytes = number.checked_mul(1 << shift).ok_or(NotAnAmount)?;
        Ok(Self::Pages(bytes >> PAGE_SHIFT))
    }

    fn of(self, total: usize) -> usize {
        match self {
            Self::Pages(count) => count,
            // Not more than there is: no overflow on the way.
            Self::Percent(percent) => {
                let percent = percent.min(100);
                total / 100 * percent + total % 100 * percent / 100
            }
        }
    }
}

/// What is known of the nodes while movable memory is shared out.
struct Spread<I> {
    layouts: NodeLayouts,
    /// All RAM, upwards.
    memory: I,
    /// No movable zone begins below.
    lowest: Pfn,
    /// Where the movable zone of each node begins, as far as it is known.
    starts: [Pfn; MAX_NODES],
    /// Frames that the kernel still wants.
    wanted: usize,
}

impl NodeLayouts {
    /// Gives the kernel `kernelcore`, or all but `movablecore`, whichever is more, and movable pages the rest: zones
    /// [`ZoneType::Movable`] at the end of the nodes. `memory`: all RAM of the machine, upwards. With neither, or without
    /// anything left, nothing changes.
    ///
    /// Linux: `kernelcore=` and `movablecore=`, `find_zone_movable_pfns_for_nodes`.
    #[must_use]
    pub fn with_movable(
        self,
        memory: impl IntoIterator<Item = PfnRange, IntoIter: Clone>,
        kernelcore: Amount,
        movablecore: Amount,
    ) -> Self {
        let memory = memory.into_iter();
        let sizes = memory.clone().map(PfnRange::nr_pages);
        let total = sizes.fold(0, usize::saturating_add);
        let mut wanted = kernelcore.of(total);
        let movable = movablecore.of(total).min(total);
        if movable > 0 {
            let whole = movable.checked_next_multiple_of(MOST);
            let movable = whole.unwrap_or(total).min(total);
            wanted = wanted.max(total - movable);
        }
        let highest = |kind: &ZoneType| {
            let mut nodes = self.nodes().iter();
            nodes.any(|layout| !layout.range(*kind).is_empty())
        };
        let below = &ZoneType::ALL[..ZoneType::Movable.index()];
        let Some(&donor) = below.iter().rfind(|kind| highest(kind)) else {
            return self;
        };
        if wanted == 0 || wanted >= total {
            return self;
        }
        let of_donor = self.nodes().iter().map(|layout| layout.range(donor));
        let starts = of_donor.filter(|range| !range.is_empty());
        let lowest = starts.map(PfnRange::start).min().unwrap_or_default();
        let spread = Spread {
            layouts: self,
            memory,
            lowest,
            starts: [Pfn::ZERO; MAX_NODES],
            wanted,
        };
        spread.settle().carve(donor)
    }
}

impl<I: Iterator<Item = PfnRange> + Clone> Spread<I> {
    /// Shares what the kernel wants out among the nodes, and what is still missing among all but one of them, and so on.
    fn settle(mut self) -> Self {
        let all: [usize; MAX_NODES] = core::array::from_fn(|nr| nr);
        let has_memory = |nr: &&usize| self.ranges_of(**nr).next().is_some();
        let mut nr_sharing = all.iter().filter(has_memory).count();
        while nr_sharing > 0 {
            let mut share = self.wanted / nr_sharing;
            for nr in 0..self.layouts.nr_nodes() {
                // Some nodes gave more than their share: what they have below the highest zone is the kernel's anyway.
                if self.wanted < share {
                    share = self.wanted / nr_sharing;
                }
                self.take(nr, share);
            }
            nr_sharing -= 1;
            if self.wanted <= nr_sharing {
                break;
            }
        }
        self
    }

    /// Gives the kernel frames of a node from the lowest up.
    fn take(&mut self, nr: usize, mut share: usize) {
        for range in self.ranges_of(nr) {
            let mut start = range.start().max(self.starts[nr]);
            if start >= range.end() {
                continue;
            }
            if start < self.lowest {
                let count = range.end().min(self.lowest) - start;
                share -= count.min(share);
                self.wanted -= count.min(self.wanted);
                if range.end() <= self.lowest {
                    self.starts[nr] = range.end();
                    continue;
                }
                start = self.lowest;
            }
            let count = (range.end() - start).min(share);
            self.starts[nr] = start + count;
            self.wanted -= count.min(self.wanted);
            share -= count;
            if share == 0 {
                break;
            }
        }
    }

    /// The RAM of a node, upwards.
    fn ranges_of(&self, nr: usize) -> impl Iterator<Item = PfnRange> + use<I> {
        let topology = self.layouts.topology();
        let pieces = self
            .memory
            .clone()
            .flat_map(move |range| by_node(topology, range));
        pieces
            .filter(move |(node, _)| node.index() == nr)
            .map(|(_, piece)| piece)
    }

    /// Linux: `adjust_zone_range_for_zone_movable`.
    fn carve(self, donor: ZoneType) -> NodeLayouts {
        let mut layouts = self.layouts;
        for nr in 0..layouts.nr_nodes() {
            let start = self.starts[nr].align_up(MAX_ORDER);
            let layout = layouts.nodes()[nr];
            let from_donor = layout.range(donor);
            if self.starts[nr] > Pfn::ZERO && start < from_donor.end() {
                let node = NodeId::new(nr.to_le_bytes()[0]);
                layouts = layouts.with_node(node, layout.with_movable_from(start));
            }
        }
        layouts
    }
}

/// Movable zones begin where blocks of the highest order do.
const MOST: usize = MAX_ORDER.nr_pages();
const _: () = assert!(MOST == Order::PAGEBLOCK.nr_pages() * 2);
