//! Checkpoints in every layout that a user may have: changed copies of the demo's, whose results must be those of the
//! original, or what the change makes of them.

use std::fs;
use std::path::Path;

use crate::common::{read_state, write_safetensors, write_torch, Inputs, State, Stored, Tensor};
use half::{bf16, f16};
use tinygptv::gguf::{Gguf, TensorType};

const WIDTH: usize = 256;
const HEADS: usize = 4;
const HEAD: usize = 64;

/// The numbers of one tensor of a result.
fn values(path: &Path, name: &str) -> Vec<f32> {
    let file = Gguf::open(path).unwrap();
    let shape = file.find_tensor(name).unwrap_or_else(|| panic!("{name}")).shape.clone();
    let tensor = file.tensor(name, &shape).unwrap();
    let raw = tensor.bytes();
    match tensor.ty() {
        TensorType::F32 => raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        TensorType::F16 => raw.chunks_exact(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
        TensorType::BF16 => raw.chunks_exact(2).map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
        other => panic!("{name} is {other}"),
    }
}

/// All tensors' bytes, in file order.
fn data(path: &Path) -> Vec<(String, Vec<u8>)> {
    let file = Gguf::open(path).unwrap();
    file.tensors().iter().map(|t| (t.name.clone(), file.tensor(&t.name, &t.shape).unwrap().bytes().to_vec())).collect()
}

/// What the unchanged demo gives.
fn original() -> Inputs {
    let inputs = Inputs::demo();
    inputs.convert(&[]);
    inputs
}

fn assert_same_tensors(a: &Inputs, b: &Inputs) {
    for (a, b) in [(a.decoder(), b.decoder()), (a.vision(), b.vision())] {
        for ((name, x), (other, y)) in data(&a).into_iter().zip(data(&b)) {
            assert!(name == other && x == y, "{name} differs");
        }
    }
}

/// The rows of q, k or v (part 0, 1, 2) in a fused tensor `[head][q, k, v][head width]`.
fn part_of(fused: &Tensor, part: usize) -> Tensor {
    let row = fused.values.len() / (3 * WIDTH);
    let mut rows = Vec::new();
    for head in 0..HEADS {
        let first = (head * 3 + part) * HEAD * row;
        rows.extend_from_slice(&fused.values[first..first + HEAD * row]);
    }
    let shape: Vec<usize> = std::iter::once(WIDTH).chain(fused.shape[1..].iter().copied()).collect();
    Tensor::new(&shape, rows)
}

/// Replaces the fused tensors by three separate ones.
fn split(state: &mut State) {
    let fused: Vec<String> = state.keys().filter(|k| k.contains("query_key_value")).cloned().collect();
    for key in fused {
        let tensor = state.remove(&key).unwrap();
        for (part, name) in ["q_proj", "k_proj", "v_proj"].iter().enumerate() {
            state.insert(key.replace("query_key_value", name), part_of(&tensor, part));
        }
    }
}

#[test]
fn fused_rows_are_reordered() {
    let inputs = original();
    let fused = &read_state(&inputs.weights())["model.layers.2.self_attn.query_key_value.weight"];
    let expected: Vec<f32> = (0..3).flat_map(|part| part_of(fused, part).values).collect();
    assert_eq!(values(&inputs.decoder(), "blk.2.attn_qkv.weight"), expected);
    let bias = &read_state(&inputs.weights())["model.layers.2.self_attn.query_key_value.bias"];
    let expected: Vec<f32> = (0..3).flat_map(|part| part_of(bias, part).values).collect();
    assert_eq!(values(&inputs.decoder(), "blk.2.attn_qkv.bias"), expected);
}

#[test]
fn the_vit_s_keys_have_no_bias() {
    let inputs = original();
    let vit = read_state(&inputs.vit);
    let expected = [&vit["blocks.3.attn.q_bias"].values[..], &[0.0; 192], &vit["blocks.3.attn.v_bias"].values].concat();
    assert_eq!(values(&inputs.vision(), "v.blk.3.attn_qkv.bias"), expected);
    assert_ne!(expected[0], 0.0);
}

#[test]
fn separate_projections_give_the_same_and_are_announced() {
    let inputs = Inputs::demo();
    assert!(inputs.convert(&[]).contains("fused query_key_value"));
    inputs.edit_phi2(split);
    assert!(inputs.convert(&[]).contains("separate q_proj, k_proj, v_proj"));
    assert_same_tensors(&original(), &inputs);
}

#[test]
fn shards_and_torch_files_give_the_same() {
    let original = original();
    let state = read_state(&original.weights());
    let halves = |keep: bool| -> State {
        state
            .iter()
            .enumerate()
            .filter(|(i, _)| (i % 2 == 0) == keep)
            .map(|(_, (k, t))| (k.clone(), t.clone()))
            .collect()
    };
    let index = |names: [&str; 2]| {
        let map: serde_json::Map<_, _> =
            state.keys().enumerate().map(|(i, k)| (k.clone(), names[i % 2].into())).collect();
        serde_json::json!({ "weight_map": map }).to_string()
    };

    let inputs = Inputs::demo();
    fs::remove_file(inputs.weights()).unwrap();
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    write_safetensors(&inputs.phi2.join(names[0]), &halves(true), Stored::F16);
    write_safetensors(&inputs.phi2.join(names[1]), &halves(false), Stored::F16);
    fs::write(inputs.phi2.join("model.safetensors.index.json"), index(names)).unwrap();
    inputs.convert(&[]);
    assert_same_tensors(&original, &inputs);
    // The index and its files must agree.
    write_safetensors(&inputs.phi2.join(names[1]), &halves(true), Stored::F16);
    fs::remove_dir_all(inputs.out()).unwrap();
    assert!(inputs.fails(&[]).contains("lacks '"));
    fs::write(inputs.phi2.join("model.safetensors.index.json"), index(["../secret", names[1]])).unwrap();
    assert!(inputs.fails(&[]).contains("outside its folder"));

    let inputs = Inputs::demo();
    fs::remove_file(inputs.weights()).unwrap();
    let names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    write_torch(&inputs.phi2.join(names[0]), &halves(true), Stored::F16, b"");
    write_torch(&inputs.phi2.join(names[1]), &halves(false), Stored::F16, b"");
    fs::write(inputs.phi2.join("pytorch_model.bin.index.json"), index(names)).unwrap();
    inputs.convert(&[]);
    assert_same_tensors(&original, &inputs);
}

#[test]
fn number_types_are_read() {
    let original = original();
    for (stored, suffix) in [(Stored::F32, "f16"), (Stored::F64, "f16"), (Stored::BF16, "bf16")] {
        let inputs = Inputs::demo();
        let state = read_state(&inputs.weights());
        write_safetensors(&inputs.weights(), &state, stored);
        for path in [&inputs.vit, &inputs.qformer, &inputs.stage] {
            write_torch(path, &read_state(path), stored, b"");
        }
        inputs.convert(&["--decoder-type", suffix, "--vision-type", suffix]);
        if suffix == "f16" {
            assert_same_tensors(&original, &inputs);
        } else {
            let tensor = &state["model.layers.0.mlp.fc1.weight"];
            let expected: Vec<f32> = tensor.values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
            assert_eq!(values(&inputs.out().join("m-bf16.gguf"), "blk.0.ffn_up.weight"), expected);
        }
    }
}

const QKV: &str = "llama_model.base_model.model.model.layers.1.self_attn.query_key_value";
const DENSE: &str = "llama_model.base_model.model.model.layers.1.self_attn.dense";
const RANK: usize = 8;

/// Adds LoRA to one layer under the given spelling.
fn add_lora(state: &mut State, spelling: &str) {
    for (module, rows) in [(QKV, 3 * WIDTH), (DENSE, WIDTH)] {
        state.insert(format!("{module}.lora_A{spelling}.weight"), Tensor::pattern(&[RANK, WIDTH], 1));
        state.insert(format!("{module}.lora_B{spelling}.weight"), Tensor::pattern(&[rows, RANK], 2));
    }
}

/// `W + scale · B · A`.
fn merged(w: &Tensor, scale: f64) -> Tensor {
    let (a, b) = (Tensor::pattern(&[RANK, WIDTH], 1), Tensor::pattern(&[w.shape[0], RANK], 2));
    let mut out = w.clone();
    for (row, values) in out.values.chunks_exact_mut(WIDTH).enumerate() {
        for (column, value) in values.iter_mut().enumerate() {
            let dot: f64 =
                (0..RANK).map(|r| f64::from(b.values[row * RANK + r]) * f64::from(a.values[r * WIDTH + column])).sum();
            *value += (scale * dot) as f32;
        }
    }
    out
}

fn assert_close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (g, e) in got.iter().zip(expected) {
        assert!((g - e).abs() <= 1e-6 * e.abs().max(1.0), "{g} is not {e}");
    }
}

