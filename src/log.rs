//! One log for the whole library: our own messages and llama.cpp's, to every callback that the host, or libraries in it, set.
//!
//! llama.cpp does not tell for which model it logs, so each listener gets the messages of all.
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

/// Who listens: the program itself, and any number of its parts that know nothing of each other.
struct Listeners {
    own: Option<Sink>,
    added: Vec<(u64, Sink)>,
    last_id: u64,
}

static LISTENERS: RwLock<Listeners> = RwLock::new(Listeners { own: None, added: Vec::new(), last_id: 0 });

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static LAST_LLAMA_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
    static LAST_LLAMA_LEVEL: Cell<Level> = const { Cell::new(Level::Debug) };
}

/// Changes who listens. When this returns, a sink that was removed is no longer in use. Fails inside a sink, where it would
/// wait for itself.
fn change<T>(f: impl FnOnce(&mut Listeners) -> T) -> Result<T> {
    if INSIDE.get() {
        return Err(Error::Busy("log callbacks cannot be changed from inside a log callback".into()));
    }
    Ok(f(&mut LISTENERS.write().unwrap_or_else(|e| e.into_inner())))
}

/// Sends all messages of the library to `sink`, from any thread, or nowhere. The program's own one: the sink set before is
/// replaced, those of [`add_sink`] stay.
///
/// # Errors
/// `Busy` inside a sink.
pub fn set_sink(sink: Option<Sink>) -> Result<()> {
    change(|listeners| listeners.own = sink)
}

/// Sends all messages to one more sink; gives the number to remove it by, which is never 0 and never used again.
///
/// # Errors
/// `Busy` inside a sink.
pub fn add_sink(sink: Sink) -> Result<u64> {
    change(|listeners| {
        listeners.last_id += 1;
        listeners.added.push((listeners.last_id, sink));
        listeners.last_id
    })
}

/// Removes what [`add_sink`] added. When this returns, the sink is no longer in use.
///
/// # Errors
/// `Busy` inside a sink, `InvalidArgument` for a number that no sink has.
pub fn remove_sink(id: u64) -> Result<()> {
    let removed = change(|listeners| {
        let at = listeners.added.iter().position(|(other, _)| *other == id)?;
        Some(listeners.added.remove(at))
    })?;
    removed.map(drop).ok_or_else(|| {
        Error::InvalidArgument(format!("there is no log callback number {id}; it may have been removed before"))
    })
}

/// Logs one message. Messages that a sink causes itself are dropped.
pub(crate) fn message(level: Level, text: &str) {
    if INSIDE.get() {
        return;
    }
    let listeners = LISTENERS.read().unwrap_or_else(|e| e.into_inner());
    for sink in listeners.own.iter().chain(listeners.added.iter().map(|(_, sink)| sink)) {
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

    type Heard = Mutex<Vec<(Level, String)>>;

    /// A sink that keeps what starts like this: tests log side by side.
    fn keeping(start: &'static str) -> (Sink, Arc<Heard>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        let sink = Arc::new(move |level, text: &str| {
            assert!(set_sink(None).is_err(), "changing the sinks inside one would deadlock");
            if text.starts_with(start) {
                kept.lock().unwrap().push((level, text.to_owned()));
            }
        });
        (sink, seen)
    }

    #[test]
    fn llama_errors_are_kept_and_forwarded() {
        let (sink, seen) = keeping("log test");
        set_sink(Some(sink)).unwrap();
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

    #[test]
    fn several_listen_and_leave_on_their_own() {
        let ((first, heard_first), (second, heard_second)) = (keeping("many"), keeping("many"));
        let first = add_sink(first).unwrap();
        let second = add_sink(second).unwrap();
        assert!(first != 0 && first != second);
        message(Level::Info, "many 1");
        remove_sink(first).unwrap();
        message(Level::Info, "many 2");
        assert!(matches!(remove_sink(first), Err(Error::InvalidArgument(_))));
        assert!(remove_sink(0).is_err());
        remove_sink(second).unwrap();
        message(Level::Info, "many 3");
        let texts = |heard: &Heard| heard.lock().unwrap().iter().map(|(_, t)| t.clone()).collect();
        let (first, second): (Vec<String>, Vec<String>) = (texts(&heard_first), texts(&heard_second));
        assert_eq!((first, second), (vec!["many 1".into()], vec!["many 1".into(), "many 2".into()]));
    }
}
