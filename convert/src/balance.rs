//! The vision file's tensors as Q8_0 wants them: the same function, but rounding weights costs less of it.
//!
//! Transformers have a few channels that carry far more than the others. What rounding does to the weights of such a channel
//! counts that much more, and a block of 32 weights has one scale for all. Where nothing but a linear map lies between what
//! makes a channel and what takes it (a norm before a matrix; values before an attention's output), the maker is divided and
//! the taker's column multiplied by a power of two, which is exact: large activations with small weights become middling ones
//! with middling weights (compare SmoothQuant, arXiv 2211.10438, and AWQ, arXiv 2306.00978, which look at activations; here
//! the norms and matrices tell how large those will be). A GELU, between the two matrices of an MLP, does not let factors
//! through. There the largest channels are made twice, and the second time they take what rounding has left of their
//! weights: 32 channels more, whose weights have scales of their own (compare outlier channel splitting, arXiv 1901.09504).

use std::collections::HashMap;

use anyhow::{Context, Result};

use crate::gguf_writer::Value;
use crate::plan::{FilePlan, PlannedTensor};
use crate::quantize::{Type, Q8_0_BLOCK};
use crate::recipe::{Again, Changed, Recipe};

/// Exponents of the powers of two at most.
const MOST_EXPONENT: f32 = 8.0;
/// A channel of an MLP is made twice if it is this many times as large as most are.
const OUTLIER: f32 = 8.0;
/// And if such channels have at least this share of what rounding makes of the MLP's result.
const WORTH: f32 = 0.1;

/// The plan of a Q8_0 file, and a line about what has changed. Reads all matrices once.
pub fn for_q8_0(plan: &FilePlan) -> Result<(FilePlan, String)> {
    let mut balance = Balance {
        plan,
        by_name: plan.tensors.iter().map(|t| (t.name.as_str(), t)).collect(),
        rows: HashMap::new(),
        columns: HashMap::new(),
        mlps: Vec::new(),
    };
    balance.vit()?;
    balance.qformer()?;
    balance.finish()
}

/// What a layer's weights tell, given its inputs' sizes.
struct Look {
    /// Root mean square of each output, biases included.
    outputs: Vec<f32>,
    /// Root mean square of each column's weights, each relative to its row.
    columns: Vec<f32>,
}

/// The two layers of an MLP.
struct Mlp {
    /// Beginning of both layers' names.
    block: String,
    /// Which channels are made twice.
    again: Vec<usize>,
}

struct Balance<'a> {
    plan: &'a FilePlan,
    by_name: HashMap<&'a str, &'a PlannedTensor>,
    /// By what the rows or columns of the tensor of a name are multiplied.
    rows: HashMap<String, Vec<f32>>,
    columns: HashMap<String, Vec<f32>>,
    mlps: Vec<Mlp>,
}