#[test]
fn lora_is_merged_under_both_spellings_and_onto_both_layouts() {
    let base = read_state(&Inputs::demo().weights());
    let qkv = merged(&base["model.layers.1.self_attn.query_key_value.weight"], 16.0 / RANK as f64);
    let expected_qkv: Vec<f32> = (0..3).flat_map(|part| part_of(&qkv, part).values).collect();
    let expected_dense = merged(&base["model.layers.1.self_attn.dense.weight"], 16.0 / RANK as f64).values;
    for spelling in [".default", ""] {
        for layout in [false, true] {
            let inputs = Inputs::demo();
            inputs.edit_torch(&inputs.stage, |s| add_lora(s, spelling));
            if layout {
                inputs.edit_phi2(split);
            }
            let said = inputs.convert(&["--decoder-type", "f32", "--vision-type", "f16"]);
            assert!(said.contains("LoRA merged into 2 matrices, alpha 16 (the default"), "{said}");
            let file = inputs.out().join("m-f32.gguf");
            assert_close(&values(&file, "blk.1.attn_qkv.weight"), &expected_qkv);
            assert_close(&values(&file, "blk.1.attn_output.weight"), &expected_dense);
        }
    }
}

#[test]
fn lora_on_separate_projections_goes_onto_either_layout() {
    let base = read_state(&Inputs::demo().weights());
    let fused = &base["model.layers.1.self_attn.query_key_value.weight"];
    let mut expected = vec![part_of(fused, 0), part_of(fused, 1), merged(&part_of(fused, 2), 2.0)];
    let expected: Vec<f32> = expected.drain(..).flat_map(|t| t.values).collect();
    for layout in [false, true] {
        let inputs = Inputs::demo();
        inputs.edit_torch(&inputs.stage, |s| {
            let module = QKV.replace("query_key_value", "v_proj");
            s.insert(format!("{module}.lora_A.default.weight"), Tensor::pattern(&[RANK, WIDTH], 1));
            s.insert(format!("{module}.lora_B.default.weight"), Tensor::pattern(&[WIDTH, RANK], 2));
        });
        if layout {
            inputs.edit_phi2(split);
        }
        inputs.convert(&["--decoder-type", "f32", "--vision-type", "f16"]);
        assert_close(&values(&inputs.out().join("m-f32.gguf"), "blk.1.attn_qkv.weight"), &expected);
    }
}

