//! Peers that no registry has, as they were measured once on this kind of machine. Never part of a ratio: another day's
//! times are no rival to this run's.

use crate::figure::Area;

/// An allocator and what was recorded of it: pairs of a figure's id and its value.
#[derive(Clone, Copy, Debug)]
pub struct Recorded {
    /// The part of the product.
    pub area: Area,
    /// The allocator's name.
    pub allocator: &'static str,
    /// By figure; ranges where several runs differed.
    pub values: &'static [(&'static str, &'static str)],
}

impl Recorded {
    /// The value of a figure.
    #[must_use]
    pub fn value(&self, figure: &str) -> Option<&'static str> {
        let found = self.values.iter().find(|(id, _)| *id == figure);
        found.map(|(_, value)| *value)
    }
}

/// Everything recorded: AMD EPYC Zen 5, two CPUs, Rust 1.95, medians.
pub const ALL: &[Recorded] = &[
    Recorded {
        area: Area::Frames,
        allocator: "LLFree (ATC'23)",
        values: &[
            ("a", "39"),
            ("b0", "23.6"),
            ("b1", "22.1"),
            ("b2", "20.9"),
            ("c-alloc", "32.5"),
            ("c-free", "13.9"),
            ("d", "31.4"),
            ("mt", "96"),
            ("mt-scaling", "1.99"),
            ("remote", "13"),
            ("p99.9", "150"),
            ("f1", "70"),
            ("f3", "88"),
            ("f4", "6-9"),
            ("f6", "99"),
            ("f7", "98"),
        ],
    },
    Recorded {
        area: Area::Frames,
        allocator: "Asterinas, host shim",
        values: &[
            ("a", "13"),
            ("b0", "11.6"),
            ("b1", "9.7"),
            ("b2", "35-109"),
            ("c-alloc", "17.4"),
            ("c-free", "25.4"),
            ("d", "16.8"),
            ("mt", "157"),
            ("mt-scaling", "1.97"),
            ("remote", "47"),
            ("p99.9", "234450"),
            ("f1", "72"),
            ("f3", "0"),
            ("f4", "0"),
            ("f6", "0"),
            ("f7", "0"),
            ("spurious", "53000"),
        ],
    },
    Recorded {
        area: Area::Frames,
        allocator: "lowest address first",
        values: &[
            ("p99.9", "41"),
            ("f1", "72"),
            ("f3", "100"),
            ("f4", "20"),
            ("f6", "100"),
            ("f7", "100"),
        ],
    },
    // What the machine allows: an array of frame numbers over bits, without zones, watermarks or flags.
    Recorded {
        area: Area::Frames,
        allocator: "probe, no product",
        values: &[
            ("a", "1.2"),
            ("b0", "3.7"),
            ("b1", "2.1"),
            ("b2", "10.5"),
            ("c-alloc", "8.2"),
            ("c-free", "6.2"),
            ("d", "11.4"),
            ("mt", "3043"),
            ("mt-scaling", "2.0"),
            ("remote", "134"),
        ],
    },
    Recorded {
        area: Area::Objects,
        allocator: "moss kernel heap",
        values: &[
            ("a", "3.2"),
            ("b-alloc", "5.8"),
            ("b-free", "9.1"),
            ("c", "4.7"),
            ("c2", "4.4"),
            ("d", "134"),
            ("d2", "164"),
            ("remote", "30"),
            ("memory-c", "1.39"),
            ("memory-c2", "1.42"),
        ],
    },
    // What the machine allows: a list per size and CPU, never given back.
    Recorded {
        area: Area::Objects,
        allocator: "ideal class lists",
        values: &[
            ("a", "0.75"),
            ("b-alloc", "4"),
            ("b-free", "0.4"),
            ("c", "2.7"),
            ("c2", "2.65"),
            ("d", "721"),
            ("d2", "741"),
            ("memory-c", "1.39"),
            ("memory-c2", "1.44"),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn every_recorded_figure_exists() {
        for recorded in ALL {
            for (id, _) in recorded.values {
                assert!(crate::figure::find(recorded.area, id).is_some(), "{id}");
            }
        }
    }
}
