//! A loaded model: validated files, vision encoder, decoder weights, tokenizer and prompts. Immutable and shared.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::{self, EmbeddingCache};
use crate::decoder::{self, DecoderModel, LoadOptions, Sampling};
use crate::embedding::Embedding;
use crate::embedding_file::{self, VisionId};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Hold};
use crate::image::Image;
use crate::log::{self, Level};
use crate::memory;
use crate::plan::{self, Budget, MemoryPlan};
use crate::processors::{default_threads, ProcessorMask};
use crate::prompt::Templates;
use crate::session::SessionOptions;
use crate::threads::ThreadPool;
use crate::tokenizer::Tokenizer;
use crate::vision::{Control, Precision, VisionEncoder};

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// Threads for image encoding and, unless a session sets its own, for the decoder; 0 takes one for each fast processor.
    pub threads: usize,
    /// Processors that the library's own threads are bound to. The calling thread, which works too, is left alone.
    pub processors: ProcessorMask,
    /// What loading prefers.
    pub profile: Profile,
    /// How the files' weights are held.
    pub files: Files,
    /// Decoder layers to put on a GPU, in builds with a GPU feature.
    pub gpu_layers: u32,
    /// How exactly images are encoded.
    pub precision: Precision,
    /// Private bytes that the model and its sessions may take together, as [`crate::plan::plan`] tells them; 0 is no limit.
    pub memory_limit: u64,
    /// Bytes of image embeddings to keep, so that the same picture is not encoded twice: 32 MiB by default, 0 keeps none.
    pub embedding_cache: Option<usize>,
}

/// What loading prefers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Weights stay memory-mapped as they are in the files: ready at once, and the system can drop and share their pages.
    #[default]
    Mapped,
    /// Decoder weights are copied into another layout where this processor computes faster with it: a longer load and private
    /// memory of the decoder file's size. Where the library's own loops are faster on the file's layout (on x86 with Q4_K,
    /// Q5_K, Q6_K and floating-point weights) this is the same as `Mapped`.
    Fast,
}

/// How the weights of the two files are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Files {
    /// Memory-mapped. The files must not be written to or truncated while the model lives: the process would be killed by a
    /// bus error, or compute with other weights. Replacing a file by renaming another over it is fine.
    #[default]
    Mapped,
    /// Read into private memory of the files' size, so that anything may happen to them once the model is loaded.
    Copied,
}

const DEFAULT_EMBEDDING_CACHE: usize = 32 << 20;

impl ModelOptions {
    pub(crate) fn threads(&self) -> usize {
        match self.threads {
            0 => default_threads(),
            n => n.min(512),
        }
    }

    pub(crate) fn embedding_cache_bytes(&self) -> usize {
        self.embedding_cache.unwrap_or(DEFAULT_EMBEDDING_CACHE)
    }
}

/// Figures of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// `general.name` of the decoder file, or its file name.
    pub name: String,
    /// Decoder architecture.
    pub architecture: String,
    /// Training stage 1–4; 0 when the files do not tell.
    pub stage: u32,
    /// Decoder width: floats of one embedding vector.
    pub embedding_width: usize,
    /// Vectors that an image takes, each one position of the context; 0 without a vision file.
    pub image_tokens: usize,
    /// Side in pixels that images are resized to; 0 without a vision file.
    pub image_size: usize,
    /// Positions the decoder was trained for.
    pub context_length: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Weights of the decoder, in numbers.
    pub decoder_parameters: u64,
    /// Bytes of the two files.
    pub decoder_bytes: u64,
    /// Bytes of the vision file; 0 without one.
    pub vision_bytes: u64,
    /// Threads for image encoding.
    pub threads: usize,
}

/// A model, for any number of sessions on any threads.
pub struct Model {
    decoder: Arc<DecoderModel>,
    tokenizer: Tokenizer,
    vision: Option<VisionEncoder>,
    templates: Templates,
    chat_sampling: Sampling,
    info: ModelInfo,
    cache: EmbeddingCache,
    plan: MemoryPlan,
    budget: Arc<Budget>,
    /// Tells the vision encoder's embeddings from another one's; see [`Model::save_embedding`].
    vision_id: Option<VisionId>,
}

/// Share of the load progress that the decoder file takes; the vision file is mapped, not read.
const DECODER_SHARE: f32 = 0.95;

