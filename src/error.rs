//! Every way a call can fail: one variant a cause, each with a message that says what to do.
//!
//! This is the only place that knows which status code of the C ABI a cause has. Codes are part of the ABI: they are never
//! renumbered and never reused.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Result of every fallible function of the crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. The text of each variant is a complete sentence for the developer who reads it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is outside what the function documents.
    #[error("{0}")]
    InvalidArgument(String),
    /// Text that must be UTF-8 is not.
    #[error("{what} is not valid UTF-8 (first bad byte at offset {offset}); pass UTF-8 text")]
    InvalidUtf8 {
        /// Which text.
        what: &'static str,
        /// Byte offset of the first invalid sequence.
        offset: usize,
    },
    /// The operating system refused to open, read, map or write a file.
    #[error("cannot {action} '{}': {source}", path.display())]
    Io {
        /// What was tried: "open", "read", "map", "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A model file is not what a GGUF file must be: truncated, corrupt or of another format.
    #[error("'{}' is not a usable GGUF file: {problem}", path.display())]
    BadModelFile {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A sound model file of a kind this build cannot run.
    #[error("'{}' cannot be used: {problem}", path.display())]
    UnsupportedModel {
        /// The file.
        path: PathBuf,
        /// What is not supported and what to do.
        problem: String,
    },
    /// Decoder and vision file do not belong together.
    #[error("{0}")]
    ModelMismatch(String),
    /// Picture bytes that cannot be decoded, or pixels that make no picture.
    #[error("{0}")]
    BadImage(String),
    /// A picture over the limits on sides, pixels or memory.
    #[error("{0}")]
    ImageTooLarge(String),
    /// The conversation does not fit the context.
    #[error(
        "the context holds {capacity} positions, {used} are taken and {needed} more are needed; shorten the question, reset the \
         session, or create it with a larger context"
    )]
    ContextFull {
        /// Positions the session was created with.
        capacity: usize,
        /// Positions already evaluated.
        used: usize,
        /// Positions the call would add.
        needed: usize,
    },
    /// The caller asked to stop, by cancel or by a callback.
    #[error("cancelled at the caller's request; the session is as it was before the call")]
    Cancelled,
    /// Memory that could not be had.
    #[error("{0}")]
    OutOfMemory(Cow<'static, str>),
    /// The processor lacks instructions this build needs.
    #[error("{0}")]
    UnsupportedCpu(String),
    /// The handle is in use by another call, on another thread or further up this one's stack.
    #[error("{0}")]
    Busy(String),
    /// llama.cpp failed in a way that our checks did not foresee.
    #[error("the decoder failed: {0}")]
    Decoder(String),
    /// A saved embedding that is damaged or something else.
    #[error("'{}' is not a usable saved embedding: {problem}; encode the picture again", path.display())]
    BadEmbeddingFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A defect of this library.
    #[error("internal error: {0}; please report it")]
    Internal(String),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::OutOfMemory {
            return Error::OutOfMemory(
                format!("cannot {action} '{}': {source}; free some memory", path.display()).into(),
            );
        }
        Error::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn bad_file(path: &Path, problem: impl Into<String>) -> Self {
        Error::BadModelFile { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn unsupported(path: &Path, problem: impl Into<String>) -> Self {
        Error::UnsupportedModel { path: path.to_owned(), problem: problem.into() }
    }

    /// The `tgv_status` of this cause.
    pub fn status(&self) -> i32 {
        match self {
            Error::InvalidArgument(_) => 7001,
            Error::InvalidUtf8 { .. } => 7002,
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 7003,
            Error::Io { .. } => 7004,
            Error::BadModelFile { .. } => 7005,
            Error::UnsupportedModel { .. } => 7006,
            Error::ModelMismatch(_) => 7007,
            Error::BadImage(_) => 7008,
            Error::ImageTooLarge(_) => 7009,
            Error::ContextFull { .. } => 7010,
            Error::Cancelled => 7011,
            Error::OutOfMemory(_) => 7012,
            Error::UnsupportedCpu(_) => 7013,
            Error::Busy(_) => 7014,
            Error::Decoder(_) => 7015,
            Error::Internal(_) => 7016,
            Error::BadEmbeddingFile { .. } => 7017,
        }
    }
}
