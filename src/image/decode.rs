//! Picture files: which format the bytes are of, and the formats that the `image` crate reads.

use std::io::{BufRead, Cursor, Seek};

use ::image::codecs::webp::WebPDecoder;
use ::image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Rgba};

use super::{bad, check_size, gif, jpeg, no_memory, pnm, reserve, tiff, too_costly, truncated, Image};
use crate::error::{Error, Result};

/// Bytes that a decoder may allocate: the largest picture with 16 bits a channel and alpha, and as much for itself.
const MAX_DECODER_BYTES: u64 = super::MAX_PIXELS * 8 * 2;
const FORMATS: &str = "PNG, JPEG, GIF, WebP, BMP, TIFF and PNM are supported";

/// Why decoding failed.
pub(super) enum Failure {
    /// The source could not be read.
    Read(std::io::Error),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Other(e)
    }
}

/// A decoder's message on one line; some end with a line break.
pub(super) fn one_line(e: &dyn std::fmt::Display) -> String {
    e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Failure {
    /// For errors of decoders, which give errors of their own the form of an I/O error, too.
    pub(super) fn from_io(e: std::io::Error) -> Failure {
        use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
        match e.kind() {
            UnexpectedEof => truncated().into(),
            InvalidData | InvalidInput | Other => Failure::corrupt(&e),
            _ => Failure::Read(e),
        }
    }

    pub(super) fn corrupt(e: &dyn std::fmt::Display) -> Failure {
        bad(format!("the picture is corrupt ({}); copy it again or save it anew", one_line(e))).into()
    }

    pub(super) fn unsupported(e: &dyn std::fmt::Display) -> Failure {
        let kind = one_line(e);
        bad(format!("the picture is of a kind that is not supported ({kind}); save it as 8-bit PNG or JPEG")).into()
    }
}

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

/// Decodes a picture file of any supported format.
pub(super) fn decode(mut source: impl BufRead + Seek) -> std::result::Result<Image, Failure> {
    let head = source.fill_buf().map_err(Failure::Read)?;
    if pnm::recognises(head) {
        return pnm::decode(source);
    }
    match ::image::guess_format(head) {
        Ok(ImageFormat::Jpeg) => jpeg::decode(source),
        Ok(ImageFormat::Gif) => gif::decode(source),
        Ok(ImageFormat::Tiff) => tiff::decode(source),
        Ok(ImageFormat::Bmp) => decode_bmp(source),
        Ok(ImageFormat::WebP) => decode_webp(source),
        Ok(ImageFormat::Png) => {
            // Bit depth and colour type of the first chunk.
            let gray16 = head.get(24..26) == Some(&[16, 0]);
            read(open(source, ImageFormat::Png)?, gray16)
        }
        Ok(format) if format.reading_enabled() => read(open(source, format)?, false),
        other => Err(unknown_format(head, other.ok()).into()),
    }
}

fn open<'a>(
    source: impl BufRead + Seek + 'a,
    format: ImageFormat,
) -> std::result::Result<impl ImageDecoder + 'a, Failure> {
    let mut reader = ImageReader::with_format(source, format);
    reader.limits(Limits::no_limits());
    Ok(reader.into_decoder()?)
}

/// `gray16`: the file has 16-bit gray without an alpha channel.
fn read(mut decoder: impl ImageDecoder, gray16: bool) -> std::result::Result<Image, Failure> {
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    decoder.set_limits(limits)?;
    let colour = decoder.color_type();
    let total = decoder.total_bytes();
    let mut raw = reserve(usize::try_from(total).map_err(|_| no_memory(total))?)?;
    raw.resize(raw.capacity().min(total as usize), 0u8);
    decoder.read_image(&mut raw)?;
    Ok(Image { width, height, rgb: to_rgb(raw, colour, gray16)? })
}

/// Decodes a WebP file, of an animation the first frame as libwebp's animation decoder shows it: on a transparent black canvas, not
/// blended with it.
fn decode_webp(mut source: impl BufRead + Seek) -> std::result::Result<Image, Failure> {
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
    read(decoder, false)
}

