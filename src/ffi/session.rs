//! Sessions: conversations with a model.

use std::ffi::{c_char, c_void, CStr, CString};
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::boundary::{
    boundary, count, optional_text, progress_closure, read_options, require_out, require_text, require_zero,
    text_array, tgv_progress_callback, working, write_result, Handle, SizedStruct,
};
use super::embedding::tgv_embedding;
use super::error::{c_string, tgv_status};
use super::image::tgv_image;
use super::model::tgv_model;
use crate::decoder::{KvType, Sampling};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::session::{CancelHandle, Finish, Phase, Progress, ProgressListener, Session, SessionOptions, WhenFull};

/// A conversation with a model. Used by one thread at a time; a call that comes while another is running, or from inside a
/// callback of it, returns TGV_ERROR_BUSY. Only tgv_session_cancel may be called at any moment.
pub struct tgv_session {
    _opaque: [u8; 0],
}

pub(super) struct SessionCell {
    state: Mutex<State>,
    cancel: CancelHandle,
}

pub(super) struct State {
    pub(super) session: Session,
    /// What C borrows from the last call of tgv_session_ask.
    answer: CString,
    on_progress: tgv_progress_callback,
    user_data: *mut c_void,
}

// SAFETY: the user_data pointer is only handed back to the caller's own callback.
unsafe impl Send for State {}

impl Handle for tgv_session {
    type Inner = SessionCell;
    const NAME: &'static str = "session";
}

/// Most stop_texts: each piece of an answer is searched for all of them.
const MAX_STOP_TEXTS: usize = 1024;

impl SessionCell {
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Ok(state),
            // A panic inside left the session in order: its parts are changed only at the end of a call.
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Error::Busy(
                "the session is busy with another call; wait for it, or create a session for each thread".into(),
            )),
        }
    }
}

/// Sampling mode: always the most likely token, so that the same question gets the same answer.
pub const TGV_SAMPLING_GREEDY: i32 = 0;
/// Sampling mode: at random, by the other fields of tgv_sampling_params.
pub const TGV_SAMPLING_RANDOM: i32 = 1;

/// How tokens are chosen. Initialise with TGV_SAMPLING_PARAMS_INIT; all-zero is greedy. With TGV_SAMPLING_RANDOM, zero
/// takes the model's own value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tgv_sampling_params {
    /// sizeof(tgv_sampling_params), set by the INIT macro.
    pub struct_size: usize,
    /// TGV_SAMPLING_GREEDY or TGV_SAMPLING_RANDOM.
    pub mode: i32,
    /// Divides the logits: below 1 is more careful, above 1 more varied.
    pub temperature: f32,
    /// Keep the k most likely tokens; negative keeps all.
    pub top_k: i32,
    /// Keep the most likely tokens that together reach this probability, above 0 and up to 1.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the most likely one, 0 to 1; 0 keeps all.
    pub min_p: f32,
    /// Above 1 weakens tokens that the answer already has. Zero is 1 (off) in greedy mode.
    pub repeat_penalty: f32,
    /// The same seed gives the same answer; 0 takes another one for each call that sets the sampling.
    pub seed: u32,
    /// Always 0.
    pub reserved: u32,
}

// SAFETY: numbers.
unsafe impl SizedStruct for tgv_sampling_params {
    const NAME: &'static str = "tgv_sampling_params";
    const FIRST_SIZE: usize = size_of::<tgv_sampling_params>();
}

/// A question that does not fit into the context fails with TGV_ERROR_CONTEXT_FULL.
pub const TGV_WHEN_FULL_FAIL: i32 = 0;
/// The oldest questions and answers are forgotten until the next question and an answer fit (one of max_new_tokens, or of a
/// quarter of the context where that is less). Their images stay; only when the question does not fit otherwise the oldest
/// images go too, but never the newest one.
pub const TGV_WHEN_FULL_DROP_OLDEST: i32 = 1;

/// A KV cache in half precision: the fastest, and right for use.
pub const TGV_KV_F16: i32 = 0;
/// A KV cache in single precision, twice as large, with attention computed in single precision: for comparisons.
pub const TGV_KV_F32: i32 = 1;

/// Encoding an image.
pub const TGV_PHASE_ENCODE: i32 = 0;
/// Evaluating a prompt.
pub const TGV_PHASE_PREFILL: i32 = 1;
/// Generating an answer. Its fraction is that of max_new_tokens: an answer mostly ends before.
pub const TGV_PHASE_DECODE: i32 = 2;

