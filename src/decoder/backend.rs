//! llama.cpp's process-wide state: initialised once, after the processor was found fit, with its log bridged to ours.

use std::ffi::{c_char, c_void, CStr};

use llama_cpp_sys_2 as llama;
use once_cell::sync::OnceCell;

use super::{bindings, compute};
use crate::error::{Error, Result};
use crate::log::{self, Level};

unsafe extern "C" fn on_log(level: llama::ggml_log_level, text: *const c_char, _user_data: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a terminated string that lives during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let level = match level {
        llama::GGML_LOG_LEVEL_DEBUG => Some(Level::Debug),
        llama::GGML_LOG_LEVEL_INFO => Some(Level::Info),
        llama::GGML_LOG_LEVEL_WARN => Some(Level::Warning),
        llama::GGML_LOG_LEVEL_ERROR => Some(Level::Error),
        _ => None,
    };
    log::llama_line(level, &text);
}

/// A failed assertion of ggml: the last that is heard of the process where it happens on a thread of ggml's own.
unsafe extern "C" fn on_abort(message: *const c_char) {
    // SAFETY: ggml passes a terminated string that lives during the call.
    log::message(Level::Error, &unsafe { CStr::from_ptr(message) }.to_string_lossy());
}

/// The instruction sets that ggml is compiled for on x86 (the sys crate's default); without them it would end the process
/// with an illegal instruction.
#[cfg(target_arch = "x86_64")]
fn check_cpu() -> Result<()> {
    let missing: Vec<&str> = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("F16C", is_x86_feature_detected!("f16c")),
        ("BMI2", is_x86_feature_detected!("bmi2")),
    ]
    .into_iter()
    .filter_map(|(name, present)| (!present).then_some(name))
    .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::UnsupportedCpu(format!(
        "this processor lacks {}, which this build needs; use a processor from 2013 or later, or rebuild with \
         RUSTFLAGS=-Ctarget-cpu set to yours",
        missing.join(", ")
    )))
}

#[cfg(not(target_arch = "x86_64"))]
fn check_cpu() -> Result<()> {
    Ok(())
}

/// Makes llama.cpp ready; cheap after the first call.
pub(crate) fn init() -> Result<()> {
    static READY: OnceCell<()> = OnceCell::new();
    READY
        .get_or_try_init(|| {
            check_cpu()?;
            // SAFETY: succeeds once, before any other function of llama.cpp; the callbacks are static functions.
            let ready = unsafe {
                llama::llama_log_set(Some(on_log), std::ptr::null_mut());
                bindings::tgvi_init(on_abort) && bindings::tgvi_context_init()
            };
            match ready && compute::init() {
                true => Ok(()),
                false => Err(Error::OutOfMemory(
                    "there is no memory to make llama.cpp ready; free some memory and call again".into(),
                )),
            }
        })
        .copied()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::sync::Arc;

    const VICTIM: &str = "TGV_TEST_ABORT";

    /// What ggml says before it ends the process is heard by the log's listeners, and by nobody else.
    #[test]
    fn the_reason_of_an_abort_is_logged() {
        if std::env::var_os(VICTIM).is_some() {
            init().unwrap();
            log::add_sink(Arc::new(|level, text: &str| println!("heard {level:?} {text}"))).unwrap();
            // SAFETY: ends this process, which was started for that.
            unsafe { llama::ggml_abort(c"somewhere.c".as_ptr(), 7, c"%s failed".as_ptr(), c"everything".as_ptr()) };
        }
        let name = "decoder::backend::tests::the_reason_of_an_abort_is_logged";
        let mut program = Command::new(std::env::current_exe().unwrap());
        let output = program.args(["--exact", name, "--nocapture"]).env(VICTIM, "1").output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT));
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(stdout.contains("heard Error somewhere.c:7: everything failed"), "{stdout}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}
