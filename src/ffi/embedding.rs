//! Image embeddings.

use std::ffi::{c_char, c_void};
use std::path::Path;

use super::boundary::{
    boundary, progress_closure, read_options, require_out, require_text, tgv_progress_callback, working, Handle,
    SizedStruct,
};
use super::error::tgv_status;
use super::image::tgv_image;
use super::model::tgv_model;
use crate::embedding::Embedding;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::memory;
use crate::vision::Control;

/// An encoded image, ready for any session of the model that encoded it. Immutable: any number of threads may use it.
pub struct tgv_embedding {
    _opaque: [u8; 0],
}

impl Handle for tgv_embedding {
    type Inner = Embedding;
    const NAME: &'static str = "embedding";
}

/// Most images of one call.
const MAX_IMAGES: usize = 1 << 16;

/// How to encode an image. Initialise with TGV_ENCODE_PARAMS_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tgv_encode_params {
    /// sizeof(tgv_encode_params), set by the INIT macro.
    pub struct_size: usize,
    /// Gets the fraction done and may ask to stop; may be NULL.
    pub on_progress: tgv_progress_callback,
    /// Passed to on_progress.
    pub user_data: *mut c_void,
}

// SAFETY: integers, pointers and a nullable function pointer.
unsafe impl SizedStruct for tgv_encode_params {
    const NAME: &'static str = "tgv_encode_params";
    const FIRST_SIZE: usize = size_of::<tgv_encode_params>();
}

/// Encodes an image: the expensive half of a question. Keep the result to ask about the same image again. The model keeps
/// the last embeddings too (embedding_cache_mb): a picture that it has encoded lately is not encoded again.
///
/// @param params         NULL for defaults
/// @param out_embedding  the new embedding, to be freed with tgv_embedding_free; untouched on failure
///
/// Errors: TGV_ERROR_CANCELLED, _OUT_OF_MEMORY, _INVALID_ARGUMENT (also for a model without a vision file).
///
/// Thread-safety: any thread; several may encode with one model at once.
#[no_mangle]
pub unsafe extern "C" fn tgv_embedding_encode(
    model: *const tgv_model,
    image: *const tgv_image,
    params: *const tgv_encode_params,
    out_embedding: *mut *mut tgv_embedding,
) -> tgv_status {
    working(|| {
        require_out(out_embedding, "out_embedding")?;
        // SAFETY: the caller's promises of the C documentation.
        let (cell, image, params) =
            unsafe { (tgv_model::share(model)?, tgv_image::share(image)?, read_options(params)?) };
        let mut progress = progress_closure(params.on_progress, params.user_data);
        let control = Control { cancel: None, progress: Some(&mut progress) };
        let embedding = cell.model.encode(&image, control)?;
        // SAFETY: checked above.
        unsafe { out_embedding.write(tgv_embedding::give(embedding)) };
        Ok(())
    })
}

/// Encodes several images one after the other: all or none.
///
/// @param images          `count` images
/// @param params          NULL for defaults; the progress is that of all images together
/// @param out_embeddings  room for `count` embeddings, each to be freed with tgv_embedding_free; untouched on failure
///
/// Errors: TGV_ERROR_CANCELLED, _OUT_OF_MEMORY, _INVALID_ARGUMENT (also for a model without a vision file).
///
/// Thread-safety: any thread; several may encode with one model at once.
#[no_mangle]
pub unsafe extern "C" fn tgv_embedding_encode_each(
    model: *const tgv_model,
    images: *const *const tgv_image,
    count: usize,
    params: *const tgv_encode_params,
    out_embeddings: *mut *mut tgv_embedding,
) -> tgv_status {
    working(|| {
        require_out(out_embeddings, "out_embeddings")?;
        if images.is_null() || count > MAX_IMAGES {
            return Err(Error::InvalidArgument(format!(
                "images is NULL or count above {MAX_IMAGES}; pass images and their number"
            )));
        }
        // SAFETY: the caller's promises of the C documentation.
        let (cell, params) = unsafe { (tgv_model::share(model)?, read_options(params)?) };
        // SAFETY: as above.
        let images: Vec<_> = (0..count).map(|i| unsafe { tgv_image::share(*images.add(i)) }).collect::<Result<_>>()?;
        let images: Vec<&Image> = images.iter().map(|image| &**image).collect();
        let mut progress = progress_closure(params.on_progress, params.user_data);
        let control = Control { cancel: None, progress: Some(&mut progress) };
        for (i, embedding) in cell.model.encode_each(&images, control)?.into_iter().enumerate() {
            // SAFETY: the caller promises room for `count` pointers.
            unsafe { out_embeddings.add(i).write(tgv_embedding::give(embedding)) };
        }
        Ok(())
    })
}

