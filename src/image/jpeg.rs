//! JPEG through libjpeg-turbo, the library that PIL decodes with.

use std::ffi::{c_int, CStr};
use std::io::Read;

use turbojpeg_sys as turbo;

use super::colour::cmyk_to_rgb;
use super::decode::Failure;
use super::{bad, check_size, no_memory, reserve, too_costly, truncated, Image};
use crate::error::{Error, Result};

/// Most passes over a progressive picture; encoders make about ten, and each costs as much time as the picture is large.
const MAX_SCANS: c_int = 100;
/// Megabytes that libjpeg-turbo may take for coefficients.
const MAX_MEMORY: c_int = 2047;

/// Decodes a JPEG file as PIL does: fancy upsampling, the accurate integer DCT, CMYK taken for inverted as Adobe's is.
pub(super) fn decode(mut source: impl Read) -> std::result::Result<Image, Failure> {
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes).map_err(Failure::Read)?;
    if !is_whole(&bytes) {
        return Err(truncated().into());
    }
    let header = Header::read(&bytes)?;
    let (width, height, channels) = (header.width, header.height, header.channels);
    let values = header.decode()?;
    let rgb = match channels {
        3 => values,
        1 => {
            let mut rgb = reserve(values.len() * 3)?;
            rgb.extend(values.iter().flat_map(|&v| [v; 3]));
            rgb
        }
        _ => {
            let mut rgb = reserve(values.len() / 4 * 3)?;
            let pixels = values.as_chunks::<4>().0.iter();
            rgb.extend(pixels.flat_map(|&cmyk| cmyk_to_rgb(cmyk.map(|v| 255 - v))));
            rgb
        }
    };
    Ok(Image { width, height, rgb })
}

/// What a JPEG stream holds, before it is decoded.
pub(super) struct Header<'a> {
    pub width: u32,
    pub height: u32,
    /// 1 for gray, 3 for RGB, 4 for CMYK as it is in the file.
    pub channels: usize,
    format: turbo::TJPF,
    decompressor: Decompressor,
    bytes: &'a [u8],
}

impl Header<'_> {
    /// Reads the header of a JPEG stream of 8 bits a sample, and checks its size.
    pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>> {
        let decompressor = Decompressor::new()?;
        // SAFETY: the handle is live, and `bytes` is valid for its length.
        let code = unsafe { turbo::tj3DecompressHeader(decompressor.0, bytes.as_ptr(), bytes.len() as _) };
        decompressor.check(code)?;
        let [width, height, precision, colours] = [
            turbo::TJPARAM_TJPARAM_JPEGWIDTH,
            turbo::TJPARAM_TJPARAM_JPEGHEIGHT,
            turbo::TJPARAM_TJPARAM_PRECISION,
            turbo::TJPARAM_TJPARAM_COLORSPACE,
        ]
        .map(|parameter| decompressor.get(parameter));
        // A stream without a frame has no size: libjpeg-turbo takes it for one of tables only.
        let (Ok(width), Ok(height)) = (u32::try_from(width), u32::try_from(height)) else {
            return Err(bad("the picture is corrupt (no JPEG frame); copy it again or save it anew"));
        };
        check_size(width, height)?;
        if precision != 8 {
            return Err(bad(format!(
                "the picture is a JPEG file of {precision} bits a sample, which is not supported; save it with 8 bits"
            )));
        }
        let (channels, format) = match colours as turbo::TJCS {
            turbo::TJCS_TJCS_GRAY => (1, turbo::TJPF_TJPF_GRAY),
            turbo::TJCS_TJCS_CMYK | turbo::TJCS_TJCS_YCCK => (4, turbo::TJPF_TJPF_CMYK),
            _ => (3, turbo::TJPF_TJPF_RGB),
        };
        Ok(Header { width, height, channels, format, decompressor, bytes })
    }

    /// `[height, width, channels]`.
    pub(super) fn decode(self) -> Result<Vec<u8>> {
        let Header { format, decompressor, bytes, .. } = self;
        let len = self.width as usize * self.height as usize * self.channels;
        let mut values = reserve(len)?;
        values.resize(len, 0u8);
        decompressor.set(turbo::TJPARAM_TJPARAM_SCANLIMIT, MAX_SCANS)?;
        decompressor.set(turbo::TJPARAM_TJPARAM_MAXMEMORY, MAX_MEMORY)?;
        // SAFETY: as above; `values` has room for rows of `width` pixels of `format` without gaps (pitch 0).
        let code = unsafe {
            turbo::tj3Decompress8(decompressor.0, bytes.as_ptr(), bytes.len() as _, values.as_mut_ptr(), 0, format)
        };
        decompressor.check(code)?;
        Ok(values)
    }
}

/// An instance of libjpeg-turbo's decompressor. Its errors are return codes: it leaves libjpeg by longjmp within C.
struct Decompressor(turbo::tjhandle);

impl Decompressor {
    fn new() -> Result<Decompressor> {
        // SAFETY: no requirements.
        let handle = unsafe { turbo::tj3Init(turbo::TJINIT_TJINIT_DECOMPRESS as c_int) };
        if handle.is_null() {
            return Err(Error::OutOfMemory("no memory for a JPEG decoder; free some memory".into()));
        }
        Ok(Decompressor(handle))
    }

    fn get(&self, parameter: turbo::TJPARAM) -> c_int {
        // SAFETY: the handle is live.
        unsafe { turbo::tj3Get(self.0, parameter as c_int) }
    }

