//! The vision half of the model: a picture in, image embeddings for the decoder out.
//!
//! ```text
//! pixels [3, S, S] ─ vit ─► [tokens, width] ─ LayerNorm ─► qformer ─► [queries, width'] ─ projection ─► [queries, decoder width]
//! ```
//!
//! Everything is computed on the CPU, with the weights where the model file has them: in f32, or, where the layers' weights are
//! no more exact than that, with the layers' products in bfloat16 or 8 bits ([`Precision`]). `linear`, `rounded` (bfloat16),
//! `quantized` (8 bits) and `ops` share work among threads, `kernels` are the inner loops, `panels` is the layout they have in
//! common.

pub(crate) mod kernels;
mod linear;
mod ops;
mod panels;
mod projection;
mod qformer;
mod quantized;
mod rounded;
#[cfg(test)]
pub(crate) mod speed;
#[cfg(test)]
mod testing;
mod vit;
mod weights;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::image::{preprocess, Image};
use crate::threads::ThreadPool;
use kernels::Kernels;
use ops::{Exec, Most, Norm};
use panels::{Buffer, PanelShape, Panels};
use projection::Projection;
use qformer::{QFormer, QFormerMemory};
use vit::{Vit, VitMemory};
use weights::Weights;

/// Sizes of the vision half, from the model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisionDims {
    /// Side of the square picture that the encoder sees, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Features of an image token.
    pub width: usize,
    /// Width of the blocks' feed-forward layers.
    pub feed_forward: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// The Q-Former's sizes.
    pub qformer: QFormerDims,
    /// Width of an image embedding: the decoder's.
    pub projection_dim: usize,
}

/// Sizes of the Q-Former.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QFormerDims {
    /// Query tokens: embeddings that an image becomes.
    pub queries: usize,
    /// Features of a query.
    pub width: usize,
    /// Width of the feed-forward layers.
    pub feed_forward: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads of a layer.
    pub heads: usize,
    /// Layers 0, n, 2n, … attend to the image.
    pub cross_attention_interval: usize,
}

impl VisionDims {
    /// Patches on a side at most.
    const MAX_GRID: usize = 128;

    /// Patches on a side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Image tokens: the class token and one a patch.
    pub fn tokens(&self) -> usize {
        1 + self.grid() * self.grid()
    }

    /// Image embeddings: what an image costs the decoder, whatever its size.
    pub fn query_count(&self) -> usize {
        self.qformer.queries
    }

    /// What most scratch memory is needed for.
    fn most_scratch(&self) -> Most {
        Most {
            inputs: self.width.max(self.feed_forward).max(self.qformer.width).max(self.qformer.feed_forward),
            head: (self.width / self.heads).max(self.qformer.width / self.qformer.heads),
            tokens: self.tokens().max(self.qformer.queries),
        }
    }

    /// Reads and checks the sizes, so that every product of a few of them fits 64 bits.
    fn read(file: &Gguf) -> Result<VisionDims> {
        let size = |key: &str, max: usize| -> Result<usize> {
            match file.u32(key)? as usize {
                n if (1..=max).contains(&n) => Ok(n),
                n => Err(refuse(file, format!("its {key} is {n}; this build takes 1 to {max}"))),
            }
        };
        let dims = VisionDims {
            image_size: size("clip.vision.image_size", 8192)?,
            patch_size: size("clip.vision.patch_size", 256)?,
            width: size("clip.vision.embedding_length", 1 << 14)?,
            feed_forward: size("clip.vision.feed_forward_length", 1 << 16)?,
            layers: size("clip.vision.block_count", 512)?,
            heads: size("clip.vision.attention.head_count", 1 << 14)?,
            qformer: QFormerDims {
                queries: size("tinygptv.qformer.query_count", 1024)?,
                width: size("tinygptv.qformer.embedding_length", 1 << 14)?,
                feed_forward: size("tinygptv.qformer.feed_forward_length", 1 << 16)?,
                layers: size("tinygptv.qformer.block_count", 512)?,
                heads: size("tinygptv.qformer.head_count", 1 << 14)?,
                cross_attention_interval: size("tinygptv.qformer.cross_attention_interval", 512)?,
            },
            projection_dim: size("clip.vision.projection_dim", 1 << 16)?,
        };
        let divides = |part: usize, whole: usize, what: &str| match whole % part {
            0 => Ok(()),
            _ => Err(refuse(file, format!("its {what}: {whole} is not a multiple of {part}"))),
        };
        divides(dims.patch_size, dims.image_size, "patches do not fill its images")?;
        divides(dims.heads, dims.width, "attention heads do not share its width")?;
        divides(dims.qformer.heads, dims.qformer.width, "Q-Former's heads do not share its width")?;
        if dims.grid() > Self::MAX_GRID {
            return Err(refuse(
                file,
                format!(
                    "its images have {0}×{0} patches; this build takes at most {1}×{1}",
                    dims.grid(),
                    Self::MAX_GRID
                ),
            ));
        }
        Ok(dims)
    }

