//! Models.

use std::ffi::{c_char, c_void, CString};
use std::path::Path;
use std::sync::Arc;

use super::boundary::{
    boundary, count, optional_text, progress_closure, read_options, require_out, require_text, tgv_progress_callback,
    working, write_result, Handle, SizedStruct,
};
use super::error::{c_string, tgv_status};
use crate::error::{Error, Result};
use crate::model::{Files, Model, ModelOptions, Profile};
use crate::processors::ProcessorMask;
use crate::vision::Precision;

/// A loaded model. Immutable: any number of threads and sessions may use it at once.
pub struct tgv_model {
    _opaque: [u8; 0],
}

/// A model and the texts that C borrows from it.
pub(super) struct ModelCell {
    pub(super) model: Arc<Model>,
    description: CString,
    template_names: Vec<CString>,
}

impl Handle for tgv_model {
    type Inner = ModelCell;
    const NAME: &'static str = "model";
}

/// Weights stay as they are in the files. Of mapped files they are ready at once, and the system can drop and share their
/// pages.
pub const TGV_PROFILE_MAPPED: i32 = 0;
/// Decoder weights are copied into another layout where this processor computes faster with it: a longer load, and private
/// memory of the decoder file's size. Where the library's own loops are faster on the file's layout (on x86 with Q4_K, Q5_K,
/// Q6_K and floating-point weights) this is the same as TGV_PROFILE_MAPPED.
pub const TGV_PROFILE_FAST: i32 = 1;

/// Images are encoded as exactly as the weights deserve: with 8-bit weights, activations are rounded to 8 bits too, or, on
/// processors with AMX, to bfloat16, and so with BF16 weights there. That is several times faster.
pub const TGV_PRECISION_AUTO: i32 = 0;
/// Images are encoded in single precision whatever the weights are.
pub const TGV_PRECISION_EXACT: i32 = 1;

/// The files are memory-mapped. They must not be written to or truncated while the model or a session of it lives: the process
/// would be killed by a bus error, or compute with other weights. Renaming another file over one, or deleting it, is fine.
pub const TGV_FILES_MAPPED: i32 = 0;
/// The files are read into private memory of their size, so that anything may happen to them once the model is loaded.
pub const TGV_FILES_COPIED: i32 = 1;

/// How to load a model. Initialise with TGV_MODEL_PARAMS_INIT; zero means default in every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tgv_model_params {
    /// sizeof(tgv_model_params), set by the INIT macro.
    pub struct_size: usize,
    /// Threads for image encoding and decoding; 0 takes one for each processor, of fast and slow ones the fast.
    pub threads: i32,
    /// Decoder layers to put on a GPU, in builds with a GPU feature.
    pub gpu_layers: i32,
    /// Gets the fraction loaded and may ask to stop; may be NULL.
    pub on_progress: tgv_progress_callback,
    /// Passed to on_progress.
    pub user_data: *mut c_void,
    /// Megabytes of embeddings to keep, so that a picture that comes again is not encoded again; 0 is 32, -1 keeps none.
    pub embedding_cache_mb: i32,
    /// What loading prefers: TGV_PROFILE_....
    pub profile: i32,
    /// Processors that the library's own threads are bound to, the lowest bit for processor 0; 0 is all. The calling thread
    /// works too and is left alone. Linux and Android only.
    pub processor_mask: u64,
    /// Private bytes that the model and its sessions may take together: what would take more is refused before it is
    /// allocated, with the plan in the message. 0 is no limit. See tgv_model_plan.
    pub memory_limit: u64,
    /// How exactly images are encoded: TGV_PRECISION_....
    pub precision: i32,
    /// How the files' weights are held: TGV_FILES_....
    pub files: i32,
}

// SAFETY: integers, pointers and a nullable function pointer.
unsafe impl SizedStruct for tgv_model_params {
    const NAME: &'static str = "tgv_model_params";
    const FIRST_SIZE: usize = size_of::<tgv_model_params>();
}

