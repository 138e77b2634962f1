//! A pair of random weights: the sizes, spread and outliers of a trained model, without one. For benchmarks and load tests.

mod checkpoint;
mod dimensions;
pub mod draw;
mod vocabulary;

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::output::Progress;
use crate::phi2::{Base, DecoderOptions};
use crate::plan::{Ingredient, PlanOptions};
use crate::prompts::Prompts;
use crate::result::ResultOptions;
use crate::source::{hex, Sources};
use crate::vision::VisionOptions;

pub use dimensions::Dimensions;

/// What to make.
pub struct SynthOptions {
    /// Sizes of the model.
    pub dimensions: Dimensions,
    /// Training stage that it passes for: prompts and the side of a picture.
    pub stage: u32,
    /// Side of the picture in pixels.
    pub image_size: Option<usize>,
    /// Channels before each matrix that carry about a hundred times as much as the others.
    pub outliers: usize,
    /// Another seed, other numbers.
    pub seed: u64,
}

impl SynthOptions {
    /// Everything that the numbers depend on, in one line.
    fn describe(&self) -> String {
        format!("synthetic 1, seed {}, outliers {}, {}", self.seed, self.outliers, self.dimensions)
    }
}

/// Makes the pair. Returns the text for stdout: the plan or the summary.
pub fn synth(options: &SynthOptions, results: &ResultOptions, progress: &Progress) -> Result<String> {
    let d = &options.dimensions;
    let tensors = checkpoint::tensors(d, options.outliers, options.seed, results.threads)?;
    results.prepare()?;
    let base = Base::Memory { config: d.config(), tokenizer: vocabulary::tokenizer_json(d.vocabulary)? };
    let plan = PlanOptions {
        name: results.name.clone(),
        stage: options.stage,
        decoder: DecoderOptions::default(),
        vision: VisionOptions {
            image_size: options.image_size,
            vit_heads: Some(d.vit_heads),
            vit_blocks: Some(d.vit_blocks),
            qformer_heads: Some(d.qf_heads),
        },
        prompts: Prompts::new(options.stage, &[], None)?,
        allow_unknown: false,
    };
    let name = options.describe();
    let hash = hex(&Sha256::digest(&name));
    let ingredient = Ingredient { role: "synthetic".into(), name, hash };
    crate::run(&mut Sources::of_tensors(tensors), &base, &plan, results, progress, |_| Ok(vec![ingredient]))
}
