//! Pictures: decoding, raw pixels from the caller, and the encoder's pre-processing.
//!
//! Colours and resizing follow PIL (`convert("RGB")`, `resize(BICUBIC)`), with which the model was trained, to the bit.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use ::image::codecs::png::PngEncoder;
use ::image::{ColorType, ExtendedColorType, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader, Limits};

use crate::error::{Error, Result};

/// Longest side of a picture, in pixels.
pub const MAX_SIDE: u32 = 65_535;
/// Most pixels of a picture.
pub const MAX_PIXELS: u64 = 1 << 28;
/// Bytes that a decoder may allocate: the largest picture with 16 bits a channel and alpha, and as much for itself.
const MAX_DECODER_BYTES: u64 = MAX_PIXELS * 8 * 2;
const FORMATS: &str = "PNG, JPEG, GIF, WebP, BMP, TIFF and PNM are supported";

/// How the bytes of a pixel are ordered, 8 bits a channel. Alpha is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// Red, green, blue.
    Rgb,
    /// Red, green, blue, alpha.
    Rgba,
    /// Blue, green, red.
    Bgr,
    /// Blue, green, red, alpha.
    Bgra,
    /// Gray.
    Gray,
}

impl PixelFormat {
    /// Bytes of a pixel.
    pub fn bytes(self) -> usize {
        match self {
            PixelFormat::Gray => 1,
            PixelFormat::Rgb | PixelFormat::Bgr => 3,
            PixelFormat::Rgba | PixelFormat::Bgra => 4,
        }
    }
}

/// A picture: 8-bit RGB pixels, rows from top to bottom without gaps. Immutable.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl Image {
    /// Decodes a file; its format is told by its content. EXIF orientation is not applied.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened or read, and as [`decode`](Self::decode).
    pub fn open(path: &Path) -> Result<Image> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let mut reader = BufReader::new(file);
        reader.fill_buf().map_err(|e| Error::io("read", path, e))?;
        decode(reader).map_err(|failure| match failure {
            Failure::Read(e) => Error::io("read", path, e),
            Failure::Other(Error::BadImage(text)) => Error::BadImage(format!("'{}': {text}", path.display())),
            Failure::Other(Error::ImageTooLarge(text)) => Error::ImageTooLarge(format!("'{}': {text}", path.display())),
            Failure::Other(e) => e,
        })
    }

    /// Decodes the bytes of a picture file. EXIF orientation is not applied.
    ///
    /// # Errors
    /// [`Error::BadImage`] when the bytes are of no supported format or corrupt; [`Error::ImageTooLarge`] over
    /// [`MAX_SIDE`] or [`MAX_PIXELS`]; [`Error::OutOfMemory`].
    pub fn decode(bytes: &[u8]) -> Result<Image> {
        decode(Cursor::new(bytes)).map_err(|failure| match failure {
            Failure::Read(e) => Error::BadImage(format!("the picture cannot be read: {e}")),
            Failure::Other(e) => e,
        })
    }

    /// Copies raw pixels. A row starts `stride` bytes after the one above it; 0 means that rows follow without gaps.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when `stride` is less than a row or `data` ends before the last pixel;
    /// [`Error::BadImage`] when a side is 0; [`Error::ImageTooLarge`] as for [`decode`](Self::decode);
    /// [`Error::OutOfMemory`].
    pub fn from_pixels(data: &[u8], width: u32, height: u32, stride: usize, format: PixelFormat) -> Result<Image> {
        check_size(width, height)?;
        let row = width as usize * format.bytes();
        let stride = if stride == 0 { row } else { stride };
        if stride < row {
            return Err(Error::InvalidArgument(format!(
                "stride is {stride} bytes, but a row of {width} pixels of {format:?} takes {row}; pass at least that, or 0 for rows \
                 without gaps"
            )));
        }
        let needed = stride.checked_mul(height as usize - 1).and_then(|n| n.checked_add(row));
        if needed.is_none_or(|n| n > data.len()) {
            return Err(Error::InvalidArgument(format!(
                "{width}×{height} pixels of {format:?} with a stride of {stride} bytes do not fit in {} bytes of data",
                data.len()
            )));
        }
        let mut rgb = reserve(width as usize * height as usize * 3)?;
        for row in data.chunks(stride).take(height as usize).map(|r| &r[..row]) {
            match format {
                PixelFormat::Rgb => rgb.extend_from_slice(row),
                PixelFormat::Gray => rgb.extend(row.iter().flat_map(|&v| [v; 3])),
                PixelFormat::Rgba => rgb.extend(row.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b])),
                PixelFormat::Bgr => rgb.extend(row.as_chunks::<3>().0.iter().flat_map(|&[b, g, r]| [r, g, b])),
                PixelFormat::Bgra => rgb.extend(row.as_chunks::<4>().0.iter().flat_map(|&[b, g, r, _]| [r, g, b])),
            }
        }
        Ok(Image { width, height, rgb })
    }

    /// Takes `[height, width, 3]` bytes of red, green and blue.
    pub(crate) fn from_rgb(rgb: Vec<u8>, width: u32, height: u32) -> Result<Image> {
        if rgb.len() as u64 != u64::from(width) * u64::from(height) * 3 {
            return Err(Error::Internal(format!("{} bytes are no {width}×{height} pixels", rgb.len())));
        }
        Ok(Image { width, height, rgb })
    }

    /// A copy of the pixels.
    pub(crate) fn rgb_copy(&self) -> Result<Vec<u8>> {
        let mut copy = reserve(self.rgb.len())?;
        copy.extend_from_slice(&self.rgb);
        Ok(copy)
    }

    /// Writes the picture as a PNG file.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn save_png(&self, path: &Path) -> Result<()> {
        let mut png = Vec::new();
        PngEncoder::new(&mut png)
            .write_image(&self.rgb, self.width, self.height, ExtendedColorType::Rgb8)
            .map_err(|e| Error::Internal(format!("the picture could not be encoded: {e}")))?;
        std::fs::write(path, png).map_err(|e| Error::io("write", path, e))
    }

    /// Pixels in a row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// `[height, width, 3]` bytes: red, green, blue.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}×{})", self.width, self.height)
    }
}