/// Makes an embedding from floats that tgv_embedding_copy gave, perhaps in an earlier run of the program.
///
/// @param values  row-major vectors of the model's embedding_width
/// @param count   number of floats
///
/// Errors: TGV_ERROR_INVALID_ARGUMENT when count is no multiple of the width or a value is not finite.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_embedding_from_values(
    model: *const tgv_model,
    values: *const f32,
    count: usize,
    out_embedding: *mut *mut tgv_embedding,
) -> tgv_status {
    working(|| {
        require_out(out_embedding, "out_embedding")?;
        if values.is_null() || count > isize::MAX as usize / size_of::<f32>() {
            return Err(Error::InvalidArgument(
                "values is NULL or count impossible; pass floats and their number".into(),
            ));
        }
        // SAFETY: the caller's promises of the C documentation.
        let cell = unsafe { tgv_model::share(model) }?;
        cell.model.check_values(count)?;
        let mut copy = Vec::new();
        // SAFETY: as above.
        memory::extend(&mut copy, unsafe { std::slice::from_raw_parts(values, count) }.iter().copied())?;
        let embedding = cell.model.embedding(copy)?;
        // SAFETY: checked above.
        unsafe { out_embedding.write(tgv_embedding::give(embedding)) };
        Ok(())
    })
}

/// Tells the shape of an embedding: `rows` vectors of `width` floats. Either pointer may be NULL.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_embedding_get_size(
    embedding: *const tgv_embedding,
    out_rows: *mut usize,
    out_width: *mut usize,
) -> tgv_status {
    boundary(|| {
        // SAFETY: the caller's promises of the C documentation.
        let embedding = unsafe { tgv_embedding::share(embedding) }?;
        for (out, n) in [(out_rows, embedding.rows()), (out_width, embedding.width())] {
            if !out.is_null() {
                // SAFETY: not NULL.
                unsafe { out.write(n) };
            }
        }
        Ok(())
    })
}

/// Copies an embedding's floats out, row-major.
///
/// @param values  room for `count` floats; untouched on failure
/// @param count   must be rows * width
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_embedding_copy(
    embedding: *const tgv_embedding,
    values: *mut f32,
    count: usize,
) -> tgv_status {
    boundary(|| {
        require_out(values, "values")?;
        // SAFETY: the caller's promises of the C documentation.
        let embedding = unsafe { tgv_embedding::share(embedding) }?;
        let own = embedding.values();
        if count != own.len() {
            return Err(Error::InvalidArgument(format!(
                "the embedding has {} floats, not {count}; ask tgv_embedding_get_size",
                own.len()
            )));
        }
        // SAFETY: the caller promises room for `count` floats.
        unsafe { std::ptr::copy_nonoverlapping(own.as_ptr(), values, count) };
        Ok(())
    })
}

/// Saves an embedding, for tgv_embedding_load in another run of the program. The file appears when it is complete.
///
/// @param model  the one that encoded it
/// @param path   UTF-8; an existing file is replaced
///
/// Errors: TGV_ERROR_IO, _INVALID_ARGUMENT, _INVALID_UTF8.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_embedding_save(
    model: *const tgv_model,
    embedding: *const tgv_embedding,
    path: *const c_char,
) -> tgv_status {
    working(|| {
        // SAFETY: the caller's promises of the C documentation.
        let (cell, embedding, path) =
            unsafe { (tgv_model::share(model)?, tgv_embedding::share(embedding)?, require_text(path, "the path")?) };
        cell.model.save_embedding(&embedding, Path::new(path))
    })
}

/// Loads an embedding that tgv_embedding_save wrote with the same vision file.
///
/// @param path           UTF-8
/// @param out_embedding  the embedding, to be freed with tgv_embedding_free; untouched on failure
///
/// Errors: TGV_ERROR_FILE_NOT_FOUND, _IO, _BAD_EMBEDDING_FILE, _MODEL_MISMATCH for one of another vision file,
/// _INVALID_ARGUMENT, _INVALID_UTF8.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_embedding_load(
    model: *const tgv_model,
    path: *const c_char,
    out_embedding: *mut *mut tgv_embedding,
) -> tgv_status {
    working(|| {
        require_out(out_embedding, "out_embedding")?;
        // SAFETY: the caller's promises of the C documentation.
        let (cell, path) = unsafe { (tgv_model::share(model)?, require_text(path, "the path")?) };
        let embedding = cell.model.load_embedding(Path::new(path))?;
        // SAFETY: checked above.
        unsafe { out_embedding.write(tgv_embedding::give(embedding)) };
        Ok(())
    })
}

/// Frees an embedding; NULL does nothing. Sessions it was added to keep what they need.
///
/// Thread-safety: any thread, once.
#[no_mangle]
pub unsafe extern "C" fn tgv_embedding_free(embedding: *mut tgv_embedding) {
    // SAFETY: the caller's promise.
    unsafe { tgv_embedding::take_back(embedding) }
}
