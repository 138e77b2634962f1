//! WebP files through the `image` crate.

use std::io::{Cursor, Read};

use ::image::codecs::webp::WebPDecoder;
use ::image::{ImageDecoder, Rgba};

use super::codecs::read;
use super::decode::Failure;
use super::{check_size, reserve, Image};

/// Bytes that decoding takes for a pixel: the picture itself, and a canvas or a frame with alpha for as long as it lasts.
const DECODER_BYTES: usize = 4 + 4 + 4;

/// Whether the picture of an animation's frame with separate alpha has the frame's size: the decoder takes that for granted. What
/// is not there, it finds out itself.
fn lossy_part_fits(frame: &[u8]) -> bool {
    let number = |at: usize, bytes: usize| {
        let digits = frame.get(at..at.checked_add(bytes)?)?;
        Some(digits.iter().rev().fold(0, |n, &digit| n << 8 | usize::from(digit)))
    };
    // Place, size less one, time and flags; then the chunk of the alpha channel, and that of the colours with a header of 10 bytes.
    let sizes = || {
        let wanted = [number(6, 3)? + 1, number(9, 3)? + 1];
        let picture = number(20, 4)?.checked_next_multiple_of(2)?.checked_add(16 + 8 + 8)?;
        Some((wanted, [number(picture.checked_add(6)?, 2)? & 0x3fff, number(picture.checked_add(8)?, 2)? & 0x3fff]))
    };
    frame.get(16..20) != Some(b"ALPH") || sizes().is_none_or(|(wanted, found)| wanted == found)
}

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
            if !lossy_part_fits(&bytes[at + 8..]) {
                return Err(Failure::corrupt(&"a frame's picture is not of the frame's size"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_of_a_frame_with_alpha_has_the_frames_size() {
        let frame = |alpha: &[u8; 4], width: u8, height: u8| {
            let place_and_size = [0, 0, 0, 0, 0, 0, 6, 0, 0, 40, 0, 0, 0, 0, 0, 2];
            // An odd number of bytes is padded.
            let (alpha_size, padded) = ([3, 0, 0, 0], [9, 9, 9, 0]);
            let picture = [0, 0, 0, 0x9d, 1, 0x2a, width, 0x40, height, 0x80];
            [&place_and_size[..], alpha, &alpha_size, &padded, b"VP8 ", &[10, 0, 0, 0], &picture].concat()
        };
        assert!(lossy_part_fits(&frame(b"ALPH", 7, 41)));
        assert!(!lossy_part_fits(&frame(b"ALPH", 0, 41)));
        assert!(!lossy_part_fits(&frame(b"ALPH", 7, 42)));
        assert!(lossy_part_fits(&frame(b"VP8 ", 0, 0)), "the decoder looks at those itself");
        for end in 0..frame(b"ALPH", 0, 0).len() {
            assert!(
                lossy_part_fits(&frame(b"ALPH", 0, 0)[..end]),
                "the decoder finds out that {end} bytes are too few"
            );
        }
    }
}
