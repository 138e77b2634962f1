//! The first frame of a GIF file as PIL shows it.

use std::io::{ErrorKind, Read};

use weezl::decode::Configuration;
use weezl::BitOrder;

use super::decode::Failure;
use super::{bad, check_size, lzw, reserve, truncated, Image};

type Result<T> = std::result::Result<T, Failure>;

/// Decodes the first frame. The canvas around it has the transparent colour or, without one, colour 0; a frame that reaches
/// beyond the canvas makes it larger. Without palette, or with one that is a gray ramp, indices are levels of gray.
pub(super) fn decode(mut source: impl Read) -> Result<Image> {
    let head: [u8; 13] = read(&mut source)?;
    let mut palette = Palette::gray();
    if head[10] & 0x80 != 0 {
        palette = Palette::read(&mut source, head[10])?;
    }
    let mut transparent = None;
    loop {
        match read(&mut source)? {
            [b'!'] => {
                let [label] = read(&mut source)?;
                let block = read_block(&mut source)?;
                if let (0xf9, &[flags, _, _, index, ..]) = (label, &block[..]) {
                    if flags & 1 != 0 {
                        transparent = Some(index);
                    }
                }
                let mut more = !block.is_empty();
                while more {
                    more = !read_block(&mut source)?.is_empty();
                }
            }
            [b','] => break,
            [b';'] => return Err(bad("the picture is a GIF file without a frame; save it anew").into()),
            _ => {}
        }
    }

    let frame: [u8; 9] = read(&mut source)?;
    let word = |bytes: &[u8], at: usize| u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let [left, top, frame_width, frame_height] = [0, 2, 4, 6].map(|at| word(&frame, at));
    let (width, height) = (word(&head, 6).max(left + frame_width), word(&head, 8).max(top + frame_height));
    check_size(width, height)?;
    if frame[8] & 0x80 != 0 {
        palette = Palette::read(&mut source, frame[8])?;
    }
    let [code_bits] = read(&mut source)?;
    if !(1..=8).contains(&code_bits) {
        return Err(bad("the picture is corrupt (bad GIF code size); copy it again or save it anew").into());
    }
    let mut stream = Vec::new();
    loop {
        match read_block(&mut source) {
            Ok(block) if block.is_empty() => break,
            Ok(block) => stream.extend(block),
            // What is needed may be there without the end.
            Err(Failure::Read(e)) => return Err(Failure::Read(e)),
            Err(_) => break,
        }
    }
    let pixels = frame_width as usize * frame_height as usize;
    let mut indices = reserve(pixels)?;
    indices.resize(pixels, 0u8);
    let decoder = Configuration::new(BitOrder::Lsb, code_bits).with_yield_on_full_buffer(true).build();
    if lzw::decode(decoder, &stream, &mut indices)? < pixels {
        return Err(truncated().into());
    }

    let mut rgb = reserve(width as usize * height as usize * 3)?;
    let around = palette.0[usize::from(transparent.unwrap_or(0))];
    rgb.extend(std::iter::repeat_n(around, width as usize * height as usize).flatten());
    let interlaced = frame[8] & 0x40 != 0;
    if pixels > 0 {
        for (y, row) in rows(frame_height as usize, interlaced).zip(indices.chunks(frame_width as usize)) {
            let start = ((top as usize + y) * width as usize + left as usize) * 3;
            let out = rgb[start..][..row.len() * 3].as_chunks_mut::<3>().0;
            for (pixel, &index) in out.iter_mut().zip(row) {
                *pixel = palette.0[usize::from(index)];
            }
        }
    }
    Ok(Image { width, height, rgb })
}

/// Rows of a frame in the order of the file.
fn rows(height: usize, interlaced: bool) -> impl Iterator<Item = usize> {
    let passes: &[(usize, usize)] = if interlaced { &[(0, 8), (4, 8), (2, 4), (1, 2)] } else { &[(0, 1)] };
    passes.iter().flat_map(move |&(first, step)| (first..height).step_by(step))
}

