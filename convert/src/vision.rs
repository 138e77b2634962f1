//! The vision file: ViT, ln_vision, Q-Former and the folded projection.

use anyhow::{bail, ensure, Context, Result};

use crate::gguf_writer::{Metadata, Value};
use crate::plan::{Kind, PlannedTensor};
use crate::recipe::{Recipe, Run};
use crate::source::Sources;

const VIT: &str = "visual_encoder";
const QFORMER: &str = "Qformer.bert";
/// Width of the real ViT; the rules for what shapes cannot tell hang on it.
const FULL_VIT_WIDTH: usize = 1408;
/// The file of the real ViT may hold a 40th block, which TinyGPT-V does not use.
const FULL_VIT_BLOCKS: usize = 39;

const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// What the command line may override.
#[derive(Default)]
pub struct VisionOptions {
    /// Side of the picture in pixels.
    pub image_size: Option<usize>,
    /// Attention heads of the ViT.
    pub vit_heads: Option<usize>,
    /// Blocks of the ViT that are used.
    pub vit_blocks: Option<usize>,
    /// Attention heads of the Q-Former.
    pub qformer_heads: Option<usize>,
}

/// The vision part of the plan.
pub struct VisionPlan {
    pub metadata: Metadata,
    pub tensors: Vec<PlannedTensor>,
    /// Blocks of the ViT that are used.
    pub blocks: usize,
}

struct Dimensions {
    image: usize,
    patch: usize,
    vit: usize,
    vit_blocks: usize,
    vit_heads: usize,
    vit_mlp: usize,
    /// Rows of the stored position embedding, the CLS row included.
    positions: usize,
    queries: usize,
    qf: usize,
    qf_layers: usize,
    qf_heads: usize,
    qf_mlp: usize,
    /// Every so many layers of the Q-Former one has cross-attention, from the first on.
    cross_every: usize,
    projection_middle: usize,
    width: usize,
}

/// Plans the vision file for a decoder of the given width.
pub fn plan(
    sources: &mut Sources,
    options: &VisionOptions,
    stage: u32,
    width: usize,
    notes: &mut Vec<String>,
) -> Result<VisionPlan> {
    let d = dimensions(sources, options, stage, width)?;
    let grid = d.image / d.patch;
    let stored_grid = (d.positions - 1).isqrt();
    notes.push(format!(
        "ViT: {} blocks, width {}, {} heads of {}, MLP {}, image {} px in {grid}×{grid} patches of {}",
        d.vit_blocks,
        d.vit,
        d.vit_heads,
        d.vit / d.vit_heads,
        d.vit_mlp,
        d.image,
        d.patch
    ));
    notes.push(format!(
        "Q-Former: {} layers, width {}, {} heads of {}, MLP {}, {} queries, cross-attention every {} layers",
        d.qf_layers,
        d.qf,
        d.qf_heads,
        d.qf / d.qf_heads,
        d.qf_mlp,
        d.queries,
        d.cross_every
    ));
    if grid != stored_grid {
        notes.push(format!(
            "position embedding: stored for {stored_grid}×{stored_grid} patches, interpolated to {grid}×{grid} when loaded"
        ));
    }
    Ok(VisionPlan { metadata: metadata(&d)?, tensors: tensors(sources, &d)?, blocks: d.vit_blocks })
}

/// One more than the highest number N in names `prefix.N.…`.
fn count(sources: &Sources, prefix: &str) -> usize {
    let number = |n: &str| n.strip_prefix(prefix)?.strip_prefix('.')?.split('.').next()?.parse::<usize>().ok();
    sources.names().filter_map(number).max().map_or(0, |n| n + 1)
}

/// The given number of heads, or as many as are 64 wide, or the real model's.
fn heads(given: Option<usize>, width: usize, full: Option<usize>, what: &str, flag: &str) -> Result<usize> {
    let heads = match given.or(full) {
        Some(heads) => heads,
        None if width.is_multiple_of(64) => width / 64,
        None => bail!("the shapes do not tell how many heads the {what} of width {width} has; pass {flag}"),
    };
    ensure!(
        heads > 0 && width.is_multiple_of(heads),
        "{heads} heads do not divide the {what}'s width {width}; pass another {flag}"
    );
    Ok(heads)
}

