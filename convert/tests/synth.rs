//! Pairs of random weights: complete, usable, the same on every run, and rounded as llama.cpp's own quantiser rounds.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use tinygptv::gguf::{Gguf, TensorType, Value};
use tinygptv::vision::Control;
use tinygptv::{Image, Model, ModelOptions, PixelFormat, Session, SessionOptions};
use tinygptv_convert::types::DecoderType;

/// Rows of the decoder's width are whole blocks of 32 but not of 256, those of its MLP are both.
const SMALL: &str =
    "vocabulary=800,context=256,width=288,layers=3,heads=4,rotary=24,mlp=512,grid=4,vit-width=96,vit-blocks=2,\
                     vit-heads=2,vit-mlp=160,queries=8,qf-width=64,qf-layers=3,qf-heads=2,qf-mlp=128,projection=80";

fn run(out: &Path, dims: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinygptv-convert"));
    command.args(["synth", "--stage", "4", "--name", "s", "--dims", dims, "--out"]).arg(out);
    command.args(more).output().unwrap()
}

/// Makes files, which must work, in a new folder.
fn synth(dims: &str, more: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), dims, more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    dir
}

fn files(dir: &TempDir) -> BTreeMap<String, Vec<u8>> {
    let read = |e: fs::DirEntry| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap());
    fs::read_dir(dir.path()).unwrap().map(|e| read(e.unwrap())).collect()
}

fn demo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo").join(name)
}

/// How many tokens texts have, in prompts of TinyGPT-V, with the vocabulary of GPT-2, which Phi-2 shares.
const LENGTHS: [(&str, usize); 12] = [
    ("Give the following image: <Img>", 9),
    ("ImageContent", 2),
    (
        "</Img>. You will be able to see the image once I provide it to you. Please answer my questions.###Human: <Img>",
        31,
    ),
    ("###Human: <Img>", 7),
    ("</Img> [vqa] What is the color of the large object on the left?###Assistant: ", 24),
    ("red###Human: [vqa] And on the right?###Assistant: ", 17),
    ("red ###Assistant: ", 5),
    ("<s>[INST] <Img>", 9),
    ("</Img> a [/INST]", 8),
    ("[vqa] Based on the image, respond to this question with a short answer: a", 19),
    ("[refer] give me the location of [grounding] describe this image in detail", 18),
    ("[caption] [detection] [identify]", 12),
];

#[test]
fn pairs_of_every_kind_look_and_answer() {
    let types = ["--decoder-type", "f32,f16,bf16,q8_0,q4_k_m", "--vision-type", "f32,f16,bf16,q8_0"];
    let dir = synth(SMALL, &types);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5 + 4, "nothing but the results");
    let pixels: Vec<u8> = (0..20 * 30 * 3).map(|i| (i * 37 % 251) as u8).collect();
    let image = Image::from_pixels(&pixels, 20, 30, 0, PixelFormat::Rgb).unwrap();
    for (decoder, vision) in [("f32", "f32"), ("f16", "bf16"), ("bf16", "f16"), ("q8_0", "q8_0"), ("q4_k_m", "q8_0")] {
        let decoder = dir.path().join(format!("s-{decoder}.gguf"));
        let vision = dir.path().join(format!("s-vision-{vision}.gguf"));
        let options = ModelOptions { threads: 1, ..ModelOptions::default() };
        let model = Model::load(&decoder, Some(&vision), &options).unwrap();
        let info = model.info();
        assert_eq!((info.stage, info.embedding_width, info.image_tokens, info.image_size), (4, 288, 8, 56));
        let options = SessionOptions { max_new_tokens: 12, ..SessionOptions::default() };
        let mut session = Session::new(model, &options).unwrap();
        let embedding = session.add_image(&image, None).unwrap();
        assert!(embedding.values().iter().all(|v| v.is_finite() && v.abs() < 100.0));
        session.ask("What is left of the star?", &mut |_| true).unwrap();
        assert!(session.statistics().generated_tokens > 0);
        assert!(session.logits().iter().all(|l| l.is_finite()));
    }
}

/// The smallest cosine between vectors of two files' embeddings of a picture.
fn likeness(dir: &TempDir, a: &str, b: &str) -> f64 {
    let pixels: Vec<u8> = (0..40 * 30 * 3).map(|i| (i * i % 251) as u8).collect();
    let image = Image::from_pixels(&pixels, 40, 30, 0, PixelFormat::Rgb).unwrap();
    let options = ModelOptions { threads: 1, ..ModelOptions::default() };
    let [a, b] = [a, b].map(|name| {
        let model = Model::load(&dir.path().join("s-f16.gguf"), Some(&dir.path().join(name)), &options).unwrap();
        model.encode(&image, Control::default()).unwrap()
    });
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>();
    let cosine = |(a, b): (&[f32], &[f32])| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let vectors = a.values().chunks_exact(a.width()).zip(b.values().chunks_exact(b.width()));
    vectors.map(cosine).min_by(f64::total_cmp).unwrap()
}

