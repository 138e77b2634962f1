//! The tensors of a synthetic checkpoint, under the names and shapes that the real ones have.
//!
//! Weights are N(0, 1/inputs), 0.02 for Phi-2's width, so that activations keep their size through a layer; norms are near
//! 1, biases near 0. Trained transformers have a few channels that carry far more than the others (Dettmers et al. 2022),
//! which is what makes rounding them hard: outliers are planted before each matrix of the decoder and the ViT and inside
//! the Q-Former's layers, by scaling what makes a channel (a norm's weight and bias, a matrix's row) up and the column of
//! the next matrix that takes it down, though by less, so that both kinds of channel matter to the result.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{ensure, Result};

use super::dimensions::Dimensions;
use super::draw::{key, mix, Drawing};
use crate::stored::StoredTensor;

const VIT: &str = "visual_encoder";
const QFORMER: &str = "Qformer.bert";
const DECODER: &str = "llama_model.model";
/// Standard deviations of what is no matrix.
const NORM_SPREAD: f32 = 0.1;
const SMALL_SPREAD: f32 = 0.02;
/// What an outlier's maker is multiplied by, and its taker's column.
const MADE: f32 = 100.0;
const TAKEN: f32 = 0.1;

/// A set of channels.
type Channels = BTreeSet<usize>;

/// All tensors of a model, with `outliers` outlier channels before each matrix.
pub fn tensors(d: &Dimensions, outliers: usize, seed: u64, threads: usize) -> Result<Vec<StoredTensor>> {
    let narrowest = [d.width, d.mlp, d.vit_width, d.vit_mlp, d.qf_width, d.qf_mlp].into_iter().min().unwrap_or(0);
    ensure!(outliers <= narrowest, "{outliers} outliers do not fit a width of {narrowest}");
    let mut b = Builder { outliers, seed, threads, tensors: Vec::new() };
    b.decoder(d);
    b.vit(d);
    b.qformer(d);
    b.linear("llama_proj", [d.projection, d.qf_width], &Channels::new(), &Channels::new());
    b.linear("llama_proj2", [d.width, d.projection], &Channels::new(), &Channels::new());
    Ok(b.tensors)
}

struct Builder {
    outliers: usize,
    seed: u64,
    threads: usize,
    tensors: Vec<StoredTensor>,
}

fn factors(channels: &Channels, factor: f32) -> BTreeMap<usize, f32> {
    channels.iter().map(|&c| (c, factor)).collect()
}

/// Rows of head after head of q, k and v that make the given channels of v.
fn fused_value_rows(channels: &Channels, head: usize) -> Channels {
    channels.iter().map(|c| (c / head * 3 + 2) * head + c % head).collect()
}

impl Builder {
    /// The outlier channels of a width. The same name gives the same ones: they run through a model's layers.
    fn channels(&self, name: &str, width: usize) -> Channels {
        let key = key(self.seed, name);
        let mut channels = Channels::new();
        for i in 0.. {
            if channels.len() == self.outliers {
                break;
            }
            channels.insert((mix(key.wrapping_add(i)) % width as u64) as usize);
        }
        channels
    }

    fn push(
        &mut self,
        name: String,
        shape: &[usize],
        center: f32,
        spread: f32,
        row_factors: BTreeMap<usize, f32>,
        column_factors: BTreeMap<usize, f32>,
    ) {
        let width = shape.last().copied().unwrap_or(1);
        let key = key(self.seed, &name);
        let drawing = Drawing { key, width, center, spread, row_factors, column_factors, threads: self.threads };
        self.tensors.push(StoredTensor::drawn(name, shape.to_vec(), drawing));
    }

    fn vector(&mut self, name: String, length: usize, center: f32, spread: f32, made: &Channels) {
        self.push(name, &[length], center, spread, BTreeMap::new(), factors(made, MADE));
    }

    /// Weight and bias of a norm that makes some outliers.
    fn norm(&mut self, name: &str, width: usize, made: &Channels) {
        self.vector(format!("{name}.weight"), width, 1.0, NORM_SPREAD, made);
        self.vector(format!("{name}.bias"), width, 0.0, SMALL_SPREAD, made);
    }

    /// A matrix that makes some outliers and takes others.
    fn weight(&mut self, name: String, shape: [usize; 2], made: &Channels, taken: &Channels) {
        let spread = 1.0 / (shape[1] as f32).sqrt();
        self.push(name, &shape, 0.0, spread, factors(made, MADE), factors(taken, TAKEN));
    }