    /// Floats of a matrix in panels.
    fn floats(&self, shape: PanelShape, rows: usize, tokens: usize) -> Result<usize> {
        shape.floats(rows, tokens).filter(|n| n.checked_mul(4).is_some()).ok_or_else(|| Self::too_large(rows, tokens))
    }

    fn too_large(rows: usize, tokens: usize) -> Error {
        Error::OutOfMemory(format!("{rows}×{tokens} numbers do not fit this machine's address space").into())
    }
}

/// What a caller of a long computation may have: a way to stop it, and to hear how far it is.
#[derive(Default)]
pub struct Control<'a> {
    /// Set, from any thread and at any time, to stop the computation within a few milliseconds.
    pub cancel: Option<&'a AtomicBool>,
    /// Called on the calling thread between layers with the fraction done, by floating point operations: rising, at last 1.
    /// Return false to stop.
    pub progress: Option<&'a mut dyn FnMut(f32) -> bool>,
}

/// How exactly to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As exactly as the weights deserve: a model whose layers are all Q8_0 is computed with activations rounded to 8 bits, too,
    /// or to bfloat16 on processors with AMX, which is several times faster. There BF16 weights are multiplied in bfloat16 as
    /// well; any others in f32.
    #[default]
    Auto,
    /// In f32 whatever the weights are.
    Exact,
}

/// What comes out of each part of the encoder for one picture, row-major. For tests and for finding differences.
#[derive(Clone, Debug, PartialEq)]
pub struct Stages {
    /// `[tokens, width]`: the image encoder's last block.
    pub vit: Vec<f32>,
    /// `[tokens, width]`: its LayerNorm, which the Q-Former sees; Q8_0 files may have rescaled channels.
    pub ln_vision: Vec<f32>,
    /// `[queries, Q-Former width]`.
    pub qformer: Vec<f32>,
    /// `[queries, projection_dim]`: the image embeddings.
    pub projected: Vec<f32>,
}

/// A part of the encoder whose result can be looked at.
#[derive(Clone, Copy)]
enum Stage {
    Vit,
    LnVision,
    QFormer,
}

/// The vision half of a model, ready to encode. Immutable; several threads may encode at once (they take turns on the
/// thread pool).
pub struct VisionEncoder {
    path: PathBuf,
    dims: VisionDims,
    image_mean: [f32; 3],
    image_std: [f32; 3],
    vit: Vit,
    ln_vision: Norm,
    qformer: QFormer,
    projection: Projection,
    kernels: Kernels,
    pool: Arc<ThreadPool>,
}

impl VisionEncoder {
    /// [`load_with`](Self::load_with) automatic precision.
    ///
    /// # Errors
    /// As `load_with`.
    pub fn load(file: &Gguf, pool: Arc<ThreadPool>) -> Result<VisionEncoder> {
        Self::load_with(file, pool, Precision::Auto)
    }

    /// Checks a vision file's metadata and tensors and prepares to encode on `pool`. Linear weights stay mapped.
    ///
    /// # Errors
    /// [`Error::UnsupportedModel`] when a key or tensor is missing, unknown, or of a size or type that this build does not
    /// take; [`Error::BadModelFile`] when a small tensor holds numbers that are not finite; [`Error::OutOfMemory`].
    pub fn load_with(file: &Gguf, pool: Arc<ThreadPool>, precision: Precision) -> Result<VisionEncoder> {
        Self::load_for(file, pool, Kernels::best(precision == Precision::Exact, &weights::layer_types(file)))
    }

