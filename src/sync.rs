//! What the thread pool is made of. `tests/loom` puts loom's of the same names in its place.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

pub(crate) use std::sync::{atomic, Arc, Condvar, Mutex, MutexGuard};
pub(crate) use std::{thread, thread_local};

/// How long a thread looks for what it waits for before it sleeps: a few times as long as waking it would take.
const LOOKOUT: Duration = Duration::from_micros(50);

/// Waits a moment until `found`; tells whether it came true.
pub(crate) fn look_out(found: impl Fn() -> bool) -> bool {
    let end = Instant::now() + LOOKOUT;
    loop {
        for _ in 0..32 {
            if found() {
                return true;
            }
            spin_loop();
        }
        if Instant::now() > end {
            return false;
        }
    }
}