/// Rounding must not cost more where some channels are a hundred times as large as the others.
#[test]
fn outliers_survive_rounding() {
    // Half as wide as the real model's, and wide enough for outliers to be few.
    let dims =
        "vocabulary=800,context=256,width=64,layers=1,heads=2,rotary=8,mlp=96,grid=4,vit-width=704,vit-blocks=3,\
                vit-heads=8,vit-mlp=2048,queries=8,qf-width=384,qf-layers=3,qf-heads=6,qf-mlp=1024,projection=80";
    let types = ["--decoder-type", "f16", "--vision-type", "f32,q8_0", "--outliers"];
    let lost = |outliers: &str| {
        let dir = synth(dims, &[&types[..], &[outliers]].concat());
        let file = Gguf::open(&dir.path().join("s-vision-q8_0.gguf")).unwrap();
        let mlps = ["clip.vision.feed_forward_length", "tinygptv.qformer.feed_forward_length"];
        let mlps = mlps.map(|key| file.u32(key).unwrap());
        (1.0 - likeness(&dir, "s-vision-f32.gguf", "s-vision-q8_0.gguf"), mlps)
    };
    let ((without, mlps), (with, longer)) = (lost("0"), lost("4"));
    assert_eq!((mlps, longer), ([2048, 1024], [2080, 1056]));
    // The least of a few cosines varies with how numbers happen to round; as they are, weights beside outliers lose ten times as much.
    assert!(without < 8e-4 && with < 3.0 * without, "{without:e} without outliers, {with:e} with");
}