#[test]
fn alpha_comes_from_the_flag_or_the_checkpoint() {
    let base = read_state(&Inputs::demo().weights());
    let dense = |scale| merged(&base["model.layers.1.self_attn.dense.weight"], scale).values;
    let inputs = Inputs::demo();
    let mut state = read_state(&inputs.stage);
    add_lora(&mut state, ".default");
    // {"config": {"model": {"lora_alpha": 32, "lora_r": 8}}, "epoch": 3, …}
    let extra =
        b"X\x06\0\0\0config}X\x05\0\0\0model}(X\x0a\0\0\0lora_alphaK\x20X\x06\0\0\0lora_rK\x08usX\x05\0\0\0epochK\x03";
    write_torch(&inputs.stage, &state, Stored::F16, extra);
    let types = ["--decoder-type", "f32", "--vision-type", "f16"];
    let said = inputs.convert(&types);
    assert!(said.contains("alpha 32 (the checkpoint's configuration)"), "{said}");
    assert!(said.contains("passed over: config, epoch"), "{said}");
    assert_close(&values(&inputs.out().join("m-f32.gguf"), "blk.1.attn_output.weight"), &dense(4.0));
    let said = inputs.convert(&[&types[..], &["--lora-alpha", "8"]].concat());
    assert!(said.contains("alpha 8 (--lora-alpha)"), "{said}");
    assert_close(&values(&inputs.out().join("m-f32.gguf"), "blk.1.attn_output.weight"), &dense(1.0));

    let wrong = b"X\x06\0\0\0config}X\x05\0\0\0model}X\x06\0\0\0lora_rK\x10ss";
    write_torch(&inputs.stage, &state, Stored::F16, wrong);
    fs::remove_dir_all(inputs.out()).unwrap();
    assert!(inputs.fails(&[]).contains("lora_r = 16"));
}

