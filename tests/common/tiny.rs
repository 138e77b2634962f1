//! Decoder files of a few hundred kilobytes with random weights, of several architectures and vocabularies.

use super::gguf_writer::{File, Value};
use super::random::Random;
use super::{golden, read_json};

/// `tokenizer.ggml.token_type` numbers.
pub const NORMAL: i32 = 1;
pub const UNKNOWN: i32 = 2;
pub const CONTROL: i32 = 3;
pub const USER_DEFINED: i32 = 4;
pub const BYTE: i32 = 6;

pub const WIDTH: usize = 32;
pub const HEADS: usize = 2;
pub const MLP: usize = 64;
pub const LAYERS: usize = 2;
pub const CONTEXT: usize = 128;

/// A vocabulary as GGUF has it.
#[derive(Clone)]
pub struct Vocabulary {
    pub model: &'static str,
    pub pre: &'static str,
    pub tokens: Vec<String>,
    pub types: Vec<i32>,
    pub merges: Vec<String>,
    pub scores: Vec<f32>,
    pub bos: u32,
    pub eos: u32,
}

impl Vocabulary {
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Writes the `tokenizer.ggml.` keys.
    pub fn put(&self, file: &mut File) {
        file.set("tokenizer.ggml.model", self.model);
        file.set("tokenizer.ggml.pre", self.pre);
        file.set("tokenizer.ggml.tokens", Value::Texts(self.tokens.clone()));
        file.set("tokenizer.ggml.token_type", Value::I32s(self.types.clone()));
        if !self.merges.is_empty() {
            file.set("tokenizer.ggml.merges", Value::Texts(self.merges.clone()));
        }
        if !self.scores.is_empty() {
            file.set("tokenizer.ggml.scores", Value::F32s(self.scores.clone()));
        }
        file.set("tokenizer.ggml.bos_token_id", self.bos);
        file.set("tokenizer.ggml.eos_token_id", self.eos);
        file.set("tokenizer.ggml.add_bos_token", false);
    }
}

/// The character that stands for a byte in a byte-level vocabulary.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(0x100 + before).expect("a character")
}

/// All bytes, a few merges, an end token.
pub fn byte_level() -> Vocabulary {
    let mut tokens: Vec<String> = (0..=255).map(|b| byte_char(b).to_string()).collect();
    tokens.extend(["##", "###", "Ġa", "he", "the"].map(String::from));
    let mut types = vec![NORMAL; tokens.len()];
    tokens.push("<|endoftext|>".into());
    types.push(CONTROL);
    let end = tokens.len() as u32 - 1;
    Vocabulary {
        model: "gpt2",
        pre: "phi-2",
        tokens,
        types,
        merges: ["# #", "## #", "Ġ a", "h e", "t he"].map(String::from).to_vec(),
        scores: Vec::new(),
        bos: end,
        eos: end,
    }
}

/// The vocabulary of tests/golden/tokenizer/codegen-like, with the structure of Phi-2's: an end token, then runs of spaces
/// and tabs as added tokens.
pub fn codegen_like() -> Vocabulary {
    let json = read_json(&golden("tokenizer/codegen-like/tokenizer.json"));
    let vocab = json["model"]["vocab"].as_object().expect("a vocabulary");
    let added = json["added_tokens"].as_array().expect("added tokens");
    let mut entries: Vec<(usize, String, i32)> =
        vocab.iter().map(|(t, id)| (id.as_u64().expect("an id") as usize, t.clone(), NORMAL)).collect();
    for token in added {
        let id = token["id"].as_u64().expect("an id") as usize;
        let ty = if token["special"] == true { CONTROL } else { USER_DEFINED };
        entries.retain(|e| e.0 != id);
        entries.push((id, token["content"].as_str().expect("a text").to_owned(), ty));
    }
    entries.sort_unstable();
    assert!(entries.iter().enumerate().all(|(i, e)| i == e.0), "ids without gaps");
    let end = entries.iter().position(|e| e.2 == CONTROL).expect("an end token") as u32;
    let merges = json["model"]["merges"].as_array().expect("merges");
    Vocabulary {
        model: "gpt2",
        pre: "phi-2",
        tokens: entries.iter().map(|e| e.1.clone()).collect(),
        types: entries.iter().map(|e| e.2).collect(),
        merges: merges.iter().map(|m| m.as_str().expect("a merge").to_owned()).collect(),
        scores: Vec::new(),
        bos: end,
        eos: end,
    }
}

