//! Constrained answers.

use std::ffi::c_char;

use super::boundary::{optional_text, text_array, working, Handle};
use super::error::tgv_status;
use super::session::tgv_session;
use crate::session::Constraint;

/// Most allowed answers: together they become one grammar.
const MAX_ANSWERS: usize = 4096;

/// Makes every answer from the next question on follow a grammar in GBNF, the notation of llama.cpp: its rule "root" is the
/// answer. For example: root ::= "{" "\"count\": " [0-9]+ "}". An answer may still end early, at max_new_tokens or with the
/// context; tgv_session_statistics tells.
///
/// @param grammar  copied; NULL lets answers be free again
///
/// Errors: TGV_ERROR_INVALID_ARGUMENT, with the place, for a text that is no grammar; the session then keeps the constraint
/// it had. _INVALID_UTF8, _BUSY.
///
/// Thread-safety: one thread at a time.
#[no_mangle]
pub unsafe extern "C" fn tgv_session_set_grammar(session: *mut tgv_session, grammar: *const c_char) -> tgv_status {
    working(|| {
        // SAFETY: the caller's promises of the C documentation.
        let (cell, grammar) = unsafe { (tgv_session::share(session)?, optional_text(grammar, "the grammar")?) };
        let constraint = grammar.map(|text| Constraint::Grammar(text.to_owned()));
        let mut state = cell.lock()?;
        state.session.set_constraint(constraint.as_ref())
    })
}

/// Makes every answer from the next question on one of the given texts. White space at their ends does not count.
///
/// @param answers  `count` texts, copied; with a count of 0 answers are free again
///
/// Errors: TGV_ERROR_INVALID_ARGUMENT for an empty text, one that contains a stop text, or more than 4096; the session then
/// keeps the constraint it had. _INVALID_UTF8, _BUSY.
///
/// Thread-safety: one thread at a time.
#[no_mangle]
pub unsafe extern "C" fn tgv_session_set_answers(
    session: *mut tgv_session,
    answers: *const *const c_char,
    count: usize,
) -> tgv_status {
    working(|| {
        // SAFETY: the caller's promises of the C documentation.
        let (cell, answers) = unsafe {
            (tgv_session::share(session)?, text_array(answers, count, MAX_ANSWERS, "answers", "an allowed answer")?)
        };
        let constraint = (count > 0).then(|| Constraint::Answers(answers.into_iter().map(str::to_owned).collect()));
        let mut state = cell.lock()?;
        state.session.set_constraint(constraint.as_ref())
    })
}
