//! The decoder: token ids and image embeddings in, logits out. The only room that talks to llama.cpp.

mod backend;
mod bindings;
mod branches;
mod compute;
mod contention;
mod grammar;
mod sampler;
#[doc(hidden)]
pub mod trace;
mod validate;
mod watch;

use std::borrow::Cow;
use std::ffi::{c_char, c_void, CStr, CString};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_sys_2 as llama;

use compute::Computer;
use contention::Contention;

use crate::embedding::Embedding;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::log;
use crate::memory;
use crate::processors::ProcessorMask;
use crate::stack;
use trace::LayerTrace;
use watch::Watch;

pub use branches::{BranchSlot, Branches};
pub use grammar::Grammar;
pub use sampler::{Sampler, Sampling};
pub(crate) use validate::{shape_of, validate};
pub use validate::{DecoderInfo, Shape};
pub use watch::Listener;

/// Most positions that one pass of llama.cpp's graph takes.
pub(crate) const MICRO_BATCH: usize = 512;

/// Numbers of the KV cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// Half precision: half the memory, and what llama.cpp computes fastest with.
    #[default]
    F16,
    /// Single precision, with attention computed in single precision too: for comparisons with a reference.
    F32,
}

/// Branches that may grow side by side from what a context holds.
const MAX_BRANCHES: usize = 16;

/// Most positions of one pass whose logits can be read. Each costs a vocabulary's worth of floats.
pub(crate) const MAX_OUTPUTS: usize = 64;

/// What llama.cpp's passes return when a buffer cannot be had.
const NO_MEMORY: i32 = -2;

/// How a context is made.
#[derive(Clone, Copy, Debug)]
pub struct DecoderOptions {
    /// Positions it can hold.
    pub capacity: usize,
    /// Threads it computes on.
    pub threads: usize,
    /// Numbers of the KV cache.
    pub kv_type: KvType,
    /// Who computes.
    pub kernels: Kernels,
}

/// Who computes a context's passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// This library's threads and loops, wherever weights are in the file's layout.
    #[default]
    Own,
    /// ggml's: for comparisons.
    Ggml,
}

/// A buffer for the messages of the C++ side.
struct ErrorText([c_char; 512]);

impl ErrorText {
    fn new() -> Self {
        log::clear_llama_error();
        ErrorText([0; 512])
    }

    /// The exception's text and what llama.cpp logged about it.
    fn describe(&self) -> String {
        // SAFETY: the buffer starts as zeros and the C++ side always terminates what it writes.
        let text = unsafe { CStr::from_ptr(self.0.as_ptr()) }.to_string_lossy().into_owned();
        match (text, log::llama_error()) {
            (t, l) if l.is_empty() => t,
            (t, l) if t.is_empty() => l,
            (t, l) => format!("{t} ({l})"),
        }
    }
}

impl ErrorText {
    /// A lack of memory, which llama.cpp tells of in its text alone, or what else the text means.
    fn cause(&self, otherwise: impl FnOnce(String) -> Error) -> Error {
        let text = self.describe();
        match ["bad_alloc", "allocate"].iter().any(|sign| text.contains(sign)) {
            true => Error::OutOfMemory(
                format!("llama.cpp ran out of memory ({text}); free some memory and call again").into(),
            ),
            false => otherwise(text),
        }
    }
}

/// How weights are loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Layers to put on a GPU, in builds that have one.
    pub gpu_layers: u32,
    /// Copy weights into another layout where this processor computes faster with it.
    pub repack: bool,
    /// Read all weights into memory instead of mapping the file.
    pub copy: bool,
    /// Processors that the threads of contexts are bound to.
    pub processors: ProcessorMask,
}

/// Whether another layout of the file's weights makes this processor compute faster, as far as is known.
pub(crate) fn repacking_helps(file: &Gguf) -> bool {
    !compute::outruns_repacking(file)
}