    fn linear(&mut self, name: &str, shape: [usize; 2], made: &Channels, taken: &Channels) {
        self.weight(format!("{name}.weight"), shape, made, taken);
        self.vector(format!("{name}.bias"), shape[0], 0.0, SMALL_SPREAD, made);
    }

    /// Numbers that are added to a residual stream.
    fn table(&mut self, name: &str, shape: &[usize]) {
        self.push(name.into(), shape, 0.0, SMALL_SPREAD, BTreeMap::new(), BTreeMap::new());
    }

    fn decoder(&mut self, d: &Dimensions) {
        let (w, head) = (d.width, d.width / d.heads);
        let none = Channels::new();
        let stream = self.channels("decoder", w);
        let values = self.channels("decoder values", w);
        let hidden = self.channels("decoder mlp", d.mlp);
        let value_rows = fused_value_rows(&values, head);
        self.table(&format!("{DECODER}.embed_tokens.weight"), &[d.vocabulary, w]);
        for n in 0..d.layers {
            let layer = format!("{DECODER}.layers.{n}");
            self.norm(&format!("{layer}.input_layernorm"), w, &stream);
            self.linear(&format!("{layer}.self_attn.query_key_value"), [3 * w, w], &value_rows, &stream);
            self.norm(&format!("{layer}.self_attn.q_layernorm"), head, &none);
            self.norm(&format!("{layer}.self_attn.k_layernorm"), head, &none);
            self.linear(&format!("{layer}.self_attn.dense"), [w, w], &none, &values);
            self.vector(format!("{layer}.post_layernorm.weight"), w, 1.0, NORM_SPREAD, &none);
            self.linear(&format!("{layer}.mlp.fc1"), [d.mlp, w], &hidden, &stream);
            self.linear(&format!("{layer}.mlp.fc2"), [w, d.mlp], &none, &hidden);
        }
        self.norm(&format!("{DECODER}.final_layernorm"), w, &stream);
        self.linear("llama_model.lm_head", [d.vocabulary, w], &none, &stream);
    }

    fn vit(&mut self, d: &Dimensions) {
        let w = d.vit_width;
        let none = Channels::new();
        let stream = self.channels("vit", w);
        let values = self.channels("vit values", w);
        let hidden = self.channels("vit mlp", d.vit_mlp);
        let value_rows: Channels = values.iter().map(|c| 2 * w + c).collect();
        self.table(&format!("{VIT}.cls_token"), &[1, 1, w]);
        self.table(&format!("{VIT}.pos_embed"), &[1, 1 + d.grid * d.grid, w]);
        let patch = [w, 3, d.patch, d.patch];
        let spread = 1.0 / ((3 * d.patch * d.patch) as f32).sqrt();
        let name = format!("{VIT}.patch_embed.proj");
        self.push(format!("{name}.weight"), &patch, 0.0, spread, BTreeMap::new(), BTreeMap::new());
        self.vector(format!("{name}.bias"), w, 0.0, SMALL_SPREAD, &none);
        for n in 0..d.vit_blocks {
            let block = format!("{VIT}.blocks.{n}");
            self.norm(&format!("{block}.norm1"), w, &stream);
            self.weight(format!("{block}.attn.qkv.weight"), [3 * w, w], &value_rows, &stream);
            self.vector(format!("{block}.attn.q_bias"), w, 0.0, SMALL_SPREAD, &none);
            self.vector(format!("{block}.attn.v_bias"), w, 0.0, SMALL_SPREAD, &values);
            self.linear(&format!("{block}.attn.proj"), [w, w], &none, &values);
            self.norm(&format!("{block}.norm2"), w, &stream);
            self.linear(&format!("{block}.mlp.fc1"), [d.vit_mlp, w], &hidden, &stream);
            self.linear(&format!("{block}.mlp.fc2"), [w, d.vit_mlp], &none, &hidden);
        }
        self.norm("ln_vision", w, &stream);
    }

