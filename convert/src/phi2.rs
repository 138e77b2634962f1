//! The decoder file: Phi-2 from either of its layouts, the three extra norms, LoRA merged.

use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{bail, ensure, Context, Result};
use serde_json::Value as Json;

use crate::gguf_writer::{Metadata, Value};
use crate::lora::{Alpha, Lora};
use crate::plan::{Kind, PlannedTensor};
use crate::recipe::{Recipe, Run};
use crate::source::{read_json, Role, Sources};
use crate::stored::StoredTensor;
use crate::tokenizer::Tokenizer;

const MODEL: &str = "llama_model.model";
/// Fixed in the reference implementation, whatever config.json says.
const POST_ATTENTION_NORM_EPSILON: f32 = 1e-6;
const DEFAULT_ALPHA: f64 = 16.0;

/// Where Phi-2's configuration and tokenizer are.
pub enum Base {
    /// In the `--phi2` folder.
    Folder(PathBuf),
    /// In no file: what config.json and tokenizer.json would hold.
    Memory { config: Json, tokenizer: Json },
}

/// What the command line may override.
#[derive(Default)]
pub struct DecoderOptions {
    /// Number of attention heads.
    pub heads: Option<usize>,
    /// Rotated dimensions of each head.
    pub rotary: Option<usize>,
    /// LoRA's alpha.
    pub lora_alpha: Option<f64>,
}

/// The decoder's part of the plan.
pub struct DecoderPlan {
    pub metadata: Metadata,
    pub tensors: Vec<PlannedTensor>,
    /// Width of the token embeddings, which the projection must reach.
    pub width: usize,
}

/// Numbers of the decoder, from config.json and the tensors' shapes.
struct Dimensions {
    vocabulary: usize,
    width: usize,
    layers: usize,
    heads: usize,
    mlp: usize,
    context: usize,
    rotary: usize,
    theta: f32,
    epsilon: f32,
}

/// A config.json whose values may be absent, null, or under older names.
struct Config {
    json: Json,
    path: PathBuf,
}

impl Config {
    fn get(&self, names: &[&str]) -> Option<&Json> {
        // Newer files keep what concerns the rotation in an object of its own.
        let nested = self.json.get("rope_parameters");
        names.iter().find_map(|n| self.json.get(n).or_else(|| nested?.get(n))).filter(|v| !v.is_null())
    }

    fn number(&self, names: &[&str]) -> Result<Option<f64>> {
        let Some(value) = self.get(names) else { return Ok(None) };
        let bad = || format!("'{}': {} is {value}, not a positive number", self.path.display(), names[0]);
        let number = value.as_f64().with_context(bad)?;
        ensure!(number > 0.0 && number.is_finite(), bad());
        Ok(Some(number))
    }

    fn count(&self, names: &[&str]) -> Result<Option<usize>> {
        let Some(number) = self.number(names)? else { return Ok(None) };
        let whole = number.fract() == 0.0 && number <= f64::from(u32::MAX);
        ensure!(whole, "'{}': {} is {number}, not a count", self.path.display(), names[0]);
        Ok(Some(number as usize))
    }

    /// A count that config.json may state and the tensors' shapes decide.
    fn agrees(&self, names: &[&str], actual: usize) -> Result<usize> {
        match self.count(names)? {
            Some(stated) if stated != actual => {
                bail!("'{}' says {} = {stated}, but the weights have {actual}", self.path.display(), names[0])
            }
            _ => Ok(actual),
        }
    }
}