    fn set(&self, parameter: turbo::TJPARAM, value: c_int) -> Result<()> {
        // SAFETY: the handle is live.
        let code = unsafe { turbo::tj3Set(self.0, parameter as c_int, value) };
        self.check(code)
    }

    /// Turns a return code into an error. Warnings, about slightly damaged data, pass, as with PIL.
    fn check(&self, code: c_int) -> Result<()> {
        // SAFETY: the handle is live; the text is valid until the next call with it and ends with a zero.
        let (kind, text) = unsafe {
            (turbo::tj3GetErrorCode(self.0), CStr::from_ptr(turbo::tj3GetErrorStr(self.0)).to_string_lossy())
        };
        if code == 0 || kind == turbo::TJERR_TJERR_WARNING as c_int {
            return Ok(());
        }
        Err(if text.contains("scans") {
            bad(format!("the picture is a JPEG file of more than {MAX_SCANS} scans; save it anew, not as progressive"))
        } else if text.contains("dimension") {
            Error::ImageTooLarge(format!("the picture is too large for JPEG ({text}); scale it down first"))
        } else if text.contains("Backing store") {
            too_costly("a progressive JPEG file of this size")
        } else if text.contains("nsufficient memory") || text.contains("Memory allocation") {
            no_memory(MAX_MEMORY as u64 * 1_048_576)
        } else if text.contains("nsupported") || text.contains("colorspace") {
            bad(format!("the picture is a JPEG file of a kind that is not supported ({text}); save it anew"))
        } else {
            bad(format!("the picture is corrupt ({text}); copy it again or save it anew"))
        })
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used again.
        unsafe { turbo::tj3Destroy(self.0) }
    }
}

/// Whether the segments of a JPEG file lead to its end marker (ITU T.81, annex B). libjpeg-turbo fills up what is missing.
fn is_whole(bytes: &[u8]) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> Vec<u8> {
        let path = format!("{}/tests/golden/pictures/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    fn baseline() -> Vec<u8> {
        golden("jpeg-420-225x223.jpg")
    }

    fn progressive() -> Vec<u8> {
        golden("jpeg-progressive-444-223x226.jpg")
    }

    fn find(bytes: &[u8], marker: [u8; 2]) -> usize {
        bytes.windows(2).position(|w| w == marker).expect("the marker")
    }

    /// The error's text.
    fn refused(bytes: &[u8]) -> String {
        match Image::decode(bytes) {
            Err(Error::BadImage(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_end_of_a_jpeg_file_is_found() {
        // A thumbnail's end marker inside a segment, stuffing, a restart marker, padding, a second scan, bytes behind the end.
        let whole =
            b"\xff\xd8\xff\xe1\0\x04\xff\xd9\xff\xda\0\x03\x01ab\xff\0c\xff\xd0d\xff\xff\xda\0\x02e\xff\xd9more";
        assert!(is_whole(whole));
        let end = whole.len() - 4;
        assert!(is_whole(&whole[..end]));
        for n in 0..end {
            assert!(!is_whole(&whole[..n]), "{n} bytes");
        }
    }

    #[test]
    fn truncated_files_are_refused() {
        for bytes in [baseline(), progressive()] {
            assert!(Image::decode(&bytes).is_ok());
            for n in 1..60 {
                assert!(refused(&bytes[..bytes.len() * n / 60]).contains("truncated"), "{n}");
            }
            assert!(refused(&bytes[..bytes.len() - 1]).contains("truncated"));
        }
    }

    #[test]
    fn sides_are_checked_before_decoding() {
        for (mut bytes, frame) in [(baseline(), 0xc0), (progressive(), 0xc2)] {
            let at = find(&bytes, [0xff, frame]) + 5;
            for (sides, too_large) in
                [([0xff; 4], true), ([0xff, 0xff, 0xf0, 0], true), ([0, 0, 0, 9], false), ([0, 9, 0, 0], false)]
            {
                bytes[at..at + 4].copy_from_slice(&sides);
                match Image::decode(&bytes) {
                    Err(Error::ImageTooLarge(_)) if too_large => {}
                    Err(Error::BadImage(_)) if !too_large => {}
                    other => panic!("{sides:?}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn twelve_bits_are_refused() {
        assert!(refused(&golden("jpeg-12-bit-40x11.jpg")).contains("12 bits"));
    }

    #[test]
    fn frames_of_unknown_kinds_are_refused() {
        // Hierarchical and reserved frames, and a lossless one whose data are of another kind.
        for kind in [0xc3, 0xc5, 0xc6, 0xc7, 0xc8, 0xcb, 0xcd, 0xce, 0xcf] {
            let mut bytes = baseline();
            let at = find(&bytes, [0xff, 0xc0]);
            bytes[at + 1] = kind;
            assert!(refused(&bytes).len() > 30, "{kind:x}");
        }
    }

    #[test]
    fn scans_without_end_are_refused() {
        let bytes = progressive();
        let end = bytes.len() - 2;
        let last = (0..end).rev().find(|&i| bytes[i..i + 2] == [0xff, 0xda]).expect("a scan");
        let repeated = |n: usize| [&bytes[..end], &bytes[last..end].repeat(n), b"\xff\xd9"].concat();
        assert_eq!(Image::decode(&repeated(1)).unwrap().width(), 223);
        assert!(refused(&repeated(150)).contains("scans"));
    }
}
