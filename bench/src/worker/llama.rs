//! llama.cpp's own graph and API, set up as its `llama-bench` does: default model and context parameters, a thread pool of
//! ggml's defaults.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::time::Instant;

use anyhow::{bail, ensure, Context, Result};
use clap::Args;
use llama_cpp_sys_2 as llama;

use super::{seconds, token, unable};
use crate::protocol::{figures, Figures, Request};

/// Where the model is, and threads.
#[derive(Args)]
pub struct Options {
    /// Decoder file.
    #[arg(long)]
    decoder: PathBuf,
    /// Threads.
    #[arg(long)]
    threads: usize,
    /// Leave the weights in the mapped file, instead of repacking a copy of them where llama.cpp would.
    #[arg(long)]
    mapped: bool,
}

/// As of our own decoder where only speed is measured.
const CONTEXT: usize = 512;

pub fn about() -> BTreeMap<String, String> {
    // SAFETY: static texts.
    let [version, flags] = unsafe {
        [llama::ggml_version(), llama::llama_print_system_info()].map(|text| CStr::from_ptr(text).to_string_lossy())
    };
    BTreeMap::from([("ggml".to_owned(), version.into_owned()), ("flags".to_owned(), on(&flags))])
}

/// The names of what is on in `BACKEND : NAME = 1 | NAME = 0 | …`.
fn on(flags: &str) -> String {
    let names = flags.split(['|', ':']).filter_map(|part| part.trim().strip_suffix("= 1"));
    names.map(str::trim_end).collect::<Vec<_>>().join(" ")
}

pub struct Llama<'a> {
    options: &'a Options,
    loaded: Option<Loaded>,
}

/// A model with a context.
struct Loaded {
    model: NonNull<llama::llama_model>,
    context: NonNull<llama::llama_context>,
    pool: NonNull<llama::ggml_threadpool>,
    vocabulary: usize,
}

impl Loaded {
    fn new(options: &Options, positions: usize) -> Result<Loaded> {
        let path = CString::new(options.decoder.to_str().context("the path is not UTF-8")?)?;
        let threads = i32::try_from(options.threads)?;
        // SAFETY: plain data and a terminated path; what is made is freed in the opposite order by `drop`.
        unsafe {
            llama::llama_log_set(Some(quiet), std::ptr::null_mut());
            llama::llama_backend_init();
            let mut model_params = llama::llama_model_default_params();
            model_params.use_extra_bufts = !options.mapped;
            let model = NonNull::new(llama::llama_model_load_from_file(path.as_ptr(), model_params))
                .with_context(|| format!("llama.cpp cannot load '{}'", options.decoder.display()))?;
            let mut params = llama::llama_context_default_params();
            let trained = usize::try_from(llama::llama_model_n_ctx_train(model.as_ptr()))?;
            params.n_ctx = u32::try_from(positions.min(trained))?;
            params.n_threads = threads;
            params.n_threads_batch = threads;
            let context = NonNull::new(llama::llama_init_from_model(model.as_ptr(), params))
                .context("llama.cpp cannot make a context")?;
            let mut pool_params = llama::ggml_threadpool_params_default(threads);
            let pool =
                NonNull::new(llama::ggml_threadpool_new(&mut pool_params)).context("ggml cannot start its threads")?;
            llama::llama_attach_threadpool(context.as_ptr(), pool.as_ptr(), std::ptr::null_mut());
            let vocabulary =
                usize::try_from(llama::llama_vocab_n_tokens(llama::llama_model_get_vocab(model.as_ptr())))?;
            Ok(Loaded { model, context, pool, vocabulary })
        }
    }

    /// Evaluates tokens after what the context holds.
    fn evaluate(&mut self, tokens: &mut [i32]) -> Result<()> {
        // SAFETY: the context is alive and the tokens live during the call.
        let code = unsafe {
            let batch = llama::llama_batch_get_one(tokens.as_mut_ptr(), i32::try_from(tokens.len())?);
            llama::llama_decode(self.context.as_ptr(), batch)
        };
        ensure!(code == 0, "llama_decode returned {code}");
        // SAFETY: as above; asking for the logits waits for the computation.
        let logits = unsafe { llama::llama_get_logits_ith(self.context.as_ptr(), -1) };
        ensure!(!logits.is_null(), "llama.cpp gave no logits");
        Ok(())
    }

    fn prompt(&mut self, positions: usize) -> Vec<i32> {
        // SAFETY: the context is alive.
        unsafe { llama::llama_memory_clear(llama::llama_get_memory(self.context.as_ptr()), true) };
        (0..positions).map(|i| token(i, self.vocabulary)).collect()
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe {
            llama::llama_free(self.context.as_ptr());
            llama::ggml_threadpool_free(self.pool.as_ptr());
            llama::llama_model_free(self.model.as_ptr());
        }
    }
}

unsafe extern "C" fn quiet(_: llama::ggml_log_level, _: *const std::ffi::c_char, _: *mut std::ffi::c_void) {}

impl<'a> Llama<'a> {
    pub fn new(options: &'a Options) -> Llama<'a> {
        Llama { options, loaded: None }
    }

    fn loaded(&mut self) -> Result<&mut Loaded> {
        match &mut self.loaded {
            Some(loaded) => Ok(loaded),
            slot => Ok(slot.insert(Loaded::new(self.options, CONTEXT)?)),
        }
    }

    pub fn perform(&mut self, request: &Request) -> Result<Figures> {
        let taken = match *request {
            Request::Load { context } => {
                let start = Instant::now();
                let loaded = Loaded::new(self.options, context)?;
                let taken = seconds(start);
                drop(loaded);
                taken
            }
            Request::Prefill { positions } => {
                let loaded = self.loaded()?;
                let mut prompt = loaded.prompt(positions);
                let start = Instant::now();
                loaded.evaluate(&mut prompt)?;
                seconds(start)
            }
            Request::Decode { positions, tokens } => {
                let loaded = self.loaded()?;
                let mut prompt = loaded.prompt(positions);
                if prompt.is_empty() {
                    bail!("a prompt is needed");
                }
                loaded.evaluate(&mut prompt)?;
                let start = Instant::now();
                for i in 0..tokens {
                    loaded.evaluate(&mut [token(positions + i, loaded.vocabulary)])?;
                }
                seconds(start)
            }
            _ => return unable(request),
        };
        Ok(figures([("seconds", taken)]))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn flags_are_those_that_are_on() {
        assert_eq!(super::on("CPU : AVX = 1 | FMA = 0 | REPACK = 1 | "), "AVX REPACK");
    }
}
