//! Measurements of kmm against its peers, all in one process run.
//!
//! A [`figure`] is a number with a unit and a goal. An *allocator* is ours or a peer; a *workload* drives one allocator
//! and yields readings of one or more figures, a little with each *turn*. The [`rounds`] give every allocator a turn
//! after the other, so that a noisy neighbour hits all of them; medians of the turns go to the [`report`].

pub mod clock;
pub mod cpu;
pub mod figure;
pub mod footprint;
pub mod frames;
pub mod machine;
pub mod node;
pub mod objects;
pub mod recorded;
pub mod region;
pub mod report;
pub mod rng;
pub mod rounds;
pub mod rows;
#[cfg(feature = "peers")]
mod spin_ops;
pub mod threads;
