//! The log callback.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::boundary::{boundary, require_out};
use super::error::{c_string, tgv_status};
use crate::error::Error;
use crate::log;

/// Log level: details for a developer of this library.
pub const TGV_LOG_DEBUG: i32 = 1;
/// Log level: progress and figures.
pub const TGV_LOG_INFO: i32 = 2;
/// Log level: something to look at that does not fail the call.
pub const TGV_LOG_WARNING: i32 = 3;
/// Log level: the reason of a failure.
pub const TGV_LOG_ERROR: i32 = 4;

/// Gets one message: its level (TGV_LOG_...), its text as UTF-8 without a line end, valid during the call, and the pointer
/// that was passed with the callback. May be called from any thread that uses the library, and from several at once.
pub type tgv_log_callback = Option<unsafe extern "C" fn(level: i32, text: *const c_char, user_data: *mut c_void)>;

fn level_number(level: log::Level) -> i32 {
    match level {
        log::Level::Debug => TGV_LOG_DEBUG,
        log::Level::Info => TGV_LOG_INFO,
        log::Level::Warning => TGV_LOG_WARNING,
        log::Level::Error => TGV_LOG_ERROR,
    }
}

struct UserData(*mut c_void);

// SAFETY: the pointer is only handed back to the callback, which is documented to run on any thread.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

type Callback = unsafe extern "C" fn(level: i32, text: *const c_char, user_data: *mut c_void);

fn sink(callback: Callback, user_data: *mut c_void) -> log::Sink {
    let user_data = UserData(user_data);
    Arc::new(move |level: log::Level, text: &str| {
        let user_data = &user_data;
        // SAFETY: the caller promises that callback and data are good until they are replaced or removed.
        unsafe { callback(level_number(level), c_string(text).as_ptr(), user_data.0) }
    })
}

/// Sends all messages of the library, llama.cpp's included, to `callback`, or nowhere when it is NULL (the default). The
/// library itself never writes to stdout or stderr. When this returns, the callback set before is not running and will not
/// be called again.
///
/// This is the program's own callback, one for the whole process. A library or a plugin that lives in a program with others
/// takes tgv_add_log_callback instead.
///
/// Errors: TGV_ERROR_BUSY when called from inside a log callback.
///
/// Thread-safety: any thread, but without a lock that the callback takes.
#[no_mangle]
pub unsafe extern "C" fn tgv_set_log_callback(callback: tgv_log_callback, user_data: *mut c_void) -> tgv_status {
    boundary(|| log::set_sink(callback.map(|callback| sink(callback, user_data))))
}

/// Sends all messages to one more callback, beside that of tgv_set_log_callback and any others. Each gets the messages of
/// all models in the process: llama.cpp does not tell which one they are about.
///
/// @param out_id  a number to remove it by, never 0 and never given again; untouched on failure
///
/// Errors: TGV_ERROR_INVALID_ARGUMENT for NULL; TGV_ERROR_BUSY when called from inside a log callback.
///
/// Thread-safety: any thread, but without a lock that a log callback takes.
#[no_mangle]
pub unsafe extern "C" fn tgv_add_log_callback(
    callback: tgv_log_callback,
    user_data: *mut c_void,
    out_id: *mut u64,
) -> tgv_status {
    boundary(|| {
        require_out(out_id, "out_id")?;
        let callback = callback.ok_or_else(|| Error::InvalidArgument("callback is NULL; pass a function".into()))?;
        let id = log::add_sink(sink(callback, user_data))?;
        // SAFETY: checked above.
        unsafe { out_id.write(id) };
        Ok(())
    })
}

/// Removes a callback that tgv_add_log_callback added. When this returns, it is not running and will not be called again.
///
/// Errors: TGV_ERROR_INVALID_ARGUMENT for a number that no callback has; TGV_ERROR_BUSY when called from inside a log
/// callback.
///
/// Thread-safety: any thread, but without a lock that the callback takes.
#[no_mangle]
pub extern "C" fn tgv_remove_log_callback(id: u64) -> tgv_status {
    boundary(|| log::remove_sink(id))
}
