//! The parts of the library by which threads meet, with their own unit tests; `tests/stress.rs` has more.

#![allow(dead_code, missing_docs)]

#[path = "../../../src/cache.rs"]
pub mod cache;
#[path = "../../../src/embedding.rs"]
pub mod embedding;
#[path = "../../../src/error.rs"]
pub mod error;
#[path = "../../../src/log.rs"]
pub mod log;
#[path = "../../../src/panics.rs"]
mod panics;
#[path = "../../../src/sync.rs"]
mod sync;
#[path = "../../../src/threads.rs"]
pub mod threads;

mod processors {
    pub(crate) fn default_threads() -> usize {
        2
    }
}

/// A message as the library logs it.
pub fn log_message(text: &str) {
    log::message(log::Level::Info, text);
}