/// Weights and vocabulary, shared by all sessions of a model.
pub struct DecoderModel {
    processors: ProcessorMask,
    /// Weights are in a layout that ggml alone knows, or of experts, which it alone multiplies.
    for_ggml: bool,
    /// A pass has gone through all operations on the calling thread.
    tried: AtomicBool,
    shape: Shape,
    llama: LlamaModel,
    info: DecoderInfo,
    width: usize,
    context_length: usize,
}

/// Hands a Rust closure to llama.cpp as its load progress callback.
struct ProgressBridge<'a> {
    progress: &'a mut dyn FnMut(f32) -> bool,
    panicked: bool,
}

unsafe extern "C" fn on_load_progress(fraction: f32, user_data: *mut c_void) -> bool {
    // SAFETY: user_data is the bridge that `load` keeps alive during the call, and nobody else uses it meanwhile.
    let bridge = unsafe { &mut *user_data.cast::<ProgressBridge>() };
    let run = std::panic::AssertUnwindSafe(|| (bridge.progress)(fraction));
    match std::panic::catch_unwind(run) {
        Ok(go_on) => go_on,
        Err(_) => {
            bridge.panicked = true;
            false
        }
    }
}

impl DecoderModel {
    /// Validates the file and loads it through llama.cpp. `progress` gets fractions and may ask to stop, which
    /// gives `Error::Cancelled`.
    pub fn load(gguf: &Gguf, options: &LoadOptions, progress: &mut dyn FnMut(f32) -> bool) -> Result<DecoderModel> {
        DecoderModel::load_checked(gguf, validate(gguf)?, options, progress)
    }

    /// `load` of a file that was validated before.
    pub(crate) fn load_checked(
        gguf: &Gguf,
        info: DecoderInfo,
        options: &LoadOptions,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<DecoderModel> {
        backend::init()?;
        let path = path_to_c(gguf.path())?;
        let mut bridge = ProgressBridge { progress, panicked: false };
        // SAFETY: plain data.
        let mut params = unsafe { llama::llama_model_default_params() };
        params.n_gpu_layers = i32::try_from(options.gpu_layers).unwrap_or(i32::MAX);
        params.progress_callback = Some(on_load_progress);
        params.progress_callback_user_data = (&raw mut bridge).cast();
        // Otherwise weights stay in the file's layout and pages, so that the system can drop and share them.
        let repacked = options.repack && repacking_helps(gguf);
        params.use_extra_bufts = repacked;
        if options.copy {
            params.load_mode = llama::LLAMA_LOAD_MODE_NONE;
        }
        let mut cancelled = false;
        let mut error = ErrorText::new();
        // SAFETY: path is terminated; params and the buffers live during the call.
        let model = unsafe {
            bindings::tgvi_model_load(
                path.as_ptr(),
                &params,
                info.extra_norms,
                info.post_norm_eps,
                &mut cancelled,
                error.0.as_mut_ptr(),
                error.0.len(),
            )
        };
        if bridge.panicked {
            return Err(Error::Internal("the progress callback panicked".into()));
        }
        let Some(model) = NonNull::new(model) else {
            if cancelled {
                return Err(Error::Cancelled);
            }
            return Err(error.cause(|text| Error::unsupported(gguf.path(), format!("llama.cpp refuses it: {text}"))));
        };
        // SAFETY: LlamaModel is a transparent wrapper of this pointer (its crate is pinned exactly) and frees it on drop.
        let llama = unsafe { std::mem::transmute::<NonNull<llama::llama_model>, LlamaModel>(model) };
        let width = llama.n_embd().max(0) as usize;
        // SAFETY: the model is alive.
        let context_length = unsafe { llama::llama_model_n_ctx_train(model.as_ptr()) }.max(0) as usize;
        let shape = shape_of(gguf, &info);
        // Every tensor of a phi2 file was checked.
        let tried = AtomicBool::new(info.architecture == "phi2");
        let processors = options.processors;
        let for_ggml = repacked || gguf.tensors().iter().any(|t| t.shape.len() > 2);
        Ok(DecoderModel { processors, for_ggml, tried, shape, llama, info, width, context_length })
    }

    fn as_ptr(&self) -> *mut llama::llama_model {
        // SAFETY: the same layout as in `load`; the pointer is only lent.
        unsafe { std::mem::transmute_copy::<LlamaModel, NonNull<llama::llama_model>>(&self.llama) }.as_ptr()
    }

    /// Sizes that decide how much memory a context takes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What the metadata say.
    pub fn info(&self) -> &DecoderInfo {
        &self.info
    }

    /// Floats of one input vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Positions the model was trained for.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Layers.
    pub fn n_layer(&self) -> usize {
        self.llama.n_layer() as usize
    }

    /// All weights, in numbers.
    pub fn n_params(&self) -> u64 {
        self.llama.n_params()
    }

    /// All weights, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.llama.size()
    }

