//! Progress by phase, with an honest estimate of what is left.

use std::time::{Duration, Instant};

/// What a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Encoding an image.
    Encode,
    /// Evaluating a prompt.
    Prefill,
    /// Generating an answer. Its fraction is that of the limit on new tokens: an answer mostly ends before.
    Decode,
}

/// How far a phase is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The phase.
    pub phase: Phase,
    /// From 0 to 1.
    pub fraction: f32,
    /// What is left at the pace so far; `None` as long as it is too early to tell.
    pub remaining: Option<Duration>,
}

/// Gets progress and returns whether to go on.
pub type ProgressListener = Box<dyn FnMut(Progress) -> bool + Send>;

/// Below this fraction or time an estimate would be a guess.
const LEAST_FRACTION: f32 = 0.05;
const LEAST_TIME: Duration = Duration::from_millis(20);

/// One phase under way.
pub(super) struct Reporter<'a> {
    listener: Option<&'a mut ProgressListener>,
    phase: Phase,
    start: Instant,
}

impl<'a> Reporter<'a> {
    pub(super) fn new(listener: Option<&'a mut ProgressListener>, phase: Phase) -> Reporter<'a> {
        Reporter { listener, phase, start: Instant::now() }
    }

    /// Tells the listener; returns whether to go on.
    pub(super) fn tell(&mut self, fraction: f32) -> bool {
        let Some(listener) = &mut self.listener else { return true };
        let fraction = fraction.clamp(0.0, 1.0);
        let elapsed = self.start.elapsed();
        let known = fraction >= LEAST_FRACTION && elapsed >= LEAST_TIME;
        let remaining = known.then(|| elapsed.mul_f32((1.0 - fraction) / fraction));
        listener(Progress { phase: self.phase, fraction, remaining })
    }

    pub(super) fn is_heard(&self) -> bool {
        self.listener.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn estimates_follow_the_pace_and_wait_until_they_can() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let sink = heard.clone();
        let mut listener: ProgressListener = Box::new(move |p| {
            sink.lock().unwrap().push(p);
            p.fraction < 0.9
        });
        let mut reporter = Reporter::new(Some(&mut listener), Phase::Prefill);
        reporter.start = Instant::now() - Duration::from_secs(3);
        assert!(reporter.tell(0.01) && reporter.tell(0.25) && !reporter.tell(1.5));
        let heard = heard.lock().unwrap();
        assert_eq!(heard[0].remaining, None);
        let left = heard[1].remaining.unwrap().as_secs_f32();
        assert!((9.0..9.5).contains(&left), "{left}");
        assert_eq!((heard[2].fraction, heard[2].remaining), (1.0, Some(Duration::ZERO)));
        assert!(Reporter::new(None, Phase::Decode).tell(0.5));
    }
}