/// Gets what a session is doing (TGV_PHASE_...), the fraction of it that is done, and the milliseconds that are left at the
/// pace so far, -1 as long as it is too early to tell. Called on the thread of the call on the session and never after it
/// has returned. Return 0 to go on, anything else to stop; the call then returns TGV_ERROR_CANCELLED.
pub type tgv_phase_callback =
    Option<unsafe extern "C" fn(phase: i32, fraction: f32, remaining_ms: f32, user_data: *mut c_void) -> i32>;

/// How a session works. Initialise with TGV_SESSION_PARAMS_INIT; zero means default in every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tgv_session_params {
    /// sizeof(tgv_session_params), set by the INIT macro.
    pub struct_size: usize,
    /// Positions of the context; 0 takes what the model was trained for, 4096 at most.
    pub context: i32,
    /// Threads of the decoder, no more than processors are used; 0 takes the model's, or 1 for a very small decoder.
    pub threads: i32,
    /// Most tokens of an answer; 0 takes 300.
    pub max_new_tokens: i32,
    /// What to do when the context is full: TGV_WHEN_FULL_....
    pub when_full: i32,
    /// Prompt template by name, see tgv_model_template_name; NULL takes the model's default.
    pub template_name: *const c_char,
    /// System text in front of the first turn; NULL takes the template's own, "" none.
    pub system_text: *const c_char,
    /// Texts that end an answer, besides the model's own; may be NULL.
    pub stop_texts: *const *const c_char,
    /// How many stop_texts there are.
    pub stop_text_count: usize,
    /// How tokens are chosen; NULL is greedy.
    pub sampling: *const tgv_sampling_params,
    /// Gets the fraction done while tgv_session_add_image encodes, and may ask to stop; may be NULL.
    pub on_progress: tgv_progress_callback,
    /// Passed to on_progress.
    pub user_data: *mut c_void,
    /// A template of your own in place of a named one: one turn, with {images} where images go and {question}, each once.
    /// May be NULL.
    pub template_text: *const c_char,
    /// With template_text: how one image is written, with {image} where its embedding goes; NULL takes that of the named
    /// template.
    pub image_text: *const c_char,
    /// Numbers of the KV cache: TGV_KV_....
    pub kv_type: i32,
    /// Always 0.
    pub reserved: i32,
    /// Hears of every phase of every call on the session, and may ask to stop; gets user_data. May be NULL.
    pub on_phase: tgv_phase_callback,
}

// SAFETY: integers, pointers and a nullable function pointer.
unsafe impl SizedStruct for tgv_session_params {
    const NAME: &'static str = "tgv_session_params";
    const FIRST_SIZE: usize = size_of::<tgv_session_params>();
}

/// The answer has not been asked for yet.
pub const TGV_FINISH_NONE: i32 = 0;
/// The model was done.
pub const TGV_FINISH_STOP: i32 = 1;
/// The answer reached max_new_tokens.
pub const TGV_FINISH_LENGTH: i32 = 2;
/// The context was full.
pub const TGV_FINISH_CONTEXT: i32 = 3;
/// The text callback asked to stop.
pub const TGV_FINISH_CALLBACK: i32 = 4;

/// Figures of a session's last answer. Initialise with TGV_STATISTICS_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tgv_statistics {
    /// sizeof(tgv_statistics), set by the INIT macro.
    pub struct_size: usize,
    /// Milliseconds of encoding the images added for the answer.
    pub encode_ms: f64,
    /// Milliseconds of evaluating the prompt.
    pub prefill_ms: f64,
    /// Milliseconds of generating the answer.
    pub decode_ms: f64,
    /// Positions of the prompt, images and earlier turns included.
    pub prompt_tokens: u32,
    /// Of these, positions of the images added for the answer.
    pub image_tokens: u32,
    /// Of the prompt's positions, those that the KV cache already held.
    pub reused_tokens: u32,
    /// Tokens generated, the ending one included.
    pub generated_tokens: u32,
    /// Positions that the conversation takes now.
    pub context_used: u32,
    /// Positions that the context can hold.
    pub context_size: u32,
    /// Why the answer ended: TGV_FINISH_....
    pub finish: i32,
    /// Earlier questions with their answers that were forgotten to make room, see TGV_WHEN_FULL_DROP_OLDEST.
    pub dropped_turns: u32,
    /// Images that were forgotten with them.
    pub dropped_images: u32,
    /// Always 0.
    pub reserved: i32,
}

// SAFETY: numbers.
unsafe impl SizedStruct for tgv_statistics {
    const NAME: &'static str = "tgv_statistics";
    const FIRST_SIZE: usize = size_of::<tgv_statistics>();
}

