//! PBM, PGM, PPM and gray PFM files, with PIL's scaling of values; PAM files through the `image` crate.

use std::io::{BufRead, Read, Seek};

use ::image::codecs::pnm::PnmDecoder;

use super::codecs;
use super::decode::Failure;
use super::{bad, check_size, reserve, truncated, Image};
use crate::error::Error;

type Result<T> = std::result::Result<T, Failure>;

/// How the samples are written.
#[derive(Clone, Copy, PartialEq)]
enum Coding {
    Plain,
    Bits,
    Binary,
    Float,
}

/// Decodes a file of the family.
pub(super) fn decode(mut source: impl BufRead + Seek) -> Result<Image> {
    if is_known(source.fill_buf().map_err(Failure::Read)?) {
        decode_known(source)
    } else {
        codecs::read(PnmDecoder::new(source)?, false)
    }
}

/// Whether the bytes begin as a file that [`decode_known`] reads.
fn is_known(head: &[u8]) -> bool {
    matches!(head, [b'P', b'1'..=b'6' | b'f', space, ..] if is_space(*space))
}

/// Decodes PBM, PGM and PPM, plain or binary, and gray PFM.
///
/// Samples are scaled by value / maxval and rounded, halves to even. Gray with a maxval over 255 is scaled to 65535 and clipped at 255,
/// floating-point values are clipped to 0 … 255 and cut to integers.
fn decode_known(mut source: impl BufRead) -> Result<Image> {
    let mut magic = [0; 2];
    source.read_exact(&mut magic).map_err(Failure::Read)?;
    let (coding, channels) = match magic[1] {
        b'1' | b'2' => (Coding::Plain, 1),
        b'3' => (Coding::Plain, 3),
        b'4' => (Coding::Bits, 1),
        b'5' => (Coding::Binary, 1),
        b'6' => (Coding::Binary, 3),
        _ => (Coding::Float, 1),
    };
    let width = number(&header_token(&mut source)?)?;
    let height = number(&header_token(&mut source)?)?;
    check_size(width, height)?;
    let samples = width as usize * height as usize * channels;

    if coding == Coding::Float {
        let scale = header_token(&mut source)?;
        let scale = std::str::from_utf8(&scale).ok().and_then(|s| s.parse::<f32>().ok());
        let little = match scale {
            Some(scale) if scale.is_finite() && scale != 0.0 => scale < 0.0,
            _ => return Err(corrupt("bad scale").into()),
        };
        let data = take(&mut source, samples * 4)?;
        let values =
            data.as_chunks().0.iter().map(|&v| if little { f32::from_le_bytes(v) } else { f32::from_be_bytes(v) });
        let mut levels = reserve(samples)?;
        levels.extend(values.map(|v| v as u8));
        // Rows go from bottom to top.
        let mut rgb = reserve(samples * 3)?;
        rgb.extend(levels.rchunks(width as usize).flatten().flat_map(|&v| [v; 3]));
        return Ok(Image { width, height, rgb });
    }
    if coding == Coding::Bits {
        let row_bytes = (width as usize).div_ceil(8);
        let data = take(&mut source, row_bytes * height as usize)?;
        let mut rgb = reserve(samples * 3)?;
        for row in data.chunks(row_bytes) {
            rgb.extend((0..width as usize).flat_map(|x| [[255, 0][usize::from(row[x / 8] >> (7 - x % 8) & 1)]; 3]));
        }
        return Ok(Image { width, height, rgb });
    }

    let mut levels = reserve(samples)?;
    if magic[1] == b'1' {
        let mut data = PlainBytes { source, in_comment: false };
        while levels.len() < samples {
            match data.next()? {
                Some(b'0') => levels.push(255),
                Some(b'1') => levels.push(0),
                Some(b) if is_space(b) => {}
                Some(_) => return Err(corrupt("neither 0 nor 1").into()),
                None => return Err(truncated().into()),
            }
        }
    } else {
        let maxval = number(&header_token(&mut source)?)?;
        if !(1..=65_535).contains(&maxval) {
            return Err(corrupt("maxval must be 1 to 65535").into());
        }
        let scale = |value: u32| {
            let top = if channels == 1 && maxval > 255 { 65_535.0 } else { 255.0 };
            (f64::from(value) / f64::from(maxval) * top).round_ties_even().min(255.0) as u8
        };
        if coding == Coding::Plain {
            let mut data = PlainBytes { source, in_comment: false };
            while levels.len() < samples {
                let value = number(&data.token()?)?;
                if value > maxval {
                    return Err(corrupt("value over maxval").into());
                }
                levels.push(scale(value));
            }
        } else if maxval > 255 {
            let data = take(&mut source, samples * 2)?;
            levels.extend(data.as_chunks().0.iter().map(|&v| scale(u16::from_be_bytes(v).into())));
        } else {
            let table: [u8; 256] = std::array::from_fn(|v| scale(v as u32));
            levels.extend(take(&mut source, samples)?.iter().map(|&v| table[usize::from(v)]));
        }
    }
    if channels == 3 {
        return Ok(Image { width, height, rgb: levels });
    }
    let mut rgb = reserve(samples * 3)?;
    rgb.extend(levels.iter().flat_map(|&v| [v; 3]));
    Ok(Image { width, height, rgb })
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// Most characters of a number.
const MAX_TOKEN: usize = 10;

/// The next word of the header, and the one white space behind it. A comment goes from # to the end of the line.
fn header_token(source: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut token = Vec::new();
    let mut in_comment = false;
    while let Some(byte) = next_byte(source)? {
        match byte {
            b'\n' | b'\r' if in_comment => in_comment = false,
            _ if in_comment => {}
            b'#' => in_comment = true,
            b if is_space(b) && token.is_empty() => {}
            b if is_space(b) => break,
            b => token.push(b),
        }
        if token.len() > MAX_TOKEN {
            return Err(corrupt("bad number").into());
        }
    }
    if token.is_empty() {
        return Err(truncated().into());
    }
    Ok(token)
}

fn number(token: &[u8]) -> std::result::Result<u32, Error> {
    let text = std::str::from_utf8(token).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    match text.map(str::parse::<u64>) {
        // Too large for anything; what it is too large for is said later.
        Some(Ok(number)) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        _ => Err(corrupt("bad number")),
    }
}

/// The body of a plain file without its comments.
struct PlainBytes<R> {
    source: R,
    in_comment: bool,
}

impl<R: BufRead> PlainBytes<R> {
    fn next(&mut self) -> Result<Option<u8>> {
        while let Some(byte) = next_byte(&mut self.source)? {
            match byte {
                b'\n' | b'\r' if self.in_comment => self.in_comment = false,
                _ if self.in_comment => {}
                b'#' => self.in_comment = true,
                b => return Ok(Some(b)),
            }
        }
        Ok(None)
    }

    fn token(&mut self) -> Result<Vec<u8>> {
        let mut token = Vec::with_capacity(MAX_TOKEN);
        loop {
            match self.next()? {
                Some(b) if !is_space(b) => token.push(b),
                None if token.is_empty() => return Err(truncated().into()),
                Some(_) if token.is_empty() => {}
                _ => return Ok(token),
            }
            if token.len() > MAX_TOKEN {
                return Err(corrupt("bad number").into());
            }
        }
    }
}

fn next_byte(source: &mut impl BufRead) -> Result<Option<u8>> {
    source.bytes().next().transpose().map_err(Failure::Read)
}

/// Exactly `len` bytes; memory grows with what is there.
fn take(source: &mut impl Read, len: usize) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    source.take(len as u64).read_to_end(&mut data).map_err(Failure::Read)?;
    if data.len() < len {
        return Err(truncated().into());
    }
    Ok(data)
}

