//! Images.

use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::Arc;

use super::boundary::{boundary, require_out, require_text, working, Handle};
use super::error::tgv_status;
use crate::error::{Error, Result};
use crate::image::{Image, PixelFormat};

/// A picture's pixels. Immutable: any number of threads may use it at once.
pub struct tgv_image {
    _opaque: [u8; 0],
}

impl Handle for tgv_image {
    type Inner = Image;
    const NAME: &'static str = "image";
}

/// Pixel layout: red, green, blue; one byte each.
pub const TGV_PIXELS_RGB: i32 = 1;
/// Pixel layout: red, green, blue, alpha. Alpha is dropped, as the reference does.
pub const TGV_PIXELS_RGBA: i32 = 2;
/// Pixel layout: blue, green, red.
pub const TGV_PIXELS_BGR: i32 = 3;
/// Pixel layout: blue, green, red, alpha.
pub const TGV_PIXELS_BGRA: i32 = 4;
/// Pixel layout: one byte of gray.
pub const TGV_PIXELS_GRAY: i32 = 5;

unsafe fn give(image: Result<Image>, out_image: *mut *mut tgv_image) -> Result<()> {
    let image = Arc::new(image?);
    // SAFETY: the callers have checked that it is not NULL.
    unsafe { out_image.write(tgv_image::give(image)) };
    Ok(())
}

/// Reads a picture file: PNG, JPEG, WebP, GIF (first frame), BMP, TIFF or PNM, recognised by content.
///
/// @param path       UTF-8
/// @param out_image  the new image, to be freed with tgv_image_free; untouched on failure
///
/// Errors: TGV_ERROR_FILE_NOT_FOUND, _IO, _BAD_IMAGE (also for formats left out of the build), _IMAGE_TOO_LARGE,
/// _INVALID_ARGUMENT, _INVALID_UTF8.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_image_from_file(path: *const c_char, out_image: *mut *mut tgv_image) -> tgv_status {
    working(|| {
        require_out(out_image, "out_image")?;
        // SAFETY: the caller's promises of the C documentation.
        unsafe { give(Image::open(Path::new(require_text(path, "path")?)), out_image) }
    })
}

/// Decodes a picture file that is in memory; see tgv_image_from_file. The data are not needed afterwards.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_image_from_memory(
    data: *const c_void,
    size: usize,
    out_image: *mut *mut tgv_image,
) -> tgv_status {
    working(|| {
        require_out(out_image, "out_image")?;
        // SAFETY: the caller's promises of the C documentation.
        unsafe { give(Image::decode(require_bytes(data, size)?), out_image) }
    })
}

/// Takes pixels from memory. They are copied.
///
/// @param pixels  the first row first
/// @param size    bytes at `pixels`: at least (height - 1) * stride + width * bytes a pixel
/// @param stride  bytes from one row to the next; 0 for rows without a gap
/// @param format  TGV_PIXELS_...
///
/// Errors: TGV_ERROR_BAD_IMAGE for zero sides, _IMAGE_TOO_LARGE, _INVALID_ARGUMENT when size, stride or format do not fit.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_image_from_pixels(
    pixels: *const c_void,
    size: usize,
    width: u32,
    height: u32,
    stride: usize,
    format: i32,
    out_image: *mut *mut tgv_image,
) -> tgv_status {
    working(|| {
        require_out(out_image, "out_image")?;
        let format = match format {
            TGV_PIXELS_RGB => PixelFormat::Rgb,
            TGV_PIXELS_RGBA => PixelFormat::Rgba,
            TGV_PIXELS_BGR => PixelFormat::Bgr,
            TGV_PIXELS_BGRA => PixelFormat::Bgra,
            TGV_PIXELS_GRAY => PixelFormat::Gray,
            _ => return Err(Error::InvalidArgument(format!("pixel format {format} is none of TGV_PIXELS_..."))),
        };
        // SAFETY: the caller's promises of the C documentation.
        unsafe {
            let pixels = require_bytes(pixels, size)?;
            give(Image::from_pixels(pixels, width, height, stride, format), out_image)
        }
    })
}

unsafe fn require_bytes<'a>(data: *const c_void, size: usize) -> Result<&'a [u8]> {
    if data.is_null() {
        return Err(Error::InvalidArgument("the picture data are NULL; pass their address".into()));
    }
    if size > isize::MAX as usize {
        return Err(Error::InvalidArgument(format!("a size of {size} bytes is impossible")));
    }
    // SAFETY: the caller promises `size` readable bytes.
    Ok(unsafe { std::slice::from_raw_parts(data.cast(), size) })
}

/// Tells an image's sides in pixels. Either pointer may be NULL.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_image_get_size(
    image: *const tgv_image,
    out_width: *mut u32,
    out_height: *mut u32,
) -> tgv_status {
    boundary(|| {
        // SAFETY: the caller's promises of the C documentation.
        let image = unsafe { tgv_image::share(image) }?;
        for (out, n) in [(out_width, image.width()), (out_height, image.height())] {
            if !out.is_null() {
                // SAFETY: not NULL.
                unsafe { out.write(n) };
            }
        }
        Ok(())
    })
}

/// Frees an image; NULL does nothing.
///
/// Thread-safety: any thread, once.
#[no_mangle]
pub unsafe extern "C" fn tgv_image_free(image: *mut tgv_image) {
    // SAFETY: the caller's promise.
    unsafe { tgv_image::take_back(image) }
}