fn dimensions(sources: &Sources, options: &VisionOptions, stage: u32, width: usize) -> Result<Dimensions> {
    let patch_shape = sources.shape_of(&format!("{VIT}.patch_embed.proj.weight"), 4)?;
    let (vit, patch) = (patch_shape[0], patch_shape[2]);
    ensure!(
        patch_shape[1] == 3 && patch_shape[3] == patch,
        "the patch embedding has shape {patch_shape:?}, where [width, 3, patch, patch] is needed"
    );
    let positions = sources.shape_of(&format!("{VIT}.pos_embed"), 3)?[1];
    let stored_grid = positions.saturating_sub(1).isqrt();
    ensure!(
        positions > 1 && stored_grid * stored_grid + 1 == positions,
        "the position embedding has {positions} rows, which is not one more than a square number"
    );
    let full = vit == FULL_VIT_WIDTH;
    let image = options.image_size.unwrap_or(match (full, stage) {
        (true, 4) => 448,
        (true, _) => 224,
        (false, _) => patch * stored_grid,
    });
    ensure!(
        image > 0 && image.is_multiple_of(patch),
        "an image of {image} px cannot be cut into patches of {patch}; pass --image-size"
    );

    let present = count(sources, &format!("{VIT}.blocks"));
    let vit_blocks = options.vit_blocks.unwrap_or(if full { FULL_VIT_BLOCKS } else { present });
    ensure!(
        vit_blocks > 0 && vit_blocks <= present,
        "the ViT has {present} blocks, but {vit_blocks} are asked for; pass --vit-blocks"
    );
    let vit_mlp = sources.shape_of(&format!("{VIT}.blocks.0.mlp.fc1.weight"), 2)?[0];

    let query_shape = sources.shape_of("query_tokens", 3)?;
    let (queries, qf) = (query_shape[1], query_shape[2]);
    let layer = format!("{QFORMER}.encoder.layer");
    let qf_layers = count(sources, &layer);
    ensure!(qf_layers > 0, "the --qformer file holds no layers (keys like '{layer}.0.…')");
    let qf_mlp = sources.shape_of(&format!("{layer}.0.intermediate_query.dense.weight"), 2)?[0];
    let crosses = |n: usize| sources.has(&format!("{layer}.{n}.crossattention.self.query.weight"));
    // With one layer, or cross-attention in the first only, several intervals fit: the real model's comes first.
    let cross_every = std::iter::once(2)
        .chain(1..=qf_layers)
        .find(|every| (0..qf_layers).all(|n| crosses(n) == (n % every == 0)))
        .context("the Q-Former's layers with cross-attention are not every so many, from the first on")?;

    let projection_middle = sources.shape_of("llama_proj.weight", 2)?[0];
    Ok(Dimensions {
        image,
        patch,
        vit,
        vit_blocks,
        vit_heads: heads(options.vit_heads, vit, full.then_some(16), "ViT", "--vit-heads")?,
        vit_mlp,
        positions,
        queries,
        qf,
        qf_layers,
        qf_heads: heads(options.qformer_heads, qf, None, "Q-Former", "--qformer-heads")?,
        qf_mlp,
        cross_every,
        projection_middle,
        width,
    })
}