/// Figures of a model. Initialise with TGV_MODEL_INFO_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tgv_model_info {
    /// sizeof(tgv_model_info), set by the INIT macro.
    pub struct_size: usize,
    /// Floats of one embedding vector: the decoder's width.
    pub embedding_width: u32,
    /// Vectors an image takes, each one position of the context; 0 for a model without a vision file.
    pub image_tokens: u32,
    /// Side in pixels that images are resized to; 0 for a model without a vision file.
    pub image_size: u32,
    /// Positions the decoder was trained for: the largest context of a session.
    pub context_length: u32,
    /// Tokens of the vocabulary.
    pub vocabulary: u32,
    /// Training stage 1 to 4; 0 when the files do not tell.
    pub stage: u32,
    /// Threads for image encoding.
    pub threads: u32,
    /// Always 0.
    pub reserved: u32,
    /// Weights of the decoder, in numbers.
    pub decoder_parameters: u64,
    /// Size of the decoder file in bytes.
    pub decoder_bytes: u64,
    /// Size of the vision file in bytes; 0 without one.
    pub vision_bytes: u64,
}

// SAFETY: integers.
unsafe impl SizedStruct for tgv_model_info {
    const NAME: &'static str = "tgv_model_info";
    const FIRST_SIZE: usize = size_of::<tgv_model_info>();
}

/// Bytes of the embedding cache; `None` is the default.
fn embedding_cache(megabytes: i32) -> Result<Option<usize>> {
    match megabytes {
        0 => Ok(None),
        -1 => Ok(Some(0)),
        n => count(n, "embedding_cache_mb").map(|n| Some(n.saturating_mul(1 << 20))),
    }
}

pub(super) fn model_options(params: &tgv_model_params) -> Result<ModelOptions> {
    let none_of = |name: &str, value: i32| {
        Err(Error::InvalidArgument(format!("{name} {value} is none of TGV_{}_...", name.to_uppercase())))
    };
    Ok(ModelOptions {
        threads: count(params.threads, "threads")?,
        gpu_layers: count(params.gpu_layers, "gpu_layers")? as u32,
        embedding_cache: embedding_cache(params.embedding_cache_mb)?,
        processors: ProcessorMask(params.processor_mask),
        memory_limit: params.memory_limit,
        profile: match params.profile {
            TGV_PROFILE_MAPPED => Profile::Mapped,
            TGV_PROFILE_FAST => Profile::Fast,
            other => return none_of("profile", other),
        },
        precision: match params.precision {
            TGV_PRECISION_AUTO => Precision::Auto,
            TGV_PRECISION_EXACT => Precision::Exact,
            other => return none_of("precision", other),
        },
        files: match params.files {
            TGV_FILES_MAPPED => Files::Mapped,
            TGV_FILES_COPIED => Files::Copied,
            other => return none_of("files", other),
        },
    })
}

/// Loads a model from its two GGUF files. Both are checked completely before they are used. Unless tgv_model_params.files is
/// TGV_FILES_COPIED they are then memory-mapped, and must not be changed while the model or a session of it lives.
///
/// @param decoder_path  the decoder file, UTF-8
/// @param vision_path   the vision file, UTF-8; NULL loads a decoder that answers about text only
/// @param params        NULL for defaults
/// @param out_model     the new model, to be freed with tgv_model_free; untouched on failure
///
/// Errors: TGV_ERROR_FILE_NOT_FOUND, _IO, _BAD_MODEL_FILE, _UNSUPPORTED_MODEL, _MODEL_MISMATCH, _CANCELLED,
/// _UNSUPPORTED_CPU, _OUT_OF_MEMORY, _INVALID_ARGUMENT, _INVALID_UTF8.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_model_load(
    decoder_path: *const c_char,
    vision_path: *const c_char,
    params: *const tgv_model_params,
    out_model: *mut *mut tgv_model,
) -> tgv_status {
    working(|| {
        require_out(out_model, "out_model")?;
        // SAFETY: the caller's promises of the C documentation.
        let (decoder_path, vision_path, params) = unsafe {
            (
                require_text(decoder_path, "decoder_path")?,
                optional_text(vision_path, "vision_path")?,
                read_options(params)?,
            )
        };
        let options = model_options(&params)?;
        let mut progress = progress_closure(params.on_progress, params.user_data);
        let model =
            Model::load_with_progress(Path::new(decoder_path), vision_path.map(Path::new), &options, &mut progress)?;
        let cell = ModelCell {
            description: c_string(&model.description()),
            template_names: model.templates().names().map(c_string).collect(),
            model,
        };
        // SAFETY: checked above.
        unsafe { out_model.write(tgv_model::give(Arc::new(cell))) };
        Ok(())
    })
}

