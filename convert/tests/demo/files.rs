//! Converts the demo model's checkpoint with the program itself and looks at what comes out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{demo, Inputs};
use tinygptv::gguf::{Gguf, TensorType, Value};

const TYPES: &[&str] =
    &["--decoder-type", "f32,f16,bf16,q8_0,q6_k,q5_k_m,q4_k_m,q4_0", "--vision-type", "f32,f16,bf16,q8_0"];

/// Every tensor that docs/gguf.md lists, at the demo's size.
fn decoder_tensors() -> BTreeMap<String, Vec<usize>> {
    let mut t: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    t.insert("token_embd.weight".into(), vec![517, 256]);
    t.insert("output.weight".into(), vec![517, 256]);
    t.insert("output.bias".into(), vec![517]);
    let mut norm = |name: String, n: usize| {
        t.insert(format!("{name}.weight"), vec![n]);
        t.insert(format!("{name}.bias"), vec![n]);
    };
    norm("output_norm".into(), 256);
    for n in 0..4 {
        norm(format!("blk.{n}.attn_norm"), 256);
        norm(format!("blk.{n}.attn_q_norm"), 64);
        norm(format!("blk.{n}.attn_k_norm"), 64);
    }
    for n in 0..4 {
        t.insert(format!("blk.{n}.post_attention_norm.weight"), vec![256]);
        for (name, out, input) in
            [("attn_qkv", 768, 256), ("attn_output", 256, 256), ("ffn_up", 1024, 256), ("ffn_down", 256, 1024)]
        {
            t.insert(format!("blk.{n}.{name}.weight"), vec![out, input]);
            t.insert(format!("blk.{n}.{name}.bias"), vec![out]);
        }
    }
    t
}

fn vision_tensors() -> BTreeMap<String, Vec<usize>> {
    let mut t: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    t.insert("v.class_embd".into(), vec![192]);
    t.insert("v.position_embd.weight".into(), vec![65, 192]);
    t.insert("v.patch_embd.weight".into(), vec![192, 3, 14, 14]);
    t.insert("v.patch_embd.bias".into(), vec![192]);
    t.insert("qf.query_tokens".into(), vec![16, 192]);
    let mut pair = |name: String, shape: &[usize]| {
        t.insert(format!("{name}.weight"), shape.to_vec());
        t.insert(format!("{name}.bias"), shape[..1].to_vec());
    };
    pair("v.post_ln".into(), &[192]);
    pair("qf.embd_norm".into(), &[192]);
    pair("mm.0".into(), &[256, 192]);
    for n in 0..4 {
        for (name, shape) in [
            ("ln1", &[192][..]),
            ("ln2", &[192]),
            ("attn_qkv", &[576, 192]),
            ("attn_out", &[192, 192]),
            ("ffn_up", &[768, 192]),
            ("ffn_down", &[192, 768]),
        ] {
            pair(format!("v.blk.{n}.{name}"), shape);
        }
        for kind in if n % 2 == 0 { &["attn", "cross"][..] } else { &["attn"] } {
            for part in ["q", "k", "v", "out"] {
                pair(format!("qf.blk.{n}.{kind}_{part}"), &[192, 192]);
            }
            pair(format!("qf.blk.{n}.{kind}_norm"), &[192]);
        }
        pair(format!("qf.blk.{n}.ffn_up"), &[768, 192]);
        pair(format!("qf.blk.{n}.ffn_down"), &[192, 768]);
        pair(format!("qf.blk.{n}.ffn_norm"), &[192]);
    }
    t
}

fn shapes(file: &Gguf) -> BTreeMap<String, Vec<usize>> {
    file.tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect()
}

fn open(path: &Path) -> Gguf {
    Gguf::open(path).unwrap()
}