fn metadata(d: &Dimensions) -> Result<Metadata> {
    let mut metadata: Metadata = vec![
        ("clip.has_vision_encoder".into(), Value::Bool(true)),
        ("clip.projector_type".into(), "tinygptv".into()),
        ("clip.use_gelu".into(), Value::Bool(true)),
    ];
    for (key, number) in [
        ("clip.vision.image_size", d.image),
        ("clip.vision.patch_size", d.patch),
        ("clip.vision.embedding_length", d.vit),
        ("clip.vision.feed_forward_length", d.vit_mlp),
        ("clip.vision.block_count", d.vit_blocks),
        ("clip.vision.attention.head_count", d.vit_heads),
        ("clip.vision.projection_dim", d.width),
        ("tinygptv.qformer.query_count", d.queries),
        ("tinygptv.qformer.embedding_length", d.qf),
        ("tinygptv.qformer.feed_forward_length", d.qf_mlp),
        ("tinygptv.qformer.block_count", d.qf_layers),
        ("tinygptv.qformer.head_count", d.qf_heads),
        ("tinygptv.qformer.cross_attention_interval", d.cross_every),
    ] {
        let number = u32::try_from(number).with_context(|| format!("{key} = {number} is too large"))?;
        metadata.push((key.into(), Value::U32(number)));
    }
    for (key, number) in [
        ("clip.vision.attention.layer_norm_epsilon", 1e-6),
        ("tinygptv.vision.post_layer_norm_epsilon", 1e-5),
        ("tinygptv.qformer.layer_norm_epsilon", 1e-12),
    ] {
        metadata.push((key.into(), Value::F32(number)));
    }
    metadata.push(("clip.vision.image_mean".into(), Value::F32Array(MEAN.map(|x| x as f32).to_vec())));
    metadata.push(("clip.vision.image_std".into(), Value::F32Array(STD.map(|x| x as f32).to_vec())));
    Ok(metadata)
}

fn tensors(sources: &mut Sources, d: &Dimensions) -> Result<Vec<PlannedTensor>> {
    let mut b = Builder { sources, tensors: Vec::new() };
    b.vit(d)?;
    b.pair("v.post_ln", "ln_vision", d.vit)?;
    b.qformer(d)?;
    b.projection(d)?;
    Ok(b.tensors)
}

struct Builder<'a> {
    sources: &'a mut Sources,
    tensors: Vec<PlannedTensor>,
}