/// Colour of each index.
struct Palette([[u8; 3]; 256]);

impl Palette {
    fn gray() -> Palette {
        Palette(std::array::from_fn(|i| [i as u8; 3]))
    }

    /// `flags` tells the length. Indices beyond it are black.
    fn read(source: &mut impl Read, flags: u8) -> Result<Palette> {
        let mut bytes = [0; 256 * 3];
        let bytes = &mut bytes[..3 << ((flags & 7) + 1)];
        source.read_exact(bytes).map_err(failure)?;
        let colours = bytes.as_chunks::<3>().0;
        let gray = Palette::gray();
        if gray.0.starts_with(colours) {
            return Ok(gray);
        }
        let mut palette = Palette([[0; 3]; 256]);
        palette.0[..colours.len()].copy_from_slice(colours);
        Ok(palette)
    }
}

fn read<const N: usize>(source: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes).map_err(failure)?;
    Ok(bytes)
}

/// A block of up to 255 bytes; an empty one ends a chain.
fn read_block(source: &mut impl Read) -> Result<Vec<u8>> {
    let [len] = read(source)?;
    let mut block = vec![0; usize::from(len)];
    source.read_exact(&mut block).map_err(failure)?;
    Ok(block)
}

fn failure(e: std::io::Error) -> Failure {
    match e.kind() {
        ErrorKind::UnexpectedEof => truncated().into(),
        _ => Failure::Read(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    /// A GIF file of a canvas, one frame at a place, and its data; without a palette.
    fn file(canvas: [u16; 2], frame: [u16; 4], data: &[u8]) -> Vec<u8> {
        let words = |words: &[u16]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        [&b"GIF89a"[..], &words(&canvas), b"\0\0\0,", &words(&frame), b"\0", data].concat()
    }

    /// Codes of 3 bits: clear, 1, 1, end.
    const TWO_PIXELS: &[u8] = b"\x02\x02\x4c\x0a\0;";

    #[test]
    fn a_frame_may_reach_beyond_the_canvas() {
        let image = Image::decode(&file([1, 1], [1, 0, 2, 1], TWO_PIXELS)).unwrap();
        assert_eq!((image.width(), image.height()), (3, 1));
        assert_eq!(image.rgb(), [[0; 3], [1; 3], [1; 3]].concat());
    }

    #[test]
    fn limits_hold_for_the_grown_canvas() {
        for frame in [[65_535, 0, 2, 1], [0, 65_535, 2, 1], [0, 0, 65_535, 65_535]] {
            assert!(matches!(Image::decode(&file([1, 1], frame, TWO_PIXELS)), Err(Error::ImageTooLarge(_))));
        }
        assert!(matches!(
            Image::decode(&file([65_535, 65_535], [0, 0, 2, 1], TWO_PIXELS)),
            Err(Error::ImageTooLarge(_))
        ));
    }

    #[test]
    fn damaged_files() {
        let whole = file([2, 1], [0, 0, 2, 1], TWO_PIXELS);
        assert!(Image::decode(&whole).is_ok());
        // Without the end of the chain of blocks and of the file there is still all that is needed.
        assert!(Image::decode(&whole[..whole.len() - 2]).is_ok());
        for n in 0..whole.len() - 3 {
            assert!(matches!(Image::decode(&whole[..n]), Err(Error::BadImage(_))), "{n} bytes");
        }
        for data in [&b"\x02\0;"[..], b"\x00\x02\x4c\x0a\0;", b"\x0c\x02\x4c\x0a\0;", b"\x02\x02\xff\xff\0;"] {
            assert!(matches!(Image::decode(&file([2, 1], [0, 0, 2, 1], data)), Err(Error::BadImage(_))));
        }
        assert!(matches!(Image::decode(b"GIF89a\x01\0\x01\0\0\0\0;"), Err(Error::BadImage(_))));
    }
}