#[test]
fn every_type_holds_what_the_format_document_says() {
    let inputs = Inputs::demo();
    inputs.convert(TYPES);
    let expected_files = 8 + 4;
    assert_eq!(fs::read_dir(inputs.out()).unwrap().count(), expected_files, "nothing but the results");
    let mut pair_ids = Vec::new();
    for ty in TYPES[1].split(',') {
        let file = open(&inputs.out().join(format!("m-{ty}.gguf")));
        assert_eq!(shapes(&file), decoder_tensors(), "{ty}");
        for t in file.tensors().iter().filter(|t| t.shape.len() == 1) {
            assert_eq!(t.ty, TensorType::F32, "{}", t.name);
        }
        let large = file.find_tensor("blk.0.ffn_up.weight").unwrap().ty.to_string();
        assert!(ty.to_uppercase().starts_with(&large), "{ty} has {large}");
        assert_eq!(file.u32("general.quantization_version").unwrap(), 2);
        pair_ids.push(file.str("tinygptv.pair_id").unwrap().to_owned());
    }
    for ty in TYPES[3].split(',') {
        let file = open(&inputs.out().join(format!("m-vision-{ty}.gguf")));
        assert_eq!(shapes(&file), vision_tensors(), "{ty}");
        for t in file.tensors() {
            let small = t.shape.len() == 1
                || ["v.position_embd.weight", "qf.query_tokens", "mm.0.weight"].contains(&t.name.as_str());
            let unquantized = t.name == "v.patch_embd.weight";
            let wanted = match (small, unquantized, ty) {
                (true, ..) => "f32",
                (_, true, "q8_0") => "f16",
                _ => ty,
            };
            assert_eq!(t.ty.to_string().to_lowercase(), wanted, "{}", t.name);
        }
        pair_ids.push(file.str("tinygptv.pair_id").unwrap().to_owned());
    }
    assert_eq!(pair_ids[0].len(), 64);
    assert!(pair_ids.iter().all(|id| *id == pair_ids[0]), "any decoder file fits any vision file");
}

