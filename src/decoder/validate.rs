//! Checks a decoder file before llama.cpp sees it: llama.cpp ends the process on some files that these checks refuse.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorType};

/// llama.cpp's own limit.
const MAX_LAYERS: u32 = 512;
const MAX_WIDTH: u32 = 1 << 17;
const MAX_CONTEXT: u32 = 1 << 20;
const MAX_VOCABULARY: usize = 1 << 22;
const MAX_TOKEN_BYTES: usize = 1 << 12;

/// The three norms that TinyGPT-V adds to Phi-2, one name a layer each.
const EXTRA_NORMS: [&str; 5] =
    ["attn_q_norm.weight", "attn_q_norm.bias", "attn_k_norm.weight", "attn_k_norm.bias", "post_attention_norm.weight"];

/// What the file's metadata say of the decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderInfo {
    /// `general.architecture`.
    pub architecture: String,
    /// Size of the vocabulary.
    pub n_vocab: usize,
    /// Bytes of its longest token.
    pub longest_token: usize,
    /// Whether the q/k LayerNorms and the post-attention RMSNorm are in the file.
    pub extra_norms: bool,
    /// Epsilon of the post-attention RMSNorm.
    pub post_norm_eps: f32,
}

/// Sizes that decide how much memory a context takes; for architectures other than phi2 as far as the file names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Layers.
    pub layers: u64,
    /// Width of the residual stream.
    pub width: u64,
    /// Width inside the MLP.
    pub feed_forward: u64,
    /// Attention heads.
    pub heads: u64,
    /// Numbers that a layer's KV cache holds for a position: keys and values of all key/value heads.
    pub kv_width: u64,
    /// Tokens.
    pub vocabulary: u64,
    /// Positions the model was trained for.
    pub context: usize,
}

/// The sizes of a validated decoder file.
pub(crate) fn shape_of(gguf: &Gguf, info: &DecoderInfo) -> Shape {
    // Some architectures have a number for each layer: the largest counts.
    let number = |name: &str| {
        let key = format!("{}.{name}", info.architecture);
        let single = gguf.u32(&key).ok().map(u64::from);
        single.or_else(|| gguf.i32_array(&key).ok()?.into_iter().max().map(|n| n.max(0) as u64))
    };
    let width = number("embedding_length").unwrap_or(0);
    let heads = number("attention.head_count").unwrap_or(1).max(1);
    let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
    let key = number("attention.key_length").unwrap_or(width / heads);
    let value = number("attention.value_length").unwrap_or(width / heads);
    Shape {
        layers: number("block_count").unwrap_or(0),
        width,
        feed_forward: number("feed_forward_length").unwrap_or(4 * width),
        heads,
        kv_width: kv_heads.saturating_mul(key.saturating_add(value)),
        vocabulary: info.n_vocab as u64,
        context: number("context_length").unwrap_or(0) as usize,
    }
}

/// Reads and checks the metadata, the vocabulary and, for phi2, every tensor's name, shape and type.
pub fn validate(gguf: &Gguf) -> Result<DecoderInfo> {
    let architecture = gguf.str("general.architecture")?.to_owned();
    if architecture == "clip" {
        return Err(Error::ModelMismatch(format!(
            "'{}' is a vision file, and was passed as the decoder; pass the decoder .gguf first and the vision .gguf second",
            gguf.path().display()
        )));
    }
    let (n_vocab, longest_token) = check_vocabulary(gguf)?;
    check_common_keys(gguf, &architecture)?;
    check_tensor_types(gguf)?;
    let mut info = DecoderInfo { architecture, n_vocab, longest_token, extra_norms: false, post_norm_eps: 1e-6 };
    if info.architecture == "phi2" {
        info.extra_norms = check_phi2(gguf, n_vocab)?;
        if gguf.has("tinygptv.post_attention_norm_epsilon") {
            info.post_norm_eps = gguf.f32("tinygptv.post_attention_norm_epsilon")?;
        }
        if !(info.post_norm_eps > 0.0 && info.post_norm_eps < 1.0) {
            return Err(Error::unsupported(
                gguf.path(),
                format!("its post-attention epsilon is {}", info.post_norm_eps),
            ));
        }
    }
    Ok(info)
}

