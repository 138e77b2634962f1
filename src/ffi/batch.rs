//! Batches of questions.

use std::ffi::{c_char, c_void};

use super::boundary::{text_array, working, Handle};
use super::error::{c_string, tgv_status};
use super::session::{finish_number, tgv_session};
use crate::session::Finish;

/// Most questions of one call.
const MAX_QUESTIONS: usize = 1 << 16;

/// Gets a complete answer of tgv_session_ask_each: the index of its question, the answer (terminated, valid during the
/// call), its length in bytes, and why it ended (TGV_FINISH_...). Called on the thread of tgv_session_ask_each and never
/// after it has returned. Return 0 to go on, anything else to leave the other questions unanswered.
pub type tgv_answer_callback = Option<
    unsafe extern "C" fn(
        index: usize,
        answer: *const c_char,
        length: usize,
        finish: i32,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Answers several questions, each as if it alone were asked next, about the images added and the conversation so far, which
/// both stay as they are. What the questions have in common, the images above all, is evaluated once, and several answers
/// are generated side by side, which is much faster than one after the other. Answers come in the order in which they are
/// complete. When the callback ends it early, that is a success.
///
/// @param questions  `count` texts
/// @param on_answer  gets each answer
/// @param user_data  passed to on_answer
///
/// tgv_session_statistics then tells the sums over all questions.
///
/// Errors: TGV_ERROR_INVALID_ARGUMENT, _INVALID_UTF8, _CONTEXT_FULL when one question alone does not fit, _CANCELLED, _BUSY,
/// _DECODER. Answers delivered before a failure are good.
///
/// Thread-safety: one thread at a time.
#[no_mangle]
pub unsafe extern "C" fn tgv_session_ask_each(
    session: *mut tgv_session,
    questions: *const *const c_char,
    count: usize,
    on_answer: tgv_answer_callback,
    user_data: *mut c_void,
) -> tgv_status {
    working(|| {
        // SAFETY: the caller's promises of the C documentation.
        let (cell, questions) = unsafe {
            (tgv_session::share(session)?, text_array(questions, count, MAX_QUESTIONS, "questions", "a question")?)
        };
        let mut state = cell.lock()?;
        let mut deliver = |index: usize, answer: &str, finish: Finish| match on_answer {
            Some(callback) => {
                let text = c_string(answer);
                let length = text.as_bytes().len();
                // SAFETY: the caller promises that the callback and its data are good during the call.
                unsafe { callback(index, text.as_ptr(), length, finish_number(finish), user_data) == 0 }
            }
            None => true,
        };
        state.session.ask_each(&questions, &mut deliver).map(|_| ())
    })
}