impl Balance<'_> {
    fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    fn tensor(&self, name: &str) -> Result<&PlannedTensor> {
        self.by_name.get(name).copied().with_context(|| format!("the plan has no '{name}'"))
    }

    /// Whether Q8_0 rounds a layer's weights; rows that are no whole blocks it leaves alone.
    fn is_rounded(&self, layer: &str) -> Result<bool> {
        let weight = self.tensor(&format!("{layer}.weight"))?;
        Ok(weight.kind.storage(Type::Q8_0, &weight.shape) == Type::Q8_0)
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(name)?;
        let mut values = Vec::new();
        tensor.recipe.produce(&tensor.shape, &mut |part| {
            values.extend_from_slice(part);
            Ok(())
        })?;
        Ok(values)
    }

    /// Root mean square of each output of a norm, whose inputs have a mean of 0 and a variance of 1.
    fn norm_outputs(&self, norm: &str) -> Result<Vec<f32>> {
        let (weight, bias) = (self.vector(&format!("{norm}.weight"))?, self.vector(&format!("{norm}.bias"))?);
        Ok(weight.iter().zip(bias).map(|(w, b)| w.hypot(b)).collect())
    }

    fn look(&self, layer: &str, inputs: &[f32]) -> Result<Look> {
        let weight = self.tensor(&format!("{layer}.weight"))?;
        let squares: Vec<f32> = inputs.iter().map(|x| x * x).collect();
        let (mut outputs, mut columns) = (Vec::new(), vec![0f32; inputs.len()]);
        weight.recipe.produce(&weight.shape, &mut |values| {
            for row in values.chunks_exact(inputs.len()) {
                let (mut all, mut output) = (0f32, 0f32);
                for (w, square) in row.iter().zip(&squares) {
                    all += w * w;
                    output += w * w * square;
                }
                outputs.push(output);
                let share = if all > 0.0 { 1.0 / all } else { 0.0 };
                columns.iter_mut().zip(row).for_each(|(c, w)| *c += w * w * share);
            }
            Ok(())
        })?;
        let biases = self.vector(&format!("{layer}.bias"))?;
        let outputs = outputs.iter().zip(biases).map(|(o, b)| (o + b * b).sqrt()).collect();
        Ok(Look { outputs, columns: columns.iter().map(|c| c.sqrt()).collect() })
    }

    /// Rescales channels between what makes them, rows `first..` of some tensors, and the layers that take them.
    fn rescale(&mut self, makers: &[String], first: usize, takers: &[String], factors: &[f32]) -> Result<()> {
        // All takers have rows of the same length.
        match takers.first() {
            Some(taker) if self.is_rounded(taker)? => {}
            _ => return Ok(()),
        }
        for maker in makers {
            let length = self.tensor(maker)?.shape[0];
            let rows = self.rows.entry(maker.clone()).or_insert_with(|| vec![1.0; length]);
            rows[first..].iter_mut().zip(factors).for_each(|(row, factor)| *row /= factor);
        }
        for taker in takers {
            self.columns.insert(format!("{taker}.weight"), factors.to_vec());
        }
        Ok(())
    }

    fn rescale_norm(&mut self, norm: &str, outputs: &[f32], takers: &[String], columns: &[f32]) -> Result<()> {
        let makers = ["weight", "bias"].map(|part| format!("{norm}.{part}"));
        self.rescale(&makers, 0, takers, &factors(outputs, columns))
    }

    /// Rows `first..` of a layer are values, which reach an attention's output as a mean of themselves.
    fn rescale_values(&mut self, layer: &str, first: usize, values: &[f32], output: &str) -> Result<()> {
        let taker = self.look(output, values)?;
        let makers = ["weight", "bias"].map(|part| format!("{layer}.{part}"));
        self.rescale(&makers, first, &[output.to_owned()], &factors(values, &taker.columns))
    }

    fn mlp(&mut self, block: &str, hidden: &[f32]) -> Result<()> {
        let mut again = Vec::new();
        if self.is_rounded(&format!("{block}.ffn_down"))? {
            let limit = OUTLIER * median(hidden.to_vec());
            again = (0..hidden.len()).filter(|&i| hidden[i] > limit).collect();
            again.sort_by(|&a, &b| hidden[b].total_cmp(&hidden[a]));
            again.truncate(Q8_0_BLOCK);
            let power = |of: &mut dyn Iterator<Item = f32>| of.map(|x| x * x).sum::<f32>();
            let share = power(&mut again.iter().map(|&i| hidden[i])) / power(&mut hidden.iter().copied());
            if share < WORTH {
                again.clear();
            }
        }
        self.mlps.push(Mlp { block: block.to_owned(), again });
        Ok(())
    }

    fn vit(&mut self) -> Result<()> {
        for n in 0.. {
            let block = format!("v.blk.{n}");
            let norms = ["ln1", "ln2"].map(|norm| format!("{block}.{norm}"));
            if !self.has(&format!("{}.weight", norms[0])) {
                break;
            }
            let (qkv, up) = (format!("{block}.attn_qkv"), format!("{block}.ffn_up"));
            let inputs = self.norm_outputs(&norms[0])?;
            let look = self.look(&qkv, &inputs)?;
            let values = 2 * inputs.len();
            self.rescale_norm(&norms[0], &inputs, std::slice::from_ref(&qkv), &look.columns)?;
            self.rescale_values(&qkv, values, &look.outputs[values..], &format!("{block}.attn_out"))?;
            let inputs = self.norm_outputs(&norms[1])?;
            let look = self.look(&up, &inputs)?;
            self.rescale_norm(&norms[1], &inputs, &[up], &look.columns)?;
            self.mlp(&block, &look.outputs)?;
        }
        Ok(())
    }

    /// Its norms' outputs are its residual stream too: what they make stays as it is.
    fn qformer(&mut self) -> Result<()> {
        let image = self.norm_outputs("v.post_ln")?;
        let mut input = self.norm_outputs("qf.embd_norm")?;
        let (mut takers, mut columns) = (Vec::new(), vec![0f32; image.len()]);
        for n in 0.. {
            let block = format!("qf.blk.{n}");
            if !self.has(&format!("{block}.ffn_norm.weight")) {
                break;
            }
            let values = self.look(&format!("{block}.attn_v"), &input)?.outputs;
            self.rescale_values(&format!("{block}.attn_v"), 0, &values, &format!("{block}.attn_out"))?;
            input = self.norm_outputs(&format!("{block}.attn_norm"))?;
            if self.has(&format!("{block}.cross_v.weight")) {
                for layer in ["cross_k", "cross_v"].map(|layer| format!("{block}.{layer}")) {
                    let look = self.look(&layer, &image)?;
                    columns.iter_mut().zip(&look.columns).for_each(|(sum, c)| *sum = sum.hypot(*c));
                    if layer.ends_with('v') {
                        self.rescale_values(&layer, 0, &look.outputs, &format!("{block}.cross_out"))?;
                    }
                    takers.push(layer);
                }
                input = self.norm_outputs(&format!("{block}.cross_norm"))?;
            }
            let hidden = self.look(&format!("{block}.ffn_up"), &input)?.outputs;
            self.mlp(&block, &hidden)?;
            input = self.norm_outputs(&format!("{block}.ffn_norm"))?;
        }
        self.rescale_norm("v.post_ln", &image, &takers, &columns)
    }

    fn finish(mut self) -> Result<(FilePlan, String)> {
        let rescaled = self.columns.values().flatten().filter(|&&factor| factor != 1.0).count();
        let twice: usize = self.mlps.iter().map(|mlp| mlp.again.len()).sum();
        let mut metadata = self.plan.metadata.clone();
        let mut again: HashMap<String, Again> = HashMap::new();
        for (prefix, key) in
            [("v.", "clip.vision.feed_forward_length"), ("qf.", "tinygptv.qformer.feed_forward_length")]
        {
            // All MLPs of a half have the same size.
            let mlps: Vec<&Mlp> = self.mlps.iter().filter(|mlp| mlp.block.starts_with(prefix)).collect();
            if mlps.iter().all(|mlp| mlp.again.is_empty()) {
                continue;
            }
            for mlp in mlps {
                for part in ["weight", "bias"] {
                    again.insert(format!("{}.ffn_up.{part}", mlp.block), Again::Rows(mlp.again.clone()));
                }
                again.insert(format!("{}.ffn_down.weight", mlp.block), Again::Rests(mlp.again.clone()));
            }
            for (_, value) in metadata.iter_mut().filter(|(name, _)| name == key) {
                if let Value::U32(length) = value {
                    *length += Q8_0_BLOCK as u32;
                }
            }
        }
        let tensors = self.plan.tensors.iter().map(|t| {
            let (rows, columns) = (self.rows.remove(&t.name), self.columns.remove(&t.name));
            let again = again.remove(&t.name).unwrap_or(Again::Nothing);
            let mut shape = t.shape.clone();
            match again {
                Again::Nothing if rows.is_none() && columns.is_none() => {
                    return PlannedTensor::new(&t.name, &shape, t.kind, t.recipe.clone());
                }
                Again::Nothing => {}
                Again::Rows(_) => shape[0] += Q8_0_BLOCK,
                Again::Rests(_) => shape[1] += Q8_0_BLOCK,
            }
            let (rows, columns) = (rows.unwrap_or_default(), columns.unwrap_or_default());
            let changed = Changed { of: t.recipe.clone(), shape: t.shape.clone(), rows, columns, again };
            PlannedTensor::new(&t.name, &shape, t.kind, Recipe::Changed(Box::new(changed)))
        });
        let tensors = tensors.collect();
        let said = format!("Q8_0: {rescaled} channels rescaled between layers, {twice} channels of MLPs made twice");
        Ok((FilePlan { metadata, tensors }, said))
    }
}

fn median(mut values: Vec<f32>) -> f32 {
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// What columns are to be multiplied by, and channels divided, for sizes of channels and of the columns that take them.
///
/// Rounding makes errors like (Σ aᵢ²/sᵢ²)·(Σ cᵢ²·sᵢ²), the second factor being a block's scale: least where sᵢ² ~ aᵢ/cᵢ.
fn factors(channels: &[f32], columns: &[f32]) -> Vec<f32> {
    let ratios: Vec<f32> = channels.iter().zip(columns).map(|(a, c)| a / c).collect();
    let usable = |ratio: &f32| ratio.is_finite() && *ratio > 0.0;
    let usual = median(ratios.iter().copied().filter(usable).collect());
    let exponent = |ratio: &f32| ((ratio / usual).log2() / 2.0).round().clamp(-MOST_EXPONENT, MOST_EXPONENT);
    ratios.iter().map(|ratio| if usable(ratio) { exponent(ratio).exp2() } else { 1.0 }).collect()
}
