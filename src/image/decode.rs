//! Picture files of every format that the build has.

use std::io::{BufRead, Seek};

use super::format::{self, Format};
use super::{bad, truncated, Image};
use crate::error::Error;

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

/// Decodes a picture file; its format is told by its content.
pub(super) fn decode(mut source: impl BufRead + Seek) -> std::result::Result<Image, Failure> {
    let head = source.fill_buf().map_err(Failure::Read)?;
    let Some(format) = Format::of(head) else { return Err(format::unknown(head).into()) };
    match format {
        #[cfg(feature = "bmp")]
        Format::Bmp => super::bmp::decode(source),
        #[cfg(feature = "gif")]
        Format::Gif => super::gif::decode(source),
        #[cfg(feature = "jpeg")]
        Format::Jpeg => super::jpeg::decode(source),
        #[cfg(feature = "png")]
        Format::Png => super::png::decode(source),
        #[cfg(feature = "pnm")]
        Format::Pnm => super::pnm::decode(source),
        #[cfg(feature = "tiff")]
        Format::Tiff => super::tiff::decode(source),
        #[cfg(feature = "webp")]
        Format::WebP => super::webp::decode(source),
        #[allow(unreachable_patterns)] // where all are built
        _ => Err(bad(format.missing()).into()),
    }
}