    fn load_for(file: &Gguf, pool: Arc<ThreadPool>, kernels: Kernels) -> Result<VisionEncoder> {
        let projector = if file.has("clip.projector_type") { file.str("clip.projector_type")? } else { "" };
        if file.str("general.architecture")? != "clip" || projector != "tinygptv" {
            return Err(refuse(
                file,
                format!(
                    "it is not a TinyGPT-V vision file (general.architecture is '{}', clip.projector_type '{projector}'); pass \
                     the vision file that tinygptv-convert wrote",
                    file.str("general.architecture")?
                ),
            ));
        }
        for key in ["clip.has_vision_encoder", "clip.use_gelu"] {
            if !file.bool(key)? {
                return Err(refuse(file, format!("its {key} is false; this build takes only true")));
            }
        }
        let dims = VisionDims::read(file)?;
        let epsilon = |key: &str| match file.f32(key)? {
            e if e > 0.0 && e <= 1.0 => Ok(e),
            e => Err(refuse(file, format!("its {key} is {e}; this build takes more than 0 and at most 1"))),
        };
        let colours = |key: &str| match file.f32_array(key)?.as_slice() {
            &[r, g, b] if [r, g, b].iter().all(|v| v.is_finite()) => Ok([r, g, b]),
            other => Err(refuse(file, format!("its {key} is {other:?}; it must be three finite numbers"))),
        };
        let image_std = colours("clip.vision.image_std")?;
        if !image_std.iter().all(|&s| s > 0.0) {
            return Err(refuse(file, format!("its clip.vision.image_std is {image_std:?}; it must be above 0")));
        }
        let kernels = kernels.suited(&weights::layer_types(file));
        let shape = PanelShape::of(kernels.float);
        Sizes::new(&dims, kernels)?;
        let mut weights = Weights::new(file);
        let encoder = VisionEncoder {
            path: file.path().to_owned(),
            dims,
            image_mean: colours("clip.vision.image_mean")?,
            image_std,
            vit: Vit::load(&mut weights, &dims, epsilon("clip.vision.attention.layer_norm_epsilon")?, shape)?,
            ln_vision: weights.norm("v.post_ln", dims.width, epsilon("tinygptv.vision.post_layer_norm_epsilon")?)?,
            qformer: QFormer::load(&mut weights, &dims, epsilon("tinygptv.qformer.layer_norm_epsilon")?)?,
            projection: Projection::load(&mut weights, &dims)?,
            kernels,
            pool,
        };
        weights.finish()?;
        Ok(encoder)
    }

    /// The sizes.
    pub fn dims(&self) -> &VisionDims {
        &self.dims
    }

    /// The instruction sets in use, for logs.
    pub fn instruction_set(&self) -> String {
        self.kernels.name()
    }

    /// Floating point operations of an image.
    pub fn flops(&self) -> f64 {
        let (tokens, queries) = (self.dims.tokens(), self.dims.query_count());
        self.vit.flops(tokens) + self.qformer.flops(queries, tokens) + self.projection.flops(queries)
    }

    /// Bytes of working memory that a call of [`encode`](Self::encode) holds besides its result and input.
    pub fn workspace_bytes(&self) -> usize {
        let sizes = Sizes::new(&self.dims, self.kernels).map_or(usize::MAX, |s| s.floats());
        let scratch = Exec::scratch_floats(self.kernels, self.dims.most_scratch()) * self.pool.threads();
        sizes.saturating_add(scratch).saturating_mul(4)
    }

    /// The image embeddings of a picture: `[query_count, projection_dim]`, row-major.
    ///
    /// The picture is resized and normalised as [`preprocess`] does.
    ///
    /// # Errors
    /// [`Error::Cancelled`], [`Error::OutOfMemory`]; [`Error::BadModelFile`] when the weights make numbers that are not
    /// finite.
    pub fn encode(&self, image: &Image, control: Control) -> Result<Vec<f32>> {
        self.encode_pixels(&self.preprocess(image)?, control)
    }

    /// [`encode`](Self::encode) from normalised pixels `[3, image_size, image_size]`.
    ///
    /// # Errors
    /// As `encode`, and [`Error::InvalidArgument`] when `pixels` has another length or numbers that are not finite.
    pub fn encode_pixels(&self, pixels: &[f32], control: Control) -> Result<Vec<f32>> {
        self.forward(pixels, control, &mut |_, _| Ok(()))
    }

