//! Status codes and the last error.

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, CStr, CString};
use std::fmt::Write;

use crate::error::Error;
use crate::memory;

/// Result of every function that can fail: TGV_OK or one of TGV_ERROR_.... Codes are never renumbered or reused.
pub type tgv_status = i32;

/// Success.
pub const TGV_OK: tgv_status = 0;
/// An argument is NULL or outside what the function documents.
pub const TGV_ERROR_INVALID_ARGUMENT: tgv_status = 7001;
/// A text is not UTF-8.
pub const TGV_ERROR_INVALID_UTF8: tgv_status = 7002;
/// A file does not exist.
pub const TGV_ERROR_FILE_NOT_FOUND: tgv_status = 7003;
/// The operating system refused to open, read, map or write a file.
pub const TGV_ERROR_IO: tgv_status = 7004;
/// A model file is truncated, damaged or of another format.
pub const TGV_ERROR_BAD_MODEL_FILE: tgv_status = 7005;
/// A sound model file that this library cannot run.
pub const TGV_ERROR_UNSUPPORTED_MODEL: tgv_status = 7006;
/// Decoder and vision file are swapped or do not belong together.
pub const TGV_ERROR_MODEL_MISMATCH: tgv_status = 7007;
/// Picture data that cannot be decoded or make no picture.
pub const TGV_ERROR_BAD_IMAGE: tgv_status = 7008;
/// A picture over the limits on sides, pixels or memory.
pub const TGV_ERROR_IMAGE_TOO_LARGE: tgv_status = 7009;
/// The conversation does not fit the session's context.
pub const TGV_ERROR_CONTEXT_FULL: tgv_status = 7010;
/// The call was cancelled by tgv_session_cancel or by a progress callback.
pub const TGV_ERROR_CANCELLED: tgv_status = 7011;
/// Memory could not be had.
pub const TGV_ERROR_OUT_OF_MEMORY: tgv_status = 7012;
/// The processor lacks instructions that this build needs.
pub const TGV_ERROR_UNSUPPORTED_CPU: tgv_status = 7013;
/// The handle is in use by another call.
pub const TGV_ERROR_BUSY: tgv_status = 7014;
/// llama.cpp failed unexpectedly.
pub const TGV_ERROR_DECODER: tgv_status = 7015;
/// A defect of this library.
pub const TGV_ERROR_INTERNAL: tgv_status = 7016;
/// A saved embedding is damaged or something else.
pub const TGV_ERROR_BAD_EMBEDDING_FILE: tgv_status = 7017;

/// The text of a thread's last error.
#[derive(Default)]
struct Text(CString);

impl Drop for Text {
    fn drop(&mut self) {
        SHOWN.set(c"".as_ptr());
    }
}

thread_local! {
    static LAST: RefCell<Text> = RefCell::default();
    /// What `tgv_last_error` gives: has no destructor, so that it needs no memory.
    static SHOWN: Cell<*const c_char> = const { Cell::new(c"".as_ptr()) };
}

/// Stands for any text there is no memory for.
const NO_MEMORY: &CStr = c"there is no memory left, not even for a message; free some memory and call again";

pub(super) fn set_last_error(error: &Error) {
    let mut length = Length(0);
    let counted = write!(length, "{error}");
    if counted.is_err() || !memory::has_small(3 * length.0 + memory::SMALL) {
        SHOWN.set(NO_MEMORY.as_ptr());
        return;
    }
    LAST.with_borrow_mut(|last| {
        last.0 = c_string(&error.to_string());
        SHOWN.set(last.0.as_ptr());
    });
}

/// Counts the bytes written to it.
struct Length(usize);

impl Write for Length {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

/// A C string; NUL characters inside become U+FFFD.
pub(super) fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_else(|_| CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default())
}

/// What went wrong in the last call that failed on this thread, and what to do, as UTF-8. Never NULL; empty if none has
/// failed yet. The text belongs to the library and stays valid until the next failing call on this thread.
///
/// Thread-safety: each thread has its own.
#[no_mangle]
pub extern "C" fn tgv_last_error() -> *const c_char {
    SHOWN.get()
}

/// The name of a status code, such as "TGV_ERROR_IO"; "unknown status" for other numbers. Static, never NULL.
///
/// Thread-safety: any thread.
#[no_mangle]
pub extern "C" fn tgv_status_name(status: tgv_status) -> *const c_char {
    let name = match status {
        TGV_OK => c"TGV_OK",
        TGV_ERROR_INVALID_ARGUMENT => c"TGV_ERROR_INVALID_ARGUMENT",
        TGV_ERROR_INVALID_UTF8 => c"TGV_ERROR_INVALID_UTF8",
        TGV_ERROR_FILE_NOT_FOUND => c"TGV_ERROR_FILE_NOT_FOUND",
        TGV_ERROR_IO => c"TGV_ERROR_IO",
        TGV_ERROR_BAD_MODEL_FILE => c"TGV_ERROR_BAD_MODEL_FILE",
        TGV_ERROR_UNSUPPORTED_MODEL => c"TGV_ERROR_UNSUPPORTED_MODEL",
        TGV_ERROR_MODEL_MISMATCH => c"TGV_ERROR_MODEL_MISMATCH",
        TGV_ERROR_BAD_IMAGE => c"TGV_ERROR_BAD_IMAGE",
        TGV_ERROR_IMAGE_TOO_LARGE => c"TGV_ERROR_IMAGE_TOO_LARGE",
        TGV_ERROR_CONTEXT_FULL => c"TGV_ERROR_CONTEXT_FULL",
        TGV_ERROR_CANCELLED => c"TGV_ERROR_CANCELLED",
        TGV_ERROR_OUT_OF_MEMORY => c"TGV_ERROR_OUT_OF_MEMORY",
        TGV_ERROR_UNSUPPORTED_CPU => c"TGV_ERROR_UNSUPPORTED_CPU",
        TGV_ERROR_BUSY => c"TGV_ERROR_BUSY",
        TGV_ERROR_DECODER => c"TGV_ERROR_DECODER",
        TGV_ERROR_INTERNAL => c"TGV_ERROR_INTERNAL",
        TGV_ERROR_BAD_EMBEDDING_FILE => c"TGV_ERROR_BAD_EMBEDDING_FILE",
        _ => c"unknown status",
    };
    name.as_ptr()
}