/// Plans the decoder file.
pub fn plan(
    sources: &mut Sources,
    base: &Base,
    options: &DecoderOptions,
    notes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<DecoderPlan> {
    let (d, tokenizer) = match base {
        Base::Folder(dir) => {
            let path = dir.join("config.json");
            let config = Config { json: read_json(&path)?, path: path.clone() };
            sources.add_plain_file(Role::Phi2, &path);
            let d = dimensions(sources, &config, options, warnings)?;
            let tokenizer = Tokenizer::read(dir, d.vocabulary, &config.json)?;
            for file in &tokenizer.files {
                sources.add_plain_file(Role::Phi2, file);
            }
            (d, tokenizer)
        }
        Base::Memory { config, tokenizer } => {
            let config = Config { json: config.clone(), path: "config.json".into() };
            let d = dimensions(sources, &config, options, warnings)?;
            let tokenizer = Tokenizer::from_json(tokenizer, d.vocabulary, &config.json)?;
            (d, tokenizer)
        }
    };
    notes.push(format!(
        "decoder: {} layers, width {}, {} heads of {} with {} rotated, MLP {}, context {}, vocabulary {} ({} tokens)",
        d.layers,
        d.width,
        d.heads,
        d.width / d.heads,
        d.rotary,
        d.mlp,
        d.context,
        d.vocabulary,
        tokenizer.used()
    ));
    let mut metadata = metadata(&d)?;
    metadata.extend(tokenizer.metadata());
    let tensors = tensors(sources, &d, options, notes, warnings)?;
    Ok(DecoderPlan { metadata, tensors, width: d.width })
}

fn dimensions(
    sources: &Sources,
    config: &Config,
    options: &DecoderOptions,
    warnings: &mut Vec<String>,
) -> Result<Dimensions> {
    let path = config.path.display();
    let embedding = sources.shape_of(&format!("{MODEL}.embed_tokens.weight"), 2)?;
    let vocabulary = config.agrees(&["vocab_size"], embedding[0])?;
    let width = config.agrees(&["hidden_size", "n_embd"], embedding[1])?;
    let layers = 1 + sources
        .names()
        .filter_map(|n| n.strip_prefix(MODEL)?.strip_prefix(".layers.")?.split('.').next()?.parse::<usize>().ok())
        .max()
        .context("the --phi2 folder holds no decoder layers (keys like 'model.layers.0.…')")?;
    let layers = config.agrees(&["num_hidden_layers", "n_layer"], layers)?;
    let mlp = sources.shape_of(&format!("{MODEL}.layers.0.mlp.fc1.weight"), 2)?[0];
    let mlp = config.agrees(&["intermediate_size", "n_inner"], mlp)?;

    let heads = match (options.heads, config.count(&["num_attention_heads", "n_head"])?) {
        (Some(heads), _) | (None, Some(heads)) => heads,
        (None, None) if width == 2560 => 32,
        (None, None) => bail!("'{path}' does not say num_attention_heads; pass --decoder-heads"),
    };
    ensure!(heads > 0 && width % heads == 0, "{heads} decoder heads do not divide the width {width}");
    let head = width / heads;
    if let Some(norm) = sources.shape(&format!("{MODEL}.layers.0.self_attn.q_layernorm.weight")) {
        ensure!(
            norm == [head],
            "the q/k norms are {norm:?} wide, but {heads} heads of a width of {width} are {head} wide"
        );
    }
    let grouped = config.count(&["num_key_value_heads"])?.filter(|&n| n != heads);
    ensure!(
        grouped.is_none(),
        "'{path}' says num_key_value_heads = {}, which Phi-2 does not have",
        grouped.unwrap_or(0)
    );
    if let Some(act) = config.get(&["hidden_act", "activation_function"]) {
        let known = act.as_str().is_some_and(|a| ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"].contains(&a));
        ensure!(known, "'{path}' says hidden_act = {act}; only gelu_new (tanh GELU) is supported");
    }
    if let Some(scaling) = config.get(&["rope_scaling"]) {
        bail!("'{path}' says rope_scaling = {scaling}, which is not supported");
    }

    let stated = match config.count(&["rotary_dim"])? {
        Some(dims) => Some(dims),
        None => config.number(&["partial_rotary_factor"])?.map(|f| (f * head as f64) as usize),
    };
    let rotary = options.rotary.or(stated).unwrap_or_else(|| {
        warnings.push(format!("'{path}' does not say partial_rotary_factor: 0.5, the library's default, is taken"));
        head / 2
    });
    ensure!(
        rotary > 0 && rotary <= head && rotary.is_multiple_of(2),
        "{rotary} rotated dimensions do not fit heads of {head}; an even number of at most {head} is needed"
    );
    Ok(Dimensions {
        vocabulary,
        width,
        layers,
        heads,
        mlp,
        context: config.count(&["max_position_embeddings", "n_positions"])?.unwrap_or(2048),
        rotary,
        theta: config.number(&["rope_theta"])?.unwrap_or(10000.0) as f32,
        epsilon: config.number(&["layer_norm_eps", "layer_norm_epsilon"])?.unwrap_or(1e-5) as f32,
    })
}

fn metadata(d: &Dimensions) -> Result<Metadata> {
    let count = |name: &str, n: usize| -> Result<(String, Value)> {
        Ok((
            format!("phi2.{name}"),
            Value::U32(u32::try_from(n).with_context(|| format!("{name} = {n} is too large"))?),
        ))
    };
    Ok(vec![
        count("context_length", d.context)?,
        count("embedding_length", d.width)?,
        count("feed_forward_length", d.mlp)?,
        count("block_count", d.layers)?,
        count("attention.head_count", d.heads)?,
        count("attention.head_count_kv", d.heads)?,
        ("phi2.attention.layer_norm_epsilon".into(), Value::F32(d.epsilon)),
        count("rope.dimension_count", d.rotary)?,
        ("phi2.rope.freq_base".into(), Value::F32(d.theta)),
        ("tinygptv.post_attention_norm_epsilon".into(), Value::F32(POST_ATTENTION_NORM_EPSILON)),
    ])
}

fn tensors(
    sources: &mut Sources,
    d: &Dimensions,
    options: &DecoderOptions,
    notes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<Vec<PlannedTensor>> {
    let alpha =
        Alpha { value: options.lora_alpha.or(sources.lora_alpha).unwrap_or(DEFAULT_ALPHA), rank: sources.lora_r };
    ensure!(alpha.value.is_finite() && alpha.value > 0.0, "LoRA's alpha is {}, not a positive number", alpha.value);
    let mut b = Builder { sources, tensors: Vec::new(), merged: 0, alpha, fused: 0 };
    let w = d.width;
    b.matrix("token_embd.weight", &format!("{MODEL}.embed_tokens"), [d.vocabulary, w])?;
    b.pair("output_norm", &format!("{MODEL}.final_layernorm"), w)?;
    b.matrix("output.weight", "llama_model.lm_head", [d.vocabulary, w])?;
    b.vector("output.bias", "llama_model.lm_head.bias", d.vocabulary)?;
    let norms = ExtraNorms::look(b.sources);
    for n in 0..d.layers {
        let (to, from) = (format!("blk.{n}"), format!("{MODEL}.layers.{n}"));
        b.pair(&format!("{to}.attn_norm"), &format!("{from}.input_layernorm"), w)?;
        b.query_key_value(&format!("{to}.attn_qkv"), &format!("{from}.self_attn"), d)?;
        b.extra_norms(norms, &to, &from, d)?;
        for (to_name, from_name, out, input) in [
            ("attn_output", "self_attn.dense", w, w),
            ("ffn_up", "mlp.fc1", d.mlp, w),
            ("ffn_down", "mlp.fc2", w, d.mlp),
        ] {
            let module = format!("{from}.{from_name}");
            b.matrix(&format!("{to}.{to_name}.weight"), &module, [out, input])?;
            b.vector(&format!("{to}.{to_name}.bias"), &format!("{module}.bias"), out)?;
        }
    }
    let (merged, fused) = (b.merged, b.fused);
    let tensors = b.tensors;

    notes.push(match fused {
        n if n == d.layers => "decoder layout: fused query_key_value (older)".into(),
        0 => "decoder layout: separate q_proj, k_proj, v_proj (newer)".to_owned(),
        n => format!("decoder layout: fused query_key_value in {n} of {} layers, separate in the others", d.layers),
    });
    if merged > 0 {
        let origin = match (options.lora_alpha, sources.lora_alpha) {
            (Some(_), _) => "--lora-alpha",
            (None, Some(_)) => "the checkpoint's configuration",
            (None, None) => "the default: neither the checkpoint nor --lora-alpha says",
        };
        notes.push(format!("LoRA merged into {merged} matrices, alpha {} ({origin})", alpha.value));
    } else {
        notes.push("no LoRA in the checkpoint".into());
    }
    if norms == ExtraNorms::Absent {
        warnings.push(
            "no file has the q/k norms and post-attention norms: their initial values (1 and 0) are taken".into(),
        );
    }
    Ok(tensors)
}

/// Whether the files have the norms that TinyGPT-V adds to Phi-2.
#[derive(Clone, Copy, PartialEq)]
enum ExtraNorms {
    Present,
    Absent,
}

impl ExtraNorms {
    fn look(sources: &Sources) -> ExtraNorms {
        let parts = [".self_attn.q_layernorm.", ".self_attn.k_layernorm.", ".post_layernorm."];
        match sources.names().any(|n| n.starts_with(MODEL) && parts.iter().any(|p| n.contains(p))) {
            true => ExtraNorms::Present,
            false => ExtraNorms::Absent,
        }
    }
}

struct Builder<'a> {
    sources: &'a mut Sources,
    tensors: Vec<PlannedTensor>,
    alpha: Alpha,
    /// Matrices that LoRA changed.
    merged: usize,
    /// Layers with a fused query_key_value.
    fused: usize,
}

impl Builder<'_> {
    fn push(&mut self, name: &str, shape: &[usize], kind: Kind, recipe: Recipe) {
        self.tensors.push(PlannedTensor::new(name, shape, kind, recipe));
    }

    fn vector(&mut self, name: &str, from: &str, length: usize) -> Result<()> {
        let tensor = self.sources.require(from, &[length])?;
        self.push(name, &[length], Kind::Small, Recipe::whole(tensor));
        Ok(())
    }

    /// Weight and bias of a norm.
    fn pair(&mut self, name: &str, from: &str, length: usize) -> Result<()> {
        self.vector(&format!("{name}.weight"), &format!("{from}.weight"), length)?;
        self.vector(&format!("{name}.bias"), &format!("{from}.bias"), length)
    }

    fn lora(&mut self, module: &str, shape: [usize; 2]) -> Result<Option<Rc<Lora>>> {
        let lora = Lora::find(self.sources, module, shape, self.alpha)?;
        self.merged += usize::from(lora.is_some());
        Ok(lora)
    }

    fn matrix(&mut self, name: &str, module: &str, shape: [usize; 2]) -> Result<()> {
        let tensor = self.sources.require(&format!("{module}.weight"), &shape)?;
        let delta = self.lora(module, shape)?.map(|l| (l, 0));
        let run = Run { tensor: Some(tensor), first: 0, rows: shape[0], delta };
        self.push(name, &shape, Kind::Matrix, Recipe::Rows(vec![run]));
        Ok(())
    }

    fn extra_norms(&mut self, norms: ExtraNorms, to: &str, from: &str, d: &Dimensions) -> Result<()> {
        let head = d.width / d.heads;
        for (name, from_name, length, has_bias) in [
            ("attn_q_norm", "self_attn.q_layernorm", head, true),
            ("attn_k_norm", "self_attn.k_layernorm", head, true),
            ("post_attention_norm", "post_layernorm", d.width, false),
        ] {
            let weight = match norms {
                ExtraNorms::Present => {
                    Recipe::whole(self.sources.require(&format!("{from}.{from_name}.weight"), &[length])?)
                }
                ExtraNorms::Absent => Recipe::Fill(1.0),
            };
            self.push(&format!("{to}.{name}.weight"), &[length], Kind::Small, weight);
            if has_bias {
                // No bias is ever trained, and a checkpoint leaves out what was frozen.
                let bias = self.sources.find(&format!("{from}.{from_name}.bias"), &[length])?;
                let bias = bias.map_or(Recipe::Fill(0.0), Recipe::whole);
                self.push(&format!("{to}.{name}.bias"), &[length], Kind::Small, bias);
            }
        }
        Ok(())
    }

    /// One matrix and bias of all q, then all k, then all v rows, from either layout, with LoRA on either.
    fn query_key_value(&mut self, name: &str, attention: &str, d: &Dimensions) -> Result<()> {
        let w = d.width;
        let fused_module = format!("{attention}.query_key_value");
        let split_modules = ["q_proj", "k_proj", "v_proj"].map(|p| format!("{attention}.{p}"));
        let fused_role = self.sources.role(&format!("{fused_module}.weight"));
        let split_role = self.sources.role(&format!("{}.weight", split_modules[0]));
        ensure!(
            fused_role.is_none() || fused_role != split_role,
            "'{fused_module}.weight' and '{}.weight' are in the same file; only one of them can count",
            split_modules[0]
        );
        // What the later file has counts, whichever layout it is in.
        let fused = fused_role > split_role || split_role.is_none();
        self.fused += usize::from(fused);

        let mut weights: Vec<StoredTensor> = Vec::new();
        let mut biases: Vec<StoredTensor> = Vec::new();
        if fused {
            weights.push(self.sources.require(&format!("{fused_module}.weight"), &[3 * w, w])?);
            biases.push(self.sources.require(&format!("{fused_module}.bias"), &[3 * w])?);
        } else {
            for module in &split_modules {
                weights.push(self.sources.require(&format!("{module}.weight"), &[w, w])?);
                biases.push(self.sources.require(&format!("{module}.bias"), &[w])?);
            }
        }
        let fused_lora = self.lora(&fused_module, [3 * w, w])?;
        let mut split_lora = Vec::new();
        for module in &split_modules {
            split_lora.push(self.lora(module, [w, w])?);
        }
        ensure!(
            fused_lora.is_none() || split_lora.iter().all(Option::is_none),
            "the checkpoint has LoRA for both '{fused_module}' and its separate parts"
        );

        let delta = |part: usize, head: usize, head_width: usize| match (&fused_lora, &split_lora[part]) {
            (Some(lora), _) => Some((lora.clone(), fused_row(part, head, head_width))),
            (None, Some(lora)) => Some((lora.clone(), head * head_width)),
            (None, None) => None,
        };
        let weight = qkv_runs(&weights, d.heads, w, delta);
        let bias = qkv_runs(&biases, d.heads, w, |_, _, _| None);
        self.push(&format!("{name}.weight"), &[3 * w, w], Kind::Matrix, Recipe::Rows(weight));
        self.push(&format!("{name}.bias"), &[3 * w], Kind::Small, Recipe::Rows(bias));
        Ok(())
    }
}

/// The first row of a head's q (part 0), k or v in the fused layout `[head][q, k, v][head width]`.
fn fused_row(part: usize, head: usize, head_width: usize) -> usize {
    (head * 3 + part) * head_width
}

/// Runs of rows, head by head, in the order q, k, v. `stored` is one fused tensor or three separate ones.
fn qkv_runs(
    stored: &[StoredTensor],
    heads: usize,
    width: usize,
    delta: impl Fn(usize, usize, usize) -> Option<(Rc<Lora>, usize)>,
) -> Vec<Run> {
    let head_width = width / heads;
    let mut runs = Vec::with_capacity(3 * heads);
    for part in 0..3 {
        for head in 0..heads {
            let (tensor, first) = match stored {
                [fused] => (fused, fused_row(part, head, head_width)),
                split => (&split[part], head * head_width),
            };
            let delta = delta(part, head, head_width);
            runs.push(Run { tensor: Some(tensor.clone()), first, rows: head_width, delta });
        }
    }
    runs
}