    /// As [`encode`](Self::encode), with what every part gave.
    ///
    /// # Errors
    /// As `encode`.
    pub fn encode_stages(&self, image: &Image, control: Control) -> Result<Stages> {
        let (mut vit, mut ln_vision, mut qformer) = (Vec::new(), Vec::new(), Vec::new());
        let projected = self.forward(&self.preprocess(image)?, control, &mut |stage, values| {
            let slot = match stage {
                Stage::Vit => &mut vit,
                Stage::LnVision => &mut ln_vision,
                Stage::QFormer => &mut qformer,
            };
            *slot = values.to_rows()?;
            Ok(())
        })?;
        Ok(Stages { vit, ln_vision, qformer, projected })
    }

    /// The normalised pixels `[3, image_size, image_size]` that the encoder sees of an image.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn preprocess(&self, image: &Image) -> Result<Vec<f32>> {
        preprocess(image, self.dims.image_size, self.image_mean, self.image_std)
    }

    fn forward(
        &self,
        pixels: &[f32],
        control: Control,
        look: &mut dyn FnMut(Stage, &Panels) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let (dims, size) = (&self.dims, self.dims.image_size);
        if pixels.len() != 3 * size * size || !pixels.iter().all(|v| v.is_finite()) {
            return Err(Error::InvalidArgument(format!(
                "pixels must be 3·{size}·{size} = {} finite numbers, planes of red, green and blue; got {}",
                3 * size * size,
                pixels.len()
            )));
        }
        let mut meter = Meter { done: 0.0, total: self.flops(), cancel: control.cancel, progress: control.progress };
        meter.check()?;
        let exec = Exec::new(&self.pool, self.kernels, dims.most_scratch(), control.cancel)?;
        let shape = PanelShape::of(self.kernels.float);
        let mut workspace = Workspace::new(dims, self.kernels)?;
        let (tokens, queries) = (dims.tokens(), dims.query_count());

        let mut vit = VitMemory {
            x: Panels::over(&mut workspace.x, dims.width, tokens, shape),
            h: &mut workspace.h,
            wide: &mut workspace.wide,
            prepared: &mut workspace.prepared,
        };
        self.vit.forward(&exec, &mut meter, pixels, size, &mut vit)?;
        look(Stage::Vit, &vit.x)?;
        let mut features = Panels::over(vit.h, dims.width, tokens, shape);
        self.ln_vision.apply(&exec, &vit.x, &mut features)?;
        look(Stage::LnVision, &features)?;

        let mut qformer = QFormerMemory {
            x: Panels::over(&mut workspace.query_x, dims.qformer.width, queries, shape),
            h: &mut workspace.query_h,
            wide: &mut workspace.query_wide,
            image: vit.wide,
            prepared: &mut workspace.query_prepared,
            prepared_image: vit.prepared,
        };
        self.qformer.forward(&exec, &mut meter, &features, &mut qformer)?;
        look(Stage::QFormer, &qformer.x)?;

        let mut projected = Panels::over(qformer.wide, dims.projection_dim, queries, shape);
        self.projection.forward(&exec, &mut meter, &qformer.x, &mut projected)?;
        let out = projected.to_rows()?;
        if !out.iter().all(|v| v.is_finite()) {
            return Err(Error::bad_file(
                &self.path,
                "its weights make image embeddings that are not finite numbers; convert the model again from sound weights",
            ));
        }
        Ok(out)
    }
}

impl std::fmt::Debug for VisionEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VisionEncoder({}, {:?}, {})", self.path.display(), self.dims, self.instruction_set())
    }
}

/// Floats in each working buffer.
struct Sizes {
    x: usize,
    h: usize,
    wide: usize,
    prepared: usize,
    query_x: usize,
    query_h: usize,
    query_wide: usize,
    query_prepared: usize,
}