impl Builder<'_> {
    fn push(&mut self, name: impl Into<String>, shape: &[usize], kind: Kind, recipe: Recipe) {
        self.tensors.push(PlannedTensor::new(name, shape, kind, recipe));
    }

    /// Weight and bias of a norm.
    fn pair(&mut self, name: &str, from: &str, length: usize) -> Result<()> {
        for part in ["weight", "bias"] {
            let tensor = self.sources.require(&format!("{from}.{part}"), &[length])?;
            self.push(format!("{name}.{part}"), &[length], Kind::Small, Recipe::whole(tensor));
        }
        Ok(())
    }

    /// Weight and bias of a linear layer.
    fn linear(&mut self, name: &str, from: &str, out: usize, input: usize) -> Result<()> {
        let weight = self.sources.require(&format!("{from}.weight"), &[out, input])?;
        let bias = self.sources.require(&format!("{from}.bias"), &[out])?;
        self.push(format!("{name}.weight"), &[out, input], Kind::Matrix, Recipe::whole(weight));
        self.push(format!("{name}.bias"), &[out], Kind::Small, Recipe::whole(bias));
        Ok(())
    }

    fn vit(&mut self, d: &Dimensions) -> Result<()> {
        let w = d.vit;
        let class = self.sources.require(&format!("{VIT}.cls_token"), &[1, 1, w])?;
        self.push("v.class_embd", &[w], Kind::Small, Recipe::reshaped(class, w));
        let positions = self.sources.require(&format!("{VIT}.pos_embed"), &[1, d.positions, w])?;
        let recipe = Recipe::reshaped(positions, d.positions);
        self.push("v.position_embd.weight", &[d.positions, w], Kind::Small, recipe);
        let shape = [w, 3, d.patch, d.patch];
        let patch = self.sources.require(&format!("{VIT}.patch_embed.proj.weight"), &shape)?;
        self.push("v.patch_embd.weight", &shape, Kind::Unquantized, Recipe::whole(patch));
        let bias = self.sources.require(&format!("{VIT}.patch_embed.proj.bias"), &[w])?;
        self.push("v.patch_embd.bias", &[w], Kind::Small, Recipe::whole(bias));
        for n in 0..d.vit_blocks {
            let (to, from) = (format!("v.blk.{n}"), format!("{VIT}.blocks.{n}"));
            self.pair(&format!("{to}.ln1"), &format!("{from}.norm1"), w)?;
            let weight = self.sources.require(&format!("{from}.attn.qkv.weight"), &[3 * w, w])?;
            self.push(format!("{to}.attn_qkv.weight"), &[3 * w, w], Kind::Matrix, Recipe::whole(weight));
            // The keys have no bias.
            let q = self.sources.require(&format!("{from}.attn.q_bias"), &[w])?;
            let v = self.sources.require(&format!("{from}.attn.v_bias"), &[w])?;
            let runs = [Some(q), None, Some(v)].map(|tensor| Run { tensor, first: 0, rows: w, delta: None });
            self.push(format!("{to}.attn_qkv.bias"), &[3 * w], Kind::Small, Recipe::Rows(runs.into()));
            self.linear(&format!("{to}.attn_out"), &format!("{from}.attn.proj"), w, w)?;
            self.pair(&format!("{to}.ln2"), &format!("{from}.norm2"), w)?;
            self.linear(&format!("{to}.ffn_up"), &format!("{from}.mlp.fc1"), d.vit_mlp, w)?;
            self.linear(&format!("{to}.ffn_down"), &format!("{from}.mlp.fc2"), w, d.vit_mlp)?;
        }
        Ok(())
    }

    fn qformer(&mut self, d: &Dimensions) -> Result<()> {
        let w = d.qf;
        let queries = self.sources.require("query_tokens", &[1, d.queries, w])?;
        self.push("qf.query_tokens", &[d.queries, w], Kind::Small, Recipe::reshaped(queries, d.queries));
        self.pair("qf.embd_norm", &format!("{QFORMER}.embeddings.LayerNorm"), w)?;
        for n in 0..d.qf_layers {
            let (to, from) = (format!("qf.blk.{n}"), format!("{QFORMER}.encoder.layer.{n}"));
            self.attention(&format!("{to}.attn"), &format!("{from}.attention"), w, w)?;
            if n % d.cross_every == 0 {
                self.attention(&format!("{to}.cross"), &format!("{from}.crossattention"), w, d.vit)?;
            }
            self.linear(&format!("{to}.ffn_up"), &format!("{from}.intermediate_query.dense"), d.qf_mlp, w)?;
            self.linear(&format!("{to}.ffn_down"), &format!("{from}.output_query.dense"), w, d.qf_mlp)?;
            self.pair(&format!("{to}.ffn_norm"), &format!("{from}.output_query.LayerNorm"), w)?;
        }
        Ok(())
    }

    /// Self- or cross-attention of the Q-Former; keys and values come from `input` numbers.
    fn attention(&mut self, to: &str, from: &str, w: usize, input: usize) -> Result<()> {
        self.linear(&format!("{to}_q"), &format!("{from}.self.query"), w, w)?;
        self.linear(&format!("{to}_k"), &format!("{from}.self.key"), w, input)?;
        self.linear(&format!("{to}_v"), &format!("{from}.self.value"), w, input)?;
        self.linear(&format!("{to}_out"), &format!("{from}.output.dense"), w, w)?;
        self.pair(&format!("{to}_norm"), &format!("{from}.output.LayerNorm"), w)
    }

    /// Both projections as one.
    fn projection(&mut self, d: &Dimensions) -> Result<()> {
        let middle = d.projection_middle;
        let first = self.sources.require("llama_proj.weight", &[middle, d.qf])?;
        let first_bias = self.sources.require("llama_proj.bias", &[middle])?;
        let second = self.sources.require("llama_proj2.weight", &[d.width, middle])?;
        let second_bias = self.sources.require("llama_proj2.bias", &[d.width])?;
        let weight = Recipe::FoldWeight { first, second: second.clone() };
        // Small, and the last step: its rounding would be all of the error of an F16 file.
        self.push("mm.0.weight", &[d.width, d.qf], Kind::Small, weight);
        self.push("mm.0.bias", &[d.width], Kind::Small, Recipe::FoldBias { first_bias, second, second_bias });
        Ok(())
    }
}
