//! The formats of picture files: which one some bytes are of, and which of them this build reads.

use super::bad;
use crate::error::Error;

/// Formats that a build may read, each with a Cargo feature of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Png,
    Jpeg,
    Gif,
    WebP,
    Bmp,
    Tiff,
    Pnm,
}

impl Format {
    const ALL: [Format; 7] =
        [Format::Png, Format::Jpeg, Format::Gif, Format::WebP, Format::Bmp, Format::Tiff, Format::Pnm];

    /// What the first bytes of a file tell.
    pub(super) fn of(head: &[u8]) -> Option<Format> {
        match head {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Format::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Format::Jpeg),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Format::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Format::WebP),
            [b'B', b'M', ..] => Some(Format::Bmp),
            [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => Some(Format::Tiff),
            [b'P', b'1'..=b'7', ..] | [b'P', b'f', b' ' | b'\t'..=b'\r', ..] => Some(Format::Pnm),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Format::Png => "PNG",
            Format::Jpeg => "JPEG",
            Format::Gif => "GIF",
            Format::WebP => "WebP",
            Format::Bmp => "BMP",
            Format::Tiff => "TIFF",
            Format::Pnm => "PNM",
        }
    }

    fn is_built(self) -> bool {
        match self {
            Format::Png => cfg!(feature = "png"),
            Format::Jpeg => cfg!(feature = "jpeg"),
            Format::Gif => cfg!(feature = "gif"),
            Format::WebP => cfg!(feature = "webp"),
            Format::Bmp => cfg!(feature = "bmp"),
            Format::Tiff => cfg!(feature = "tiff"),
            Format::Pnm => cfg!(feature = "pnm"),
        }
    }

    /// What to tell somebody who needs a format that was left out of this build.
    pub(super) fn missing(self) -> String {
        let name = self.name();
        format!(
            "this build of tinygptv has no {name} support; build it with feature {}, or convert the picture: {}",
            name.to_lowercase(),
            supported()
        )
    }
}

/// The formats of this build, in a sentence.
fn supported() -> String {
    let names: Vec<&str> = Format::ALL.into_iter().filter(|f| f.is_built()).map(Format::name).collect();
    match &names[..] {
        [] => "no picture files are supported, only pixels".into(),
        [one] => format!("{one} is supported"),
        [first @ .., last] => format!("{} and {last} are supported", first.join(", ")),
    }
}

/// The error for bytes that are no picture we read, with a guess at what they are.
pub(super) fn unknown(head: &[u8]) -> Error {
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
        [b'D', b'D', b'S', b' ', ..] => "a DDS texture; convert it to PNG",
        [0x76, 0x2f, 0x31, 0x01, ..] => "an OpenEXR picture; convert it to PNG",
        [b'q', b'o', b'i', b'f', ..] => "a QOI picture; convert it to PNG",
        _ if head.starts_with(b"#?RADIANCE") => "a Radiance HDR picture; convert it to PNG",
        _ if head.starts_with(b"farbfeld") => "a farbfeld picture; convert it to PNG",
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
        _ => return bad(format!("the bytes are no picture of a known format; {}", supported())),
    };
    bad(format!("the bytes are not a picture that can be read but look like {guess}; {}", supported()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;

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
            (b"DDS |\0\0\0", "DDS"),
            (b"qoif\0\0\0\x01", "QOI"),
            (b"#?RADIANCE\n", "HDR"),
            (b"data:image/png;base64,", "base64"),
            (b"hello world", "supported"),
        ] {
            assert_eq!(Format::of(bytes), None, "{said}");
            match Image::decode(bytes) {
                Err(Error::BadImage(text)) => assert!(text.contains(said), "{said}: {text}"),
                other => panic!("{said}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_format_that_was_left_out_is_named_with_its_feature() {
        for (bytes, format, feature) in [
            (&b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"[..], Format::Png, "png"),
            (b"\xff\xd8\xff\xe0", Format::Jpeg, "jpeg"),
            (b"GIF89a", Format::Gif, "gif"),
            (b"RIFF\x04\0\0\0WEBP", Format::WebP, "webp"),
            (b"BM", Format::Bmp, "bmp"),
            (b"II*\0", Format::Tiff, "tiff"),
            (b"MM\0*", Format::Tiff, "tiff"),
            (b"P6 2 2 255\n\x01\x02", Format::Pnm, "pnm"),
        ] {
            assert_eq!(Format::of(bytes), Some(format));
            let missing = format.missing();
            assert!(missing.contains(&format!("with feature {feature}")), "{missing}");
            match Image::decode(bytes) {
                Err(Error::BadImage(text)) => assert_eq!(text == missing, !format.is_built(), "{text}"),
                other => panic!("{feature}: {other:?}"),
            }
        }
    }
}