/// Frees a model; NULL does nothing. Sessions and embeddings made with it stay usable and keep what they need of it.
///
/// Thread-safety: any thread, once.
#[no_mangle]
pub unsafe extern "C" fn tgv_model_free(model: *mut tgv_model) {
    // SAFETY: the caller's promise.
    unsafe { tgv_model::take_back(model) }
}

/// Tells a model's figures.
///
/// @param out_info  initialised with TGV_MODEL_INFO_INIT; untouched on failure
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_model_get_info(model: *const tgv_model, out_info: *mut tgv_model_info) -> tgv_status {
    boundary(|| {
        // SAFETY: the caller's promises of the C documentation.
        let cell = unsafe { tgv_model::share(model) }?;
        let i = cell.model.info();
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let info = tgv_model_info {
            struct_size: 0,
            embedding_width: small(i.embedding_width),
            image_tokens: small(i.image_tokens),
            image_size: small(i.image_size),
            context_length: small(i.context_length),
            vocabulary: small(i.vocabulary),
            stage: i.stage,
            threads: small(i.threads),
            reserved: 0,
            decoder_parameters: i.decoder_parameters,
            decoder_bytes: i.decoder_bytes,
            vision_bytes: i.vision_bytes,
        };
        // SAFETY: the caller's promises of the C documentation.
        unsafe { write_result(out_info, &info) }
    })
}

/// One line about the model for a person, UTF-8: name, architecture, sizes. Belongs to the model. Empty for NULL.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_model_description(model: *const tgv_model) -> *const c_char {
    // SAFETY: the caller's promise; the text lives as long as the handle, whose reference outlives this one.
    unsafe { borrow_text(model, |cell| Some(&cell.description)) }
}

/// How many prompt templates the model has; 0 for NULL.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_model_template_count(model: *const tgv_model) -> usize {
    // SAFETY: the caller's promise.
    unsafe { tgv_model::share(model) }.map_or(0, |cell| cell.template_names.len())
}

/// The name of a prompt template, for tgv_session_params.template_name. Belongs to the model. Empty for NULL and for an
/// index that is not below tgv_model_template_count.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_model_template_name(model: *const tgv_model, index: usize) -> *const c_char {
    // SAFETY: as for tgv_model_description.
    unsafe { borrow_text(model, |cell| cell.template_names.get(index)) }
}

unsafe fn borrow_text(model: *const tgv_model, pick: impl Fn(&ModelCell) -> Option<&CString>) -> *const c_char {
    // SAFETY: passed on.
    let text: Result<*const c_char> =
        unsafe { tgv_model::share(model) }.map(|cell| pick(&cell).map_or(c"".as_ptr(), |t| t.as_ptr()));
    text.unwrap_or(c"".as_ptr())
}

/// Tells how many tokens a text is, that is, how many positions of the context it takes.
///
/// @param text       UTF-8
/// @param out_count  untouched on failure
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_model_count_tokens(
    model: *const tgv_model,
    text: *const c_char,
    out_count: *mut usize,
) -> tgv_status {
    working(|| {
        require_out(out_count, "out_count")?;
        // SAFETY: the caller's promises of the C documentation.
        let (cell, text) = unsafe { (tgv_model::share(model)?, require_text(text, "text")?) };
        let n = cell.model.count_tokens(text)?;
        // SAFETY: checked above.
        unsafe { out_count.write(n) };
        Ok(())
    })
}

/// Tells how many embeddings the model's cache holds and how much memory they take. Either pointer may be NULL.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_model_get_cache_size(
    model: *const tgv_model,
    out_count: *mut usize,
    out_bytes: *mut usize,
) -> tgv_status {
    boundary(|| {
        // SAFETY: the caller's promises of the C documentation.
        let cell = unsafe { tgv_model::share(model) }?;
        let (count, bytes) = cell.model.cached_embeddings();
        for (out, n) in [(out_count, count), (out_bytes, bytes)] {
            if !out.is_null() {
                // SAFETY: not NULL.
                unsafe { out.write(n) };
            }
        }
        Ok(())
    })
}
