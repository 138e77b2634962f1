//! Converts the official TinyGPT-V checkpoints to the two GGUF files that tinygptv loads, or makes such files of random
//! numbers.
//!
//! | module | job |
//! |---|---|
//! | `stored`, `pickle`, `unescape`, `torch_file`, `safetensors_file` | checkpoint files: where each tensor lies, and reading ranges of it |
//! | `source` | all files as one set of tensors; overrides; nothing dropped silently |
//! | `phi2`, `vision`, `tokenizer`, `prompts`, `lora` | what each of the two files holds, and from what it is made |
//! | `plan`, `recipe` | the whole conversion before any number is read; making one tensor, slab by slab |
//! | `balance` | the same function in a form that loses less when it is rounded to Q8_0 |
//! | `types`, `quantize`, `llama_quantize`, `parallel` | number types, which tensor gets which, rounding to them |
//! | `result`, `gguf_writer`, `output` | writing |
//! | `synth` | the tensors of a checkpoint of random numbers |
//! | `inspect` | printing a finished file |

pub mod balance;
pub mod gguf_writer;
pub mod inspect;
pub mod llama_quantize;
pub mod lora;
pub mod output;
pub mod parallel;
pub mod phi2;
pub mod pickle;
pub mod plan;
pub mod prompts;
pub mod quantize;
pub mod recipe;
pub mod result;
pub mod safetensors_file;
pub mod source;
pub mod stored;
pub mod synth;
pub mod tokenizer;
pub mod torch_file;
pub mod types;
mod unescape;
pub mod vision;

use std::path::PathBuf;

use anyhow::Result;

use crate::output::{Progress, Unit};
use crate::phi2::Base;
use crate::plan::{Ingredient, Plan, PlanOptions};
use crate::result::ResultOptions;
use crate::source::Sources;

/// The four inputs of a conversion.
pub struct Inputs {
    /// Folder of Phi-2.
    pub phi2: PathBuf,
    /// Checkpoint of the ViT.
    pub vit: PathBuf,
    /// Checkpoint of the Q-Former.
    pub qformer: PathBuf,
    /// Checkpoint of the training stage.
    pub checkpoint: PathBuf,
}

/// Converts. Returns the text for stdout: the plan or the summary.
pub fn convert(inputs: &Inputs, plan: &PlanOptions, results: &ResultOptions, progress: &Progress) -> Result<String> {
    results.prepare()?;
    let mut sources = Sources::open(&inputs.phi2, &inputs.vit, &inputs.qformer, &inputs.checkpoint)?;
    let hash = |sources: &Sources| {
        let total = sources.files().iter().map(|(_, p)| p.metadata().map_or(0, |m| m.len())).sum();
        let bar = progress.step("hashing the checkpoint files", total, Unit::Bytes);
        let ingredients = sources.hash(|n| bar.inc(n))?;
        bar.finish_and_clear();
        Ok(ingredients)
    };
    run(&mut sources, &Base::Folder(inputs.phi2.clone()), plan, results, progress, hash)
}

/// From the sources to the result. `seal` says what the result is made from.
fn run(
    sources: &mut Sources,
    base: &Base,
    options: &PlanOptions,
    results: &ResultOptions,
    progress: &Progress,
    seal: impl FnOnce(&Sources) -> Result<Vec<Ingredient>>,
) -> Result<String> {
    let mut plan: Plan = plan::make(sources, base, options)?;
    for note in &plan.notes {
        progress.line(note);
    }
    for warning in &plan.warnings {
        progress.warn(warning);
    }
    if results.dry_run {
        return result::describe(&plan, results);
    }
    plan.seal(&seal(sources)?, options.stage);
    result::write(&plan, results, progress)
}