/// Returns how many tokens there are, and the length of the longest.
fn check_vocabulary(gguf: &Gguf) -> Result<(usize, usize)> {
    let refuse = |problem: String| Err(Error::unsupported(gguf.path(), problem));
    let kind = gguf.str("tokenizer.ggml.model")?;
    if ["none", "no_vocab"].contains(&kind) {
        return refuse("it has no tokenizer".into());
    }
    let tokens = gguf.str_array("tokenizer.ggml.tokens")?;
    if tokens.is_empty() || tokens.len() > MAX_VOCABULARY {
        return refuse(format!("its vocabulary has {} tokens (1 to {MAX_VOCABULARY} allowed)", tokens.len()));
    }
    let mut seen = HashSet::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if token.len() > MAX_TOKEN_BYTES {
            return refuse(format!("its token {id} is {} bytes long", token.len()));
        }
        // As llama.cpp will name it: up to a NUL, and with a made-up name for an empty one.
        let name = match token.split('\0').next() {
            None | Some("") => Cow::Owned(format!("[EMPTY_{id}]")),
            Some(name) => Cow::Borrowed(name),
        };
        if !seen.insert(name) {
            return refuse(format!("its token {id} ({token:?}) occurs twice"));
        }
    }
    for (key, what) in [("tokenizer.ggml.token_type", "token types"), ("tokenizer.ggml.scores", "token scores")] {
        let count = match key {
            _ if !gguf.has(key) => continue,
            "tokenizer.ggml.scores" => gguf.f32_array(key)?.len(),
            _ => gguf.i32_array(key)?.len(),
        };
        if count != tokens.len() {
            return refuse(format!("it has {} tokens and {count} {what}", tokens.len()));
        }
    }
    for name in ["bos", "eos", "unknown", "padding", "eot", "eom", "seperator", "mask"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        if gguf.has(&key) && gguf.u32(&key)? as usize >= tokens.len() {
            return refuse(format!("its {key} is {}, beyond its {} tokens", gguf.u32(&key)?, tokens.len()));
        }
    }
    for name in ["bos", "eos"] {
        let add = format!("tokenizer.ggml.add_{name}_token");
        if gguf.has(&add) && gguf.bool(&add)? && !gguf.has(&format!("tokenizer.ggml.{name}_token_id")) {
            return refuse(format!("it wants a {name} token added and names none"));
        }
    }
    if gguf.has("tokenizer.ggml.merges") {
        // The space may not be the first character: llama.cpp looks for it from the second on.
        let bad = gguf.str_array("tokenizer.ggml.merges")?.iter().find(|m| m.bytes().skip(1).all(|b| b != b' '));
        if let Some(merge) = bad {
            return refuse(format!("its merge {merge:?} is not two tokens"));
        }
    }
    Ok((tokens.len(), tokens.iter().map(String::len).max().unwrap_or(0)))
}

/// Hyper-parameters that every architecture has, as far as the file names them.
fn check_common_keys(gguf: &Gguf, architecture: &str) -> Result<()> {
    let refuse = |problem: String| Err(Error::unsupported(gguf.path(), problem));
    for (name, max) in [("context_length", MAX_CONTEXT), ("embedding_length", MAX_WIDTH), ("block_count", MAX_LAYERS)] {
        let key = format!("{architecture}.{name}");
        if gguf.has(&key) && !(1..=max).contains(&gguf.u32(&key)?) {
            return refuse(format!("its {key} is {} (1 to {max} allowed)", gguf.u32(&key)?));
        }
    }
    let prefix = format!("{architecture}.");
    let epsilons = gguf.metadata().filter(|(k, _)| k.starts_with(&prefix) && k.ends_with("epsilon"));
    for (key, _) in epsilons {
        let eps = gguf.f32(key)?;
        if !(eps > 0.0 && eps < 1.0) {
            return refuse(format!("its {key} is {eps}"));
        }
    }
    Ok(())
}

/// ggml's numbers of I8, I16, I32, I64 and F64.
const INTEGERS_AND_DOUBLES: std::ops::RangeInclusive<u32> = 24..=28;

/// What no architecture can compute with: ggml multiplies by no integers and double-precision numbers, and adds and multiplies
/// vectors in single precision only.
fn check_tensor_types(gguf: &Gguf) -> Result<()> {
    for tensor in gguf.tensors() {
        let fits = match tensor.ty {
            TensorType::F32 => true,
            TensorType::Other(n) if INTEGERS_AND_DOUBLES.contains(&n) => false,
            _ => tensor.shape.len() > 1,
        };
        if !fits {
            let (name, ty) = (&tensor.name, tensor.ty);
            return Err(Error::unsupported(
                gguf.path(),
                format!("its tensor '{name}' is stored as {ty}, which does not fit; convert the model again"),
            ));
        }
    }
    Ok(())
}

