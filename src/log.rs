//! One log for the whole library: our own messages and llama.cpp's, to whatever callback the host sets.
//!
//! Nothing is ever written to stdout or stderr. llama.cpp's error lines are also kept per thread, because its functions
//! report failure without a reason and the reason is in the log.

use std::cell::{Cell, RefCell};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, RwLock};

use crate::error::{Error, Result};

/// How important a log message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Details for a developer of this library.
    Debug,
    /// Progress and figures.
    Info,
    /// Something to look at that does not fail the call.
    Warning,
    /// The reason of a failure.
    Error,
}

/// Receives messages.
pub type Sink = Arc<dyn Fn(Level, &str) + Send + Sync>;

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static LAST_LLAMA_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
    static LAST_LLAMA_LEVEL: Cell<Level> = const { Cell::new(Level::Debug) };
}

/// Sends all messages of the library to `sink`, from any thread, or nowhere. When this returns, the earlier sink is no
/// longer in use. Fails inside a sink, where it would wait for itself.
pub fn set_sink(sink: Option<Sink>) -> Result<()> {
    if INSIDE.get() {
        return Err(Error::Busy("the log callback cannot be changed from inside a log callback".into()));
    }
    *SINK.write().unwrap_or_else(|e| e.into_inner()) = sink;
    Ok(())
}

/// Logs one message. Messages that a sink causes itself are dropped.
pub(crate) fn message(level: Level, text: &str) {
    if INSIDE.get() {
        return;
    }
    let guard = SINK.read().unwrap_or_else(|e| e.into_inner());
    if let Some(sink) = guard.as_ref() {
        INSIDE.set(true);
        // A panic of a sink must not leave INSIDE set, nor unwind into C++.
        let _ = catch_unwind(AssertUnwindSafe(|| sink(level, text)));
        INSIDE.set(false);
    }
}

/// Forgets what llama.cpp has logged on this thread.
pub(crate) fn clear_llama_error() {
    LAST_LLAMA_ERROR.with_borrow_mut(String::clear);
}

/// llama.cpp's error lines on this thread since `clear_llama_error`, as one line; empty when there were none.
pub(crate) fn llama_error() -> String {
    LAST_LLAMA_ERROR.with_borrow(|s| s.trim().replace('\n', "; "))
}

const KEPT_ERROR_BYTES: usize = 2000;

/// One piece of llama.cpp's log; `None` as level continues the piece before.
pub(crate) fn llama_line(level: Option<Level>, text: &str) {
    let level = level.unwrap_or(LAST_LLAMA_LEVEL.get());
    LAST_LLAMA_LEVEL.set(level);
    if level == Level::Error {
        LAST_LLAMA_ERROR.with_borrow_mut(|s| {
            if s.len() + text.len() <= KEPT_ERROR_BYTES {
                s.push_str(text);
            }
        });
    }
    message(level, text.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn llama_errors_are_kept_and_forwarded() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        set_sink(Some(Arc::new(move |level, text: &str| {
            assert!(set_sink(None).is_err(), "changing the sink inside itself would deadlock");
            if text.starts_with("log test") {
                sink.lock().unwrap().push((level, text.to_owned()));
            }
        })))
        .unwrap();
        clear_llama_error();
        llama_line(Some(Level::Error), "log test one\n");
        llama_line(None, "log test two\n");
        llama_line(Some(Level::Info), "log test info\n");
        set_sink(None).unwrap();
        message(Level::Error, "log test after");
        assert_eq!(llama_error(), "log test one; log test two");
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[1], (Level::Error, "log test two".to_owned()));
    }
}