#[test]
fn half_a_lora_is_an_error() {
    let inputs = Inputs::demo();
    inputs.edit_torch(&inputs.stage, |s| {
        add_lora(s, "");
        s.remove(&format!("{DENSE}.lora_B.weight"));
    });
    let error = inputs.fails(&[]);
    assert!(error.contains("dense.lora_A.weight' but not") && error.contains("lora_B"), "{error}");
    let inputs = Inputs::demo();
    inputs.edit_torch(&inputs.stage, |s| {
        add_lora(s, "");
        add_lora(s, ".default");
    });
    assert!(inputs.fails(&[]).contains("under both spellings"));
}

#[test]
fn lora_reaches_quantized_types_unrounded() {
    let inputs = Inputs::demo();
    inputs.edit_torch(&inputs.stage, |s| add_lora(s, ""));
    inputs.convert(&["--decoder-type", "f32,q8_0", "--vision-type", "f16"]);
    let exact = values(&inputs.out().join("m-f32.gguf"), "blk.1.attn_qkv.weight");
    let expected = tinygptv_convert::quantize::Type::Q8_0.encode_all(&exact, 1).unwrap().concat();
    let file = data(&inputs.out().join("m-q8_0.gguf"));
    let (_, got) = file.iter().find(|(n, _)| n == "blk.1.attn_qkv.weight").unwrap();
    assert_eq!(*got, expected);
}

#[test]
fn the_stage_checkpoint_overrides_the_other_files() {
    let inputs = Inputs::demo();
    let query_tokens = Tensor::pattern(&[1, 16, 192], 3);
    let norm = Tensor::pattern(&[256], 4);
    let fused = Tensor::pattern(&[3 * WIDTH, WIDTH], 5);
    inputs.edit_torch(&inputs.stage, |s| {
        s.insert("query_tokens".into(), query_tokens.clone());
        s.insert("llama_model.model.layers.0.input_layernorm.weight".into(), norm.clone());
        s.insert(
            "llama_model.base_model.model.model.layers.3.self_attn.query_key_value.base_layer.weight".into(),
            fused.clone(),
        );
    });
    let said = inputs.convert(&[]);
    assert!(said.contains("the --checkpoint file replaces 1 tensor of the --qformer file"), "{said}");
    assert_eq!(values(&inputs.vision(), "qf.query_tokens"), query_tokens.values);
    assert_eq!(values(&inputs.decoder(), "blk.0.attn_norm.weight"), norm.values);
    let expected: Vec<f32> = (0..3).flat_map(|part| part_of(&fused, part).values).collect();
    assert_eq!(values(&inputs.decoder(), "blk.3.attn_qkv.weight"), expected);
}

#[test]
fn extra_norms_may_be_frozen_or_absent_but_not_partly_there() {
    let is_extra = |k: &str| ["q_layernorm", "k_layernorm", "post_layernorm"].iter().any(|p| k.contains(p));
    // Without biases: zeros.
    let inputs = Inputs::demo();
    inputs.edit_phi2(|s| s.retain(|k, _| !is_extra(k)));
    inputs.edit_torch(&inputs.stage, |s| s.retain(|k, _| !(is_extra(k) && k.ends_with("bias"))));
    assert!(!inputs.convert(&[]).contains("warning"));
    assert_eq!(values(&inputs.decoder(), "blk.1.attn_q_norm.bias"), [0.0; HEAD]);
    assert_ne!(values(&inputs.decoder(), "blk.1.attn_q_norm.weight"), [1.0; HEAD]);
    // Some missing: an error.
    inputs.edit_torch(&inputs.stage, |s| drop(s.remove("llama_model.model.layers.2.post_layernorm.weight")));
    fs::remove_dir_all(inputs.out()).unwrap();
    assert!(inputs.fails(&[]).contains("model.layers.2.post_layernorm.weight' [256]"));
    // None at all: their initial values, and a warning.
    inputs.edit_torch(&inputs.stage, |s| s.retain(|k, _| !is_extra(k)));
    let said = inputs.convert(&[]);
    assert!(said.contains("warning: no file has the q/k norms"), "{said}");
    assert_eq!(values(&inputs.decoder(), "blk.1.attn_k_norm.weight"), [1.0; HEAD]);
    assert_eq!(values(&inputs.decoder(), "blk.1.attn_k_norm.bias"), [0.0; HEAD]);
    assert_eq!(values(&inputs.decoder(), "blk.1.post_attention_norm.weight"), [1.0; WIDTH]);
}

