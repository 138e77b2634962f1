//! BMP files through the `image` crate.

use std::io::{BufRead, Seek};

use ::image::codecs::bmp::BmpDecoder;

use super::codecs::read;
use super::decode::Failure;
use super::Image;

/// Decodes a BMP file. Channels of 5 and 6 bits become v · 255 / 31 and v · 255 / 63, cut to integers, where the `image` crate rounds.
pub(super) fn decode(mut source: impl BufRead + Seek) -> std::result::Result<Image, Failure> {
    let mut header = [0; 66];
    let mut got = 0;
    let start = source.stream_position().map_err(Failure::Read)?;
    while got < header.len() {
        match source.read(&mut header[got..]).map_err(Failure::Read)? {
            0 => break,
            n => got += n,
        }
    }
    source.seek(std::io::SeekFrom::Start(start)).map_err(Failure::Read)?;
    let mut image = read(BmpDecoder::new(source)?, false)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (header_size, bits, compression, green) =
        (word(14), u16::from_le_bytes([header[28], header[29]]), word(30), word(58));
    if header_size >= 40 && bits == 16 {
        // Without masks there are 5 bits of each; the channels' upper bits are what the file has.
        let green_bits = if compression == 3 { green.count_ones() } else { 5 };
        for pixel in image.rgb.as_chunks_mut::<3>().0 {
            for (v, n) in pixel.iter_mut().zip([5, green_bits, 5]) {
                if matches!(n, 5 | 6) {
                    *v = (u32::from(*v >> (8 - n)) * 255 / ((1 << n) - 1)) as u8;
                }
            }
        }
    }
    Ok(image)
}
