//! Looks in on a pass while llama.cpp computes it: stops it when asked to, and tells how far it is.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use crate::panics;

/// Gets the fraction done of an evaluation and returns whether to go on.
pub type Listener<'a> = dyn FnMut(f32) -> bool + 'a;

/// How often a listener hears of a pass.
const STEPS: u32 = 50;

/// Handed to llama.cpp as the data of its abort callback, which it calls after each node of its graph, on the thread that
/// started the pass.
pub(super) struct Watch {
    cancel: Arc<AtomicBool>,
    /// Nodes computed in this pass.
    passed: Cell<u32>,
    /// Nodes of a pass, about.
    expected: Cell<u32>,
    /// The listener of the evaluation under way, and which part of it the pass is: start and length.
    listener: Cell<Option<(*mut Listener<'static>, f32, f32)>>,
    panicked: Cell<bool>,
}

impl Watch {
    pub(super) fn new(cancel: Arc<AtomicBool>) -> Box<Watch> {
        Box::new(Watch {
            cancel,
            passed: Cell::new(0),
            expected: Cell::new(1),
            listener: Cell::new(None),
            panicked: Cell::new(false),
        })
    }

    /// How many nodes a pass of this context has.
    pub(super) fn expect(&self, nodes: u32) {
        self.expected.set(nodes.max(1));
    }

    /// Whether a listener panicked since the last call.
    pub(super) fn take_panic(&self) -> bool {
        self.panicked.replace(false)
    }

    /// Runs one pass, the part of an evaluation from `start` on of this `length`, with a listener.
    pub(super) fn during<T>(
        &self,
        listener: Option<&mut Listener>,
        start: f32,
        length: f32,
        pass: impl FnOnce() -> T,
    ) -> T {
        self.passed.set(0);
        // SAFETY: only the lifetime changes, and the pointer is forgotten before this function returns.
        let erased = listener.map(|l| unsafe { std::mem::transmute::<*mut Listener<'_>, *mut Listener<'static>>(l) });
        self.listener.set(erased.map(|l| (l, start, length)));
        let result = pass();
        self.listener.set(None);
        result
    }

    /// What llama.cpp calls.
    pub(super) unsafe extern "C" fn on_node(user_data: *mut c_void) -> bool {
        // SAFETY: user_data is the watch that the Decoder keeps alive as long as its context.
        let watch = unsafe { &*user_data.cast::<Watch>() };
        watch.cancel.load(Ordering::Relaxed) || !watch.tell()
    }

    fn tell(&self) -> bool {
        let passed = self.passed.get() + 1;
        self.passed.set(passed);
        let Some((listener, start, length)) = self.listener.get() else { return true };
        let step = |n: u32| u64::from(n) * u64::from(STEPS) / u64::from(self.expected.get());
        if step(passed) == step(passed - 1) || passed >= self.expected.get() {
            return true;
        }
        let fraction = start + length * passed as f32 / self.expected.get() as f32;
        // SAFETY: `during` keeps the listener alive, and this is the thread that called it.
        match panics::quietly(|| unsafe { (*listener)(fraction) }) {
            Ok(go_on) => go_on,
            Err(_) => {
                self.panicked.set(true);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(watch: &Watch, nodes: u32) -> bool {
        let data = (watch as *const Watch).cast_mut().cast();
        // SAFETY: the watch lives.
        (0..nodes).any(|_| unsafe { Watch::on_node(data) })
    }

    #[test]
    fn a_listener_hears_of_its_part_in_order() {
        let watch = Watch::new(Arc::default());
        watch.expect(1000);
        let mut heard = Vec::new();
        let mut listener = |f: f32| {
            heard.push(f);
            true
        };
        // More nodes than expected are no harm.
        assert!(!watch.during(Some(&mut listener), 0.5, 0.25, || run(&watch, 1100)));
        assert!(!run(&watch, 1000), "nobody listens any more");
        assert!((40..=50).contains(&heard.len()), "{}", heard.len());
        assert!(heard.windows(2).all(|w| w[0] < w[1]) && heard[0] > 0.5 && *heard.last().unwrap() < 0.75);
    }

    #[test]
    fn cancelling_refusing_and_panicking_stop() {
        let cancel = Arc::new(AtomicBool::new(false));
        let watch = Watch::new(cancel.clone());
        watch.expect(100);
        assert!(watch.during(Some(&mut |f| f < 0.3), 0.0, 1.0, || run(&watch, 100)));
        assert!(watch.during(Some(&mut |_| panic!("oops")), 0.0, 1.0, || run(&watch, 100)));
        assert!(watch.take_panic() && !watch.take_panic());
        cancel.store(true, Ordering::Relaxed);
        assert!(watch.during(None, 0.0, 1.0, || run(&watch, 1)));
    }
}