/// Gets the next piece of an answer: whole UTF-8 characters, terminated, valid during the call, and their length in bytes.
/// Called on the thread of tgv_session_ask and never after it has returned. Return 0 to go on, anything else to end the
/// answer here.
pub type tgv_text_callback =
    Option<unsafe extern "C" fn(text: *const c_char, length: usize, user_data: *mut c_void) -> i32>;

pub(super) fn finish_number(finish: Finish) -> i32 {
    match finish {
        Finish::None => TGV_FINISH_NONE,
        Finish::Stop => TGV_FINISH_STOP,
        Finish::Length => TGV_FINISH_LENGTH,
        Finish::Context => TGV_FINISH_CONTEXT,
        Finish::Callback => TGV_FINISH_CALLBACK,
    }
}

/// The safe API's sampling of a C struct; `fallback` is the model's own random sampling.
fn sampling_of(params: &tgv_sampling_params, fallback: Sampling) -> Result<Sampling> {
    require_zero(params.reserved, tgv_sampling_params::NAME)?;
    let or = |value: f32, default: f32| if value == 0.0 { default } else { value };
    let sampling = match params.mode {
        TGV_SAMPLING_GREEDY => Sampling { repeat_penalty: or(params.repeat_penalty, 1.0), ..Sampling::default() },
        TGV_SAMPLING_RANDOM => Sampling {
            greedy: false,
            temperature: or(params.temperature, fallback.temperature),
            top_k: match params.top_k {
                0 => fallback.top_k,
                k => u32::try_from(k).unwrap_or(0),
            },
            top_p: or(params.top_p, fallback.top_p),
            min_p: params.min_p,
            repeat_penalty: or(params.repeat_penalty, fallback.repeat_penalty),
            seed: match params.seed {
                0 => random_seed(),
                seed => seed,
            },
        },
        mode => return Err(Error::InvalidArgument(format!("sampling mode {mode} is none of TGV_SAMPLING_..."))),
    };
    sampling.validate()?;
    Ok(sampling)
}

fn random_seed() -> u32 {
    // The standard library seeds each of its hashers from the system's randomness.
    std::collections::hash_map::RandomState::new().build_hasher().finish() as u32
}

/// What decides how much memory a session takes; the rest is default.
pub(super) fn context_options(params: &tgv_session_params) -> Result<SessionOptions> {
    Ok(SessionOptions {
        context: count(params.context, "context")?,
        kv_type: match params.kv_type {
            TGV_KV_F16 => KvType::F16,
            TGV_KV_F32 => KvType::F32,
            other => return Err(Error::InvalidArgument(format!("kv_type {other} is none of TGV_KV_..."))),
        },
        ..SessionOptions::default()
    })
}

unsafe fn session_options(params: &tgv_session_params, model: &Model) -> Result<SessionOptions> {
    require_zero(params.reserved, tgv_session_params::NAME)?;
    // SAFETY: the caller's promises of the C documentation.
    let (stops, template, system, template_text, image_text, sampling) = unsafe {
        (
            text_array(params.stop_texts, params.stop_text_count, MAX_STOP_TEXTS, "stop_texts", "a stop text")?,
            optional_text(params.template_name, "template_name")?,
            optional_text(params.system_text, "system_text")?,
            optional_text(params.template_text, "template_text")?,
            optional_text(params.image_text, "image_text")?,
            read_options(params.sampling)?,
        )
    };
    if stops.iter().any(|s| s.is_empty()) {
        return Err(Error::InvalidArgument("a stop text is empty; leave it out".into()));
    }
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Ok(SessionOptions {
        threads: count(params.threads, "threads")?,
        template: owned(template),
        template_text: owned(template_text),
        image_text: owned(image_text),
        system: owned(system),
        stops: stops.into_iter().map(str::to_owned).collect(),
        max_new_tokens: count(params.max_new_tokens, "max_new_tokens")?,
        sampling: sampling_of(&sampling, model.chat_sampling())?,
        when_full: match params.when_full {
            TGV_WHEN_FULL_FAIL => WhenFull::Fail,
            TGV_WHEN_FULL_DROP_OLDEST => WhenFull::DropOldest,
            other => return Err(Error::InvalidArgument(format!("when_full {other} is none of TGV_WHEN_FULL_..."))),
        },
        ..context_options(params)?
    })
}

/// The caller's pointer, which is only handed back to the caller's own callback.
struct UserData(*mut c_void);

// SAFETY: see above.
unsafe impl Send for UserData {}

impl UserData {
    fn get(&self) -> *mut c_void {
        self.0
    }
}