impl Sizes {
    fn new(dims: &VisionDims, kernels: Kernels) -> Result<Sizes> {
        let (tokens, queries) = (dims.tokens(), dims.query_count());
        let panels = |rows: usize, tokens: usize| dims.floats(PanelShape::of(kernels.float), rows, tokens);
        let prepared = |rows: usize, tokens: usize| {
            Exec::prepared_floats(kernels, rows, tokens).ok_or_else(|| VisionDims::too_large(rows, tokens))
        };
        let room = |rows: usize, tokens: usize| {
            Exec::room(kernels, rows, tokens).ok_or_else(|| VisionDims::too_large(rows, tokens))
        };
        // Several matrices in the same memory.
        let rooms = |count: usize, rows: usize, tokens: usize| {
            room(rows, tokens)?.checked_mul(count).ok_or_else(|| VisionDims::too_large(count * rows, tokens))
        };
        let qformer = &dims.qformer;
        Ok(Sizes {
            x: panels(dims.width, tokens)?,
            h: room(dims.width, tokens)?,
            wide: room(Vit::middle_rows(dims), tokens)?
                .max(rooms(2, qformer.width, tokens)?)
                .max(prepared(dims.feed_forward, tokens)?),
            prepared: prepared(dims.width, tokens)?,
            query_x: panels(qformer.width, queries)?,
            query_h: room(qformer.width, queries)?,
            query_wide: room(qformer.feed_forward, queries)?
                .max(rooms(3, qformer.width, queries)?)
                .max(panels(dims.projection_dim, queries)?),
            query_prepared: prepared(qformer.width, queries)?,
        })
    }

    fn floats(&self) -> usize {
        let Sizes { x, h, wide, prepared, query_x, query_h, query_wide, query_prepared } = *self;
        [x, h, wide, prepared, query_x, query_h, query_wide, query_prepared].into_iter().fold(0, usize::saturating_add)
    }
}

/// The working buffers of one encoding, reused by all layers.
struct Workspace {
    x: Buffer,
    h: Buffer,
    wide: Buffer,
    prepared: Buffer,
    query_x: Buffer,
    query_h: Buffer,
    query_wide: Buffer,
    query_prepared: Buffer,
}

impl Workspace {
    fn new(dims: &VisionDims, kernels: Kernels) -> Result<Workspace> {
        let sizes = Sizes::new(dims, kernels)?;
        Ok(Workspace {
            x: Buffer::zeroed(sizes.x)?,
            h: Buffer::zeroed(sizes.h)?,
            wide: Buffer::zeroed(sizes.wide)?,
            prepared: Buffer::zeroed(sizes.prepared)?,
            query_x: Buffer::zeroed(sizes.query_x)?,
            query_h: Buffer::zeroed(sizes.query_h)?,
            query_wide: Buffer::zeroed(sizes.query_wide)?,
            query_prepared: Buffer::zeroed(sizes.query_prepared)?,
        })
    }
}

/// Counts operations done and tells the caller.
struct Meter<'a> {
    done: f64,
    total: f64,
    cancel: Option<&'a AtomicBool>,
    progress: Option<&'a mut dyn FnMut(f32) -> bool>,
}

impl Meter<'_> {
    /// # Errors
    /// [`Error::Cancelled`] when the caller wants to stop.
    fn advance(&mut self, flops: f64) -> Result<()> {
        self.done += flops;
        if let Some(progress) = &mut self.progress {
            if !progress((self.done / self.total).min(1.0) as f32) {
                return Err(Error::Cancelled);
            }
        }
        self.check()
    }

    fn check(&self) -> Result<()> {
        match self.cancel {
            Some(flag) if flag.load(Ordering::Relaxed) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }
}

fn refuse(file: &Gguf, problem: String) -> Error {
    Error::unsupported(file.path(), problem)
}

#[cfg(test)]
mod tests {
    use super::testing::{Key, TestFile};
    use super::*;
    use crate::gguf::TensorType;

    const F32: TensorType = TensorType::F32;

    fn load(file: &TestFile) -> Result<VisionEncoder> {
        VisionEncoder::load(&file.write().file, Arc::new(ThreadPool::new(2)))
    }

    fn picture() -> Image {
        let pixels: Vec<u8> = (0..50 * 40 * 3).map(|i| (i * i / 7 % 256) as u8).collect();
        Image::from_pixels(&pixels, 50, 40, 0, crate::image::PixelFormat::Rgb).unwrap()
    }

    fn distance(a: &[f32], b: &[f32]) -> f64 {
        assert_eq!(a.len(), b.len());
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
        norm(&mut a.iter().zip(b).map(|(a, b)| (a - b) as f64)) / norm(&mut b.iter().map(|&b| b as f64))
    }