#[test]
fn derived_dimensions_are_the_model_s() {
    let inputs = Inputs::demo();
    inputs.convert(&[]);
    let meta: serde_json::Value = serde_json::from_slice(&fs::read(demo().join("meta.json")).unwrap()).unwrap();
    let decoder = open(&inputs.decoder());
    let vision = open(&inputs.vision());
    let number = |file: &Gguf, key: &str| match file.get(key) {
        Some(Value::Float(x)) => f64::from(*x as f32),
        Some(Value::Unsigned(n)) => *n as f64,
        other => panic!("{key}: {other:?}"),
    };
    for (file, key, path) in [
        (&decoder, "phi2.embedding_length", "/llm/hidden"),
        (&decoder, "phi2.block_count", "/llm/layers"),
        (&decoder, "phi2.attention.head_count", "/llm/heads"),
        (&decoder, "phi2.attention.head_count_kv", "/llm/heads"),
        (&decoder, "phi2.feed_forward_length", "/llm/mlp"),
        (&decoder, "phi2.context_length", "/llm/context"),
        (&decoder, "phi2.rope.dimension_count", "/llm/rotary_dims"),
        (&decoder, "phi2.rope.freq_base", "/llm/rope_theta"),
        (&decoder, "phi2.attention.layer_norm_epsilon", "/llm/layer_norm_eps"),
        (&decoder, "tinygptv.post_attention_norm_epsilon", "/llm/rms_norm_eps"),
        (&vision, "clip.vision.image_size", "/image_size"),
        (&vision, "clip.vision.patch_size", "/vit/patch_size"),
        (&vision, "clip.vision.embedding_length", "/vit/width"),
        (&vision, "clip.vision.block_count", "/vit/layers"),
        (&vision, "clip.vision.attention.head_count", "/vit/heads"),
        (&vision, "clip.vision.feed_forward_length", "/vit/mlp"),
        (&vision, "clip.vision.attention.layer_norm_epsilon", "/vit/layer_norm_eps"),
        (&vision, "clip.vision.projection_dim", "/projection/out"),
        (&vision, "tinygptv.vision.post_layer_norm_epsilon", "/vit/ln_vision_eps"),
        (&vision, "tinygptv.qformer.query_count", "/qformer/queries"),
        (&vision, "tinygptv.qformer.embedding_length", "/qformer/width"),
        (&vision, "tinygptv.qformer.block_count", "/qformer/layers"),
        (&vision, "tinygptv.qformer.head_count", "/qformer/heads"),
        (&vision, "tinygptv.qformer.feed_forward_length", "/qformer/mlp"),
        (&vision, "tinygptv.qformer.cross_attention_interval", "/qformer/cross_attention_freq"),
        (&vision, "tinygptv.qformer.layer_norm_epsilon", "/qformer/layer_norm_eps"),
    ] {
        let wanted = meta.pointer(path).and_then(|v| v.as_f64()).unwrap_or_else(|| panic!("{path}"));
        assert_eq!(number(file, key), f64::from(wanted as f32), "{key}");
    }
    for (key, name) in [("clip.vision.image_mean", "image_mean"), ("clip.vision.image_std", "image_std")] {
        let wanted: Vec<f32> = meta[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        assert_eq!(vision.f32_array(key).unwrap(), wanted);
    }
}

#[test]
fn metadata_are_complete() {
    let inputs = Inputs::demo();
    let turn = "###Human: {images}{question} ###Assistant:";
    inputs.convert(&["--add-template", &format!("demo={turn}"), "--default-template", "demo"]);
    let (decoder, vision) = (open(&inputs.decoder()), open(&inputs.vision()));
    assert_eq!(decoder.str("general.architecture").unwrap(), "phi2");
    assert_eq!(vision.str("general.architecture").unwrap(), "clip");
    assert_eq!(vision.str("general.type").unwrap(), "mmproj");
    assert_eq!(vision.str("clip.projector_type").unwrap(), "tinygptv");
    assert!(vision.bool("clip.has_vision_encoder").unwrap() && vision.bool("clip.use_gelu").unwrap());

    let names = ["chat", "benchmark", "rank", "instruct", "plain", "demo"];
    assert_eq!(vision.str_array("tinygptv.prompt.names").unwrap(), names);
    for key in ["system", "turn", "image"] {
        assert_eq!(vision.str_array(&format!("tinygptv.prompt.{key}")).unwrap().len(), names.len());
    }
    assert_eq!(vision.str_array("tinygptv.prompt.turn").unwrap()[5], turn);
    assert_eq!(vision.str("tinygptv.prompt.default").unwrap(), "demo");
    assert_eq!(vision.str_array("tinygptv.prompt.stop").unwrap(), ["###", "Assistant:"]);
    assert_eq!(vision.f32("tinygptv.sampling.temperature").unwrap(), 0.6);
    assert_eq!(vision.u32("tinygptv.sampling.top_k").unwrap(), 50);

    assert_eq!(decoder.str("tokenizer.ggml.model").unwrap(), "gpt2");
    assert_eq!(decoder.str("tokenizer.ggml.pre").unwrap(), "phi-2");
    assert!(!decoder.bool("tokenizer.ggml.add_bos_token").unwrap());
    assert_eq!(decoder.u32("tokenizer.ggml.eos_token_id").unwrap(), 0);
    let tokens = decoder.str_array("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.len(), 517);
    assert_eq!(tokens[0], "<|endoftext|>");
    assert!(tokens.iter().any(|t| t == "###"));
    let types = decoder.i32_array("tokenizer.ggml.token_type").unwrap();
    assert_eq!(types[0], 3);
    assert!(types[1..].iter().all(|&t| t == 1));
    let merges = decoder.str_array("tokenizer.ggml.merges").unwrap();
    assert_eq!((merges.len(), merges[0].as_str()), (260, "# #"));

    for file in [&decoder, &vision] {
        assert_eq!(file.u32("tinygptv.stage").unwrap(), 4);
        let names = file.str_array("tinygptv.source.names").unwrap();
        assert!(
            names.iter().any(|n| n == "model.safetensors") && names.iter().any(|n| n == "TinyGPT-V_for_Stage4.pth")
        );
        let hashes = file.str_array("tinygptv.source.sha256").unwrap();
        assert_eq!(hashes.len(), names.len());
        assert!(hashes.iter().all(|h| h.len() == 64));
    }
}

#[test]
fn the_same_sources_give_the_same_bytes() {
    let (first, second) = (Inputs::demo(), Inputs::demo());
    let types = ["--decoder-type", "f16,q8_0,q4_k_m", "--vision-type", "f16,q8_0"];
    first.convert(&types);
    second.convert(&[&types[..], &["--threads", "1"]].concat());
    for entry in fs::read_dir(first.out()).unwrap() {
        let name = entry.unwrap().file_name();
        let same = fs::read(first.out().join(&name)).unwrap() == fs::read(second.out().join(&name)).unwrap();
        assert!(same, "{name:?} differs");
    }
    // Other sources, another pair.
    let id = |inputs: &Inputs| open(&inputs.decoder()).str("tinygptv.pair_id").unwrap().to_owned();
    let before = id(&second);
    second.edit_config(|c| drop(c.insert("rope_theta".into(), 5000.0.into())));
    second.convert(&[]);
    assert_ne!(id(&second), before);
}

#[test]
fn truncated_inputs_fail_cleanly() {
    let demo = Inputs::demo();
    let weights = demo.weights();
    for path in [&weights, &demo.vit, &demo.qformer, &demo.stage] {
        let whole = fs::read(path).unwrap();
        for keep in [0, 5, 100, whole.len() / 2, whole.len() - 1] {
            fs::write(path, &whole[..keep]).unwrap();
            let error = demo.fails(&[]);
            assert!(error.contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
        }
        fs::write(path, whole).unwrap();
    }
    for name in ["config.json", "tokenizer.json"] {
        let path = demo.phi2.join(name);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(demo.fails(&[]).contains(name));
        fs::write(&path, whole).unwrap();
    }
    demo.convert(&[]);
}

#[test]
fn missing_inputs_are_named() {
    let inputs = Inputs::demo();
    fs::remove_file(&inputs.vit).unwrap();
    assert!(inputs.fails(&[]).contains("eva_vit_g.pth"));
    let inputs = Inputs::demo();
    fs::remove_file(inputs.weights()).unwrap();
    assert!(inputs.fails(&[]).contains("pytorch_model.bin"));
}

#[test]
fn existing_files_are_kept_unless_forced() {
    let inputs = Inputs::demo();
    inputs.convert(&[]);
    fs::write(inputs.decoder(), "mine").unwrap();
    let output = inputs.run(&["--decoder-type", "f16", "--vision-type", "f16"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--force"));
    assert_eq!(fs::read(inputs.decoder()).unwrap(), b"mine");
    inputs.convert(&[]);
    open(&inputs.decoder());
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let inputs = Inputs::demo();
    let output = inputs.run(&["--dry-run", "--decoder-type", "q4_k_m", "--vision-type", "q8_0"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("m-q4_k_m.gguf  about") && text.contains("m-vision-q8_0.gguf  about"));
    for name in decoder_tensors().keys().chain(vision_tensors().keys()) {
        assert!(text.lines().any(|l| l.split_whitespace().next() == Some(name)), "{name}");
    }
    assert!(text.contains("model.layers.0.self_attn.query_key_value.weight, rows reordered"));
    assert!(!inputs.out().exists());
}

#[test]
fn the_command_line_is_checked() {
    let program = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tinygptv-convert")).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(program(&[]).0, Some(2));
    assert_eq!(program(&["--phi2", "x"]).0, Some(2));
    assert_eq!(program(&["--help"]).0, Some(0));
    let (code, text) = program(&["inspect", "/does/not/exist.gguf"]);
    assert_eq!(code, Some(1));
    assert!(text.starts_with("error: cannot open") && text.lines().count() == 1, "{text}");
    let inputs = Inputs::demo();
    for bad in [
        ["--decoder-type", "q9"],
        ["--vision-type", "q4_0"],
        ["--stage", "5"],
        ["--default-template", "none"],
        ["--add-template", "x=y"],
        ["--name", "a/b"],
    ] {
        assert_eq!(inputs.run(&bad).status.code(), Some(2), "{bad:?}");
    }
}

#[test]
fn inspect_prints_metadata_and_tensors() {
    let inputs = Inputs::demo();
    inputs.convert(&[]);
    let output =
        Command::new(env!("CARGO_BIN_EXE_tinygptv-convert")).arg("inspect").arg(inputs.vision()).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for part in
        ["clip.vision.image_size", "###Human: {images}{question}###Assistant: ", "qf.blk.0.cross_k.weight", "total"]
    {
        assert!(text.contains(part), "{part}");
    }
}
