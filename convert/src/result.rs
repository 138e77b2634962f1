//! Writing what a plan says: every asked-for type, as files that appear together at the end.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tinygptv::gguf::Gguf;

use crate::gguf_writer::{Metadata, TensorHeader, Writer};
use crate::output::{self, human, tensors, Progress, TempFile, Unit};
use crate::plan::{FilePlan, Kind, Plan, PlannedTensor};
use crate::quantize::Type;
use crate::types::{DecoderType, VisionType};
use crate::{balance, inspect, llama_quantize};

/// Which files to write, and how.
pub struct ResultOptions {
    /// First part of the file names.
    pub name: String,
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
    /// Threads that round and draw numbers.
    pub threads: usize,
}

impl ResultOptions {
    fn path(&self, middle: &str, ty: &dyn std::fmt::Display) -> PathBuf {
        self.out.join(format!("{}-{middle}{ty}.gguf", self.name))
    }

    fn decoders(&self) -> Vec<(DecoderType, PathBuf)> {
        self.decoder_types.iter().map(|ty| (*ty, self.path("", ty))).collect()
    }

    fn visions(&self) -> Vec<(VisionType, PathBuf)> {
        self.vision_types.iter().map(|ty| (*ty, self.path("vision-", ty))).collect()
    }

    /// Makes the folder and refuses what would be overwritten, before anything takes time.
    pub fn prepare(&self) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        let decoders = self.decoders().into_iter().map(|d| d.1);
        let targets: Vec<_> = decoders.chain(self.visions().into_iter().map(|v| v.1)).collect();
        output::prepare(&self.out, &targets, self.force)
    }
}

/// A file that is complete but not in its place yet, and what it holds.
struct Finished {
    temp: TempFile,
    target: PathBuf,
    summary: String,
}

/// Writes all files of a sealed plan. Returns the summary for stdout.
pub fn write(plan: &Plan, options: &ResultOptions, progress: &Progress) -> Result<String> {
    let mut finished = Vec::new();
    for (ty, target) in options.visions() {
        let fallbacks = plan.vision.fallbacks(ty.ty);
        if fallbacks > 0 {
            progress.line(&format!("{} of the {ty} file stay F16: rows no multiple of 32 long", tensors(fallbacks)));
        }
        let balanced = match ty.ty {
            Type::Q8_0 => Some(balance::for_q8_0(&plan.vision)?),
            _ => None,
        };
        let vision = balanced.as_ref().map_or(&plan.vision, |(plan, said)| {
            progress.line(said);
            plan
        });
        finished.push(write_file(target, &vision.metadata(ty.file_type), &typed(vision, ty.ty), options, progress)?);
    }
    for (ty, target) in options.decoders() {
        let (metadata, tensors) = match ty.plain {
            Some(plain) => (plan.decoder.metadata(ty.file_type), typed(&plan.decoder, plain)),
            None => quantized(&plan.decoder, ty, &target, options, progress)?,
        };
        finished.push(write_file(target, &metadata, &tensors, options, progress)?);
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

type Typed<'a> = Vec<(&'a PlannedTensor, Type)>;

/// The tensors of a file whose matrices have one type.
fn typed(plan: &FilePlan, ty: Type) -> Typed<'_> {
    plan.tensors.iter().map(|t| (t, t.kind.storage(ty, &t.shape))).collect()
}

/// Metadata and tensors as llama.cpp's quantiser would write them: its order, its choice of types.
fn quantized<'a>(
    plan: &'a FilePlan,
    ty: DecoderType,
    target: &Path,
    options: &ResultOptions,
    progress: &Progress,
) -> Result<(Metadata, Typed<'a>)> {
    let metadata = plan.quantized_metadata(ty.file_type);
    let headers: Vec<TensorHeader> = plan.tensors.iter().map(|t| t.header(Type::F32)).collect();
    let layout = llama_quantize::layout(ty, &metadata, &headers, target)?;
    for line in &layout.said {
        // Other types where a tensor's rows do not fit; the summary shows which.
        if options.verbose || line.contains("required fallback quantization") {
            progress.line(line);
        }
    }
    let by_name: HashMap<&str, &PlannedTensor> = plan.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let tensors: Option<Typed> = layout.tensors.iter().map(|t| Some((*by_name.get(t.name.as_str())?, t.ty))).collect();
    Ok((metadata, tensors.context("llama.cpp's quantiser renames tensors")?))
}

fn write_file(
    target: PathBuf,
    metadata: &Metadata,
    tensors: &[(&PlannedTensor, Type)],
    options: &ResultOptions,
    progress: &Progress,
) -> Result<Finished> {
    let temp = TempFile::beside(&target, "new");
    let label = format!("writing {}", target.file_name().unwrap_or_default().to_string_lossy());
    let bar = progress.step(&label, tensors.iter().map(|(t, ty)| ty.bytes(&t.shape)).sum(), Unit::Bytes);
    let failed = || format!("cannot write '{}'", temp.path().display());
    let headers = tensors.iter().map(|(t, ty)| TensorHeader { ty: *ty, ..t.header(Type::F32) }).collect();
    let mut writer = Writer::new(temp.create()?, metadata, headers).with_context(failed)?;
    for (tensor, ty) in tensors {
        tensor
            .recipe
            .produce(&tensor.shape, &mut |values| {
                for bytes in ty.encode_all(values, options.threads)? {
                    bar.inc(bytes.len() as u64);
                    writer.write(&bytes).with_context(failed)?;
                }
                Ok(())
            })
            .with_context(|| format!("cannot make '{}' from {}", tensor.name, tensor.recipe.describe()))?;
    }
    writer.finish().with_context(failed)?;
    bar.finish_and_clear();
    temp.sync()?;
    // The library's own strict reader has the last word.
    let summary = inspect::summary(&Gguf::open(temp.path())?);
    Ok(Finished { temp, target, summary })
}

/// What would be written, for `--dry-run`.
pub fn describe(plan: &Plan, options: &ResultOptions) -> Result<String> {
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
    for (ty, target) in options.decoders() {
        let storage = |t: &PlannedTensor| t.kind.storage(ty.plain.unwrap_or(Type::F32), &t.shape);
        let quantized = |t: &PlannedTensor| ty.plain.is_none() && t.kind == Kind::Matrix;
        let size = |t: &PlannedTensor| match quantized(t) {
            true => (t.shape.iter().product::<usize>() as f64 * ty.bits / 8.0) as u64,
            false => storage(t).bytes(&t.shape),
        };
        let about = plan.decoder.tensors.iter().map(size).sum();
        list(&target, &plan.decoder, about, &|t| if quantized(t) { ty.to_string() } else { storage(t).to_string() })?;
    }
    for (ty, target) in options.visions() {
        let about = plan.vision.tensors.iter().map(|t| t.kind.storage(ty.ty, &t.shape).bytes(&t.shape)).sum();
        list(&target, &plan.vision, about, &|t| t.kind.storage(ty.ty, &t.shape).to_string())?;
    }
    Ok(out)
}
