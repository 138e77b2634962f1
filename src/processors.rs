//! Which processors the library's threads run on, and how many threads are sensible.

use crate::error::{Error, Result};

/// Slower processors than this share of the fastest are left out: work is handed out in equal pieces, and everybody waits
/// for the slowest.
const FAST_ENOUGH: f64 = 0.7;

/// Threads to use when nobody says: one for each processor that this process may use, on machines with fast and slow ones
/// one for each fast one.
pub fn default_threads() -> usize {
    let available = std::thread::available_parallelism().map_or(1, |n| n.get());
    match fast_processors(&capacities()) {
        0 => available,
        fast => available.min(fast),
    }
}

fn fast_processors(capacities: &[u64]) -> usize {
    let fastest = capacities.iter().copied().max().unwrap_or(0) as f64;
    capacities.iter().filter(|&&c| c as f64 >= fastest * FAST_ENOUGH).count()
}

/// Relative speed of each processor, where the system tells: the scheduler's own figures, on machines where they differ.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn capacities() -> Vec<u64> {
    let read = |i: usize| {
        let path = format!("/sys/devices/system/cpu/cpu{i}/cpu_capacity");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    (0..).map_while(read).collect()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn capacities() -> Vec<u64> {
    Vec::new()
}

/// Processors as bits, the lowest for processor 0; 0 is all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessorMask(pub u64);

impl ProcessorMask {
    /// Checks that threads can be bound to these processors.
    ///
    /// # Errors
    /// `InvalidArgument` when this process may use none of them, or the system cannot bind threads.
    pub fn check(self) -> Result<()> {
        self.run(|| ())
    }

    /// Runs `f` on a thread of its own that is bound to the processors: threads that it starts inherit the binding. With a
    /// mask of 0 `f` runs on the calling thread.
    pub(crate) fn run<T: Send>(self, f: impl FnOnce() -> T + Send) -> Result<T> {
        if self.0 == 0 {
            return Ok(f());
        }
        std::thread::scope(|scope| {
            let bound = std::thread::Builder::new().spawn_scoped(scope, || bind(self.0).map(|()| f()));
            let bound = bound.map_err(|e| Error::OutOfMemory(format!("a thread cannot be started: {e}").into()))?;
            bound.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Binds the calling thread.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn bind(mask: u64) -> Result<()> {
    // SAFETY: all-zero is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for i in (0..64).filter(|i| mask >> i & 1 == 1) {
        // SAFETY: a set has room for at least 64 processors.
        unsafe { libc::CPU_SET(i, &mut set) };
    }
    // SAFETY: 0 is the calling thread; the set is as large as told.
    if unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } == 0 {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "threads cannot be bound to the processors {mask:#x}: {}; use 0 for all",
        std::io::Error::last_os_error()
    )))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bind(_mask: u64) -> Result<()> {
    Err(Error::InvalidArgument("threads cannot be bound to processors on this system; use 0 for all".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_processors_are_left_out() {
        assert_eq!(fast_processors(&[]), 0);
        assert_eq!(fast_processors(&[1024; 8]), 8);
        assert_eq!(fast_processors(&[446, 446, 446, 446, 1024, 1024, 1024, 1024]), 4);
        assert_eq!(fast_processors(&[250, 250, 250, 250, 870, 870, 870, 1024]), 4);
        assert!(default_threads() >= 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_binding_is_inherited_and_leaves_the_caller_alone() {
        fn allowed() -> Vec<usize> {
            // SAFETY: as in bind.
            let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
            // SAFETY: as in bind.
            assert_eq!(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) }, 0);
            // SAFETY: the index is inside the set.
            (0..64).filter(|&i| unsafe { libc::CPU_ISSET(i, &set) }).collect()
        }
        let before = allowed();
        let first = before[0];
        let inherited = ProcessorMask(1 << first).run(|| std::thread::spawn(allowed).join().unwrap()).unwrap();
        assert_eq!(inherited, [first]);
        assert_eq!(allowed(), before);
        assert_eq!(ProcessorMask(0).run(allowed).unwrap(), before);
        if let Some(absent) = (0..64).rev().find(|i| !before.contains(i)) {
            let e = ProcessorMask(1 << absent).check().unwrap_err().to_string();
            assert!(e.contains("cannot be bound"), "{e}");
        }
    }
}