#[test]
fn threads_change_nothing_and_seeds_and_outliers_do() {
    let types = ["--decoder-type", "f16,q4_k_m", "--vision-type", "f16,q8_0"];
    let with = |more: &[&str]| synth(SMALL, &[&types, more].concat());
    let (first, second) = (with(&["--threads", "1"]), with(&["--threads", "3"]));
    assert!(files(&first) == files(&second), "the number of threads counts");
    let id = |dir: &TempDir, name: &str| {
        Gguf::open(&dir.path().join(name)).unwrap().str("tinygptv.pair_id").unwrap().to_owned()
    };
    let same = id(&first, "s-f16.gguf");
    for name in files(&first).keys() {
        assert_eq!(id(&first, name), same, "any decoder file fits any vision file");
    }
    let weights = |dir: &TempDir| -> Vec<f32> {
        let file = Gguf::open(&dir.path().join("s-f16.gguf")).unwrap();
        let tensor = file.find_tensor("blk.1.attn_norm.weight").unwrap();
        let tensor = file.tensor(&tensor.name, &tensor.shape).unwrap();
        tensor.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    for more in [["--seed", "2"], ["--outliers", "7"]] {
        let other = with(&more);
        assert_ne!(id(&other, "s-f16.gguf"), same, "{more:?}");
        assert_ne!(weights(&other), weights(&first), "{more:?}");
    }
    let large = weights(&first).iter().filter(|w| w.abs() > 50.0).count();
    assert_eq!(large, 4, "four outliers unless said otherwise");
}

/// Every type that llama.cpp's quantiser makes, straight from the same numbers: byte for byte what it makes of them.
#[test]
fn rounding_is_llama_cpp_s_own() {
    let types = "q8_0,q6_k,q5_k_m,q5_k_s,q5_1,q5_0,q4_k_m,q4_k_s,q4_1,q4_0,iq4_nl,iq4_xs,q3_k_l,q3_k_m,q3_k_s,q2_k";
    for (name, dims) in [("fallbacks", SMALL.to_owned()), ("whole blocks", SMALL.replace("width=288,", "width=256,"))] {
        let dir = synth(&dims, &["--decoder-type", &format!("f32,{types}")]);
        let text = |path: &Path| CString::new(path.to_str().unwrap()).unwrap();
        for ty in types.split(',') {
            let made = dir.path().join("llama.gguf");
            let ftype = ty.parse::<DecoderType>().unwrap().file_type;
            // SAFETY: plain data, and texts that live during the call.
            let failed = unsafe {
                let mut params = llama_cpp_sys_2::llama_model_quantize_default_params();
                params.ftype = ftype as llama_cpp_sys_2::llama_ftype;
                params.nthread = 1;
                let from = text(&dir.path().join("s-f32.gguf"));
                llama_cpp_sys_2::llama_model_quantize(from.as_ptr(), text(&made).as_ptr(), &params)
            };
            assert_eq!(failed, 0);
            let same = fs::read(&made).unwrap() == fs::read(dir.path().join(format!("s-{ty}.gguf"))).unwrap();
            assert!(same, "{name}: {ty} differs from llama.cpp's");
        }
    }
}

#[test]
fn metadata_are_those_of_a_conversion() {
    let dir = synth(SMALL, &[]);
    for (ours, theirs) in
        [("s-q4_k_m.gguf", "tinygptv-demo-q4_k_m.gguf"), ("s-vision-q8_0.gguf", "tinygptv-demo-vision-q8_0.gguf")]
    {
        let kinds = |path: PathBuf| -> Vec<(String, std::mem::Discriminant<Value>)> {
            let file = Gguf::open(&path).unwrap();
            file.metadata().map(|(key, value)| (key.to_owned(), std::mem::discriminant(value))).collect()
        };
        assert_eq!(kinds(dir.path().join(ours)), kinds(demo(theirs)), "{ours}");
    }
    // The layers' tensors too, but for their sizes.
    let shapes = |path: PathBuf| -> BTreeMap<String, usize> {
        let file = Gguf::open(&path).unwrap();
        let of_first = |name: &str| !name.contains("blk.") || name.contains("blk.0.");
        file.tensors().iter().filter(|t| of_first(&t.name)).map(|t| (t.name.clone(), t.shape.len())).collect()
    };
    assert_eq!(shapes(dir.path().join("s-q4_k_m.gguf")), shapes(demo("tinygptv-demo-q4_k_m.gguf")));
    assert_eq!(shapes(dir.path().join("s-vision-q8_0.gguf")), shapes(demo("tinygptv-demo-vision-q8_0.gguf")));
    let vision = Gguf::open(&dir.path().join("s-vision-q8_0.gguf")).unwrap();
    assert_eq!(vision.str("tinygptv.prompt.default").unwrap(), "instruct");
    assert_eq!(vision.find_tensor("v.blk.1.ffn_down.weight").unwrap().ty, TensorType::Q8_0);
}

#[test]
fn the_vocabulary_of_the_full_size_works() {
    let dims = "width=32,heads=1,rotary=8,layers=1,mlp=32,vit-width=32,vit-heads=1,vit-blocks=1,vit-mlp=32,patch=2,\
                qf-width=32,qf-heads=1,qf-layers=1,qf-mlp=32,projection=32,queries=2,context=256";
    let dir = synth(dims, &["--decoder-type", "f16"]);
    let options = ModelOptions { threads: 1, ..ModelOptions::default() };
    let model = Model::load(&dir.path().join("s-f16.gguf"), None, &options).unwrap();
    assert_eq!(model.info().vocabulary, 51200);
    let t = model.tokenizer();
    let encode = |text: &str| t.encode(text).unwrap();
    assert_eq!(encode("###"), [21017]);
    assert_eq!(encode(" ###"), [44386]);
    assert_eq!(encode("<|endoftext|>"), [50256]);
    assert_eq!((encode(&" ".repeat(31)), encode("  "), encode("\t\t")), (vec![50257], vec![50286], vec![50294]));
    assert_eq!((encode(" picture").len(), encode(" the").len()), (1, 1), "common words are one token");
    for (text, length) in LENGTHS {
        assert_eq!(encode(text).len(), length, "{text}");
    }
    assert!(!t.is_fallback());
    for text in ["###Human: <Img></Img> What is left of the star? ###Assistant:", "Grüße, ⭐ 日本語\n\t a   b 1234"]
    {
        let ids = encode(text);
        assert!(ids.len() < text.len());
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| t.token_bytes(id)).collect();
        assert_eq!(bytes, text.as_bytes());
    }
}

#[test]
fn mistakes_are_explained_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |dims: &str, more: &[&str], wanted: &str| {
        let output = run(dir.path(), dims, more);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && stderr.contains(wanted), "{stderr}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    };
    fails("depth=3", &[], "none of vocabulary, context");
    fails("heads=7", &[], "do not divide");
    fails(SMALL, &["--outliers", "65"], "do not fit");
    fails("vocabulary=100", &[], "too small");
    fails("rotary=90", &[], "do not fit heads");
    fails(SMALL, &["--image-size", "15"], "patches");
    fails(SMALL, &["--full"], "cannot be used with");
    fs::write(dir.path().join("s-q4_k_m.gguf"), "mine").unwrap();
    let output = run(dir.path(), SMALL, &[]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--force"));
    assert_eq!(fs::read(dir.path().join("s-q4_k_m.gguf")).unwrap(), b"mine");
}