    #[test]
    fn kernels_and_thread_counts_agree() {
        for ty in [F32, TensorType::F16, TensorType::BF16, TensorType::Q8_0] {
            let file = TestFile::small_model(ty).write();
            // With and without rounding below f32; the latter is seen first.
            let mut first: Option<Stages> = None;
            let mut kernels = Kernels::all();
            kernels.sort_by_key(|k| !k.is_exact());
            for kernels in kernels {
                let mut alone: Option<Stages> = None;
                for threads in [1, 2, 5] {
                    let pool = Arc::new(ThreadPool::new(threads));
                    let encoder = VisionEncoder::load_for(&file.file, pool, kernels).unwrap();
                    assert!(encoder.workspace_bytes() > 0);
                    let stages = encoder.encode_stages(&picture(), Control::default()).unwrap();
                    assert_eq!(encoder.encode(&picture(), Control::default()).unwrap(), stages.projected);
                    assert_eq!(stages.vit.len(), 122 * 32);
                    assert_eq!(stages.projected.len(), 5 * 40);
                    let alone = alone.get_or_insert_with(|| stages.clone());
                    assert_eq!(*alone, stages, "{} threads", threads);
                    let first = first.get_or_insert_with(|| stages.clone());
                    for (a, b) in [
                        (&stages.vit, &first.vit),
                        (&stages.ln_vision, &first.ln_vision),
                        (&stages.qformer, &first.qformer),
                        (&stages.projected, &first.projected),
                    ] {
                        let limit = if kernels.suited(&[ty]).is_exact() { 1e-5 } else { 3e-2 };
                        assert!(distance(a, b) < limit, "{} {ty:?}: {}", kernels.name(), distance(a, b));
                    }
                }
            }
        }
    }

    #[test]
    fn progress_rises_to_one_and_can_stop() {
        let encoder = load(&TestFile::small_model(F32)).unwrap();
        let mut seen = Vec::new();
        let mut note = |done: f32| {
            seen.push(done);
            true
        };
        encoder.encode(&picture(), Control { cancel: None, progress: Some(&mut note) }).unwrap();
        assert_eq!(seen.len(), 1 + 2 + 3 + 1);
        assert!(seen.windows(2).all(|w| w[0] < w[1]) && *seen.last().unwrap() > 0.9999, "{seen:?}");
        let mut calls = 0;
        let mut stop = |_: f32| {
            calls += 1;
            calls < 2
        };
        let result = encoder.encode(&picture(), Control { cancel: None, progress: Some(&mut stop) });
        assert!(matches!(result, Err(Error::Cancelled)) && calls == 2);
        let flag = AtomicBool::new(true);
        let result = encoder.encode(&picture(), Control { cancel: Some(&flag), progress: None });
        assert!(matches!(result, Err(Error::Cancelled)));
        // Set while layers run: the next tasks are skipped.
        let flag = AtomicBool::new(false);
        let mut set = |_: f32| {
            flag.store(true, Ordering::Relaxed);
            true
        };
        let result = encoder.encode(&picture(), Control { cancel: Some(&flag), progress: Some(&mut set) });
        assert!(matches!(result, Err(Error::Cancelled)));
    }

