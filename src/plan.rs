//! How much memory a model and its sessions take, told before anything is allocated.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::decoder::{self, DecoderModel, KvType};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::{Files, ModelOptions, Profile};
use crate::processors::default_threads;
use crate::session::SessionOptions;
use crate::threads::ThreadPool;
use crate::vision::VisionEncoder;

/// Vocabulary tables of llama.cpp and of our tokenizer, a token.
const BYTES_PER_TOKEN: u64 = 850;
/// What every loaded model takes besides.
const MODEL_BASE: u64 = 4 << 20;
/// What every context takes besides: graph nodes, thread stacks in use, allocator slack.
const SESSION_BASE: u64 = 16 << 20;

/// Memory in bytes. All but `mapped` is private to the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Pages of the two files. The system may drop them at any time and shares them between processes.
    pub mapped: u64,
    /// A loaded model: vocabulary, small tensors, and the weights that are copied.
    pub model: u64,
    /// The embedding cache, when it is full.
    pub cache: u64,
    /// Encoding an image, while it lasts.
    pub encode: u64,
    /// One session: the KV cache and what computing needs.
    pub session: u64,
}

impl MemoryPlan {
    /// Private bytes with one session, while an image is encoded.
    pub fn private(&self) -> u64 {
        [self.cache, self.encode, self.session].into_iter().fold(self.model, u64::saturating_add)
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |n: u64| n.div_ceil(1_000_000);
        write!(
            f,
            "model {} MB, embedding cache {} MB, encoding {} MB, session {} MB, and {} MB mapped",
            megabytes(self.model),
            megabytes(self.cache),
            megabytes(self.encode),
            megabytes(self.session),
            megabytes(self.mapped)
        )
    }
}

/// Figures of a model and one session, from the files' headers alone.
///
/// # Errors
/// As [`crate::Model::load`] for files that are not usable, as [`crate::Session::new`] for the context.
pub fn plan(
    decoder: &Path,
    vision: Option<&Path>,
    options: &ModelOptions,
    session: &SessionOptions,
) -> Result<MemoryPlan> {
    let decoder = Gguf::open(decoder)?;
    let shape = decoder::shape_of(&decoder, &decoder::validate(&decoder)?);
    let file = vision.map(Gguf::open).transpose()?;
    let pool = Arc::new(ThreadPool::new(options.threads()));
    let encoder = file.as_ref().map(|file| VisionEncoder::load_with(file, pool, options.precision)).transpose()?;
    let mut plan = of_model(&decoder, &shape, file.as_ref().zip(encoder.as_ref()), options);
    plan.session = of_session(&shape, session.context(shape.context)?, session.kv_type);
    Ok(plan)
}

/// A model without sessions.
pub(crate) fn of_model(
    file: &Gguf,
    shape: &decoder::Shape,
    vision: Option<(&Gguf, &VisionEncoder)>,
    options: &ModelOptions,
) -> MemoryPlan {
    let repacked = options.profile == Profile::Fast && decoder::repacking_helps(file);
    let copied = match options.files {
        Files::Mapped if !repacked => 0,
        _ => file.tensors().iter().map(|t| t.size_bytes as u64).sum(),
    };
    let mut plan =
        MemoryPlan { model: MODEL_BASE + shape.vocabulary * BYTES_PER_TOKEN + copied, ..MemoryPlan::default() };
    if options.files == Files::Mapped {
        plan.mapped = file.file_size();
    }
    if let Some((file, encoder)) = vision {
        add_vision(&mut plan, file, encoder, options);
    }
    plan
}

fn add_vision(plan: &mut MemoryPlan, file: &Gguf, encoder: &VisionEncoder, options: &ModelOptions) {
    let dims = encoder.dims();
    let pixels = 3 * dims.image_size * dims.image_size;
    match options.files {
        Files::Mapped => plan.mapped += file.file_size(),
        Files::Copied => plan.model += file.file_size(),
    }
    // Every tensor of one dimension is copied; the position table is resized to the image's grid.
    let small: usize = file.tensors().iter().filter(|t| t.shape.len() == 1).map(|t| t.size_bytes).sum();
    plan.model += (small + 4 * dims.tokens() * dims.width) as u64;
    plan.cache = options.embedding_cache_bytes() as u64;
    plan.encode = (encoder.workspace_bytes() + 4 * pixels + 4 * dims.query_count() * dims.projection_dim) as u64;
}

/// Refuses, before anything is read, files whose copies alone are beyond a limit of private memory; 0 is none.
pub(crate) fn check_copies(files: [Option<&Path>; 2], limit: u64) -> Result<()> {
    // A file that cannot be looked at is told by who opens it.
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let model = files.into_iter().flatten().map(size).fold(0, u64::saturating_add);
    Budget::new(limit, MemoryPlan { model, ..MemoryPlan::default() }).map(drop)
}