/// Pixels as the image encoder wants them: `[3, size, size]`, planes of red, green and blue.
///
/// The picture is resized straight to a square, aspect ratio not kept ([`resize_bicubic`]); then `(x/255 − mean) / std`, each step
/// in f32.
///
/// # Errors
/// [`Error::OutOfMemory`]; [`Error::InvalidArgument`] as for `resize_bicubic`.
pub fn preprocess(image: &Image, size: usize, mean: [f32; 3], std: [f32; 3]) -> Result<Vec<f32>> {
    let small = resize_bicubic(&image.rgb, image.width as usize, image.height as usize, size, size)?;
    let mut out = reserve(small.len())?;
    for c in 0..3 {
        let levels: [f32; 256] = std::array::from_fn(|v| (v as f32 / 255.0 - mean[c]) / std[c]);
        out.extend(small[c..].iter().step_by(3).map(|&v| levels[v as usize]));
    }
    Ok(out)
}

/// Resizes `[height, width, 3]` to `[out_height, out_width, 3]` as PIL's `Image.resize((out_width, out_height), BICUBIC)` does,
/// to the bit: cubic convolution with a = −0.5, its support scaled when shrinking; horizontally, then vertically, rounded to
/// 8 bits after each; a direction whose size does not change is left alone. (Pillow, `src/libImaging/Resample.c`, up to the
/// versions of the model's time; Pillow 13 goes vertically first for some sizes, which moves values by a level or so.)
///
/// # Errors
/// [`Error::InvalidArgument`] when a side is 0 or over [`MAX_SIDE`], or `rgb` has another length; [`Error::OutOfMemory`].
pub fn resize_bicubic(rgb: &[u8], width: usize, height: usize, out_width: usize, out_height: usize) -> Result<Vec<u8>> {
    let sides = [width, height, out_width, out_height];
    if sides.iter().any(|&s| s == 0 || s > MAX_SIDE as usize) || rgb.len() as u64 != width as u64 * height as u64 * 3 {
        return Err(Error::InvalidArgument(format!(
            "cannot resize {} bytes of {width}×{height} pixels to {out_width}×{out_height}",
            rgb.len()
        )));
    }
    let out_bytes = out_width as u64 * out_height as u64 * 3;
    let mut out = reserve(usize::try_from(out_bytes).map_err(|_| no_memory(out_bytes))?)?;
    let (columns, rows) = (Taps::new(width, out_width)?, Taps::new(height, out_height)?);
    let row_bytes = out_width * 3;

    // Rows are narrowed when the first output row needs them; those that a later one may need again wait in a ring.
    let ring_rows = rows.longest();
    let mut ring = reserve(if columns.identity { 0 } else { ring_rows * row_bytes })?;
    ring.resize(ring.capacity().min(ring_rows * row_bytes), 0);
    let mut sums = reserve::<i32>(row_bytes)?;
    let mut narrowed = 0;
    for y in 0..out_height {
        let (first, weights) = rows.of(y);
        if !columns.identity {
            for r in narrowed.max(first)..first + weights.len() {
                let slot = &mut ring[r % ring_rows * row_bytes..][..row_bytes];
                columns.apply(&rgb[r * width * 3..][..width * 3], slot);
            }
            narrowed = first + weights.len();
        }
        let row = |r: usize| match columns.identity {
            true => &rgb[r * row_bytes..][..row_bytes],
            false => &ring[r % ring_rows * row_bytes..][..row_bytes],
        };
        if rows.identity {
            out.extend_from_slice(row(first));
            continue;
        }
        sums.clear();
        sums.resize(row_bytes, ROUND);
        for (i, &weight) in weights.iter().enumerate() {
            for (sum, &v) in sums.iter_mut().zip(row(first + i)) {
                *sum += v as i32 * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    Ok(out)
}

/// Bits behind the point of a weight: 32 less the 8 of a value, less 2 for sums beyond it.
const PRECISION: u32 = 32 - 8 - 2;
/// Half of the last bit kept.
const ROUND: i32 = 1 << (PRECISION - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// For each output position of one direction, the input positions that it is made of and their fixed-point weights.
struct Taps {
    /// Of each output position: first input position, and where its weights start and end.
    spans: Vec<(usize, usize, usize)>,
    weights: Vec<i32>,
    /// Nothing to do: the size does not change.
    identity: bool,
}

impl Taps {
    fn new(from: usize, to: usize) -> Result<Taps> {
        if from == to {
            let mut spans = reserve(to)?;
            spans.extend((0..to).map(|i| (i, 0, 1)));
            return Ok(Taps { spans, weights: vec![1 << PRECISION], identity: true });
        }
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let mut spans = reserve(to)?;
        let mut weights = reserve((support.ceil() as usize * 2 + 1).min(from).saturating_mul(to))?;
        let mut exact = Vec::new();
        for i in 0..to {
            let centre = (i as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            exact.clear();
            exact.extend((first..end).map(|x| cubic((x as f64 - centre + 0.5) * (1.0 / stretch))));
            let total: f64 = exact.iter().sum();
            let start = weights.len();
            weights.extend(exact.iter().map(|w| {
                let fixed = (if total != 0.0 { w / total } else { *w }) * (1u32 << PRECISION) as f64;
                (fixed + 0.5f64.copysign(fixed)) as i32
            }));
            spans.push((first, start, weights.len()));
        }
        Ok(Taps { spans, weights, identity: false })
    }

    fn of(&self, i: usize) -> (usize, &[i32]) {
        let (first, start, end) = self.spans[i];
        (first, &self.weights[start..end])
    }

    /// Most input positions of an output position.
    fn longest(&self) -> usize {
        self.spans.iter().map(|s| s.2 - s.1).max().unwrap_or(0)
    }

    /// One row of RGB pixels.
    fn apply(&self, row: &[u8], out: &mut [u8]) {
        for (&(first, start, end), out) in self.spans.iter().zip(out.as_chunks_mut::<3>().0) {
            let weights = &self.weights[start..end];
            let (pixels, _) = row[first * 3..][..weights.len() * 3].as_chunks::<3>();
            let mut sums = [ROUND; 3];
            for (pixel, &weight) in pixels.iter().zip(weights) {
                for (sum, &v) in sums.iter_mut().zip(pixel) {
                    *sum += v as i32 * weight;
                }
            }
            *out = sums.map(to_byte);
        }
    }
}

/// Keys' cubic convolution kernel with a = −0.5, in the order of operations that PIL has.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Why decoding failed.
enum Failure {
    /// The source could not be read.
    Read(std::io::Error),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Other(e)
    }
}

impl From<ImageError> for Failure {
    fn from(e: ImageError) -> Self {
        use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
        // Some decoders end their messages with a line break.
        let line = |e: &dyn std::fmt::Display| e.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        match e {
            ImageError::Limits(e) => Error::ImageTooLarge(format!(
                "decoding the picture would take too much memory ({e}); scale it down first, at most {MAX_PIXELS} pixels are \
                 taken"
            ))
            .into(),
            // Decoders give errors of their own the form of an I/O error, too.
            ImageError::IoError(e) if !matches!(e.kind(), UnexpectedEof | InvalidData | InvalidInput | Other) => {
                Failure::Read(e)
            }
            ImageError::IoError(e) if e.kind() == UnexpectedEof => {
                truncated().into()
            }
            ImageError::Unsupported(e) => {
                bad(format!("the picture is of a kind that is not supported ({}); save it as 8-bit PNG or JPEG", line(&e))).into()
            }
            e => bad(format!("the picture is corrupt ({}); copy it again or save it anew", line(&e))).into(),
        }
    }
}

fn decode(mut source: impl BufRead + Seek) -> std::result::Result<Image, Failure> {
    let head = source.fill_buf().map_err(Failure::Read)?;
    match ::image::guess_format(head) {
        Ok(ImageFormat::Jpeg) => {
            // The decoder reads a JPEG file as a whole anyway, and takes half a picture for a picture.
            let mut bytes = Vec::new();
            source.read_to_end(&mut bytes).map_err(Failure::Read)?;
            if !jpeg_is_whole(&bytes) {
                return Err(truncated().into());
            }
            decode_as(Cursor::new(bytes), ImageFormat::Jpeg)
        }
        Ok(format) if format.reading_enabled() => decode_as(source, format),
        other => Err(unknown_format(head, other.ok()).into()),
    }
}

/// Whether the segments of a JPEG file lead to its end marker (ITU T.81, annex B).
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // To the next marker: 0xff and a byte that is neither padding (0xff) nor stuffing (0) nor a restart marker.
        let marker = loop {
            match bytes.get(at..at + 2) {
                None => return false,
                Some(&[0xff, 0xff]) => at += 1,
                Some(&[0xff, 0 | 0xd0..=0xd7]) => at += 2,
                Some(&[0xff, marker]) => break marker,
                Some(_) => at += 1,
            }
        };
        if marker == 0xd9 {
            return true;
        }
        let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { return false };
        at += 2 + u16::from_be_bytes([high, low]) as usize;
    }
}

fn decode_as(source: impl BufRead + Seek, format: ImageFormat) -> std::result::Result<Image, Failure> {
    let mut reader = ImageReader::with_format(source, format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let colour = decoder.color_type();
    if matches!(colour, ColorType::Rgb32F | ColorType::Rgba32F) {
        return Err(bad("the picture has floating-point pixels; save it with 8 bits a channel").into());
    }
    let total = decoder.total_bytes();
    let mut raw = reserve(usize::try_from(total).map_err(|_| no_memory(total))?)?;
    raw.resize(raw.capacity().min(total as usize), 0u8);
    decoder.read_image(&mut raw)?;
    Ok(Image { width, height, rgb: to_rgb(raw, colour, format)? })
}

/// Decoded pixels, 16-bit ones in the machine's byte order, to 8-bit RGB.
fn to_rgb(raw: Vec<u8>, colour: ColorType, format: ImageFormat) -> Result<Vec<u8>> {
    if colour == ColorType::Rgb8 {
        return Ok(raw);
    }
    let mut rgb = reserve(raw.len() / colour.bytes_per_pixel() as usize * 3)?;
    // PIL keeps the high byte, except from PNM files, which it scales.
    let high = |v: [u8; 2]| match format {
        ImageFormat::Pnm => ((u16::from_ne_bytes(v) as u32 * 255 + 32_767) / 65_535) as u8,
        _ => (u16::from_ne_bytes(v) >> 8) as u8,
    };
    match colour {
        ColorType::L8 => rgb.extend(raw.iter().flat_map(|&v| [v; 3])),
        ColorType::La8 => rgb.extend(raw.as_chunks::<2>().0.iter().flat_map(|&[v, _]| [v; 3])),
        ColorType::Rgba8 => rgb.extend(raw.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b])),
        // 16-bit gray has a mode of its own in PIL, which clips at 255 when it becomes RGB.
        ColorType::L16 => rgb.extend(raw.as_chunks().0.iter().flat_map(|&v| [u16::from_ne_bytes(v).min(255) as u8; 3])),
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

fn check_size(width: u32, height: u32) -> Result<()> {
    if width == 0 || height == 0 {
        return Err(bad(format!("the picture has {width}×{height} pixels; both sides must be at least 1")));
    }
    if width > MAX_SIDE || height > MAX_SIDE || width as u64 * height as u64 > MAX_PIXELS {
        return Err(Error::ImageTooLarge(format!(
            "the picture has {width}×{height} pixels; at most {MAX_SIDE} on a side and {MAX_PIXELS} in all are taken, scale it \
             down first"
        )));
    }
    Ok(())
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

fn truncated() -> Error {
    bad("the picture ends too early; it is truncated, copy it again")
}

fn bad(problem: impl Into<String>) -> Error {
    Error::BadImage(problem.into())
}

fn no_memory(bytes: u64) -> Error {
    Error::OutOfMemory(format!("no memory for {bytes} bytes of a picture; free some memory or scale the picture down"))
}

/// An empty vector with room for exactly `len` values.
fn reserve<T>(len: usize) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(len).map_err(|_| no_memory(len as u64 * size_of::<T>() as u64))?;
    Ok(vec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// As in `tests/reference/make_resize_goldens.py`.
    fn picture(width: usize, height: usize, kind: &str, seed: u64) -> Vec<u8> {
        let mut x = seed;
        let mut byte = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match (kind, (x >> 56) as u8) {
                ("blocks", v) => [0, 255][(v >= 128) as usize],
                (_, v) => v,
            }
        };
        (0..width * height * 3).map(|_| byte()).collect()
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, &b| {
            (0..8).fold(crc ^ b as u32, |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
        })
    }

    #[test]
    fn resizes_as_pil_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/resize/cases.json");
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() >= 60);
        for case in cases {
            let size = |key: &str, i: usize| case[key][i].as_u64().unwrap() as usize;
            let (w, h) = (size("from", 0), size("from", 1));
            let rgb = picture(w, h, case["kind"].as_str().unwrap(), case["seed"].as_u64().unwrap());
            let out = resize_bicubic(&rgb, w, h, size("to", 0), size("to", 1)).unwrap();
            if let Some(bytes) = case["bytes"].as_array() {
                assert_eq!(out, bytes.iter().map(|b| b.as_u64().unwrap() as u8).collect::<Vec<_>>(), "{case}");
            }
            assert_eq!(crc32(&out) as u64, case["crc32"].as_u64().unwrap(), "{case}");
        }
    }

    #[test]
    fn refuses_sizes_that_make_no_picture() {
        for (len, w, h, ow, oh) in
            [(0, 0, 0, 1, 1), (12, 2, 2, 0, 1), (11, 2, 2, 1, 1), (12, 2, 2, 70_000, 1), (12, usize::MAX, 2, 1, 1)]
        {
            assert!(matches!(resize_bicubic(&vec![0; len], w, h, ow, oh), Err(Error::InvalidArgument(_))));
        }
    }

    #[test]
    fn normalises_in_single_precision() {
        let image = Image::from_pixels(&[0, 128, 255], 1, 1, 0, PixelFormat::Rgb).unwrap();
        let (mean, std) = ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]);
        let out = preprocess(&image, 2, mean, std).unwrap();
        let at = |v: f32, c: usize| (v / 255.0 - mean[c]) / std[c];
        assert_eq!(out, [[at(0.0, 0); 4], [at(128.0, 1); 4], [at(255.0, 2); 4]].concat());
    }

    #[test]
    fn raw_pixels_in_every_order() {
        let expected = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        for (format, data) in [
            (PixelFormat::Rgb, vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
            (PixelFormat::Bgr, vec![3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]),
            (PixelFormat::Rgba, vec![1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 255, 10, 11, 12, 9]),
            (PixelFormat::Bgra, vec![3, 2, 1, 0, 6, 5, 4, 0, 9, 8, 7, 255, 12, 11, 10, 9]),
        ] {
            let image = Image::from_pixels(&data, 2, 2, 0, format).unwrap();
            assert_eq!((image.width(), image.height(), image.rgb()), (2, 2, &expected[..]));
            // Rows further apart; nothing is needed behind the last one.
            let row = 2 * format.bytes();
            let spaced = [&data[..row], &[99; 5], &data[row..]].concat();
            assert_eq!(Image::from_pixels(&spaced, 2, 2, row + 5, format).unwrap(), image);
            let short = &spaced[..spaced.len() - 1];
            assert!(matches!(Image::from_pixels(short, 2, 2, row + 5, format), Err(Error::InvalidArgument(_))));
            assert!(matches!(Image::from_pixels(&data, 2, 2, row - 1, format), Err(Error::InvalidArgument(_))));
        }
        let gray = Image::from_pixels(&[7, 9], 1, 2, 0, PixelFormat::Gray).unwrap();
        assert_eq!(gray.rgb(), [7, 7, 7, 9, 9, 9]);
    }

    #[test]
    fn raw_pixels_of_absurd_sizes() {
        use PixelFormat::Rgb;
        assert!(matches!(Image::from_pixels(&[], 0, 5, 0, Rgb), Err(Error::BadImage(_))));
        assert!(matches!(Image::from_pixels(&[], 5, 0, 0, Rgb), Err(Error::BadImage(_))));
        assert!(matches!(Image::from_pixels(&[], u32::MAX, u32::MAX, 0, Rgb), Err(Error::ImageTooLarge(_))));
        assert!(matches!(Image::from_pixels(&[], 65_535, 65_535, 0, Rgb), Err(Error::ImageTooLarge(_))));
        assert!(matches!(Image::from_pixels(&[0; 9], 3, 2, usize::MAX, Rgb), Err(Error::InvalidArgument(_))));
    }

    /// A PNM file.
    fn pnm(header: &str, data: &[u8]) -> Vec<u8> {
        [header.as_bytes(), data].concat()
    }

    #[test]
    fn sixteen_bit_gray_is_clipped() {
        let data: Vec<u8> = [0u16, 254, 255, 256, 40_000, 65_535].iter().flat_map(|v| v.to_be_bytes()).collect();
        let image = Image::decode(&pnm("P5 6 1 65535\n", &data)).unwrap();
        assert_eq!(image.rgb(), [[0; 3], [254; 3], [255; 3], [255; 3], [255; 3], [255; 3]].concat());
    }

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

    #[test]
    fn the_end_of_a_jpeg_file_is_found() {
        // A thumbnail's end marker inside a segment, stuffing, a restart marker, padding, a second scan, bytes behind the end.
        let whole =
            b"\xff\xd8\xff\xe1\0\x04\xff\xd9\xff\xda\0\x03\x01ab\xff\0c\xff\xd0d\xff\xff\xda\0\x02e\xff\xd9more";
        assert!(jpeg_is_whole(whole));
        let end = whole.len() - 4;
        assert!(jpeg_is_whole(&whole[..end]));
        for n in 0..end {
            assert!(!jpeg_is_whole(&whole[..n]), "{n} bytes");
        }
    }

    #[test]
    fn files_that_are_not_there() {
        let dir = std::env::temp_dir();
        assert!(matches!(Image::open(&dir.join("no such picture.png")), Err(Error::Io { action: "open", .. })));
        assert!(matches!(Image::open(&dir), Err(Error::Io { .. })));
        let path = dir.join(format!("tinygptv-test-{}.ppm", std::process::id()));
        std::fs::write(&path, pnm("P6 1 1 255\n", &[1, 2, 3])).unwrap();
        assert_eq!(Image::open(&path).unwrap().rgb(), [1, 2, 3]);
        std::fs::write(&path, "nothing").unwrap();
        match Image::open(&path) {
            Err(Error::BadImage(text)) => assert!(text.contains(&path.display().to_string()), "{text}"),
            other => panic!("{other:?}"),
        }
        std::fs::remove_file(&path).unwrap();
    }
}
