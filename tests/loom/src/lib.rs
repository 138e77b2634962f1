//! `src/threads.rs` with loom's mutexes, condition variables, atomics and threads in place of the standard library's, so that
//! `tests/pool.rs` can run it in every order of events that its threads can tell apart.

#![allow(missing_docs)]

/// Stands for `src/sync.rs`.
mod sync {
    pub(crate) use loom::sync::{atomic, Arc, Condvar, Mutex, MutexGuard};
    pub(crate) use loom::{thread, thread_local};

    /// Either sees it or gives up, with others in between: how long that takes is no matter.
    pub(crate) fn look_out(found: impl Fn() -> bool) -> bool {
        found() || {
            thread::yield_now();
            found()
        }
    }
}

mod processors {
    pub(crate) fn default_threads() -> usize {
        2
    }
}

mod panics {
    use std::panic::{catch_unwind, AssertUnwindSafe};

    pub(crate) fn quietly<T>(f: impl FnOnce() -> T) -> std::thread::Result<T> {
        catch_unwind(AssertUnwindSafe(f))
    }
}

#[allow(dead_code)]
#[path = "../../../src/threads.rs"]
pub mod threads;