fn phase_listener(callback: tgv_phase_callback, user_data: *mut c_void) -> Option<ProgressListener> {
    let callback = callback?;
    let user_data = UserData(user_data);
    Some(Box::new(move |progress: Progress| {
        let phase = match progress.phase {
            Phase::Encode => TGV_PHASE_ENCODE,
            Phase::Prefill => TGV_PHASE_PREFILL,
            Phase::Decode => TGV_PHASE_DECODE,
        };
        let remaining = progress.remaining.map_or(-1.0, |left| left.as_secs_f32() * 1e3);
        // SAFETY: the caller promises that the callback and its data are good during every call on the session.
        unsafe { callback(phase, progress.fraction, remaining, user_data.get()) == 0 }
    }))
}

/// Starts a conversation. Everything that params points to is copied, but on_progress, on_phase and user_data.
///
/// @param params       NULL for defaults
/// @param out_session  the new session, to be freed with tgv_session_free; untouched on failure
///
/// Errors: TGV_ERROR_INVALID_ARGUMENT, _INVALID_UTF8, _OUT_OF_MEMORY.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_session_create(
    model: *const tgv_model,
    params: *const tgv_session_params,
    out_session: *mut *mut tgv_session,
) -> tgv_status {
    working(|| {
        require_out(out_session, "out_session")?;
        // SAFETY: the caller's promises of the C documentation.
        let (cell, params) = unsafe { (tgv_model::share(model)?, read_options(params)?) };
        // SAFETY: as above.
        let options = unsafe { session_options(&params, &cell.model) }?;
        let mut session = Session::new(cell.model.clone(), &options)?;
        session.set_progress_listener(phase_listener(params.on_phase, params.user_data));
        let cancel = session.cancel_handle();
        let state =
            State { session, answer: CString::default(), on_progress: params.on_progress, user_data: params.user_data };
        // SAFETY: checked above.
        unsafe { out_session.write(tgv_session::give(Arc::new(SessionCell { state: Mutex::new(state), cancel }))) };
        Ok(())
    })
}

/// Frees a session; NULL does nothing. The model it was created with may have been freed before. A call that is running on
/// the session, of which this may be a callback, comes to its end first.
///
/// Thread-safety: any thread, once.
#[no_mangle]
pub unsafe extern "C" fn tgv_session_free(session: *mut tgv_session) {
    // SAFETY: the caller's promise.
    unsafe { tgv_session::take_back(session) }
}

/// Encodes an image and puts it in front of the next question. Several images before one question are allowed.
///
/// Errors: TGV_ERROR_CANCELLED, _BUSY, _OUT_OF_MEMORY, _INVALID_ARGUMENT. On failure the session is as it was.
///
/// Thread-safety: one thread at a time.
#[no_mangle]
pub unsafe extern "C" fn tgv_session_add_image(session: *mut tgv_session, image: *const tgv_image) -> tgv_status {
    working(|| {
        // SAFETY: the caller's promises of the C documentation.
        let (cell, image) = unsafe { (tgv_session::share(session)?, tgv_image::share(image)?) };
        let mut state = cell.lock()?;
        let mut progress = progress_closure(state.on_progress, state.user_data);
        state.session.add_image(&image, Some(&mut progress)).map(|_| ())
    })
}

/// Puts an image that was encoded before in front of the next question. The embedding may be freed afterwards.
///
/// Errors: TGV_ERROR_INVALID_ARGUMENT for an embedding of another model's width, _BUSY.
///
/// Thread-safety: one thread at a time.
#[no_mangle]
pub unsafe extern "C" fn tgv_session_add_embedding(
    session: *mut tgv_session,
    embedding: *const tgv_embedding,
) -> tgv_status {
    boundary(|| {
        // SAFETY: the caller's promises of the C documentation.
        let (cell, embedding) = unsafe { (tgv_session::share(session)?, tgv_embedding::share(embedding)?) };
        let mut state = cell.lock()?;
        state.session.add_embedding(embedding)
    })
}

