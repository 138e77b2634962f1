//! Converts the official TinyGPT-V checkpoints to the two GGUF files that tinygptv loads.
//!
//! | module | job |
//! |---|---|
//! | `stored`, `pickle`, `unescape`, `torch_file`, `safetensors_file` | checkpoint files: where each tensor lies, and reading ranges of it |
//! | `source` | all files as one set of tensors; overrides; nothing dropped silently |
//! | `phi2`, `vision`, `tokenizer`, `prompts`, `lora` | what each of the two files holds, and from what it is made |
//! | `plan`, `recipe` | the whole conversion before any number is read; making one tensor, slab by slab |
//! | `types`, `quantize`, `llama_quantize`, `gguf_writer`, `output` | number types and writing |
//! | `inspect` | printing a finished file |

pub mod gguf_writer;
pub mod inspect;
pub mod llama_quantize;
pub mod lora;
pub mod output;
pub mod phi2;
pub mod pickle;
pub mod plan;
pub mod prompts;
pub mod quantize;
pub mod recipe;
pub mod safetensors_file;
pub mod source;
pub mod stored;
pub mod tokenizer;
pub mod torch_file;
pub mod types;
mod unescape;
pub mod vision;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tinygptv::gguf::Gguf;

use crate::gguf_writer::{Metadata, TensorHeader, Writer};
use crate::output::{human, tensors, Progress, TempFile, Unit};
use crate::plan::{FilePlan, Plan, PlanOptions, PlannedTensor};
use crate::quantize::Type;
use crate::source::Sources;
use crate::types::{DecoderType, VisionType};

/// One conversion.
pub struct Options {
    /// Checkpoint of the ViT.
    pub vit: PathBuf,
    /// Checkpoint of the Q-Former.
    pub qformer: PathBuf,
    /// Checkpoint of the training stage.
    pub checkpoint: PathBuf,
    /// What the plan depends on beside the files; holds the folder of Phi-2.
    pub plan: PlanOptions,
    /// Types of decoder files to write, one file each.
    pub decoder_types: Vec<DecoderType>,
    /// Types of vision files to write, one file each.
    pub vision_types: Vec<VisionType>,
    /// Folder to write to.
    pub out: PathBuf,
    /// Replace files that exist.
    pub force: bool,
    /// Only plan.
    pub dry_run: bool,
    /// Tell what llama.cpp's quantiser says.
    pub verbose: bool,
    /// Threads of llama.cpp's quantiser.
    pub threads: usize,
}

/// A file that is complete but not in its place yet, and what it holds.
struct Finished {
    temp: TempFile,
    target: PathBuf,
    summary: String,
}

/// Converts. Returns the text for stdout: the plan or the summary.
pub fn convert(options: &Options, progress: &Progress) -> Result<String> {
    let name =
        |ty: &dyn std::fmt::Display, middle: &str| options.out.join(format!("{}-{middle}{ty}.gguf", options.plan.name));
    let decoders: Vec<_> = options.decoder_types.iter().map(|ty| (*ty, name(ty, ""))).collect();
    let visions: Vec<_> = options.vision_types.iter().map(|ty| (*ty, name(ty, "vision-"))).collect();
    if !options.dry_run {
        let targets: Vec<_> = decoders.iter().map(|d| d.1.clone()).chain(visions.iter().map(|v| v.1.clone())).collect();
        output::prepare(&options.out, &targets, options.force)?;
    }

    let mut sources = Sources::open(&options.plan.decoder.dir, &options.vit, &options.qformer, &options.checkpoint)?;
    let mut plan = plan::make(&mut sources, &options.plan)?;
    for note in &plan.notes {
        progress.line(note);
    }
    for warning in &plan.warnings {
        progress.warn(warning);
    }
    if options.dry_run {
        return describe_plan(&plan, &decoders, &visions);
    }

    let total = sources.files().iter().map(|(_, p)| p.metadata().map_or(0, |m| m.len())).sum();
    let bar = progress.step("hashing the checkpoint files", total, Unit::Bytes);
    let hashes = sources.hash(|n| bar.inc(n))?;
    bar.finish_and_clear();
    plan.seal(&sources, &hashes, options.plan.stage);

    let mut finished = Vec::new();
    for (ty, target) in &visions {
        let headers = plan.vision.tensors.iter().map(|t| t.header(ty.ty)).collect();
        let fallbacks = plan.vision.fallbacks(ty.ty);
        if fallbacks > 0 {
            progress.line(&format!("{} of the {ty} file stay F16: rows no multiple of 32 long", tensors(fallbacks)));
        }
        let metadata = plan.vision.metadata(ty.file_type);
        let temp = TempFile::beside(target, "new");
        write_file(&temp, &plan.vision, &metadata, headers, &writing(target), progress)?;
        finished.push(finish(temp, target)?);
    }
    for (ty, target) in decoders.iter().filter(|(ty, _)| ty.plain.is_some()) {
        let headers = plan.decoder.tensors.iter().map(|t| t.header(ty.plain.unwrap_or(Type::F32))).collect();
        let metadata = plan.decoder.metadata(ty.file_type);
        let temp = TempFile::beside(target, "new");
        write_file(&temp, &plan.decoder, &metadata, headers, &writing(target), progress)?;
        finished.push(finish(temp, target)?);
    }
    let quantized: Vec<_> = decoders.iter().filter(|(ty, _)| ty.plain.is_none()).collect();
    if let Some((_, first)) = quantized.first() {
        let exact = TempFile::beside(first, "exact");
        let headers = plan.decoder.tensors.iter().map(PlannedTensor::exact_header).collect();
        let label = "writing the unrounded decoder, to be quantised";
        write_file(&exact, &plan.decoder, &plan.decoder.metadata(1), headers, label, progress)?;
        for (ty, target) in quantized {
            finished.push(quantize_file(&exact, *ty, target, options, progress)?);
        }
    }

    // Only now: a run that fails changes nothing.
    let mut out = String::new();
    for Finished { temp, target, summary } in finished {
        temp.put(&target)?;
        let size = target.metadata().map_or(0, |m| m.len());
        write!(out, "{}  {}\n{summary}", target.display(), human(size))?;
    }
    Ok(out)
}

