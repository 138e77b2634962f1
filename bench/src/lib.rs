//! Measures tinygptv beside its peers, in the same run and in turn.
//!
//! - [`pair`]: the models of random numbers that everything is measured with.
//! - [`tasks`]: what is measured, and of whom; [`rounds`] does it.
//! - [`contestant`]: a program under test, in a process of its own; [`worker`]: what runs in it; [`protocol`] between them.
//! - [`stats`], [`report`]: medians and ratios, and how they are told.
//! - [`machine`], [`memory`], [`busy`]: what the system says and does.

mod busy;
pub mod contestant;
pub mod machine;
pub mod memory;
pub mod pair;
pub mod protocol;
pub mod report;
pub mod rounds;
pub mod stats;
pub mod tasks;
pub mod worker;