/// The keys of a phi2 file. Others would change what llama.cpp builds in ways that these checks know nothing of.
const PHI2_KEYS: [&str; 10] = [
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "block_count",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
];

/// Returns whether the extra norms are there.
fn check_phi2(gguf: &Gguf, n_vocab: usize) -> Result<bool> {
    let refuse = |problem: String| Err(Error::unsupported(gguf.path(), problem));
    let unknown = gguf.metadata().find(|(k, _)| k.strip_prefix("phi2.").is_some_and(|k| !PHI2_KEYS.contains(&k)));
    if let Some((key, value)) = unknown {
        return refuse(format!(
            "its key {key} ({value}) is not one of a Phi-2; convert the model with tinygptv-convert"
        ));
    }
    let number = |key: &str, max: u32| -> Result<usize> {
        let n = gguf.u32(&format!("phi2.{key}"))?;
        if n == 0 || n > max {
            return Err(Error::unsupported(gguf.path(), format!("its phi2.{key} is {n} (1 to {max} allowed)")));
        }
        Ok(n as usize)
    };
    number("context_length", MAX_CONTEXT)?;
    let width = number("embedding_length", MAX_WIDTH)?;
    let mlp = number("feed_forward_length", MAX_WIDTH)?;
    let layers = number("block_count", MAX_LAYERS)?;
    let heads = number("attention.head_count", 1 << 10)?;
    let kv_heads =
        if gguf.has("phi2.attention.head_count_kv") { number("attention.head_count_kv", 1 << 10)? } else { heads };
    let rotary = number("rope.dimension_count", MAX_WIDTH)?;
    let eps = gguf.f32("phi2.attention.layer_norm_epsilon")?;
    if !width.is_multiple_of(heads) || !heads.is_multiple_of(kv_heads) {
        return refuse(format!("{heads} heads and {kv_heads} key/value heads do not divide its width of {width}"));
    }
    let head = width / heads;
    if rotary > head || !rotary.is_multiple_of(2) {
        return refuse(format!("its rotary dimensions are {rotary}, in heads of {head}"));
    }
    if !(eps > 0.0 && eps < 1.0) {
        return refuse(format!("its LayerNorm epsilon is {eps}"));
    }

    let kv = head * kv_heads;
    let check = |name: &str, shape: &[usize]| gguf.check_tensor(name, shape).map(drop);
    check("token_embd.weight", &[n_vocab, width])?;
    check("output_norm.weight", &[width])?;
    check("output_norm.bias", &[width])?;
    check("output.weight", &[n_vocab, width])?;
    check("output.bias", &[n_vocab])?;
    let any_extra = EXTRA_NORMS.iter().any(|n| gguf.tensors().iter().any(|t| t.name.ends_with(n)));
    for i in 0..layers {
        let block = |name: &str, shape: &[usize]| check(&format!("blk.{i}.{name}"), shape);
        block("attn_norm.weight", &[width])?;
        block("attn_norm.bias", &[width])?;
        if gguf.find_tensor(&format!("blk.{i}.attn_qkv.weight")).is_some() {
            block("attn_qkv.weight", &[width + 2 * kv, width])?;
            block("attn_qkv.bias", &[width + 2 * kv])?;
        } else {
            for (name, rows) in [("attn_q", width), ("attn_k", kv), ("attn_v", kv)] {
                block(&format!("{name}.weight"), &[rows, width])?;
                block(&format!("{name}.bias"), &[rows])?;
            }
        }
        block("attn_output.weight", &[width, width])?;
        block("attn_output.bias", &[width])?;
        block("ffn_up.weight", &[mlp, width])?;
        block("ffn_up.bias", &[mlp])?;
        block("ffn_down.weight", &[width, mlp])?;
        block("ffn_down.bias", &[width])?;
        if any_extra {
            for name in &EXTRA_NORMS[..4] {
                block(name, &[head])?;
            }
            block(EXTRA_NORMS[4], &[width])?;
        }
    }
    Ok(any_extra)
}