fn writing(target: &Path) -> String {
    format!("writing {}", target.file_name().unwrap_or_default().to_string_lossy())
}

/// Writes a file of this program's own types.
fn write_file(
    temp: &TempFile,
    plan: &FilePlan,
    metadata: &Metadata,
    headers: Vec<TensorHeader>,
    label: &str,
    progress: &Progress,
) -> Result<()> {
    let total = headers.iter().map(|h| h.ty.bytes(&h.shape)).sum();
    let bar = progress.step(label, total, Unit::Bytes);
    let types: Vec<Type> = headers.iter().map(|h| h.ty).collect();
    let failed = || format!("cannot write '{}'", temp.path().display());
    let mut writer = Writer::new(temp.create()?, metadata, headers).with_context(failed)?;
    let mut bytes = Vec::new();
    for (tensor, ty) in plan.tensors.iter().zip(types) {
        tensor
            .recipe
            .produce(&tensor.shape, |values| {
                bytes.clear();
                ty.encode(values, &mut bytes)?;
                bar.inc(bytes.len() as u64);
                writer.write(&bytes).with_context(failed)
            })
            .with_context(|| format!("cannot make '{}' from {}", tensor.name, tensor.recipe.describe()))?;
    }
    writer.finish().with_context(failed)?;
    bar.finish_and_clear();
    Ok(())
}

fn quantize_file(
    exact: &TempFile,
    ty: DecoderType,
    target: &Path,
    options: &Options,
    progress: &Progress,
) -> Result<Finished> {
    let temp = TempFile::beside(target, "new");
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bar = progress.step(&format!("quantising {name}"), 0, Unit::Things("tensors"));
    let shown = bar.clone();
    let report = Box::new(move |done, total| {
        shown.set_length(total);
        shown.set_position(done);
    });
    let said = llama_quantize::quantize(exact.path(), temp.path(), ty, options.threads, report)?;
    bar.finish_and_clear();
    for line in &said {
        // Other types where a tensor's rows do not fit; the summary shows which.
        if options.verbose || line.contains("required fallback quantization") {
            progress.line(line);
        }
    }
    finish(temp, target)
}

/// Reads the finished file with the library's own strict reader, and makes it durable.
fn finish(temp: TempFile, target: &Path) -> Result<Finished> {
    temp.sync()?;
    let summary = inspect::summary(&Gguf::open(temp.path())?);
    Ok(Finished { temp, target: target.to_owned(), summary })
}

fn describe_plan(
    plan: &Plan,
    decoders: &[(DecoderType, PathBuf)],
    visions: &[(VisionType, PathBuf)],
) -> Result<String> {
    let mut out = String::new();
    let mut list = |target: &Path, file: &FilePlan, about: u64, ty: &dyn Fn(&PlannedTensor) -> String| -> Result<()> {
        writeln!(out, "{}  about {}", target.display(), human(about))?;
        let width = file.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
        for t in &file.tensors {
            let shape = format!("{:?}", t.shape);
            writeln!(out, "  {:width$}  {:<7} {shape:<20}  {}", t.name, ty(t), t.recipe.describe())?;
        }
        Ok(())
    };
    for (ty, target) in decoders {
        let storage = |t: &PlannedTensor| t.kind.storage(ty.plain.unwrap_or(Type::F32), &t.shape);
        let quantized = |t: &PlannedTensor| ty.plain.is_none() && t.kind == plan::Kind::Matrix;
        let size = |t: &PlannedTensor| match quantized(t) {
            true => (t.shape.iter().product::<usize>() as f64 * ty.bits / 8.0) as u64,
            false => storage(t).bytes(&t.shape),
        };
        let about = plan.decoder.tensors.iter().map(size).sum();
        list(target, &plan.decoder, about, &|t| if quantized(t) { ty.to_string() } else { storage(t).to_string() })?;
    }
    for (ty, target) in visions {
        let about = plan.vision.tensors.iter().map(|t| t.kind.storage(ty.ty, &t.shape).bytes(&t.shape)).sum();
        list(target, &plan.vision, about, &|t| t.kind.storage(ty.ty, &t.shape).to_string())?;
    }
    Ok(out)
}