fn corrupt(what: &str) -> Error {
    bad(format!("the picture is corrupt ({what} in a PNM file); copy it again or save it anew"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_checked_before_decoding() {
        for header in ["P5 70000 1 255\n", "P6 60000 60000 255\n", "P6 1 4000000000 255\n"] {
            assert!(matches!(Image::decode(header.as_bytes()), Err(Error::ImageTooLarge(_))), "{header}");
        }
        assert!(matches!(Image::decode(b"P6 0 5 255\n"), Err(Error::BadImage(_))));
    }

    /// Levels of a gray file.
    fn gray(file: &[u8]) -> Vec<u8> {
        let image = Image::decode(file).unwrap();
        image.rgb().iter().step_by(3).copied().collect()
    }

    #[test]
    fn sixteen_bit_gray_is_clipped() {
        let data: Vec<u8> = [0u16, 254, 255, 256, 40_000, 65_535].iter().flat_map(|v| v.to_be_bytes()).collect();
        assert_eq!(gray(&[&b"P5 6 1 65535\n"[..], &data].concat()), [0, 254, 255, 255, 255, 255]);
    }

    #[test]
    fn halves_are_rounded_to_even() {
        // 255 · 1/2, 3/6 …
        assert_eq!(gray(b"P5 3 1 2\n\x00\x01\x02"), [0, 128, 255]);
        assert_eq!(gray(b"P2 3 1 6 1 3 5"), [42, 128, 212]);
    }

    #[test]
    fn comments_and_white_space() {
        assert_eq!(gray(b"P2 #a\n1#b\r 2\t\n255#c\n 7 #d\n8"), [7, 8]);
        assert_eq!(gray(b"P1 3 1\n1 0#\n1"), [0, 255, 0]);
    }

    #[test]
    fn bad_headers_and_bodies() {
        for file in [
            &b"P5 2 1 0\n\x01\x02"[..],
            b"P5 2 1 65536\n\x01\x02",
            b"P5 2 x 255\n\x01\x02",
            b"P5 -2 1 255\n\x01\x02",
            b"P5 2",
            b"P5 2 1 255\n\x01",
            b"P2 2 1 255\n1",
            b"P2 1 1 255\n256",
            b"P2 1 1 255\n12345678901",
            b"P1 2 1\n02",
            b"P4 9 1\n\x01",
            b"Pf 1 1 0\n\0\0\0\0",
            b"Pf 1 1 nan\n\0\0\0\0",
        ] {
            assert!(matches!(Image::decode(file), Err(Error::BadImage(_))), "{}", String::from_utf8_lossy(file));
        }
    }
}