/// Asks a question about the images added since the last one, or goes on with the conversation.
///
/// @param question    UTF-8, not empty
/// @param on_text     gets the answer piece by piece; may be NULL
/// @param user_data   passed to on_text
/// @param out_answer  the whole answer, which belongs to the session and stays valid until the next tgv_session_ask on it
///                    or its end; may be NULL; untouched on failure
///
/// An answer that the model, max_new_tokens, a full context or the callback ended is a success; tgv_session_statistics
/// tells which it was. After a failure the conversation is as it was before the call.
///
/// Errors: TGV_ERROR_INVALID_ARGUMENT, _INVALID_UTF8, _CONTEXT_FULL, _CANCELLED, _BUSY, _DECODER.
///
/// Thread-safety: one thread at a time.
#[no_mangle]
pub unsafe extern "C" fn tgv_session_ask(
    session: *mut tgv_session,
    question: *const c_char,
    on_text: tgv_text_callback,
    user_data: *mut c_void,
    out_answer: *mut *const c_char,
) -> tgv_status {
    working(|| {
        // SAFETY: the caller's promises of the C documentation.
        let (cell, question) = unsafe { (tgv_session::share(session)?, require_text(question, "the question")?) };
        let mut state = cell.lock()?;
        let mut deliver = |text: &str| match on_text {
            Some(callback) => {
                let text = c_string(text);
                // SAFETY: the caller promises that the callback and its data are good during the call.
                unsafe { callback(text.as_ptr(), text.as_bytes().len(), user_data) == 0 }
            }
            None => true,
        };
        let answer = state.session.ask(question, &mut deliver)?;
        state.answer = c_string(&answer);
        if !out_answer.is_null() {
            let answer: &CStr = &state.answer;
            // SAFETY: not NULL; the text stays in the session.
            unsafe { out_answer.write(answer.as_ptr()) };
        }
        Ok(())
    })
}

/// Forgets the conversation and the images waiting. The next conversation does not evaluate again what it has in common
/// with the beginning of the last one, such as the same embedding.
///
/// Errors: TGV_ERROR_BUSY.
///
/// Thread-safety: one thread at a time.
#[no_mangle]
pub unsafe extern "C" fn tgv_session_reset(session: *mut tgv_session) -> tgv_status {
    boundary(|| {
        // SAFETY: the caller's promises of the C documentation.
        let cell = unsafe { tgv_session::share(session) }?;
        cell.lock()?.session.reset();
        Ok(())
    })
}

/// Changes how tokens are chosen from the next question on.
///
/// @param params  NULL for greedy
///
/// Errors: TGV_ERROR_INVALID_ARGUMENT, _BUSY.
///
/// Thread-safety: one thread at a time.
#[no_mangle]
pub unsafe extern "C" fn tgv_session_set_sampling(
    session: *mut tgv_session,
    params: *const tgv_sampling_params,
) -> tgv_status {
    boundary(|| {
        // SAFETY: the caller's promises of the C documentation.
        let (cell, params) = unsafe { (tgv_session::share(session)?, read_options(params)?) };
        let mut state = cell.lock()?;
        let sampling = sampling_of(&params, state.session.model().chat_sampling())?;
        state.session.set_sampling(sampling)
    })
}

/// Makes the call that is running on the session (tgv_session_add_image, _ask, _ask_each or _rank) return
/// TGV_ERROR_CANCELLED soon. Without such a call, and for NULL, it has no effect.
///
/// Thread-safety: any thread, at any moment of the session's life, also from callbacks.
#[no_mangle]
pub unsafe extern "C" fn tgv_session_cancel(session: *mut tgv_session) {
    // SAFETY: the caller's promise.
    if let Ok(cell) = unsafe { tgv_session::share(session) } {
        cell.cancel.cancel();
    }
}

/// Tells the figures of the last answer.
///
/// @param out_statistics  initialised with TGV_STATISTICS_INIT; untouched on failure
///
/// Errors: TGV_ERROR_INVALID_ARGUMENT, _BUSY.
///
/// Thread-safety: one thread at a time.
#[no_mangle]
pub unsafe extern "C" fn tgv_session_statistics(
    session: *const tgv_session,
    out_statistics: *mut tgv_statistics,
) -> tgv_status {
    boundary(|| {
        // SAFETY: the caller's promises of the C documentation.
        let cell = unsafe { tgv_session::share(session) }?;
        let s = *cell.lock()?.session.statistics();
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let statistics = tgv_statistics {
            struct_size: 0,
            encode_ms: s.encode_ms,
            prefill_ms: s.prefill_ms,
            decode_ms: s.decode_ms,
            prompt_tokens: small(s.prompt_tokens),
            image_tokens: small(s.image_tokens),
            reused_tokens: small(s.reused_tokens),
            generated_tokens: small(s.generated_tokens),
            context_used: small(s.context_used),
            context_size: small(s.context_size),
            finish: finish_number(s.finish),
            dropped_turns: small(s.dropped_turns),
            dropped_images: small(s.dropped_images),
            reserved: 0,
        };
        // SAFETY: the caller's promises of the C documentation.
        unsafe { write_result(out_statistics, &statistics) }
    })
}
