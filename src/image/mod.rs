//! Pictures: decoding, raw pixels from the caller, and the encoder's pre-processing.
//!
//! Colours and resizing follow PIL (`convert("RGB")`, `resize(BICUBIC)`), with which the model was trained, to the bit.

// What the formats share is not all used where some of them are left out.
#![cfg_attr(
    not(all(
        feature = "bmp",
        feature = "gif",
        feature = "jpeg",
        feature = "png",
        feature = "pnm",
        feature = "tiff",
        feature = "webp"
    )),
    allow(dead_code)
)]

#[cfg(feature = "bmp")]
mod bmp;
#[cfg(any(feature = "bmp", feature = "png", feature = "pnm", feature = "webp"))]
mod codecs;
mod colour;
mod decode;
mod format;
#[cfg(feature = "gif")]
mod gif;
#[cfg(feature = "jpeg")]
mod jpeg;
#[cfg(any(feature = "gif", feature = "tiff"))]
mod lzw;
#[cfg(feature = "png")]
mod png;
#[cfg(feature = "pnm")]
mod pnm;
mod resize;
#[cfg(feature = "tiff")]
mod tiff;
#[cfg(feature = "webp")]
mod webp;

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::path::Path;

use crate::error::{Error, Result};
use decode::{decode, Failure};
pub use resize::resize_bicubic;

/// Longest side of a picture, in pixels.
pub const MAX_SIDE: u32 = 65_535;
/// Most pixels of a picture.
pub const MAX_PIXELS: u64 = 1 << 28;

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
    /// Decodes a file; its format is told by its content. EXIF orientation is not applied, TIFF's is.
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

    /// Decodes the bytes of a picture file. EXIF orientation is not applied, TIFF's is.
    ///
    /// # Errors
    /// [`Error::BadImage`] when the bytes are of no supported format or corrupt; [`Error::ImageTooLarge`] over
    /// [`MAX_SIDE`] or [`MAX_PIXELS`]; [`Error::OutOfMemory`].
    pub fn decode(bytes: &[u8]) -> Result<Image> {
        decode(Cursor::new(bytes)).map_err(|failure| match failure {
            Failure::Read(e) if e.kind() == std::io::ErrorKind::OutOfMemory => no_memory(bytes.len() as u64),
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
    /// [`Error::Io`] when the file cannot be written; [`Error::OutOfMemory`]; [`Error::InvalidArgument`] in builds without the feature `png`.
    pub fn save_png(&self, path: &Path) -> Result<()> {
        #[cfg(feature = "png")]
        return crate::whole_file::write(path, &png::encode(self)?);
        #[cfg(not(feature = "png"))]
        Err(Error::InvalidArgument(format!(
            "'{}' cannot be written: {}",
            path.display(),
            format::Format::Png.missing()
        )))
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

fn truncated() -> Error {
    bad("the picture ends too early; it is truncated, copy it again")
}

fn bad(problem: impl Into<String>) -> Error {
    Error::BadImage(problem.into())
}

fn too_costly(what: &str) -> Error {
    Error::ImageTooLarge(format!(
        "decoding the picture would take too much memory ({what}); scale it down first, at most {MAX_PIXELS} pixels are taken"
    ))
}

fn no_memory(bytes: u64) -> Error {
    Error::OutOfMemory(
        format!("no memory for {bytes} bytes of a picture; free some memory or scale the picture down").into(),
    )
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

    #[test]
    fn files_that_are_not_there() {
        let dir = std::env::temp_dir();
        assert!(matches!(Image::open(&dir.join("no such picture.png")), Err(Error::Io { action: "open", .. })));
        assert!(matches!(Image::open(&dir), Err(Error::Io { .. })));
        let path = dir.join(format!("tinygptv-test-{}.ppm", std::process::id()));
        std::fs::write(&path, b"P6 1 1 255\n\x01\x02\x03").unwrap();
        assert_eq!(Image::open(&path).unwrap().rgb(), [1, 2, 3]);
        std::fs::write(&path, "nothing").unwrap();
        match Image::open(&path) {
            Err(Error::BadImage(text)) => assert!(text.contains(&path.display().to_string()), "{text}"),
            other => panic!("{other:?}"),
        }
        std::fs::remove_file(&path).unwrap();
    }
}