#[test]
fn what_is_missing_or_misshaped_is_named_with_both_shapes() {
    let inputs = Inputs::demo();
    inputs.edit_torch(&inputs.vit, |s| drop(s.remove("blocks.2.norm1.weight")));
    let error = inputs.fails(&[]);
    assert!(error.contains("'blocks.2.norm1.weight' [192] in the --vit file"), "{error}");

    let inputs = Inputs::demo();
    inputs.edit_torch(&inputs.qformer, |s| {
        s.insert("ln_vision.bias".into(), Tensor::pattern(&[191], 0));
    });
    let error = inputs.fails(&[]);
    let parts = ["'ln_vision.bias' in '", "blip2_pretrained.pth' has shape [191]", "the model needs [192]"];
    assert!(parts.iter().all(|p| error.contains(p)), "{error}");

    let inputs = Inputs::demo();
    inputs.edit_phi2(|s| {
        s.insert("model.layers.0.mlp.fc2.weight".into(), Tensor::pattern(&[1024, 256], 0));
    });
    let error = inputs.fails(&[]);
    assert!(error.contains("shape [1024, 256], where the model needs [256, 1024]"), "{error}");
}

#[test]
fn nothing_is_dropped_silently() {
    // Known to be unused: passed over, and said.
    let inputs = Inputs::demo();
    inputs.edit_torch(&inputs.qformer, |s| {
        s.insert("t5_proj.weight".into(), Tensor::pattern(&[8, 192], 0));
        s.insert("Qformer.bert.encoder.layer.0.intermediate.dense.weight".into(), Tensor::pattern(&[768, 192], 0));
    });
    inputs.edit_torch(&inputs.vit, |s| {
        s.insert("head.weight".into(), Tensor::pattern(&[10, 192], 0));
    });
    let said = inputs.convert(&[]);
    assert!(said.contains("1 tensor passed over: the Q-Former's text path"), "{said}");
    assert!(said.contains("1 tensor passed over: BLIP-2's heads"), "{said}");
    assert!(said.contains("1 tensor passed over: the ViT's classification head"), "{said}");
    assert_same_tensors(&original(), &inputs);

    // Unknown: an error that names it, unless the user says otherwise.
    inputs.edit_torch(&inputs.stage, |s| {
        s.insert("llama_model.model.layers.0.surprise.weight".into(), Tensor::pattern(&[4], 0));
    });
    fs::remove_dir_all(inputs.out()).unwrap();
    let error = inputs.fails(&[]);
    assert!(error.contains("layers.0.surprise.weight' in '") && error.contains("--allow-unknown"), "{error}");
    let said = inputs.convert(&["--allow-unknown"]);
    assert!(said.contains("warning: 1 tensor left out") && said.contains("surprise"), "{said}");
}

#[test]
fn blocks_past_the_last_one_used_are_left_out() {
    let inputs = Inputs::demo();
    let said = inputs.convert(&["--vit-blocks", "3"]);
    assert!(said.contains("blocks of the ViT past the last one"), "{said}");
    let file = Gguf::open(&inputs.vision()).unwrap();
    assert_eq!(file.u32("clip.vision.block_count").unwrap(), 3);
    assert!(file.find_tensor("v.blk.3.ln1.weight").is_none());
}

#[test]
fn flags_override_what_is_derived() {
    let inputs = Inputs::demo();
    let said =
        inputs.convert(&["--image-size", "224", "--vit-heads", "6", "--qformer-heads", "2", "--rotary-dims", "24"]);
    assert!(said.contains("stored for 8×8 patches, interpolated to 16×16"), "{said}");
    let (decoder, vision) = (Gguf::open(&inputs.decoder()).unwrap(), Gguf::open(&inputs.vision()).unwrap());
    assert_eq!(vision.u32("clip.vision.image_size").unwrap(), 224);
    assert_eq!(vision.u32("clip.vision.attention.head_count").unwrap(), 6);
    assert_eq!(vision.u32("tinygptv.qformer.head_count").unwrap(), 2);
    assert_eq!(decoder.u32("phi2.rope.dimension_count").unwrap(), 24);
    fs::remove_dir_all(inputs.out()).unwrap();
    assert!(inputs.fails(&["--image-size", "100"]).contains("patches of 14"));
    assert!(inputs.fails(&["--vit-heads", "5"]).contains("do not divide"));
    assert!(inputs.fails(&["--rotary-dims", "65"]).contains("heads of 64"));
}

