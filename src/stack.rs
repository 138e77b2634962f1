//! Stack for code that recurses: a host's thread may have little.

use std::panic::resume_unwind;
use std::thread;

use crate::error::{Error, Result};
use crate::panics;
use crate::threads::BlockedSignals;

/// So many levels are nothing to any thread.
const SHALLOW: usize = 256;
/// More than any level of what is run here takes: some 300 bytes in `std::regex`, 400 along a token in a grammar.
const BYTES_A_LEVEL: usize = 4 << 10;

/// Runs `f`, which recurses `levels` deep: where that is deep, on a thread with a stack for it.
///
/// # Errors
/// `OutOfMemory` when such a thread cannot be started.
pub(crate) fn with_room_for<T: Send>(levels: usize, f: impl FnOnce() -> T + Send) -> Result<T> {
    if levels <= SHALLOW {
        return Ok(f());
    }
    let signals = BlockedSignals::new();
    let result = thread::scope(|scope| {
        let thread = thread::Builder::new()
            .stack_size(levels * BYTES_A_LEVEL)
            .spawn_scoped(scope, || panics::quietly(f))
            .map_err(|e| Error::OutOfMemory(format!("a thread cannot be started: {e}").into()))?;
        thread.join().and_then(|done| done).map_or_else(|panic| resume_unwind(panic), Ok)
    });
    drop(signals);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recurse(levels: usize) -> usize {
        let ballast = std::hint::black_box([levels; 32]);
        match levels {
            0 => ballast[0],
            _ => recurse(levels - 1) + usize::from(ballast[31] == levels),
        }
    }

    #[test]
    fn deep_calls_have_room_on_a_small_stack() {
        let small = thread::Builder::new().stack_size(128 << 10);
        let counted = small.spawn(|| with_room_for(8000, || recurse(8000)).unwrap()).unwrap().join().unwrap();
        assert_eq!(counted, 8000);
    }

    #[test]
    fn shallow_calls_stay_where_they_are() {
        let here = thread::current().id();
        assert_eq!(with_room_for(SHALLOW, || thread::current().id()).unwrap(), here);
        assert_ne!(with_room_for(SHALLOW + 1, || thread::current().id()).unwrap(), here);
    }

    #[test]
    fn a_panic_comes_back() {
        let caught = panics::quietly(|| with_room_for(SHALLOW + 1, || panic!("down there"))).unwrap_err();
        assert_eq!(panics::text(&*caught), "down there");
    }
}
