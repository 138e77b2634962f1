//! The models to measure with: random weights of TinyGPT-V's size (or another), made once and used again.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use tinygptv::gguf::{Gguf, TensorInfo};
use tinygptv_convert::output::{Progress, TempFile};
use tinygptv_convert::result::ResultOptions;
use tinygptv_convert::synth::{synth, Dimensions, SynthOptions};
use tinygptv_convert::types::{DecoderType, VisionType};

/// Type of the vision file that others are compared with.
const EXACT: &str = "f32";

/// The files of a model.
pub struct Pair {
    pub decoder: PathBuf,
    /// The decoder without the norms that Phi-2 has not: the same type, and llama.cpp's own graph takes it.
    pub stock: PathBuf,
    /// Vision files by the side of the picture; the second goes with the decoder.
    pub vision: [(u32, PathBuf); 2],
    /// The second of them in F32, if it was asked for.
    pub exact: Option<PathBuf>,
}

/// What to make.
pub struct PairOptions {
    /// Folder of the files.
    pub folder: PathBuf,
    /// `None` is full size.
    pub dimensions: Option<Dimensions>,
    pub decoder_type: DecoderType,
    pub vision_type: VisionType,
    /// Whether the vision file is wanted in F32, too.
    pub exact: bool,
    pub threads: usize,
    pub quiet: bool,
}

impl Pair {
    /// The files, made now if they are not there.
    ///
    /// # Errors
    /// What cannot be written; files there that are something else.
    pub fn make_or_reuse(options: &PairOptions) -> Result<Pair> {
        let dimensions = options.dimensions.clone().unwrap_or_else(Dimensions::full);
        let name = match &options.dimensions {
            None => "full".to_owned(),
            Some(dimensions) => {
                let mut hasher = DefaultHasher::new();
                dimensions.to_string().hash(&mut hasher);
                format!("{:016x}", hasher.finish())
            }
        };
        let sides = [1, 2].map(|n| (n * dimensions.patch * dimensions.grid) as u32);
        let file = |middle: String| options.folder.join(format!("{name}-{middle}.gguf"));
        let (decoder, vision) = (options.decoder_type, options.vision_type);
        let pair = Pair {
            decoder: file(decoder.to_string()),
            stock: file(format!("stock-{decoder}")),
            vision: [
                (sides[0], file(format!("vision-{vision}-{}", sides[0]))),
                (sides[1], file(format!("vision-{vision}"))),
            ],
            exact: options.exact.then(|| file(format!("vision-{EXACT}"))),
        };
        let progress = Progress::new(options.quiet);
        // The pair's two files are made of the same numbers whatever is made beside them.
        let results = |decoder_types, vision_types| ResultOptions {
            name: name.clone(),
            decoder_types,
            vision_types,
            out: options.folder.clone(),
            force: false,
            dry_run: false,
            verbose: false,
            threads: options.threads,
        };
        let mut visions = Vec::new();
        if !pair.vision[1].1.exists() {
            visions.push(vision);
        }
        if pair.exact.as_ref().is_some_and(|path| !path.exists()) {
            visions.push(EXACT.parse::<VisionType>().map_err(anyhow::Error::msg)?);
        }
        let wanted = results(if pair.decoder.exists() { vec![] } else { vec![decoder] }, visions);
        if !wanted.decoder_types.is_empty() || !wanted.vision_types.is_empty() {
            progress.line(&format!("making a model of random numbers in '{}', once", options.folder.display()));
            let side = sides[1] as usize;
            let of = SynthOptions { dimensions, stage: 4, image_size: Some(side), outliers: 4, seed: 1 };
            synth(&of, &wanted, &progress)?;
        }
        let small = &pair.vision[0];
        if !small.1.exists() {
            with_image_size(&pair.vision[1].1, &small.1, small.0)?;
        }
        if !pair.stock.exists() {
            without_extra_norms(&pair.decoder, &pair.stock)?;
        }
        Ok(pair)
    }
}

/// A copy of a vision file for another size of picture: only a number in its metadata differs, as positions are interpolated
/// when it is loaded.
fn with_image_size(from: &Path, to: &Path, side: u32) -> Result<()> {
    const KEY: &[u8] = b"clip.vision.image_size";
    const U32: u32 = 4;
    let file = Gguf::open(from)?;
    let header = file.header();
    let key = header.windows(KEY.len()).position(|w| w == KEY);
    let at = key.map(|at| at + KEY.len()).context("the vision file has no image size")?;
    let number = header.get(at..at + 4).context("the vision file's header ends early")?;
    ensure!(number == U32.to_le_bytes(), "the vision file's image size is no u32");
    let temp = TempFile::beside(to, "new");
    let failed = || format!("cannot write '{}'", to.display());
    fs::copy(from, temp.path()).with_context(failed)?;
    let mut copy = File::options().write(true).open(temp.path()).with_context(failed)?;
    copy.seek(SeekFrom::Start(at as u64 + 4)).and_then(|_| copy.write_all(&side.to_le_bytes())).with_context(failed)?;
    drop(copy);
    ensure!(Gguf::open(temp.path())?.u32("clip.vision.image_size")? == side, "the copy has another image size");
    temp.put(to)
}