    fn can_branch(&self) -> bool {
        // SAFETY: the model is alive.
        unsafe { !llama::llama_model_is_recurrent(self.as_ptr()) && !llama::llama_model_is_hybrid(self.as_ptr()) }
    }

    fn has_token(&self, token: i32) -> bool {
        (0..self.info.n_vocab as i32).contains(&token)
    }

    /// Whether the token ends an answer by itself.
    pub fn is_end_of_generation(&self, token: i32) -> bool {
        self.has_token(token) && self.llama.vocab().is_eog(LlamaToken(token))
    }

    /// The token that begins a sequence in training, if the vocabulary has one.
    pub fn bos(&self) -> Option<i32> {
        // SAFETY: the model is alive.
        let token = unsafe { llama::llama_vocab_bos(llama::llama_model_get_vocab(self.as_ptr())) };
        Some(token).filter(|&t| self.has_token(t))
    }

    /// llama.cpp's own tokenizer, without BOS or EOS, special tokens in the text recognised.
    ///
    /// # Errors
    /// `InvalidArgument` for a text that the vocabulary cannot represent, or with a word too long for llama.cpp.
    pub fn tokenize(&self, text: &str) -> Result<Vec<i32>> {
        let run = check_runs(text)?;
        stack::with_room_for(run, || self.tokenize_here(text))?
    }

    fn tokenize_here(&self, text: &str) -> Result<Vec<i32>> {
        // A token is at least one byte, but some vocabularies add a space in front.
        let mut tokens = vec![0; text.len() + 8];
        loop {
            let mut error = ErrorText::new();
            // SAFETY: the pointers and lengths belong together; the model is alive.
            let n = unsafe {
                bindings::tgvi_tokenize(
                    self.as_ptr(),
                    text.as_ptr().cast(),
                    text.len(),
                    tokens.as_mut_ptr(),
                    tokens.len(),
                    error.0.as_mut_ptr(),
                    error.0.len(),
                )
            };
            match usize::try_from(n) {
                Ok(n) => {
                    tokens.truncate(n);
                    break;
                }
                Err(_) if n == i32::MIN => {
                    return Err(error.cause(|text| {
                        Error::InvalidArgument(format!("this model's vocabulary cannot represent the text: {text}"))
                    }));
                }
                Err(_) => tokens.resize(n.unsigned_abs() as usize, 0),
            }
        }
        if !tokens.iter().all(|&t| self.has_token(t)) {
            return Err(Error::InvalidArgument("this model's vocabulary cannot represent the text".into()));
        }
        Ok(tokens)
    }

    /// llama.cpp's own bytes of a token; control tokens and numbers that are no token give none.
    pub fn token_bytes(&self, token: i32) -> Vec<u8> {
        if !self.has_token(token) {
            return Vec::new();
        }
        self.llama.vocab().token_to_piece(LlamaToken(token), false, None)
    }
}

/// Longest run of white space or of anything else that is passed to llama.cpp's tokenizers.
const MAX_RUN_BYTES: usize = 4096;

/// llama.cpp splits some vocabularies' text with `std::regex`, which recurses once a character. Returns how deep.
fn check_runs(text: &str) -> Result<usize> {
    let longest = |split: fn(char) -> bool| text.split(split).map(str::len).max().unwrap_or(0);
    let run = longest(char::is_whitespace).max(longest(|c| !c.is_whitespace()));
    if run > MAX_RUN_BYTES || text.len() > i32::MAX as usize / 2 {
        return Err(Error::InvalidArgument(format!(
            "the text has {run} bytes without a change between words and white space; {MAX_RUN_BYTES} are allowed"
        )));
    }
    Ok(run)
}

