//! How many threads are worth using while other programs, or the host's own threads, want the processors too.
//!
//! ggml's threads spin while they wait for each other. As soon as one of them has to share its processor, the others burn
//! their time waiting for it, several hundred times a token: two threads on two processors with two busy neighbours are
//! several times slower than one. So each pass uses as many threads as there are processors that nobody else wants.

/// Samples of which the middle one counts: what runs for a moment only changes nothing.
const SAMPLES: usize = 5;
/// Between the samples before a prompt, which is one long pass whose threads cannot be changed any more.
const LOOK: std::time::Duration = std::time::Duration::from_millis(2);

/// Watches the machine for one context.
pub(super) struct Contention {
    wanted: usize,
    processors: usize,
    source: Option<Source>,
    /// Threads that were runnable besides this one, a ring.
    others: [usize; SAMPLES],
    next: usize,
}

impl Contention {
    /// For a pool of `wanted` threads.
    pub(super) fn new(wanted: usize) -> Contention {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let source = if wanted > 1 { Source::open() } else { None };
        Contention { wanted, processors, source, others: [0; SAMPLES], next: 0 }
    }

    /// Looks several times, for a decision without a history.
    pub(super) fn look_around(&mut self) -> usize {
        if self.source.is_some() {
            for _ in 1..SAMPLES {
                self.sample();
                std::thread::sleep(LOOK);
            }
        }
        self.threads()
    }

    /// Threads to use for the next pass.
    pub(super) fn threads(&mut self) -> usize {
        self.sample();
        if self.source.is_none() {
            return self.wanted;
        }
        worth_using(self.wanted, self.processors, self.others)
    }

    fn sample(&mut self) {
        if let Some(runnable) = self.source.as_mut().and_then(Source::runnable) {
            self.others[self.next] = runnable.saturating_sub(1);
            self.next = (self.next + 1) % SAMPLES;
        }
    }
}

fn worth_using(wanted: usize, processors: usize, mut others: [usize; SAMPLES]) -> usize {
    others.sort_unstable();
    processors.saturating_sub(others[SAMPLES / 2]).clamp(1, wanted)
}

/// Tells how many threads of the machine run or could run now.
#[cfg(any(target_os = "linux", target_os = "android"))]
struct Source(std::fs::File);

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Source {
    fn open() -> Option<Source> {
        let mut source = Source(std::fs::File::open("/proc/loadavg").ok()?);
        source.runnable().map(|_| source)
    }

    fn runnable(&mut self) -> Option<usize> {
        use std::os::unix::fs::FileExt;
        let mut text = [0; 96];
        let n = self.0.read_at(&mut text, 0).ok()?;
        parse_loadavg(std::str::from_utf8(&text[..n]).ok()?)
    }
}

/// The runnable threads in `0.20 0.18 0.12 3/80 11206`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn parse_loadavg(text: &str) -> Option<usize> {
    text.split(' ').nth(3)?.split('/').next()?.parse().ok()
}

/// Elsewhere nothing is known, and all threads wanted are used.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
struct Source;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Source {
    fn open() -> Option<Source> {
        None
    }

    fn runnable(&mut self) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_leave_fewer_threads_but_one() {
        assert_eq!(worth_using(8, 8, [0; 5]), 8);
        assert_eq!(worth_using(4, 8, [3; 5]), 4);
        assert_eq!(worth_using(4, 8, [6; 5]), 2);
        assert_eq!(worth_using(2, 2, [9; 5]), 1);
        // One look that differs does not count.
        assert_eq!(worth_using(2, 2, [0, 0, 7, 0, 0]), 2);
        assert_eq!(worth_using(2, 2, [2, 2, 0, 2, 2]), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_tells() {
        assert_eq!(parse_loadavg("0.20 0.18 0.12 3/80 11206\n"), Some(3));
        assert_eq!(parse_loadavg("0.20 0.18"), None);
        assert_eq!(parse_loadavg("a b c d/e f"), None);
        if let Some(mut source) = Source::open() {
            assert!(source.runnable().is_some_and(|n| n >= 1), "this thread runs");
        }
        let mut watched = Contention::new(3);
        assert!((1..=3).contains(&watched.look_around()) && (1..=3).contains(&watched.threads()));
        assert_eq!(Contention::new(1).threads(), 1);
    }
}