/// SentencePiece's kind: scores instead of merges, and a token for each byte.
pub fn sentence_piece() -> Vocabulary {
    let mut entries: Vec<(String, i32, f32)> =
        vec![("<unk>".into(), UNKNOWN, 0.0), ("<s>".into(), CONTROL, 0.0), ("</s>".into(), CONTROL, 0.0)];
    entries.extend((0..=255).map(|b| (format!("<0x{b:02X}>"), BYTE, 0.0)));
    // A piece is reached through pairs that are pieces themselves.
    let pieces = ["▁t", "he", "▁the", "in", "▁a", "er", "▁r", "▁re", "▁red", "▁"];
    entries.extend(pieces.iter().enumerate().map(|(i, p)| ((*p).to_owned(), NORMAL, -(i as f32))));
    entries.extend(('a'..='z').enumerate().map(|(i, c)| (c.to_string(), NORMAL, -100.0 - i as f32)));
    Vocabulary {
        model: "llama",
        pre: "default",
        tokens: entries.iter().map(|e| e.0.clone()).collect(),
        types: entries.iter().map(|e| e.1).collect(),
        merges: Vec::new(),
        scores: entries.iter().map(|e| e.2).collect(),
        bos: 1,
        eos: 2,
    }
}

struct Builder {
    file: File,
    random: Random,
}

impl Builder {
    fn new(architecture: &str, vocabulary: &Vocabulary) -> Builder {
        let mut file = File::default();
        file.set("general.architecture", architecture);
        file.set("general.name", format!("tiny {architecture}").as_str());
        let mut number = |name: &str, n: usize| file.set(&format!("{architecture}.{name}"), n as u32);
        number("context_length", CONTEXT);
        number("embedding_length", WIDTH);
        number("feed_forward_length", MLP);
        number("block_count", LAYERS);
        number("attention.head_count", HEADS);
        number("attention.head_count_kv", HEADS);
        vocabulary.put(&mut file);
        Builder { file, random: Random::new(1) }
    }

    fn weight(&mut self, name: &str, shape: &[usize]) {
        // Roughly unit variance in, unit variance out.
        let inputs = *shape.last().expect("a shape") as f32;
        let values = self.random.floats(shape.iter().product(), (3.0 / inputs).sqrt());
        self.file.tensor(&format!("{name}.weight"), shape, &values);
    }

    fn bias(&mut self, name: &str, n: usize) {
        let values = self.random.floats(n, 0.1);
        self.file.tensor(&format!("{name}.bias"), &[n], &values);
    }

    /// Weights around 1.
    fn norm(&mut self, name: &str, n: usize, bias: bool) {
        let values: Vec<f32> = self.random.floats(n, 0.5).into_iter().map(|v| v + 1.0).collect();
        self.file.tensor(&format!("{name}.weight"), &[n], &values);
        if bias {
            self.bias(name, n);
        }
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.weight(name, &[outputs, inputs]);
        self.bias(name, outputs);
    }
}

/// A stock Phi-2.
pub fn phi2(vocabulary: &Vocabulary) -> File {
    phi2_of(vocabulary, LAYERS)
}

/// A stock Phi-2 of another depth.
pub fn phi2_of(vocabulary: &Vocabulary, layers: usize) -> File {
    let mut b = Builder::new("phi2", vocabulary);
    b.file.set("phi2.attention.layer_norm_epsilon", 1e-5f32);
    b.file.set("phi2.rope.dimension_count", 8u32);
    b.file.set("phi2.rope.freq_base", 10000.0f32);
    b.file.set("phi2.block_count", layers as u32);
    b.weight("token_embd", &[vocabulary.len(), WIDTH]);
    for i in 0..layers {
        b.norm(&format!("blk.{i}.attn_norm"), WIDTH, true);
        b.linear(&format!("blk.{i}.attn_qkv"), 3 * WIDTH, WIDTH);
        b.linear(&format!("blk.{i}.attn_output"), WIDTH, WIDTH);
        b.linear(&format!("blk.{i}.ffn_up"), MLP, WIDTH);
        b.linear(&format!("blk.{i}.ffn_down"), WIDTH, MLP);
    }
    b.norm("output_norm", WIDTH, true);
    b.linear("output", vocabulary.len(), WIDTH);
    b.file
}

