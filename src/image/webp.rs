//! WebP files through the `image` crate.

use std::io::{Cursor, Read};

use ::image::codecs::webp::WebPDecoder;
use ::image::{ImageDecoder, Rgba};

use super::codecs::read;
use super::decode::Failure;
use super::{check_size, reserve, Image};

/// Bytes that decoding takes for a pixel: the picture itself, and a canvas or a frame with alpha for as long as it lasts.
const DECODER_BYTES: usize = 4 + 4 + 4;

/// Decodes a WebP file, of an animation the first frame as libwebp's animation decoder shows it: on a transparent black canvas, not
/// blended with it.
pub(super) fn decode(mut source: impl Read) -> std::result::Result<Image, Failure> {
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes).map_err(Failure::Read)?;
    // Chunks of a name, a size and data padded to an even length follow the 12 bytes of the RIFF header.
    let mut at = 12;
    while let Some(&[a, b, c, d, size @ ..]) = bytes.get(at..at + 8).and_then(|h| h.first_chunk::<8>()) {
        if [a, b, c, d] == *b"ANMF" {
            // The frame's flags; bit 1 says not to blend.
            if let Some(flags) = bytes.get_mut(at + 8 + 15) {
                *flags |= 2;
            }
            break;
        }
        at = at.saturating_add(8 + (u32::from_le_bytes(size) as usize).next_multiple_of(2));
    }
    let mut decoder = WebPDecoder::new(Cursor::new(bytes))?;
    if decoder.has_animation() {
        decoder.set_background_color(Rgba([0; 4]))?;
    }
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    // The decoder does not ask whether there is memory for what it needs beside the pixels, so that is asked here.
    drop(reserve::<[u8; DECODER_BYTES]>(width as usize * height as usize)?);
    read(decoder, false)
}