    /// Its norms' outputs are its residual stream too, so outliers are planted between the matrices only.
    fn qformer(&mut self, d: &Dimensions) {
        let w = d.qf_width;
        let none = Channels::new();
        let image = self.channels("vit", d.vit_width);
        let values = self.channels("qformer values", w);
        let hidden = self.channels("qformer mlp", d.qf_mlp);
        self.table("query_tokens", &[1, d.queries, w]);
        self.norm(&format!("{QFORMER}.embeddings.LayerNorm"), w, &none);
        for n in 0..d.qf_layers {
            let layer = format!("{QFORMER}.encoder.layer.{n}");
            for (kind, input, taken) in [("attention", w, &none), ("crossattention", d.vit_width, &image)] {
                if kind == "crossattention" && n % 2 != 0 {
                    continue;
                }
                let attention = format!("{layer}.{kind}");
                self.linear(&format!("{attention}.self.query"), [w, w], &none, &none);
                self.linear(&format!("{attention}.self.key"), [w, input], &none, taken);
                self.linear(&format!("{attention}.self.value"), [w, input], &values, taken);
                self.linear(&format!("{attention}.output.dense"), [w, w], &none, &values);
                self.norm(&format!("{attention}.output.LayerNorm"), w, &none);
            }
            self.linear(&format!("{layer}.intermediate_query.dense"), [d.qf_mlp, w], &hidden, &none);
            self.linear(&format!("{layer}.output_query.dense"), [w, d.qf_mlp], &none, &hidden);
            self.norm(&format!("{layer}.output_query.LayerNorm"), w, &none);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(outliers: usize) -> Vec<StoredTensor> {
        let d =
            "vocabulary=400,width=64,layers=2,heads=4,rotary=8,mlp=96,grid=2,vit-width=48,vit-blocks=2,vit-heads=2,\
                 vit-mlp=80,queries=4,qf-width=32,qf-layers=3,qf-heads=2,qf-mlp=64,projection=40";
        tensors(&d.parse().unwrap(), outliers, 7, 1).unwrap()
    }

    fn values(tensors: &[StoredTensor], name: &str) -> Vec<f32> {
        tensors.iter().find(|t| t.key == name).unwrap_or_else(|| panic!("{name}")).read_all().unwrap()
    }

    #[test]
    fn outliers_are_made_and_taken_by_the_same_channels() {
        let tensors = small(3);
        let layer = format!("{DECODER}.layers.1");
        let large = |values: &[f32], limit: f32| -> Channels {
            values.iter().enumerate().filter(|v| v.1.abs() > limit).map(|v| v.0).collect()
        };
        let root_mean_square = |values: &mut dyn Iterator<Item = f32>| {
            let (n, sum) = values.fold((0, 0.0), |(n, sum), v| (n + 1, sum + v * v));
            (sum / n as f32).sqrt()
        };
        let made = large(&values(&tensors, &format!("{layer}.input_layernorm.weight")), 10.0);
        assert_eq!(made.len(), 3);
        let matrix = values(&tensors, &format!("{layer}.mlp.fc1.weight"));
        // Its own outlier rows are left out.
        let hidden: Channels = (0..96).filter(|r| matrix[r * 64..][..64].iter().any(|v| v.abs() > 2.0)).collect();
        assert_eq!(hidden.len(), 3);
        let column =
            |c: usize| root_mean_square(&mut (0..96).filter(|r| !hidden.contains(r)).map(|r| matrix[r * 64 + c]));
        for c in 0..64 {
            assert_eq!(column(c) < 0.05, made.contains(&c), "column {c}: {}", column(c));
        }
        // v's rows in the fused layout [head][q, k, v] and the columns of the matrix behind.
        let fused = values(&tensors, &format!("{layer}.self_attn.query_key_value.weight"));
        let rows: Channels = (0..192).filter(|r| fused[r * 64..][..64].iter().any(|v| v.abs() > 2.0)).collect();
        let dense = values(&tensors, &format!("{layer}.self_attn.dense.weight"));
        let taken: Channels =
            (0..64).filter(|c| root_mean_square(&mut dense.iter().skip(*c).step_by(64).copied()) < 0.05).collect();
        assert_eq!((rows.len(), fused_value_rows(&taken, 16)), (3, rows));
    }

    #[test]
    fn without_outliers_there_are_none() {
        for tensor in small(0) {
            let largest = tensor.read_all().unwrap().iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(largest < 2.0, "{}: {largest}", tensor.key);
        }
        let d = Dimensions::full();
        assert!(tensors(&d, 769, 1, 1).unwrap_err().to_string().contains("do not fit"));
    }
}