impl Model {
    /// Loads a decoder file and, for questions about images, its vision file.
    ///
    /// # Errors
    /// `Io` for files that cannot be opened, `BadModelFile` for damaged ones, `UnsupportedModel` for sound files that this
    /// library cannot run, `ModelMismatch` when the two do not belong together.
    pub fn load(decoder: &Path, vision: Option<&Path>, options: &ModelOptions) -> Result<Arc<Model>> {
        Model::load_with_progress(decoder, vision, options, &mut |_| true)
    }

    /// `load` with a callback that gets the fraction done and may ask to stop, which gives `Error::Cancelled`.
    pub fn load_with_progress(
        decoder_path: &Path,
        vision_path: Option<&Path>,
        options: &ModelOptions,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Arc<Model>> {
        options.processors.check()?;
        let (hold_decoder, hold_vision) = match options.files {
            Files::Mapped => (Hold::Mapped, Hold::Mapped),
            Files::Copied => {
                plan::check_copies([Some(decoder_path), vision_path], options.memory_limit)?;
                (Hold::Header, Hold::Copied)
            }
        };
        let decoder_file = Gguf::open_as(decoder_path, hold_decoder)?;
        let vision_file = vision_path.map(|path| Gguf::open_as(path, hold_vision)).transpose()?;
        if let Some(vision_file) = &vision_file {
            check_roles(&decoder_file, vision_file)?;
        }

        let decoder_info = decoder::validate(&decoder_file)?;
        let threads = options.threads();
        let encoder = match &vision_file {
            Some(file) => {
                let pool = Arc::new(options.processors.run(|| ThreadPool::new(threads))?);
                Some(VisionEncoder::load_with(file, pool, options.precision)?)
            }
            None => None,
        };
        let shape = decoder::shape_of(&decoder_file, &decoder_info);
        let plan = plan::of_model(&decoder_file, &shape, vision_file.as_ref().zip(encoder.as_ref()), options);
        let budget = Arc::new(Budget::new(options.memory_limit, plan)?);
        // The vision file's copy is there already.
        let copied = match (options.files, &vision_file) {
            (Files::Copied, Some(file)) => file.file_size(),
            _ => 0,
        };
        memory::check(usize::try_from(plan.model.saturating_sub(copied)).unwrap_or(usize::MAX))?;
        let decoder_options = LoadOptions {
            gpu_layers: options.gpu_layers,
            repack: options.profile == Profile::Fast,
            copy: options.files == Files::Copied,
            processors: options.processors,
        };
        let mut on_decoder = |fraction: f32| progress(fraction * DECODER_SHARE);
        let decoder =
            Arc::new(DecoderModel::load_checked(&decoder_file, decoder_info, &decoder_options, &mut on_decoder)?);
        // llama.cpp has opened the file anew, by its path.
        decoder_file.check_unchanged()?;
        let tokenizer = Tokenizer::new(&decoder_file, decoder.clone())?;
        if tokenizer.is_fallback() {
            log::message(Level::Info, "the vocabulary is not GPT-2's kind: llama.cpp tokenises");
        }

        let mut info = ModelInfo {
            name: model_name(&decoder_file),
            architecture: decoder.info().architecture.clone(),
            stage: 0,
            embedding_width: decoder.width(),
            image_tokens: 0,
            image_size: 0,
            context_length: decoder.context_length(),
            vocabulary: decoder.info().n_vocab,
            decoder_parameters: decoder.n_params(),
            decoder_bytes: decoder_file.file_size(),
            vision_bytes: 0,
            threads,
        };
        let mut templates = Templates::text_only();
        let mut chat_sampling = Sampling { greedy: false, ..Sampling::default() };
        let mut vision = None;
        if let (Some(file), Some(encoder)) = (&vision_file, encoder) {
            if encoder.dims().projection_dim != decoder.width() {
                return Err(Error::ModelMismatch(format!(
                    "the vision file '{}' makes vectors of {} floats and the decoder '{}' takes {}; use the two files of \
                     one conversion",
                    file.path().display(),
                    encoder.dims().projection_dim,
                    decoder_path.display(),
                    decoder.width()
                )));
            }
            templates = Templates::from_gguf(file)?;
            chat_sampling = read_sampling(file)?;
            info.stage = if file.has("tinygptv.stage") { file.u32("tinygptv.stage")? } else { 0 };
            info.image_tokens = encoder.dims().query_count();
            info.image_size = encoder.dims().image_size;
            info.vision_bytes = file.file_size();
            vision = Some(encoder);
        }
        if !progress(1.0) {
            return Err(Error::Cancelled);
        }
        let cache = EmbeddingCache::new(options.embedding_cache_bytes());
        let vision_id = vision_file.as_ref().map(VisionId::of);
        Ok(Arc::new(Model {
            decoder,
            tokenizer,
            vision,
            templates,
            chat_sampling,
            info,
            cache,
            plan,
            budget,
            vision_id,
        }))
    }

    /// Figures of the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// One line for a person: name, architecture, sizes.
    pub fn description(&self) -> String {
        let i = &self.info;
        let mut text = format!(
            "{}: {} decoder, {} parameters, {}",
            i.name,
            i.architecture,
            metric(i.decoder_parameters),
            megabytes(i.decoder_bytes)
        );
        if i.image_tokens > 0 {
            text += &format!(
                "; vision {}, images {}×{} px → {} tokens",
                megabytes(i.vision_bytes),
                i.image_size,
                i.image_size,
                i.image_tokens
            );
        }
        if i.stage > 0 {
            text += &format!("; stage {}", i.stage);
        }
        text
    }

    /// Encodes an image into the vectors that stand for it in the decoder's input, or takes them from the cache. Safe from
    /// several threads at once.
    ///
    /// # Errors
    /// `InvalidArgument` when the model was loaded without a vision file, `Cancelled` when `control` asks for it.
    pub fn encode(&self, image: &Image, control: Control) -> Result<Arc<Embedding>> {
        let vision = self.vision.as_ref().ok_or_else(no_vision)?;
        warn_if_squeezed(image, self.info.image_size);
        let pixels = vision.preprocess(image)?;
        let key = self.cache.is_on().then(|| cache::key(&pixels));
        if let Some(known) = key.and_then(|key| self.cache.get(&key)) {
            if control.progress.is_some_and(|progress| !progress(1.0)) {
                return Err(Error::Cancelled);
            }
            return Ok(known);
        }
        let values = vision.encode_pixels(&pixels, control)?;
        let embedding = Arc::new(Embedding::new(values, vision.dims().query_count(), vision.dims().projection_dim)?);
        if let Some(key) = key {
            self.cache.put(key, &embedding);
        }
        Ok(embedding)
    }

    /// Encodes several images one after the other; progress is that of all. All or none: after an error none is returned.
    ///
    /// # Errors
    /// As [`Model::encode`].
    pub fn encode_each(&self, images: &[&Image], control: Control) -> Result<Vec<Arc<Embedding>>> {
        let Control { cancel, mut progress } = control;
        let mut embeddings = Vec::with_capacity(images.len());
        for (i, image) in images.iter().enumerate() {
            let all = images.len() as f32;
            let mut tell = |fraction: f32| progress.as_mut().is_none_or(|tell| tell((i as f32 + fraction) / all));
            embeddings.push(self.encode(image, Control { cancel, progress: Some(&mut tell) })?);
        }
        Ok(embeddings)
    }

    /// How many embeddings the cache holds, and their bytes.
    pub fn cached_embeddings(&self) -> (usize, usize) {
        self.cache.size()
    }

    /// Writes an embedding to a file, for [`Model::load_embedding`] in another run of the program.
    ///
    /// # Errors
    /// `Io`; no file is left half-written.
    pub fn save_embedding(&self, embedding: &Embedding, path: &Path) -> Result<()> {
        embedding_file::save(embedding, self.vision_id.as_ref().ok_or_else(no_vision)?, path)
    }

    /// Reads an embedding that a model with the same vision file saved.
    ///
    /// # Errors
    /// `Io`, `BadEmbeddingFile` for a file that is damaged or something else, `ModelMismatch` for one of another vision file.
    pub fn load_embedding(&self, path: &Path) -> Result<Arc<Embedding>> {
        let embedding = embedding_file::load(self.vision_id.as_ref().ok_or_else(no_vision)?, path)?;
        self.check_width(embedding.width())?;
        Ok(Arc::new(embedding))
    }

    pub(crate) fn check_width(&self, width: usize) -> Result<()> {
        let own = self.info.embedding_width;
        if width != own {
            return Err(Error::InvalidArgument(format!(
                "the embedding has vectors of {width} floats, this model takes {own}; encode the image with this model"
            )));
        }
        Ok(())
    }

    /// Wraps vectors from elsewhere, row-major, as long as they are as wide as the decoder.
    pub fn embedding(&self, values: Vec<f32>) -> Result<Arc<Embedding>> {
        self.check_values(values.len())?;
        let width = self.info.embedding_width;
        let rows = values.len() / width;
        Ok(Arc::new(Embedding::new(values, rows, width)?))
    }

    /// Whether so many floats are whole rows as wide as the decoder.
    pub(crate) fn check_values(&self, count: usize) -> Result<()> {
        let width = self.info.embedding_width;
        if count == 0 || !count.is_multiple_of(width) {
            return Err(Error::InvalidArgument(format!("{count} floats are no rows of this decoder's {width}")));
        }
        Ok(())
    }

    /// How many tokens a text is, without BOS or EOS.
    pub fn count_tokens(&self, text: &str) -> Result<usize> {
        Ok(self.tokenizer.encode(text)?.len())
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The prompt templates.
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// Random sampling as the reference chat of this model's stage does it.
    pub fn chat_sampling(&self) -> Sampling {
        self.chat_sampling
    }

    /// How much memory the model takes, and a session with these options.
    ///
    /// # Errors
    /// `InvalidArgument` for a context that is too long.
    pub fn plan(&self, session: &SessionOptions) -> Result<MemoryPlan> {
        let context = session.context(self.info.context_length)?;
        Ok(MemoryPlan { session: self.decoder.session_bytes(context, session.kv_type), ..self.plan })
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(crate) fn decoder(&self) -> &Arc<DecoderModel> {
        &self.decoder
    }
}

fn no_vision() -> Error {
    Error::InvalidArgument(
        "this model was loaded without a vision file and cannot look at images; load it with one".into(),
    )
}

/// Tells swapped files and files of different models apart before anything is loaded.
fn check_roles(decoder: &Gguf, vision: &Gguf) -> Result<()> {
    let is_clip = |file: &Gguf| file.str("general.architecture").is_ok_and(|a| a == "clip");
    match (is_clip(decoder), is_clip(vision)) {
        (true, false) => Err(Error::ModelMismatch(format!(
            "the two files are swapped: '{}' is the vision file; pass the decoder first and the vision file second",
            decoder.path().display()
        ))),
        (true, true) => Err(Error::ModelMismatch(format!(
            "'{}' is a vision file, not a decoder; pass the decoder .gguf first",
            decoder.path().display()
        ))),
        (false, false) => Err(Error::ModelMismatch(format!(
            "'{}' is a decoder, not a vision file; pass the vision .gguf second",
            vision.path().display()
        ))),
        (false, true) => match (decoder.str("tinygptv.pair_id"), vision.str("tinygptv.pair_id")) {
            (Ok(a), Ok(b)) if a != b => Err(Error::ModelMismatch(format!(
                "'{}' and '{}' come from different conversions; use the two files of one",
                decoder.path().display(),
                vision.path().display()
            ))),
            _ => Ok(()),
        },
    }
}

fn model_name(file: &Gguf) -> String {
    match file.str("general.name") {
        Ok(name) if !name.is_empty() => name.to_owned(),
        _ => PathBuf::from(file.path()).file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned()),
    }
}

fn read_sampling(file: &Gguf) -> Result<Sampling> {
    let mut sampling = Sampling { greedy: false, ..Sampling::default() };
    let number = |name: &str, fallback: f32| {
        let key = format!("tinygptv.sampling.{name}");
        if file.has(&key) {
            file.f32(&key)
        } else {
            Ok(fallback)
        }
    };
    sampling.temperature = number("temperature", sampling.temperature)?;
    sampling.top_p = number("top_p", sampling.top_p)?;
    sampling.repeat_penalty = number("repeat_penalty", sampling.repeat_penalty)?;
    if file.has("tinygptv.sampling.top_k") {
        sampling.top_k = file.u32("tinygptv.sampling.top_k")?;
    }
    sampling.validate().map_err(|e| Error::unsupported(file.path(), format!("its sampling defaults: {e}")))?;
    Ok(sampling)
}

/// The reference resizes without keeping the aspect ratio: a very long picture is accepted, and nobody should wonder why
/// nothing in it is recognised.
fn warn_if_squeezed(image: &Image, side: usize) {
    let (w, h) = (image.width(), image.height());
    if w.max(h) > w.min(h).saturating_mul(8) {
        log::message(
            Level::Warning,
            &format!("the picture of {w}×{h} px is squeezed to {side}×{side}; crop it to see details"),
        );
    }
}

fn metric(n: u64) -> String {
    match n {
        1_000_000_000.. => format!("{:.1} G", n as f64 / 1e9),
        1_000_000.. => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.1} k", n as f64 / 1e3),
    }
}

fn megabytes(n: u64) -> String {
    format!("{:.1} MB", n as f64 / 1e6)
}