/// A copy of a decoder file that llama.cpp's own Phi-2 graph takes.
fn without_extra_norms(from: &Path, to: &Path) -> Result<()> {
    const EXTRA: [&str; 3] = [".attn_q_norm.", ".attn_k_norm.", ".post_attention_norm."];
    let file = Gguf::open(from)?;
    let kept: Vec<TensorInfo> =
        file.tensors().iter().filter(|t| !EXTRA.iter().any(|extra| t.name.contains(extra))).cloned().collect();
    ensure!(kept.len() < file.tensors().len(), "'{}' has no extra norms", from.display());
    let bytes = |t: &TensorInfo| 8 + t.name.len() + 4 + 8 * t.shape.len() + 4 + 8;
    // In front of the data: magic, version and two counts, metadata, tensors, padding.
    let first = file.tensors().first().context("the decoder has no tensors")?;
    let mut start = Vec::from((first.name.len() as u64).to_le_bytes());
    start.extend(first.name.as_bytes());
    let header = file.header();
    let tensors =
        header.windows(start.len()).rposition(|w| w == start).context("the decoder's header has no tensors")?;
    let described: usize = file.tensors().iter().map(bytes).sum();
    ensure!((tensors + described).next_multiple_of(ALIGNMENT) == header.len(), "the decoder's header is unusual");
    let mut new = header[..tensors].to_vec();
    new[8..16].copy_from_slice(&(kept.len() as u64).to_le_bytes());
    let mut offset = 0u64;
    for t in &kept {
        new.extend((t.name.len() as u64).to_le_bytes());
        new.extend(t.name.as_bytes());
        new.extend((t.shape.len() as u32).to_le_bytes());
        t.shape.iter().rev().for_each(|&d| new.extend((d as u64).to_le_bytes()));
        new.extend(t.ty.number().to_le_bytes());
        new.extend(offset.to_le_bytes());
        offset += t.size_bytes.next_multiple_of(ALIGNMENT) as u64;
    }
    new.resize(new.len().next_multiple_of(ALIGNMENT), 0);
    let temp = TempFile::beside(to, "new");
    let mut out = temp.create()?;
    let failed = || format!("cannot write '{}'", to.display());
    out.write_all(&new).with_context(failed)?;
    for info in &kept {
        let tensor = file.tensor(&info.name, &info.shape)?;
        out.write_all(tensor.bytes()).with_context(failed)?;
        let padding = info.size_bytes.next_multiple_of(ALIGNMENT) - info.size_bytes;
        out.write_all(&[0; ALIGNMENT][..padding]).with_context(failed)?;
    }
    out.flush().with_context(failed)?;
    drop(out);
    Gguf::open(temp.path())?;
    temp.put(to)
}

/// The converter's.
const ALIGNMENT: usize = 32;

/// Sizes that peers need, from the vision file; MLPs as they were drawn, before the converter made some channels twice.
pub fn vision_sizes(path: &Path, drawn: &Dimensions) -> Result<serde_json::Value> {
    let file = Gguf::open(path)?;
    let size = |key: &str| file.u32(key);
    Ok(serde_json::json!({
        "patch": size("clip.vision.patch_size")?,
        "width": size("clip.vision.embedding_length")?,
        "mlp": drawn.vit_mlp,
        "blocks": size("clip.vision.block_count")?,
        "heads": size("clip.vision.attention.head_count")?,
        "queries": size("tinygptv.qformer.query_count")?,
        "qf_width": size("tinygptv.qformer.embedding_length")?,
        "qf_mlp": drawn.qf_mlp,
        "qf_layers": size("tinygptv.qformer.block_count")?,
        "qf_heads": size("tinygptv.qformer.head_count")?,
        "projection": size("clip.vision.projection_dim")?,
    }))
}

/// Bytes of the pair that a user has.
pub fn bytes(pair: &Pair) -> Result<[u64; 2]> {
    let size = |path: &Path| fs::metadata(path).map(|m| m.len()).with_context(|| format!("no '{}'", path.display()));
    Ok([size(&pair.decoder)?, size(&pair.vision[1].1)?])
}