#[cfg(unix)]
fn path_to_c(path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::InvalidArgument("a path cannot contain a NUL byte".into()))
}

#[cfg(not(unix))]
fn path_to_c(path: &Path) -> Result<CString> {
    let text = path.to_str().ok_or(Error::InvalidUtf8 { what: "the decoder's path", offset: 0 })?;
    CString::new(text).map_err(|_| Error::InvalidArgument("a path cannot contain a NUL byte".into()))
}

/// What stands at one position of the decoder's input.
#[derive(Clone, Debug)]
pub enum Slot {
    /// A token id, which must be inside the vocabulary.
    Token(i32),
    /// One row of an image embedding of the decoder's width.
    Image(Arc<Embedding>, usize),
}

impl PartialEq for Slot {
    fn eq(&self, other: &Slot) -> bool {
        match (self, other) {
            (Slot::Token(a), Slot::Token(b)) => a == b,
            (Slot::Image(a, i), Slot::Image(b, j)) => a.id() == b.id() && i == j,
            _ => false,
        }
    }
}

/// The sequence of the KV cache that `Decoder::evaluate` and `append` work on; branches have the numbers after it.
const TRUNK: i32 = 0;

/// One position of a pass.
struct Entry<'a> {
    sequence: i32,
    position: usize,
    slot: &'a Slot,
    wants_logits: bool,
}

/// One context: a KV cache, what it holds, and the logits of the last position.
pub struct Decoder {
    context: NonNull<bindings::Context>,
    model: Arc<DecoderModel>,
    /// Read by llama.cpp's abort callback through a raw pointer, hence kept here.
    watch: Box<Watch>,
    threads: Threads,
    /// As `watch`, for the evaluation callback.
    _trace: Option<Arc<LayerTrace>>,
    capacity: usize,
    held: Vec<Slot>,
    logits: Vec<f32>,
    /// llama.cpp failed half-way through something: its context is made anew before it is used again.
    broken: bool,
    params: llama::llama_context_params,
}

// SAFETY: the context is used by one thread at a time (all uses take &mut self) and is tied to no thread.
unsafe impl Send for Decoder {}

/// What a context's passes are computed on.
enum Threads {
    /// Ours; llama.cpp itself has the calling thread only.
    Own(Box<Computer>),
    /// ggml's, as many as are worth it.
    Ggml(Contention),
}

/// A context to be created, perhaps on another thread; or `old` to be created anew.
struct Order {
    model: *mut llama::llama_model,
    params: llama::llama_context_params,
    old: *mut bindings::Context,
}

/// A context on its way back.
struct NewContext {
    context: NonNull<bindings::Context>,
}

// SAFETY: the thread that sends one waits for the result; what the pointers name outlives that and is tied to no thread.
unsafe impl Send for Order {}
// SAFETY: as for Decoder.
unsafe impl Send for NewContext {}

impl Order {
    fn create(self) -> Result<NewContext> {
        let Order { model, params, old } = self;
        let mut error = ErrorText::new();
        // SAFETY: the model outlives the context, which holds an Arc of it; so does the watch.
        let context = unsafe { bindings::tgvi_context_new(old, model, &params, error.0.as_mut_ptr(), error.0.len()) };
        NonNull::new(context).map(|context| NewContext { context }).ok_or_else(|| {
            Error::OutOfMemory(
                format!(
                    "a context of {} positions could not be created: {}; use a smaller context",
                    params.n_ctx,
                    error.describe()
                )
                .into(),
            )
        })
    }
}

impl Decoder {
    /// A context that stops computing when `cancel` becomes true.
    pub fn new(model: Arc<DecoderModel>, options: &DecoderOptions, cancel: Arc<AtomicBool>) -> Result<Decoder> {
        Decoder::create(model, options, cancel, None)
    }

