//! Which type each tensor of a decoder file gets: llama.cpp's own quantiser decides, asked with a small file.

use std::ffi::{c_char, c_void, CStr, CString};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use anyhow::{bail, ensure, Context, Result};
use tinygptv::gguf::Gguf;

use crate::gguf_writer::{Metadata, TensorHeader, Writer};
use crate::output::TempFile;
use crate::quantize::Type;
use crate::types::DecoderType;

/// Rows of a matrix in the small file. The choice of a type looks at a matrix's name and the length of its rows, and at
/// whether there is more than one.
const SAMPLE_ROWS: usize = 2;

/// What llama.cpp's quantiser makes of a file.
pub struct Layout {
    /// Tensors in the order that the quantiser writes them in; shapes are those of the small file.
    pub tensors: Vec<TensorHeader>,
    /// Lines of llama.cpp's log.
    pub said: Vec<String>,
}

/// Asks for the layout of a file of type `ty` with these metadata and tensors. Writes two small files beside `target` and
/// removes them again.
pub fn layout(ty: DecoderType, metadata: &Metadata, tensors: &[TensorHeader], target: &Path) -> Result<Layout> {
    ensure!(ty.plain.is_none(), "{ty} needs no quantiser");
    let (sample, quantized) = (TempFile::beside(target, "sample"), TempFile::beside(target, "layout"));
    let headers: Vec<TensorHeader> = tensors.iter().map(sample_header).collect();
    let zeros = vec![0; headers.iter().map(|h| h.ty.bytes(&h.shape)).max().unwrap_or(0) as usize];
    let mut writer = Writer::new(sample.create()?, metadata, headers.clone())?;
    for header in &headers {
        writer.write(&zeros[..header.ty.bytes(&header.shape) as usize])?;
    }
    writer.finish()?;
    let said = run(sample.path(), quantized.path(), ty)?;
    let tensors = Gguf::open(quantized.path())?
        .tensors()
        .iter()
        .map(|t| {
            Ok(TensorHeader { name: t.name.clone(), shape: t.shape.clone(), ty: Type::from_number(t.ty.number())? })
        })
        .collect::<Result<_>>()?;
    Ok(Layout { tensors, said })
}

fn sample_header(tensor: &TensorHeader) -> TensorHeader {
    let mut shape = tensor.shape.clone();
    if let [rows, _] = shape.as_mut_slice() {
        *rows = SAMPLE_ROWS.min(*rows);
    }
    TensorHeader { name: tensor.name.clone(), shape, ty: Type::F32 }
}

/// What llama.cpp says while it runs.
struct Log {
    /// The line that is not complete yet, and the complete ones.
    line: String,
    lines: Vec<String>,
}

static LOG: Mutex<Log> = Mutex::new(Log { line: String::new(), lines: Vec::new() });

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
        if piece.ends_with('\n') {
            let line = std::mem::take(&mut log.line);
            if !line.trim().is_empty() {
                log.lines.push(line);
            }
        }
    }
}

fn path_text(path: &Path) -> Result<CString> {
    let text = path.to_str().with_context(|| format!("'{}' is not valid UTF-8", path.display()))?;
    Ok(CString::new(text)?)
}

/// Runs the quantiser from one file to another. Returns what llama.cpp said.
fn run(from: &Path, to: &Path, ty: DecoderType) -> Result<Vec<String>> {
    static START: Once = Once::new();
    START.call_once(|| {
        // SAFETY: both may be called once at any time; the callback lives forever.
        unsafe {
            llama_cpp_sys_2::llama_log_set(Some(on_log), std::ptr::null_mut());
            llama_cpp_sys_2::llama_backend_init();
        }
    });
    let (from, to) = (path_text(from)?, path_text(to)?);
    *log() = Log { line: String::new(), lines: Vec::new() };
    // SAFETY: a plain function that returns a struct.
    let mut params = unsafe { llama_cpp_sys_2::llama_model_quantize_default_params() };
    params.ftype = ty.file_type as llama_cpp_sys_2::llama_ftype;
    params.nthread = 1;
    // SAFETY: texts and parameters outlive the call, which catches every C++ exception.
    let failed = unsafe { llama_cpp_sys_2::llama_model_quantize(from.as_ptr(), to.as_ptr(), &params) };
    let lines = std::mem::take(&mut log().lines);
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
    fn failure_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out.gguf");
        let error = layout("q8_0".parse().unwrap(), &Vec::new(), &[], &target).err().unwrap();
        assert!(error.to_string().contains("could not quantise to q8_0"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