/// KV cache and buffers of a context. The KV cache is exact; the buffers are an upper estimate of what llama.cpp's graph of a
/// transformer takes for a batch of the largest size.
pub(crate) fn of_session(shape: &decoder::Shape, context: usize, kv_type: KvType) -> u64 {
    let (number, scores) = match kv_type {
        KvType::F16 => (2, 0),
        // Attention without fusion keeps all scores of a batch.
        KvType::F32 => (4, shape.heads),
    };
    // llama.cpp rounds the context up.
    let context = (context as u64).next_multiple_of(256);
    let batch = decoder::MICRO_BATCH as u64;
    let kv = shape.layers.saturating_mul(shape.kv_width).saturating_mul(context * number);
    let activations = 4 * batch * (shape.feed_forward + 4 * shape.width);
    // Right-hand sides of products in 8 bits twice, or in bfloat16; and the rows that a thread unpacks to bfloat16.
    let operands = shape.feed_forward * (5 * batch / 2 + 64 * default_threads() as u64);
    let masks = 6 * batch * context + 4 * batch * context * scores;
    let logits = 2 * 4 * shape.vocabulary * decoder::MAX_OUTPUTS as u64;
    SESSION_BASE + kv + activations + operands + masks + logits
}

/// Private memory that a model and its sessions may take together.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    plan: MemoryPlan,
    sessions: AtomicU64,
}

/// A session's share of a budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// For a model with this plan; a limit of 0 is none.
    ///
    /// # Errors
    /// `OutOfMemory` when the model alone takes more.
    pub(crate) fn new(limit: u64, plan: MemoryPlan) -> Result<Budget> {
        let budget = Budget { limit, plan, sessions: AtomicU64::new(0) };
        budget.check(0, plan)?;
        Ok(budget)
    }

    /// Takes a session's share.
    ///
    /// # Errors
    /// `OutOfMemory` when it is beyond the limit.
    pub(crate) fn take(self: &Arc<Budget>, bytes: u64) -> Result<Share> {
        let before = self.sessions.fetch_add(bytes, Ordering::Relaxed);
        let share = Share { budget: self.clone(), bytes };
        self.check(before, MemoryPlan { session: bytes, ..self.plan })?;
        Ok(share)
    }

    fn check(&self, others: u64, plan: MemoryPlan) -> Result<()> {
        let needed = plan.private().saturating_add(others);
        if self.limit == 0 || needed <= self.limit {
            return Ok(());
        }
        let megabytes = |n: u64| n.div_ceil(1_000_000);
        Err(Error::OutOfMemory(format!(
            "{} MB of private memory are needed and {} MB are allowed ({plan}; other sessions {} MB); use a smaller context, a \
             smaller embedding cache or a higher memory limit",
            megabytes(needed),
            megabytes(self.limit),
            megabytes(others)
        ).into()))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.sessions.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl DecoderModel {
    /// What a session of this decoder takes.
    pub(crate) fn session_bytes(&self, context: usize, kv_type: KvType) -> u64 {
        of_session(self.shape(), context, kv_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Full-size Phi-2.
    const PHI2: decoder::Shape = decoder::Shape {
        layers: 32,
        width: 2560,
        feed_forward: 10240,
        heads: 32,
        kv_width: 2 * 2560,
        vocabulary: 51200,
        context: 2048,
    };

    #[test]
    fn the_kv_cache_of_full_size() {
        // 2 x 32 layers x 2560 x 2 bytes = 320 KiB a position.
        let with = |context| of_session(&PHI2, context, KvType::F16);
        let masks = 6 * 512 * (2048 - 1024);
        assert_eq!(with(2048) - with(1024), 1024 * 320 * 1024 + masks);
        assert!(with(2048) > 640 << 20 && with(2048) < 800 << 20, "{}", with(2048));
        assert_eq!(with(2048), with(1800), "rounded up");
        assert!(of_session(&PHI2, 2048, KvType::F32) > 1280 << 20);
    }

    #[test]
    fn budgets_are_kept_and_given_back() {
        let plan = MemoryPlan { mapped: 1 << 40, model: 10, cache: 20, encode: 30, session: 0 };
        assert!(matches!(Budget::new(59, plan), Err(Error::OutOfMemory(_))));
        let budget = Arc::new(Budget::new(100, plan).unwrap());
        let first = budget.take(25).unwrap();
        let told = budget.take(16).unwrap_err().to_string();
        assert!(told.contains("private memory") && told.contains("smaller context"), "{told}");
        let second = budget.take(15).unwrap();
        drop(first);
        budget.take(25).unwrap();
        drop(second);
        budget.take(40).unwrap();
        assert!(budget.take(41).is_err() && budget.take(u64::MAX).is_err());
        Arc::new(Budget::new(0, plan).unwrap()).take(1 << 50).unwrap();
    }
}
