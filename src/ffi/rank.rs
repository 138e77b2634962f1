//! Ranking of given answers.

use std::ffi::c_char;

use super::boundary::{
    optional_text, read_options, require_out, require_text, require_zero, text_array, working, Handle, SizedStruct,
};
use super::error::tgv_status;
use super::session::tgv_session;
use crate::error::{Error, Result};
use crate::session::RankOptions;

/// Most candidates of one call.
const MAX_CANDIDATES: usize = 1 << 16;

/// How candidates are ranked. Initialise with TGV_RANK_PARAMS_INIT; all-zero is what the paper's ranking script does.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tgv_rank_params {
    /// sizeof(tgv_rank_params), set by the INIT macro.
    pub struct_size: usize,
    /// Text that ends each candidate and counts like a part of it; NULL is a newline, "" none.
    pub end_text: *const c_char,
    /// 1 leaves out the BOS token in front of the prompt, with which models are trained.
    pub no_bos: i32,
    /// Always 0.
    pub reserved: i32,
}

// SAFETY: a pointer and integers.
unsafe impl SizedStruct for tgv_rank_params {
    const NAME: &'static str = "tgv_rank_params";
    const FIRST_SIZE: usize = size_of::<tgv_rank_params>();
}

unsafe fn rank_options(params: &tgv_rank_params) -> Result<RankOptions> {
    require_zero(params.reserved, tgv_rank_params::NAME)?;
    let defaults = RankOptions::default();
    // SAFETY: the caller's promises of the C documentation.
    let end = unsafe { optional_text(params.end_text, "end_text") }?;
    Ok(RankOptions {
        end: end.map_or(defaults.end, str::to_owned),
        bos: match params.no_bos {
            0 => true,
            1 => false,
            other => return Err(Error::InvalidArgument(format!("no_bos is {other}; use 0 or 1"))),
        },
    })
}

/// Tells how likely the model finds each of several answers to a question about the images added and the conversation so
/// far. Both stay as they are: the next question gets the same images. The prompt is evaluated once and the candidates side
/// by side. The paper ranks with the prompt template "rank".
///
/// @param candidates  `count` texts
/// @param params      NULL for defaults
/// @param out_losses  `count` floats: the mean loss of each candidate's tokens, in nats; the lowest is the model's choice.
///                    Untouched on failure
///
/// Errors: TGV_ERROR_INVALID_ARGUMENT, _INVALID_UTF8, _CONTEXT_FULL, _CANCELLED, _BUSY, _DECODER.
///
/// Thread-safety: one thread at a time.
#[no_mangle]
pub unsafe extern "C" fn tgv_session_rank(
    session: *mut tgv_session,
    question: *const c_char,
    candidates: *const *const c_char,
    count: usize,
    params: *const tgv_rank_params,
    out_losses: *mut f32,
) -> tgv_status {
    working(|| {
        require_out(out_losses, "out_losses")?;
        // SAFETY: the caller's promises of the C documentation.
        let (cell, question, candidates, options) = unsafe {
            (
                tgv_session::share(session)?,
                require_text(question, "the question")?,
                text_array(candidates, count, MAX_CANDIDATES, "candidates", "a candidate")?,
                rank_options(&read_options(params)?)?,
            )
        };
        let losses = cell.lock()?.session.rank(question, &candidates, &options)?;
        // SAFETY: the caller promises room for `count` floats.
        unsafe { std::ptr::copy_nonoverlapping(losses.as_ptr(), out_losses, losses.len()) };
        Ok(())
    })
}
