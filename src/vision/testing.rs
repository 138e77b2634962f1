//! Small vision files for tests, written on the fly.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};

use super::kernels::tests::Noise;
use crate::gguf::{Gguf, TensorType};

/// A metadata value.
#[derive(Clone)]
pub(super) enum Key {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    F32s(Vec<f32>),
}

/// What will be in the file.
#[derive(Clone)]
pub(super) struct TestFile {
    pub keys: Vec<(String, Key)>,
    pub tensors: Vec<(String, Vec<usize>, TensorType, Vec<f32>)>,
}

/// A file that is deleted when dropped.
pub(super) struct Written {
    pub file: Gguf,
    path: PathBuf,
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl TestFile {
    pub(super) fn empty() -> Self {
        TestFile { keys: Vec::new(), tensors: Vec::new() }
    }

    /// A whole model with odd sizes: 11×11 patches of 3 pixels, width 24, 2 blocks, 5 queries; random numbers.
    pub(super) fn small_model(linear: TensorType) -> Self {
        let (width, mlp, queries, qf, qf_mlp, projection) = (32, 64, 5, 64, 96, 40);
        let mut file = Self::empty();
        let mut key = |name: &str, value: Key| file.keys.push((name.into(), value));
        key("general.architecture", Key::Text("clip"));
        key("clip.projector_type", Key::Text("tinygptv"));
        key("clip.has_vision_encoder", Key::Bool(true));
        key("clip.use_gelu", Key::Bool(true));
        for (name, value) in [
            ("clip.vision.image_size", 33),
            ("clip.vision.patch_size", 3),
            ("clip.vision.embedding_length", width),
            ("clip.vision.feed_forward_length", mlp),
            ("clip.vision.block_count", 2),
            ("clip.vision.attention.head_count", 2),
            ("clip.vision.projection_dim", projection),
            ("tinygptv.qformer.query_count", queries),
            ("tinygptv.qformer.embedding_length", qf),
            ("tinygptv.qformer.feed_forward_length", qf_mlp),
            ("tinygptv.qformer.block_count", 3),
            ("tinygptv.qformer.head_count", 4),
            ("tinygptv.qformer.cross_attention_interval", 2),
        ] {
            key(name, Key::U32(value as u32));
        }
        for (name, value) in [
            ("clip.vision.attention.layer_norm_epsilon", 1e-6),
            ("tinygptv.vision.post_layer_norm_epsilon", 1e-5),
            ("tinygptv.qformer.layer_norm_epsilon", 1e-12),
        ] {
            key(name, Key::F32(value));
        }
        key("clip.vision.image_mean", Key::F32s(vec![0.5, 0.4, 0.3]));
        key("clip.vision.image_std", Key::F32s(vec![0.3, 0.25, 0.2]));

        let mut noise = Noise::new(5);
        let mut tensor = |name: String, shape: &[usize], ty: TensorType| {
            let len = shape.iter().product();
            let fan_in = if shape.len() > 1 { len / shape[0] } else { 1 };
            let values = noise.vec(len).iter().map(|v| v / (fan_in as f32).sqrt() * 1.7).collect();
            file.tensors.push((name, shape.to_vec(), ty, values));
        };
        let plain = TensorType::F32;
        let patch = if linear == TensorType::Q8_0 { TensorType::F16 } else { linear };
        tensor("v.class_embd".into(), &[width], plain);
        tensor("v.position_embd.weight".into(), &[122, width], plain);
        tensor("v.patch_embd.weight".into(), &[width, 3, 3, 3], patch);
        tensor("v.patch_embd.bias".into(), &[width], plain);
        let mut layer = |name: String, outputs: usize, inputs: Option<usize>| {
            match inputs {
                Some(n) => tensor(format!("{name}.weight"), &[outputs, n], linear),
                None => tensor(format!("{name}.weight"), &[outputs], plain),
            }
            tensor(format!("{name}.bias"), &[outputs], plain);
        };
        for n in 0..2 {
            layer(format!("v.blk.{n}.ln1"), width, None);
            layer(format!("v.blk.{n}.ln2"), width, None);
            layer(format!("v.blk.{n}.attn_qkv"), 3 * width, Some(width));
            layer(format!("v.blk.{n}.attn_out"), width, Some(width));
            layer(format!("v.blk.{n}.ffn_up"), mlp, Some(width));
            layer(format!("v.blk.{n}.ffn_down"), width, Some(mlp));
        }
        layer("v.post_ln".into(), width, None);
        layer("qf.embd_norm".into(), qf, None);
        for n in 0..3 {
            for (part, keys) in [("attn", qf), ("cross", width)].into_iter().take(if n % 2 == 0 { 2 } else { 1 }) {
                layer(format!("qf.blk.{n}.{part}_q"), qf, Some(qf));
                layer(format!("qf.blk.{n}.{part}_k"), qf, Some(keys));
                layer(format!("qf.blk.{n}.{part}_v"), qf, Some(keys));
                layer(format!("qf.blk.{n}.{part}_out"), qf, Some(qf));
                layer(format!("qf.blk.{n}.{part}_norm"), qf, None);
            }
            layer(format!("qf.blk.{n}.ffn_up"), qf_mlp, Some(qf));
            layer(format!("qf.blk.{n}.ffn_down"), qf, Some(qf_mlp));
            layer(format!("qf.blk.{n}.ffn_norm"), qf, None);
        }
        layer("mm.0".into(), projection, Some(qf));
        tensor("qf.query_tokens".into(), &[queries, qf], plain);
        file
    }

    pub(super) fn set(mut self, key: &str, value: Key) -> Self {
        self.keys.iter_mut().find(|k| k.0 == key).expect("a key of the model").1 = value;
        self
    }

    pub(super) fn without(mut self, tensor: &str) -> Self {
        self.tensors.retain(|t| t.0 != tensor);
        self
    }

    pub(super) fn tensor_mut(&mut self, name: &str) -> &mut (String, Vec<usize>, TensorType, Vec<f32>) {
        self.tensors.iter_mut().find(|t| t.0 == name).expect("a tensor of the model")
    }

    /// The values of a tensor as the file has them: rounded to the tensor's type.
    pub(super) fn stored(&self, name: &str) -> Vec<f32> {
        let (_, _, ty, values) = self.tensors.iter().find(|t| t.0 == name).expect("a tensor of the model");
        let bytes = encode(*ty, values);
        match ty {
            TensorType::F16 => bytes.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            TensorType::BF16 => bytes.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            TensorType::Q8_0 => bytes
                .chunks(34)
                .flat_map(|b| {
                    let scale = f16::from_le_bytes([b[0], b[1]]).to_f32();
                    b[2..].iter().map(move |&q| scale * q as i8 as f32)
                })
                .collect(),
            _ => values.clone(),
        }
    }

    /// Writes the file to the temporary folder and opens it.
    pub(super) fn write(&self) -> Written {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        fn text(out: &mut Vec<u8>, s: &str) {
            out.extend((s.len() as u64).to_le_bytes());
            out.extend(s.as_bytes());
        }
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (name, value) in &self.keys {
            text(&mut out, name);
            let mut value_of = |ty: u32, bytes: &[u8]| {
                out.extend(ty.to_le_bytes());
                out.extend(bytes);
            };
            match value {
                Key::U32(v) => value_of(4, &v.to_le_bytes()),
                Key::F32(v) => value_of(6, &v.to_le_bytes()),
                Key::Bool(v) => value_of(7, &[*v as u8]),
                Key::Text(v) => {
                    value_of(8, &[]);
                    text(&mut out, v);
                }
                Key::F32s(v) => {
                    value_of(9, &6u32.to_le_bytes());
                    out.extend((v.len() as u64).to_le_bytes());
                    out.extend(v.iter().flat_map(|v| v.to_le_bytes()));
                }
            }
        }
        let mut data: Vec<u8> = Vec::new();
        for (name, shape, ty, values) in &self.tensors {
            text(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|&n| out.extend((n as u64).to_le_bytes()));
            out.extend(ty.number().to_le_bytes());
            data.resize(data.len().next_multiple_of(32), 0);
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(encode(*ty, values));
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tinygptv-test-{}-{number}.gguf", std::process::id()));
        std::fs::write(&path, out).expect("the temporary folder takes files");
        let file = Gguf::open(&path).expect("the test file is sound");
        Written { file, path }
    }
}

fn encode(ty: TensorType, values: &[f32]) -> Vec<u8> {
    match ty {
        TensorType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        TensorType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        TensorType::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        TensorType::Q8_0 => {
            let block = |b: &[f32]| {
                let scale = b.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
                let quants = b.iter().map(move |v| if scale > 0.0 { (v / scale).round() as i8 as u8 } else { 0 });
                f16::from_f32(scale).to_le_bytes().into_iter().chain(quants).collect::<Vec<u8>>()
            };
            values.chunks(32).flat_map(block).collect()
        }
        // Only refused: what is in it does not matter, its size does (Q4_0).
        TensorType::Other(_) => vec![0; values.len() / 32 * 18],
    }
}
