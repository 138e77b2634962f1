//! What the `image` crate's decoders share: errors, and their pixels as 8-bit RGB.

use ::image::{ColorType, ImageDecoder, ImageError};

use super::decode::{one_line, Failure};
use super::{bad, check_size, no_memory, reserve, too_costly, Image};
use crate::error::Result;

impl From<ImageError> for Failure {
    fn from(e: ImageError) -> Self {
        match e {
            ImageError::Limits(e) => too_costly(&one_line(&e)).into(),
            ImageError::IoError(e) => Failure::from_io(e),
            ImageError::Unsupported(e) => Failure::unsupported(&e),
            e => Failure::corrupt(&e),
        }
    }
}

/// `gray16`: the file has 16-bit gray without an alpha channel.
pub(super) fn read(decoder: impl ImageDecoder, gray16: bool) -> std::result::Result<Image, Failure> {
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let colour = decoder.color_type();
    let total = decoder.total_bytes();
    let mut raw = reserve(usize::try_from(total).map_err(|_| no_memory(total))?)?;
    raw.resize(raw.capacity().min(total as usize), 0u8);
    decoder.read_image(&mut raw)?;
    Ok(Image { width, height, rgb: to_rgb(raw, colour, gray16)? })
}

/// Decoded pixels, 16-bit ones in the machine's byte order, to 8-bit RGB.
fn to_rgb(raw: Vec<u8>, colour: ColorType, gray16: bool) -> Result<Vec<u8>> {
    if colour == ColorType::Rgb8 {
        return Ok(raw);
    }
    let mut rgb = reserve(raw.len() / colour.bytes_per_pixel() as usize * 3)?;
    // PIL keeps the high byte, except of gray without alpha.
    let high = |v: [u8; 2]| (u16::from_ne_bytes(v) >> 8) as u8;
    // 16-bit gray has a mode of its own in PIL, which clips at 255 when it becomes RGB.
    let clip = |v: [u8; 2]| [u16::from_ne_bytes(v).min(255) as u8; 3];
    match colour {
        ColorType::L8 => rgb.extend(raw.iter().flat_map(|&v| [v; 3])),
        ColorType::La8 => rgb.extend(raw.as_chunks::<2>().0.iter().flat_map(|&[v, _]| [v; 3])),
        ColorType::Rgba8 => rgb.extend(raw.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b])),
        ColorType::L16 => rgb.extend(raw.as_chunks().0.iter().flat_map(|&v| clip(v))),
        // Gray with a transparent level, which is no alpha channel to PIL.
        ColorType::La16 if gray16 => rgb.extend(raw.as_chunks::<4>().0.iter().flat_map(|&[a, b, ..]| clip([a, b]))),
        ColorType::La16 => rgb.extend(raw.as_chunks::<4>().0.iter().flat_map(|&[a, b, ..]| [high([a, b]); 3])),
        ColorType::Rgb16 => rgb.extend(raw.as_chunks::<2>().0.iter().map(|&v| high(v))),
        ColorType::Rgba16 => {
            let pixels = raw.as_chunks::<8>().0.iter();
            rgb.extend(pixels.flat_map(|&[a, b, c, d, e, f, ..]| [high([a, b]), high([c, d]), high([e, f])]))
        }
        other => return Err(bad(format!("the picture has pixels of type {other:?}; save it as 8-bit PNG or JPEG"))),
    }
    Ok(rgb)
}
