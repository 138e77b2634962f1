//! The log callback.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::boundary::boundary;
use super::error::{c_string, tgv_status};
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

/// Sends all messages of the library, llama.cpp's included, to `callback`, or nowhere when it is NULL (the default). The
/// library itself never writes to stdout or stderr. When this returns, the callback set before is not running and will not
/// be called again. One callback serves the whole process.
///
/// Errors: TGV_ERROR_BUSY when called from inside a log callback.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_set_log_callback(callback: tgv_log_callback, user_data: *mut c_void) -> tgv_status {
    boundary(|| {
        let user_data = UserData(user_data);
        log::set_sink(callback.map(|callback| {
            Arc::new(move |level: log::Level, text: &str| {
                let user_data = &user_data;
                // SAFETY: the caller promises that callback and data are good until they are replaced.
                unsafe { callback(level_number(level), c_string(text).as_ptr(), user_data.0) }
            }) as log::Sink
        }))
    })
}