/// The names of the three norms that TinyGPT-V adds to a layer.
pub fn extra_norm_names(layer: usize) -> [String; 5] {
    ["attn_q_norm.weight", "attn_q_norm.bias", "attn_k_norm.weight", "attn_k_norm.bias", "post_attention_norm.weight"]
        .map(|n| format!("blk.{layer}.{n}"))
}

/// Adds the three norms to a Phi-2, with random weights.
pub fn add_extra_norms(file: &mut File) {
    let mut b = Builder { file: file.clone(), random: Random::new(2) };
    for i in 0..LAYERS {
        b.norm(&format!("blk.{i}.attn_q_norm"), WIDTH / HEADS, true);
        b.norm(&format!("blk.{i}.attn_k_norm"), WIDTH / HEADS, true);
        b.norm(&format!("blk.{i}.post_attention_norm"), WIDTH, false);
    }
    *file = b.file;
}

pub fn llama(vocabulary: &Vocabulary) -> File {
    let mut b = Builder::new("llama", vocabulary);
    b.file.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    b.file.set("llama.rope.dimension_count", (WIDTH / HEADS) as u32);
    b.weight("token_embd", &[vocabulary.len(), WIDTH]);
    for i in 0..LAYERS {
        b.norm(&format!("blk.{i}.attn_norm"), WIDTH, false);
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            b.weight(&format!("blk.{i}.{name}"), &[WIDTH, WIDTH]);
        }
        b.norm(&format!("blk.{i}.ffn_norm"), WIDTH, false);
        b.weight(&format!("blk.{i}.ffn_gate"), &[MLP, WIDTH]);
        b.weight(&format!("blk.{i}.ffn_up"), &[MLP, WIDTH]);
        b.weight(&format!("blk.{i}.ffn_down"), &[WIDTH, MLP]);
    }
    b.norm("output_norm", WIDTH, false);
    b.weight("output", &[vocabulary.len(), WIDTH]);
    b.file
}

/// A StableLM, whose heads have norms of their own: of all heads of a layer in one tensor.
pub fn stablelm(vocabulary: &Vocabulary) -> File {
    let mut b = Builder::new("stablelm", vocabulary);
    b.file.set("stablelm.attention.layer_norm_epsilon", 1e-5f32);
    b.file.set("stablelm.rope.dimension_count", 8u32);
    b.file.set("stablelm.use_parallel_residual", true);
    b.weight("token_embd", &[vocabulary.len(), WIDTH]);
    for i in 0..LAYERS {
        b.norm(&format!("blk.{i}.attn_norm"), WIDTH, true);
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            b.weight(&format!("blk.{i}.{name}"), &[WIDTH, WIDTH]);
        }
        for name in ["attn_q_norm", "attn_k_norm"] {
            b.weight(&format!("blk.{i}.{name}"), &[HEADS, WIDTH / HEADS]);
        }
        b.weight(&format!("blk.{i}.ffn_gate"), &[MLP, WIDTH]);
        b.weight(&format!("blk.{i}.ffn_up"), &[MLP, WIDTH]);
        b.weight(&format!("blk.{i}.ffn_down"), &[WIDTH, MLP]);
    }
    b.norm("output_norm", WIDTH, true);
    b.weight("output", &[vocabulary.len(), WIDTH]);
    b.file
}

pub fn gpt2(vocabulary: &Vocabulary) -> File {
    let mut b = Builder::new("gpt2", vocabulary);
    b.file.set("gpt2.attention.layer_norm_epsilon", 1e-5f32);
    b.weight("token_embd", &[vocabulary.len(), WIDTH]);
    b.weight("position_embd", &[CONTEXT, WIDTH]);
    for i in 0..LAYERS {
        b.norm(&format!("blk.{i}.attn_norm"), WIDTH, true);
        b.linear(&format!("blk.{i}.attn_qkv"), 3 * WIDTH, WIDTH);
        b.linear(&format!("blk.{i}.attn_output"), WIDTH, WIDTH);
        b.norm(&format!("blk.{i}.ffn_norm"), WIDTH, true);
        b.linear(&format!("blk.{i}.ffn_up"), MLP, WIDTH);
        b.linear(&format!("blk.{i}.ffn_down"), WIDTH, MLP);
    }
    b.norm("output_norm", WIDTH, true);
    b.file
}