/// Decodes a BMP file. Channels of 5 and 6 bits become v · 255 / 31 and v · 255 / 63, cut to integers, where the `image` crate rounds.
fn decode_bmp(mut source: impl BufRead + Seek) -> std::result::Result<Image, Failure> {
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
    let mut image = read(open(source, ImageFormat::Bmp)?, false)?;
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

/// The error for bytes that are no picture we read, with a guess at what they are.
fn unknown_format(head: &[u8], recognised: Option<ImageFormat>) -> Error {
    if head.is_empty() {
        return bad("the picture is empty (0 bytes)");
    }
    let text = String::from_utf8_lossy(&head[..head.len().min(512)])
        .trim_start_matches('\u{feff}')
        .trim_start()
        .to_lowercase();
    let brand = if head.get(4..8) == Some(b"ftyp") { head.get(8..12).unwrap_or_default() } else { &[] };
    let guess = match head {
        _ if matches!(brand, b"heic" | b"heix" | b"hevc" | b"heim" | b"heis" | b"mif1" | b"msf1") => {
            "a HEIC picture; convert it to JPEG"
        }
        _ if matches!(brand, b"avif" | b"avis") => "an AVIF picture; convert it to PNG or JPEG",
        _ if !brand.is_empty() => "a video file; pass a frame of it as PNG or JPEG",
        [b'G', b'G', b'U', b'F', ..] => "a GGUF model file; model and picture may be swapped",
        [b'P', b'K', 3, 4, ..] => "a ZIP archive or PyTorch checkpoint",
        [0xff, 0x0a, ..] | [0, 0, 0, 0x0c, b'J', b'X', b'L', b' ', ..] => {
            "a JPEG XL picture; convert it to PNG or JPEG"
        }
        [0, 0, 0, 0x0c, b'j', b'P', b' ', b' ', ..] => "a JPEG 2000 picture; convert it to PNG or JPEG",
        [b'8', b'B', b'P', b'S', ..] => "a Photoshop document; export it as PNG or JPEG",
        [0, 0, 1, 0, ..] => "an icon file; convert it to PNG",
        _ if text.starts_with("%pdf") => "a PDF document; export the page as PNG",
        _ if text.starts_with("<svg") || text.starts_with("<?xml") && text.contains("<svg") => {
            "an SVG drawing; export it as PNG"
        }
        _ if text.starts_with("<!doctype html") || text.starts_with("<html") => {
            "an HTML page; the download may have given an error page instead of the picture"
        }
        _ if text.starts_with('{') || text.starts_with('[') => {
            "JSON text; the download may have given an error message instead of the picture"
        }
        _ if text.starts_with("data:image/") => "a data: URL; decode its base64 part first",
        _ => match recognised {
            Some(format) => {
                let name = format.extensions_str().first().unwrap_or(&"unsupported").to_uppercase();
                return bad(format!("the picture is a {name} file, which is not supported; {FORMATS}"));
            }
            None => return bad(format!("the bytes are no picture of a known format; {FORMATS}")),
        },
    };
    bad(format!("the bytes are not a picture that can be read but look like {guess}; {FORMATS}"))
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

    #[test]
    fn says_what_the_bytes_are() {
        for (bytes, said) in [
            (&b""[..], "empty"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"\n <!DOCTYPE html><html>", "HTML"),
            (b"{\"error\": 404}", "JSON"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
            (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
            (b"\0\0\0\x18ftypmp42\0\0\0\0", "video"),
            (b"<?xml version=\"1.0\"?>\n<svg xmlns=", "SVG"),
            (b"%PDF-1.7", "PDF"),
            (b"PK\x03\x04", "ZIP"),
            (b"\0\0\x01\0\x01\0", "icon"),
            (b"data:image/png;base64,", "base64"),
            (b"hello world", "PNG, JPEG"),
            (b"P6 2 2 255\n\x01\x02", "truncated"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", "truncated"),
            (b"\xff\xd8\xff\xe0", "truncated"),
            (b"\xff\xd8\xff\xd9", "corrupt"),
        ] {
            match Image::decode(bytes) {
                Err(Error::BadImage(text)) => assert!(text.contains(said), "{said}: {text}"),
                other => panic!("{said}: {other:?}"),
            }
        }
    }
}