    #[test]
    fn encodes_from_several_threads() {
        let encoder = load(&TestFile::small_model(TensorType::F16)).unwrap();
        let expected = encoder.encode(&picture(), Control::default()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        assert_eq!(encoder.encode(&picture(), Control::default()).unwrap(), expected);
                    }
                });
            }
        });
    }

    #[test]
    fn refuses_pixels_that_do_not_fit() {
        let encoder = load(&TestFile::small_model(F32)).unwrap();
        for pixels in [vec![], vec![0.0; 3 * 33 * 33 - 1], vec![f32::NAN; 3 * 33 * 33]] {
            assert!(matches!(encoder.encode_pixels(&pixels, Control::default()), Err(Error::InvalidArgument(_))));
        }
        encoder.encode_pixels(&[0.1; 3 * 33 * 33], Control::default()).unwrap();
    }

    #[test]
    fn resizes_position_embeddings_of_another_grid() {
        let mut file = TestFile::small_model(F32);
        let table = file.tensor_mut("v.position_embd.weight");
        table.1[0] = 1 + 4 * 4;
        table.3.truncate(17 * 32);
        load(&file).unwrap().encode(&picture(), Control::default()).unwrap();
        for rows in [1, 2 + 16, 1 + 20 * 10] {
            let table = file.tensor_mut("v.position_embd.weight");
            table.1[0] = rows;
            table.3.resize(rows * 32, 0.0);
            match load(&file) {
                Err(Error::UnsupportedModel { problem, .. }) => {
                    assert!(rows == 2 || problem.contains("square"), "{problem}")
                }
                other => panic!("{rows} rows: {other:?}"),
            }
        }
    }

    #[test]
    fn refuses_bad_metadata() {
        use Key::{Bool, F32s, Text, F32, U32};
        for (key, value, said) in [
            ("general.architecture", Text("phi2"), "not a TinyGPT-V vision file"),
            ("clip.projector_type", Text("mlp"), "not a TinyGPT-V vision file"),
            ("clip.has_vision_encoder", Bool(false), "clip.has_vision_encoder"),
            ("clip.use_gelu", Bool(false), "clip.use_gelu"),
            ("clip.vision.image_size", U32(0), "clip.vision.image_size is 0"),
            ("clip.vision.image_size", U32(34), "not a multiple of 3"),
            ("clip.vision.image_size", U32(3 * 129), "129×129"),
            ("clip.vision.patch_size", U32(u32::MAX), "clip.vision.patch_size"),
            ("clip.vision.embedding_length", U32(1 << 20), "clip.vision.embedding_length"),
            ("clip.vision.embedding_length", U32(64), "where its metadata make it"),
            ("clip.vision.block_count", U32(u32::MAX), "clip.vision.block_count"),
            ("clip.vision.block_count", U32(3), "v.blk.2.ln1.weight"),
            ("clip.vision.block_count", U32(1), "does not know"),
            ("clip.vision.attention.head_count", U32(5), "not a multiple of 5"),
            ("clip.vision.attention.head_count", U32(0), "is 0"),
            ("clip.vision.attention.layer_norm_epsilon", F32(f32::NAN), "NaN"),
            ("tinygptv.vision.post_layer_norm_epsilon", F32(-1.0), "-1"),
            ("tinygptv.qformer.layer_norm_epsilon", F32(f32::INFINITY), "inf"),
            ("clip.vision.image_mean", F32s(vec![0.5; 2]), "clip.vision.image_mean"),
            ("clip.vision.image_std", F32s(vec![0.5, 0.0, 0.5]), "above 0"),
            ("tinygptv.qformer.head_count", U32(7), "not a multiple of 7"),
            ("tinygptv.qformer.cross_attention_interval", U32(0), "is 0"),
            ("tinygptv.qformer.cross_attention_interval", U32(1), "qf.blk.1.cross_q.weight"),
            ("tinygptv.qformer.query_count", U32(6), "qf.query_tokens"),
            ("clip.vision.projection_dim", U32(41), "mm.0.weight"),
        ] {
            match load(&TestFile::small_model(TensorType::F32).set(key, value)) {
                Err(Error::UnsupportedModel { problem, .. }) => assert!(problem.contains(said), "{key}: {problem}"),
                other => panic!("{key}: {other:?}"),
            }
        }
    }

    #[test]
    fn refuses_bad_tensors() {
        let file = TestFile::small_model(F32);
        for name in ["v.post_ln.bias", "qf.blk.2.cross_v.weight", "mm.0.bias", "v.position_embd.weight"] {
            match load(&file.clone().without(name)) {
                Err(Error::UnsupportedModel { problem, .. }) => assert!(problem.contains(name), "{problem}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        for (name, ty, said) in [
            ("v.blk.0.attn_qkv.weight", TensorType::Other(2), "Q4_0"),
            ("v.blk.0.ln1.weight", TensorType::F16, "F16"),
            ("qf.query_tokens", TensorType::BF16, "BF16"),
        ] {
            let mut file = file.clone();
            file.tensor_mut(name).2 = ty;
            match load(&file) {
                Err(Error::UnsupportedModel { problem, .. }) => {
                    assert!(problem.contains(name) && problem.contains(said), "{problem}")
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        for value in [f32::NAN, f32::INFINITY] {
            let mut file = file.clone();
            file.tensor_mut("v.blk.1.ln2.bias").3[3] = value;
            match load(&file) {
                Err(Error::BadModelFile { problem, .. }) => assert!(problem.contains("v.blk.1.ln2.bias"), "{problem}"),
                other => panic!("{other:?}"),
            }
        }
        // Linear weights are not read when loading; what they do shows in the result.
        let mut file = file.clone();
        file.tensor_mut("mm.0.weight").3[5] = f32::NAN;
        let encoder = load(&file).unwrap();
        assert!(matches!(encoder.encode(&picture(), Control::default()), Err(Error::BadModelFile { .. })));
    }
}