    /// A context that reports its layers' outputs to `trace`.
    #[doc(hidden)]
    pub fn traced(model: Arc<DecoderModel>, options: &DecoderOptions, trace: Arc<LayerTrace>) -> Result<Decoder> {
        Decoder::create(model, options, Arc::default(), Some(trace))
    }

    fn create(
        model: Arc<DecoderModel>,
        options: &DecoderOptions,
        cancel: Arc<AtomicBool>,
        trace: Option<Arc<LayerTrace>>,
    ) -> Result<Decoder> {
        // SAFETY: plain data.
        let mut params = unsafe { llama::llama_context_default_params() };
        let capacity = options.capacity;
        let n_threads = options.threads.clamp(1, 512) as i32;
        params.n_ctx =
            u32::try_from(capacity).map_err(|_| Error::InvalidArgument("the context is too large".into()))?;
        params.n_batch = MICRO_BATCH as u32;
        params.n_ubatch = MICRO_BATCH.min(capacity) as u32;
        // Recurrent architectures keep one state a sequence and cannot share a beginning.
        let branching = model.can_branch();
        params.n_seq_max = if branching { 1 + MAX_BRANCHES as u32 } else { 1 };
        params.kv_unified = true;
        params.n_outputs_max = if branching { MAX_OUTPUTS as u32 } else { 1 };
        // Recurrent architectures' states are ggml's as well.
        let own = options.kernels == Kernels::Own && !model.for_ggml && branching;
        params.n_threads = if own { 1 } else { n_threads };
        params.n_threads_batch = params.n_threads;
        params.no_perf = true;
        if options.kv_type == KvType::F32 {
            params.type_k = llama::GGML_TYPE_F32;
            params.type_v = llama::GGML_TYPE_F32;
            // ggml's fused attention rounds to half precision inside.
            params.flash_attn_type = llama::LLAMA_FLASH_ATTN_TYPE_DISABLED;
        }
        let watch = Watch::new(cancel);
        params.abort_callback = Some(Watch::on_node);
        params.abort_callback_data = (&raw const *watch).cast_mut().cast();
        if let Some(trace) = &trace {
            trace.attach(&mut params);
        }
        let threads = match own {
            true => Threads::Own(Box::new(Computer::new(n_threads as usize, model.processors)?)),
            false => Threads::Ggml(Contention::new(1)),
        };
        let order = Order { model: model.as_ptr(), params, old: std::ptr::null_mut() };
        // Its threads are started in there.
        let context = model.processors.run(move || order.create())??.context;
        // SAFETY: the context is alive.
        watch.expect(unsafe { bindings::tgvi_context_nodes(context.as_ptr()) });
        let mut decoder = Decoder {
            context,
            model,
            watch,
            threads,
            _trace: trace,
            capacity,
            held: Vec::new(),
            logits: Vec::new(),
            broken: false,
            params,
        };
        if !own && n_threads > 1 {
            decoder.try_alone()?;
            decoder.threads = Threads::Ggml(Contention::new(n_threads as usize));
        }
        Ok(decoder)
    }

