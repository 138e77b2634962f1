//! llama.cpp's own quantiser, run from one GGUF file to another.

use std::ffi::{c_char, c_void, CStr, CString};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use anyhow::{bail, ensure, Context, Result};

use crate::types::DecoderType;

/// Most bytes of rows that the quantiser holds at once.
const BUFFER: usize = 64 << 20;

/// Called with the number of tensors done and their total.
pub type OnTensor = Box<dyn Fn(u64, u64) + Send>;

/// What llama.cpp says while it runs.
struct Log {
    /// The line that is not complete yet, and the complete ones.
    line: String,
    lines: Vec<String>,
    on_tensor: Option<OnTensor>,
}

static LOG: Mutex<Log> = Mutex::new(Log { line: String::new(), lines: Vec::new(), on_tensor: None });

fn log() -> MutexGuard<'static, Log> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// llama.cpp's log callback. Lines come in pieces.
unsafe extern "C" fn on_log(_level: llama_cpp_sys_2::ggml_log_level, text: *const c_char, _user: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated text that lives during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let mut log = log();
    for piece in text.split_inclusive('\n') {
        log.line.push_str(piece.trim_end_matches('\n'));
        if let (Some((done, total)), Some(report)) = (tensor_number(&log.line), &log.on_tensor) {
            report(done, total);
        }
        if piece.ends_with('\n') {
            let line = std::mem::take(&mut log.line);
            if !line.trim().is_empty() {
                log.lines.push(line);
            }
        }
    }
}

/// The numbers in `[  12/ 453] …`.
fn tensor_number(line: &str) -> Option<(u64, u64)> {
    let (done, total) = line.strip_prefix('[')?.split_once(']')?.0.split_once('/')?;
    Some((done.trim().parse().ok()?, total.trim().parse().ok()?))
}

fn path_text(path: &Path) -> Result<CString> {
    let text = path.to_str().with_context(|| format!("'{}' is not valid UTF-8", path.display()))?;
    Ok(CString::new(text)?)
}

/// Quantises the matrices of `from` into the new file `to`. Returns what llama.cpp said.
pub fn quantize(from: &Path, to: &Path, ty: DecoderType, threads: usize, on_tensor: OnTensor) -> Result<Vec<String>> {
    static START: Once = Once::new();
    START.call_once(|| {
        // SAFETY: both may be called once at any time; the callback lives forever.
        unsafe {
            llama_cpp_sys_2::llama_log_set(Some(on_log), std::ptr::null_mut());
            llama_cpp_sys_2::llama_backend_init();
        }
    });
    let (from, to) = (path_text(from)?, path_text(to)?);
    ensure!(ty.plain.is_none(), "{ty} needs no quantiser");
    *log() = Log { line: String::new(), lines: Vec::new(), on_tensor: Some(on_tensor) };
    // SAFETY: a plain function that returns a struct.
    let mut params = unsafe { llama_cpp_sys_2::llama_model_quantize_default_params() };
    params.ftype = ty.file_type as llama_cpp_sys_2::llama_ftype;
    params.nthread = threads as i32;
    params.max_buf_size = BUFFER;
    // SAFETY: texts and parameters outlive the call, which catches every C++ exception.
    let failed = unsafe { llama_cpp_sys_2::llama_model_quantize(from.as_ptr(), to.as_ptr(), &params) };
    let lines = {
        let mut log = log();
        log.on_tensor = None;
        std::mem::take(&mut log.lines)
    };
    if failed != 0 {
        let reason = lines.iter().rev().find(|l| l.contains("failed")).or(lines.last());
        bail!("llama.cpp could not quantise to {ty}: {}", reason.map_or("it does not say why", |l| l.trim()));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_progress_lines() {
        assert_eq!(tensor_number("[  12/ 453]   blk.0.attn_norm.bias - [ 2560], "), Some((12, 453)));
        assert_eq!(tensor_number("llama_model_quantize_impl: model size"), None);
    }

    #[test]
    fn failure_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("none.gguf");
        let ty = "q8_0".parse().unwrap();
        let error = quantize(&from, &dir.path().join("out.gguf"), ty, 1, Box::new(|_, _| ())).unwrap_err();
        assert!(error.to_string().contains("could not quantise to q8_0"), "{error}");
    }
}