#[test]
fn a_silent_configuration_gets_defaults_and_a_contradicting_one_is_refused() {
    let inputs = Inputs::demo();
    inputs.edit_config(|c| c.retain(|k, _| ["num_attention_heads", "architectures"].contains(&k.as_str())));
    let said = inputs.convert(&[]);
    assert!(said.contains("warning") && said.contains("partial_rotary_factor"), "{said}");
    let file = Gguf::open(&inputs.decoder()).unwrap();
    assert_eq!(file.u32("phi2.context_length").unwrap(), 2048);
    assert_eq!(file.u32("phi2.rope.dimension_count").unwrap(), 32);
    assert_eq!(file.u32("tokenizer.ggml.eos_token_id").unwrap(), 0);
    fs::remove_dir_all(inputs.out()).unwrap();

    for (key, value, part) in [
        ("hidden_size", serde_json::json!(128), "hidden_size = 128, but the weights have 256"),
        ("num_hidden_layers", serde_json::json!(5), "num_hidden_layers = 5, but the weights have 4"),
        ("vocab_size", serde_json::json!(600), "vocab_size = 600"),
        ("num_attention_heads", serde_json::json!(8), "the q/k norms are [64] wide"),
        ("num_key_value_heads", serde_json::json!(2), "num_key_value_heads = 2"),
        ("hidden_act", serde_json::json!("relu"), "relu"),
        ("rope_scaling", serde_json::json!({"type": "linear"}), "rope_scaling"),
        ("layer_norm_eps", serde_json::json!("x"), "layer_norm_eps"),
    ] {
        let inputs = Inputs::demo();
        inputs.edit_config(|c| drop(c.insert(key.into(), value)));
        let error = inputs.fails(&[]);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn damaged_numbers_are_refused() {
    let inputs = Inputs::demo();
    inputs.edit_torch(&inputs.vit, |s| s.get_mut("blocks.1.mlp.fc1.weight").unwrap().values[7] = f32::NAN);
    let error = inputs.fails(&["--decoder-type", "f16", "--vision-type", "f16"]);
    assert!(error.contains("v.blk.1.ffn_up.weight") && error.contains("NaN"), "{error}");
}

#[test]
fn vocabulary_rows_past_the_tokenizer_are_padded() {
    let inputs = Inputs::demo();
    inputs.edit_phi2(|s| {
        for key in ["model.embed_tokens.weight", "lm_head.weight"] {
            let t = s.get_mut(key).unwrap();
            t.values.resize(520 * WIDTH, 0.0);
            t.shape[0] = 520;
        }
        let bias = s.get_mut("lm_head.bias").unwrap();
        bias.values.resize(520, 0.0);
        bias.shape[0] = 520;
    });
    inputs.edit_config(|c| drop(c.insert("vocab_size".into(), 520.into())));
    inputs.convert(&[]);
    let file = Gguf::open(&inputs.decoder()).unwrap();
    assert_eq!(file.str_array("tokenizer.ggml.tokens").unwrap()[517..], ["[PAD517]", "[PAD518]", "[PAD519]"]);
    assert_eq!(file.i32_array("tokenizer.ggml.token_type").unwrap()[516..], [1, 5, 5, 5]);
}

#[test]
fn the_projections_are_folded_exactly() {
    let inputs = original();
    let s = read_state(&inputs.stage);
    let (w1, b1) = (&s["llama_proj.weight"], &s["llama_proj.bias"]);
    let (w2, b2) = (&s["llama_proj2.weight"], &s["llama_proj2.bias"]);
    let weights = values(&inputs.vision(), "mm.0.weight");
    let bias = values(&inputs.vision(), "mm.0.bias");
    let (middle, input) = (w1.shape[0], w1.shape[1]);
    for out in [0, 17, 255] {
        let row = &w2.values[out * middle..][..middle];
        let dot = |x: &dyn Fn(usize) -> f32| (0..middle).map(|m| f64::from(row[m]) * f64::from(x(m))).sum::<f64>();
        assert_eq!(bias[out], (dot(&|m| b1.values[m]) + f64::from(b2.values[out])) as f32);
        for column in [0, 100, input - 1] {
            let exact = dot(&|m| w1.values[m * input + column]) as f32;
            assert_eq!(weights[out * input + column], exact);
        }
    }
}
