//! The memory plan.

use std::ffi::c_char;
use std::path::Path;

use super::boundary::{optional_text, read_options, require_text, working, write_result, SizedStruct};
use super::error::tgv_status;
use super::model::{model_options, tgv_model_params};
use super::session::{context_options, tgv_session_params};
use crate::plan::plan;

/// How much memory a model and its sessions take, in bytes. Initialise with TGV_MEMORY_PLAN_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tgv_memory_plan {
    /// sizeof(tgv_memory_plan), set by the INIT macro.
    pub struct_size: usize,
    /// Pages of the two files, which the system may drop at any time and shares between processes.
    pub mapped_bytes: u64,
    /// Private: a loaded model.
    pub model_bytes: u64,
    /// Private: the embedding cache when it is full.
    pub cache_bytes: u64,
    /// Private: encoding an image, while it lasts.
    pub encode_bytes: u64,
    /// Private: one session with the given context. Most of it is the KV cache, which on Linux and Android takes memory only
    /// as it is filled.
    pub session_bytes: u64,
    /// Private: all of that, with one session. This is what memory_limit is compared with.
    pub private_bytes: u64,
}

// SAFETY: integers.
unsafe impl SizedStruct for tgv_memory_plan {
    const NAME: &'static str = "tgv_memory_plan";
    const FIRST_SIZE: usize = size_of::<tgv_memory_plan>();
}

/// Tells how much memory a model and a session would take, from the files' headers: nothing is loaded.
///
/// @param decoder_path    as for tgv_model_load
/// @param vision_path     as for tgv_model_load
/// @param model_params    NULL for defaults
/// @param session_params  context and kv_type count; NULL for defaults
/// @param out_plan        initialised with TGV_MEMORY_PLAN_INIT; untouched on failure
///
/// The KV cache and the encoder's memory are exact, the rest are upper estimates.
///
/// Errors: as for tgv_model_load and tgv_session_create.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_model_plan(
    decoder_path: *const c_char,
    vision_path: *const c_char,
    model_params: *const tgv_model_params,
    session_params: *const tgv_session_params,
    out_plan: *mut tgv_memory_plan,
) -> tgv_status {
    working(|| {
        // SAFETY: the caller's promises of the C documentation.
        let (decoder, vision, model, session) = unsafe {
            (
                require_text(decoder_path, "decoder_path")?,
                optional_text(vision_path, "vision_path")?,
                model_options(&read_options(model_params)?)?,
                context_options(&read_options(session_params)?)?,
            )
        };
        let plan = plan(Path::new(decoder), vision.map(Path::new), &model, &session)?;
        let result = tgv_memory_plan {
            struct_size: 0,
            mapped_bytes: plan.mapped,
            model_bytes: plan.model,
            cache_bytes: plan.cache,
            encode_bytes: plan.encode,
            session_bytes: plan.session,
            private_bytes: plan.private(),
        };
        // SAFETY: the caller's promises of the C documentation.
        unsafe { write_result(out_plan, &result) }
    })
}