    /// A short pass on this thread, once a model. An assertion that fails here is an error; on a thread of ggml's own it would
    /// end the process.
    fn try_alone(&mut self) -> Result<()> {
        if !self.model.tried.load(Ordering::Relaxed) {
            self.process(&vec![Slot::Token(0); self.capacity.min(2)], 0, true, None, (0.0, 1.0))?;
            self.forget_from(0);
            self.logits.clear();
            self.model.tried.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A new context after llama.cpp failed. It holds nothing.
    fn renew(&mut self) -> Result<()> {
        let order = Order { model: self.model.as_ptr(), params: self.params, old: self.context.as_ptr() };
        self.model.processors.run(move || order.create().map(drop))??;
        self.held.clear();
        self.broken = false;
        Ok(())
    }

    /// Positions that the context can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Positions evaluated and kept.
    pub fn positions(&self) -> usize {
        self.held.len()
    }

    /// Tokens of the vocabulary: how many logits there are.
    pub fn n_vocab(&self) -> usize {
        self.model.info.n_vocab
    }

    /// Logits of the whole vocabulary after the last evaluated position.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Makes the context hold exactly `slots` and the logits those of its last position. What the context already holds of
    /// the beginning of `slots` is not evaluated again; returns how many positions that saved. After a failure or a
    /// cancellation the context holds what it can vouch for: a beginning of `slots`.
    pub fn evaluate(&mut self, slots: &[Slot]) -> Result<usize> {
        self.evaluate_with(slots, None)
    }

    /// `evaluate` with a listener, which may ask to stop: `Error::Cancelled`.
    pub fn evaluate_with(&mut self, slots: &[Slot], mut listener: Option<&mut Listener>) -> Result<usize> {
        if slots.is_empty() {
            return Err(Error::Internal("nothing to evaluate".into()));
        }
        if slots.len() > self.capacity {
            return Err(Error::ContextFull { capacity: self.capacity, used: 0, needed: slots.len() });
        }
        if self.broken {
            self.renew()?;
        }
        let common = self.held.iter().zip(slots).take_while(|(a, b)| a == b).count();
        // The last position is always evaluated: its logits are wanted.
        self.truncate(common.min(slots.len() - 1));
        let reused = self.held.len();
        if slots.len() > reused + 1 {
            if let Threads::Ggml(contention) = &mut self.threads {
                contention.look_around();
            }
        }
        let mut done = reused;
        for chunk in slots[reused..].chunks(MICRO_BATCH) {
            let last = done + chunk.len() == slots.len();
            let all = (slots.len() - reused) as f32;
            let part = ((done - reused) as f32 / all, chunk.len() as f32 / all);
            // A reborrow for this pass.
            let listener = listener.as_mut().map(|l| &mut **l as &mut Listener);
            if let Err(e) = self.process(chunk, done, last, listener, part) {
                self.forget_from(done);
                return Err(e);
            }
            self.held.extend_from_slice(chunk);
            done += chunk.len();
        }
        Ok(reused)
    }

    /// Evaluates one more token after what the context holds.
    pub fn append(&mut self, token: i32) -> Result<()> {
        if self.held.len() >= self.capacity {
            return Err(Error::ContextFull { capacity: self.capacity, used: self.held.len(), needed: 1 });
        }
        let at = self.held.len();
        if let Err(e) = self.process(&[Slot::Token(token)], at, true, None, (0.0, 1.0)) {
            self.forget_from(at);
            return Err(e);
        }
        self.held.push(Slot::Token(token));
        Ok(())
    }

    /// Forgets all positions from `length` on.
    pub fn truncate(&mut self, length: usize) {
        if length < self.held.len() {
            self.forget_from(length);
        }
    }

    fn forget_from(&mut self, length: usize) {
        self.held.truncate(length);
        if self.broken {
            return;
        }
        let context = self.context.as_ptr();
        // SAFETY: the context is alive.
        match unsafe { bindings::tgvi_memory_remove(context, TRUNK, length as i32) } {
            1 => {}
            0 => {
                // Recurrent architectures cannot forget a part of what they hold: start over.
                // SAFETY: as above.
                self.broken = !unsafe { bindings::tgvi_memory_clear(context) };
                self.held.clear();
            }
            _ => self.broken = true,
        }
    }

    fn llama(&self) -> *mut llama::llama_context {
        // SAFETY: the context is alive as long as self.
        unsafe { bindings::tgvi_context_llama(self.context.as_ptr()) }
    }

    /// Evaluates `slots` as positions `start`, `start + 1`, ... of the trunk. The listener hears of them as this part (start
    /// and length) of an evaluation.
    fn process(
        &mut self,
        slots: &[Slot],
        start: usize,
        wants_logits: bool,
        listener: Option<&mut Listener>,
        part: (f32, f32),
    ) -> Result<()> {
        let last = slots.len() - 1;
        let entries = slots.iter().enumerate().map(|(i, slot)| Entry {
            sequence: TRUNK,
            position: start + i,
            slot,
            wants_logits: wants_logits && i == last,
        });
        self.submit(entries, listener, part)?;
        if wants_logits {
            let mut logits = std::mem::take(&mut self.logits);
            logits.clear();
            memory::extend(&mut logits, self.logits_row(-1)?.iter().copied())?;
            self.logits = logits;
        }
        Ok(())
    }

    /// One pass of llama.cpp's graph.
    fn submit<'s>(
        &mut self,
        entries: impl Iterator<Item = Entry<'s>>,
        listener: Option<&mut Listener>,
        (start, length): (f32, f32),
    ) -> Result<()> {
        if self.broken {
            // Since a call begins with a sound context, it broke when positions were removed or copied, and all that these
            // do beyond changing numbers is allocating.
            return Err(Error::OutOfMemory(Cow::Borrowed(
                "llama.cpp could not change what its KV cache holds; free some memory and call again",
            )));
        }
        memory::check(memory::HEADROOM)?;
        let context = self.context.as_ptr();
        // SAFETY: the context is alive and used by this thread only.
        unsafe { bindings::tgvi_batch_clear(context) };
        let mut count = 0;
        for Entry { sequence, position, slot, wants_logits } in entries {
            let at = position as i32;
            let added = match slot {
                Slot::Token(id) if self.model.has_token(*id) => {
                    // SAFETY: as above.
                    unsafe { bindings::tgvi_batch_add_token(context, sequence, *id, at, wants_logits) }
                }
                Slot::Image(embedding, row) if embedding.width() == self.model.width => {
                    let values = embedding.row(*row);
                    // SAFETY: as above; the row lives as long as the slots, which outlive the processing below.
                    unsafe {
                        bindings::tgvi_batch_add_embedding(
                            context,
                            sequence,
                            values.as_ptr(),
                            values.len(),
                            at,
                            wants_logits,
                        )
                    }
                }
                _ => return Err(Error::Internal(format!("what stands at position {position} is not of this model"))),
            };
            if !added {
                // What stands there is sound, so that it can only be this.
                return Err(Error::OutOfMemory(
                    format!(
                        "position {position} could not be put into llama.cpp's batch; free some memory and call again"
                    )
                    .into(),
                ));
            }
            count += 1;
        }
        let mut error = ErrorText::new();
        let llama = self.llama();
        let mut process = |computer: *mut c_void| {
            // SAFETY: as above.
            unsafe { bindings::tgvi_batch_process(context, computer, error.0.as_mut_ptr(), error.0.len()) }
        };
        let threads = &mut self.threads;
        let status = self.watch.during(listener, start, length, || match threads {
            Threads::Own(computer) => computer.during(process),
            Threads::Ggml(contention) => {
                let threads = contention.threads() as i32;
                // SAFETY: as above; ggml's pool has at least that many threads.
                unsafe { llama::llama_set_n_threads(llama, threads, threads) };
                process(std::ptr::null_mut())
            }
        });
        if self.watch.take_panic() {
            return Err(Error::Internal("the progress callback panicked".into()));
        }
        match status {
            0 => Ok(()),
            1 => Err(Error::ContextFull { capacity: self.capacity, used: self.held.len(), needed: count }),
            2 => Err(Error::Cancelled),
            code => {
                self.broken = true;
                Err(error.cause(|text| match code {
                    NO_MEMORY => {
                        Error::OutOfMemory("llama.cpp ran out of memory; free some memory and call again".into())
                    }
                    _ => Error::Decoder(format!("llama.cpp returned {code}: {text}")),
                }))
            }
        }
    }

    /// Logits of an entry of the last pass that wanted them; -1 names the last of them.
    fn logits_row(&self, entry: i32) -> Result<&[f32]> {
        // SAFETY: the context is alive.
        let logits = unsafe { llama::llama_get_logits_ith(self.llama(), entry) };
        if logits.is_null() {
            return Err(Error::Decoder("llama.cpp gave no logits".into()));
        }
        // SAFETY: llama.cpp keeps a row of n_vocab floats there until the next pass, which takes &mut self.
        Ok(unsafe { std::slice::from_raw_parts(logits, self.model.info.n_vocab) })
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: created by tgvi_context_new and freed once.
        unsafe { bindings::tgvi_context_free(self.context.as_ptr()) };
    }
}
