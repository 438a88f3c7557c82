//! Turns: every allocator runs a little of a workload, one after the other, round by round.

use crate::figure::{Area, Figure};

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Turns of each allocator whose readings count.
    pub rounds: usize,
    /// How often a turn that was disturbed is repeated.
    pub retries: usize,
    /// How long a piece of a short workload runs.
    pub piece_ns: f64,
}

impl Plan {
    /// For figures to be kept.
    pub const FULL: Self = Self {
        rounds: 9,
        retries: 6,
        piece_ns: 8e6,
    };
    /// For a look.
    pub const QUICK: Self = Self {
        rounds: 3,
        retries: 1,
        piece_ns: 2e6,
    };
}

/// One number that a turn yielded.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The figure's id.
    pub figure: &'static str,
    /// The number.
    pub value: f64,
    /// Whether nobody else had the CPU meanwhile.
    pub clean: bool,
}

/// What one allocator has to do.
pub trait Workload {
    /// Does it once, and says what that took.
    fn turn(&mut self) -> Vec<Reading>;
}

/// Which allocator it is, to the comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Ours.
    Ours,
    /// A peer that ours is compared with.
    Rival,
    /// A peer that is shown, but serves less than ours.
    Bystander,
}

/// An allocator that takes part in a workload.
#[expect(
    missing_debug_implementations,
    reason = "a workload is any closure's state"
)]
pub struct Contestant {
    /// The allocator's name.
    pub name: &'static str,
    /// Which it is.
    pub role: Role,
    /// What it has to do.
    pub workload: Box<dyn Workload>,
}

/// How often to take turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeats {
    /// A warm-up, then as many rounds as planned.
    Timed,
    /// Once: the result is the same each time.
    Once,
}

/// What one allocator reached in one figure.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The figure.
    pub figure: &'static Figure,
    /// The allocator's name.
    pub allocator: &'static str,
    /// Which it is.
    pub role: Role,
    /// The median of its readings: of the clean ones if most rounds have one.
    pub median: f64,
    /// The least of them.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// How many they are.
    pub readings: usize,
    /// How many of all readings were disturbed.
    pub disturbed: usize,
}

impl Outcome {
    /// Whether disturbed readings had to be used.
    #[must_use]
    pub const fn is_noisy(&self) -> bool {
        self.disturbed >= self.readings
    }
}

/// Lets the contestants take turns; an outcome for each of them and each of the workload's figures.
pub fn run(
    area: Area,
    contestants: &mut [Contestant],
    repeats: Repeats,
    plan: &Plan,
) -> Vec<Outcome> {
    let mut readings: Vec<Vec<Reading>> = vec![Vec::new(); contestants.len()];
    let rounds = match repeats {
        Repeats::Once => 1,
        Repeats::Timed => {
            for contestant in contestants.iter_mut() {
                contestant.workload.turn();
            }
            plan.rounds
        }
    };
    for round in 0..rounds {
        for nth in 0..contestants.len() {
            // Each round begins with another one, so that nobody always follows the same neighbour's cache lines.
            let at = (nth + round) % contestants.len();
            for _ in 0..=plan.retries {
                let turn = contestants[at].workload.turn();
                let clean = turn.iter().all(|reading| reading.clean);
                readings[at].extend(turn);
                if clean || repeats == Repeats::Once {
                    break;
                }
            }
        }
    }
    let outcomes = contestants.iter().zip(&readings);
    outcomes
        .flat_map(|(contestant, readings)| summarise(area, contestant, readings, rounds))
        .collect()
}

fn summarise(
    area: Area,
    contestant: &Contestant,
    readings: &[Reading],
    rounds: usize,
) -> Vec<Outcome> {
    let mut ids: Vec<&'static str> = Vec::new();
    for reading in readings {
        if !ids.contains(&reading.figure) {
            ids.push(reading.figure);
        }
    }
    let figures = ids
        .into_iter()
        .filter_map(|id| crate::figure::find(area, id));
    figures
        .map(|figure| {
            let of_figure = readings
                .iter()
                .filter(|reading| reading.figure == figure.id);
            let (clean, disturbed): (Vec<Reading>, Vec<Reading>) =
                of_figure.partition(|reading| reading.clean);
            let mut used = clean;
            if used.len() * 2 <= rounds {
                used.extend(&disturbed);
            }
            used.sort_by(|a, b| a.value.total_cmp(&b.value));
            Outcome {
                figure,
                allocator: contestant.name,
                role: contestant.role,
                median: used[used.len() / 2].value,
                least: used[0].value,
                most: used[used.len() - 1].value,
                readings: used.len(),
                disturbed: disturbed.len(),
            }
        })
        .collect()
}

/// How many of `step` take about `piece_ns`, at most `most`. `step(n)` runs n of them.
pub fn calibrate(piece_ns: f64, most: usize, mut step: impl FnMut(usize)) -> usize {
    const FIRST: usize = 64;
    let mut n = FIRST.min(most);
    let per_step = loop {
        let took = crate::clock::timed(|| step(n)).cpu_ns;
        if took > piece_ns / 4.0 || n >= most {
            break took / n as f64;
        }
        n = (n * 4).min(most);
    };
    ((piece_ns / per_step.max(0.1)) as usize).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Script(Vec<Reading>);

    impl Workload for Script {
        fn turn(&mut self) -> Vec<Reading> {
            vec![self.0.remove(0)]
        }
    }

    fn outcome(readings: &[(f64, bool)], plan: &Plan) -> Outcome {
        let script = readings.iter().map(|&(value, clean)| Reading {
            figure: "a",
            value,
            clean,
        });
        let mut contestants = [Contestant {
            name: "x",
            role: Role::Ours,
            workload: Box::new(Script(script.collect())),
        }];
        run(Area::Frames, &mut contestants, Repeats::Timed, plan)[0]
    }

    #[test]
    fn the_warm_up_does_not_count_and_disturbed_turns_are_repeated() {
        let plan = Plan {
            rounds: 3,
            retries: 1,
            piece_ns: 0.0,
        };
        let readings = [
            (100.0, true),
            (1.0, true),
            (50.0, false),
            (2.0, true),
            (3.0, true),
        ];
        let outcome = outcome(&readings, &plan);
        assert_eq!(
            (outcome.median, outcome.least, outcome.most),
            (2.0, 1.0, 3.0)
        );
        assert_eq!((outcome.readings, outcome.disturbed), (3, 1));
        assert!(!outcome.is_noisy());
    }

    #[test]
    fn disturbed_readings_are_better_than_none() {
        let plan = Plan {
            rounds: 1,
            retries: 1,
            piece_ns: 0.0,
        };
        let outcome = outcome(&[(0.0, true), (5.0, false), (7.0, false)], &plan);
        assert_eq!(outcome.readings, 2);
        assert!(outcome.is_noisy());
    }
}
