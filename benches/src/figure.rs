//! The figures: what each is called, its unit, which way is better, and what ours shall reach.

/// A part of the product, and of the rows file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Area {
    /// Page frames.
    Frames,
    /// Objects.
    Objects,
}

impl Area {
    /// As in the rows file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frames => "frames",
            Self::Objects => "objects",
        }
    }
}

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Better {
    /// Times, bytes, failures.
    Lower,
    /// Throughputs, shares recovered.
    Higher,
}

/// A number that every allocator of an area has.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// The part of the product.
    pub area: Area,
    /// Short, unique within the area.
    pub id: &'static str,
    /// For people.
    pub title: &'static str,
    /// Of the number.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// What ours shall reach.
    pub goal: Option<f64>,
}

impl Figure {
    /// Ours against a rival's: below 1, ours is better.
    #[must_use]
    pub fn ratio(&self, ours: f64, rival: f64) -> f64 {
        if ours == rival {
            return 1.0;
        }
        match self.better {
            Better::Lower => ours / rival,
            Better::Higher => rival / ours,
        }
    }

    /// Whether `a` is better than `b`.
    #[must_use]
    pub fn is_better(&self, a: f64, b: f64) -> bool {
        match self.better {
            Better::Lower => a < b,
            Better::Higher => a > b,
        }
    }

    /// Whether the goal, if there is one, is reached.
    #[must_use]
    pub fn reaches_goal(&self, value: f64) -> Option<bool> {
        self.goal.map(|goal| !self.is_better(goal, value))
    }
}

/// The figure of an area with this id.
#[must_use]
pub fn find(area: Area, id: &str) -> Option<&'static Figure> {
    ALL.iter()
        .find(|figure| figure.area == area && figure.id == id)
}

const fn time(area: Area, id: &'static str, title: &'static str, goal: Option<f64>) -> Figure {
    Figure {
        area,
        id,
        title,
        unit: "ns",
        better: Better::Lower,
        goal,
    }
}

const fn rate(area: Area, id: &'static str, title: &'static str, goal: Option<f64>) -> Figure {
    Figure {
        area,
        id,
        title,
        unit: "Mops/s",
        better: Better::Higher,
        goal,
    }
}

const fn recovered(id: &'static str, title: &'static str, goal: f64) -> Figure {
    Figure {
        area: Area::Frames,
        id,
        title,
        unit: "%",
        better: Better::Higher,
        goal: Some(goal),
    }
}

const fn footprint(id: &'static str, title: &'static str, goal: f64) -> Figure {
    Figure {
        area: Area::Objects,
        id,
        title,
        unit: "bytes/byte",
        better: Better::Lower,
        goal: Some(goal),
    }
}

use Area::{Frames, Objects};

/// Every figure, in the order of the tables.
pub const ALL: &[Figure] = &[
    time(Frames, "a", "order-0 pair, hot", Some(2.5)),
    time(
        Frames,
        "a-aged",
        "order-0 pair, hot, half the frames free at random",
        Some(2.5),
    ),
    time(
        Frames,
        "b0",
        "order-0 bulk alloc of all frames, fresh",
        Some(5.0),
    ),
    time(
        Frames,
        "b1",
        "order-0 bulk alloc of all frames, recycled",
        Some(4.0),
    ),
    time(
        Frames,
        "b2",
        "order-0 free of all frames in random order",
        Some(8.0),
    ),
    time(Frames, "c-alloc", "order-9 alloc, 500 in a row", Some(8.0)),
    time(Frames, "c-free", "order-9 free in random order", Some(8.0)),
    time(
        Frames,
        "d",
        "orders 0 to 10 at 70 % load, alloc or free",
        Some(8.0),
    ),
    rate(
        Frames,
        "mt",
        "two threads, order-0 batches of 64",
        Some(1000.0),
    ),
    Figure {
        area: Frames,
        id: "mt-scaling",
        title: "the same against one thread",
        unit: "x",
        better: Better::Higher,
        goal: Some(1.95),
    },
    rate(
        Frames,
        "remote",
        "one CPU allocates, the other frees",
        Some(120.0),
    ),
    time(
        Frames,
        "p99.9",
        "one order-0 alloc, aged: 99.9th percentile, timer included",
        Some(150.0),
    ),
    recovered("f1", "order-9 blocks left: mixed fill, half freed", 73.0),
    recovered("f3", "order-9 blocks left: bursts at 50 %", 100.0),
    recovered("f4", "order-9 blocks left: swings 50-90-50 %", 21.0),
    recovered("f6", "order-9 blocks left: 4 M replacements at 25 %", 98.0),
    recovered("f7", "order-9 blocks left: and bursts at 25 %", 98.0),
    Figure {
        area: Frames,
        id: "spurious",
        title: "order-0 failures with memory free, in f3 to f7",
        unit: "failures",
        better: Better::Lower,
        goal: Some(0.0),
    },
    time(Objects, "a", "64 B pair, hot", Some(2.2)),
    time(Objects, "b-alloc", "64 B, 10 000 in a row", Some(3.0)),
    time(
        Objects,
        "b-free",
        "64 B, 10 000 freed in random order",
        Some(2.0),
    ),
    time(
        Objects,
        "c",
        "8 to 4096 B uniform, 10 000 live, alloc or free",
        Some(4.0),
    ),
    time(
        Objects,
        "c2",
        "8 to 2047 B log-uniform, 10 000 live, alloc or free",
        Some(3.8),
    ),
    rate(Objects, "d", "c on two threads", Some(350.0)),
    rate(Objects, "d2", "c2 on two threads", Some(500.0)),
    rate(
        Objects,
        "remote",
        "128 B: one CPU allocates, the other frees",
        Some(210.0),
    ),
    footprint("memory-c", "resident bytes for each live one, c", 1.28),
    footprint("memory-c2", "resident bytes for each live one, c2", 1.35),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_below_one_are_better_whatever_the_unit() {
        let time = find(Frames, "a").unwrap();
        let rate = find(Frames, "mt").unwrap();
        assert!(time.ratio(2.0, 4.0) < 1.0);
        assert!(rate.ratio(4.0, 2.0) < 1.0);
        assert!(rate.ratio(0.0, 2.0).is_infinite());
        assert_eq!(rate.ratio(0.0, 0.0), 1.0);
    }

    #[test]
    fn goals_count_as_reached_at_the_mark() {
        let time = find(Frames, "a").unwrap();
        assert_eq!(time.reaches_goal(2.5), Some(true));
        assert_eq!(time.reaches_goal(2.6), Some(false));
        assert_eq!(find(Frames, "f3").unwrap().reaches_goal(99.0), Some(false));
    }

    #[test]
    fn ids_are_unique_within_their_area() {
        for (at, figure) in ALL.iter().enumerate() {
            assert!(
                !ALL[..at]
                    .iter()
                    .any(|other| other.area == figure.area && other.id == figure.id)
            );
        }
    }
}
