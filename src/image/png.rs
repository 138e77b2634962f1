//! PNG files through the `image` crate, read and written.

use std::io::{BufRead, Seek};

use ::image::codecs::png::{PngDecoder, PngEncoder};
use ::image::{ExtendedColorType, ImageEncoder, Limits};

use super::codecs::read;
use super::decode::Failure;
use super::Image;
use crate::error::{Error, Result};

/// Bytes that may be taken by what stands in front of the pixels. Some kilobytes of a packed colour profile can become gigabytes.
const MAX_CHUNK_BYTES: u64 = 64 << 20;

/// Decodes a PNG file, of an animation the default picture. Chunks that are no pixels are passed over, damaged ones too.
pub(super) fn decode(mut source: impl BufRead + Seek) -> std::result::Result<Image, Failure> {
    let head = source.fill_buf().map_err(Failure::Read)?;
    // Bit depth and colour type of the first chunk.
    let gray16 = head.get(24..26) == Some(&[16, 0]);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_CHUNK_BYTES);
    read(PngDecoder::with_limits(source, limits)?, gray16)
}

/// The bytes of a PNG file with the picture.
pub(super) fn encode(image: &Image) -> Result<Vec<u8>> {
    // Noise does not get smaller, and the encoder keeps all of it twice.
    crate::memory::check(2 * image.rgb.len() + crate::memory::HEADROOM)?;
    let mut png = Vec::new();
    PngEncoder::new(&mut png)
        .write_image(&image.rgb, image.width, image.height, ExtendedColorType::Rgb8)
        .map_err(|e| Error::Internal(format!("the picture could not be encoded: {e}")))?;
    Ok(png)
}
