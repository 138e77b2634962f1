//! The small random models' files, made from their description in tests/golden/oracle, and converted as a user's are.

use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde_json::{json, Value as Json};
use tinygptv_convert::output::Progress;
use tinygptv_convert::phi2::DecoderOptions;
use tinygptv_convert::plan::PlanOptions;
use tinygptv_convert::prompts::Prompts;
use tinygptv_convert::result::ResultOptions;
use tinygptv_convert::vision::VisionOptions;
use tinygptv_convert::{convert, Inputs};

use crate::checkpoint_writer::{write_safetensors, write_torch, write_torch_state, State, Stored, Tensor};
use crate::common::{demo, list, text, TempDir};

/// The formula is told in tests/reference/oracle_models.py: numbers of −1 to 1 for the text `name`.
pub fn uniform(name: &str) -> impl Iterator<Item = f32> {
    let fnv1a = |h: u64, byte: u8| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let mut state = name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv1a);
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

fn number(json: &Json) -> f32 {
    json.as_f64().expect("a number") as f32
}

fn count(json: &Json, key: &str) -> usize {
    json[key].as_u64().unwrap_or_else(|| panic!("no count {key:?}")) as usize
}

/// One entry `[key, shape, centre, spread]` of a file's list of tensors.
fn tensor(seed: usize, path: &str, entry: &Json) -> (String, Tensor) {
    let key = entry[0].as_str().expect("a key");
    let shape: Vec<usize> =
        entry[1].as_array().expect("a shape").iter().map(|n| n.as_u64().expect("a size") as usize).collect();
    let (centre, spread) = (number(&entry[2]), number(&entry[3]));
    let values = uniform(&format!("{seed}/{path}/{key}")).take(shape.iter().product());
    (key.to_owned(), Tensor::new(&shape, values.map(|u| centre + spread * u).collect()))
}

/// Pickle code for the items beside the tensors: `{"config": {"model": {"lora_r": …, "lora_alpha": …}}, "epoch": 7}`.
fn beside_the_tensors(model: &Json) -> Vec<u8> {
    let mut code = b"X\x05\0\0\0epochK\x07".to_vec();
    if let Some(alpha) = model["lora_alpha"].as_u64() {
        code.extend(b"X\x06\0\0\0config}X\x05\0\0\0model}(X\x06\0\0\0lora_rK");
        code.push(count(model, "lora_rank") as u8);
        code.extend(b"X\x0a\0\0\0lora_alphaK");
        code.push(alpha as u8);
        code.extend(b"us");
    }
    code
}

/// Writes all files of a model.
fn write(model: &Json, dir: &Path) {
    let phi2 = dir.join("phi-2");
    fs::create_dir_all(&phi2).expect("a writable folder");
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        fs::copy(demo("checkpoint/phi2").join(name), phi2.join(name)).expect("the demo's tokenizer");
    }
    fs::write(phi2.join("config.json"), model["config"].to_string()).expect("a writable folder");
    let mut shards = serde_json::Map::new();
    let mut weights = 0;
    for file in list(model, "files") {
        let path = text(file, "path");
        let entries = list(file, "tensors");
        let state: State = entries.iter().map(|e| tensor(count(model, "seed"), path, e)).collect();
        let (stored, rounded): (_, fn(f32) -> f32) = match text(file, "type") {
            "F32" => (Stored::F32, |v| v),
            "F16" => (Stored::F16, |v| f16::from_f32(v).to_f32()),
            "BF16" => (Stored::BF16, |v| bf16::from_f32(v).to_f32()),
            other => panic!("a type that is not known: {other}"),
        };
        let last = entries.last().and_then(|e| state[e[0].as_str()?].values.last()).expect("a tensor");
        assert_eq!(rounded(*last), number(&file["last"]), "{path}: these are not the numbers that Python wrote");
        if let Some(name) = path.strip_prefix("phi-2/") {
            weights += 1;
            shards.extend(state.keys().map(|key| (key.clone(), name.into())));
        }
        match (path.ends_with(".safetensors"), file["wrapped"] == true) {
            (true, _) => write_safetensors(&dir.join(path), &state, stored),
            (false, true) => write_torch(&dir.join(path), &state, stored, &beside_the_tensors(model)),
            (false, false) => write_torch_state(&dir.join(path), &state, stored),
        }
    }
    if weights > 1 {
        let index = json!({ "weight_map": shards }).to_string();
        fs::write(phi2.join("pytorch_model.bin.index.json"), index).expect("a writable folder");
    }
}

/// A model's GGUF files in several types, in a folder that goes away with it.
pub struct Converted {
    dir: TempDir,
}

impl Converted {
    /// Makes the files of a model and converts them.
    pub fn new(name: &str, model: &Json, decoder_types: &[&str], vision_types: &[&str]) -> Converted {
        let dir = TempDir::new(&format!("oracle-{name}"));
        let source = dir.join("checkpoint");
        write(model, &source);
        let paths: Vec<&str> = list(model, "files").iter().map(|f| text(f, "path")).collect();
        let [.., vit, qformer, checkpoint] = paths.as_slice() else { panic!("{name} lacks files") };
        let stage = count(model, "stage") as u32;
        let inputs = Inputs {
            phi2: source.join("phi-2"),
            vit: source.join(vit),
            qformer: source.join(qformer),
            checkpoint: source.join(checkpoint),
        };
        let plan = PlanOptions {
            name: name.to_owned(),
            stage,
            decoder: DecoderOptions::default(),
            vision: VisionOptions {
                image_size: Some(count(model, "image_size")),
                vit_heads: Some(count(model, "vit_heads")),
                vit_blocks: Some(count(model, "vit_blocks")),
                qformer_heads: Some(count(model, "qformer_heads")),
            },
            prompts: Prompts::new(stage, &[], None).expect("the stage's prompts"),
            allow_unknown: false,
        };
        let results = ResultOptions {
            name: name.to_owned(),
            decoder_types: decoder_types.iter().map(|t| t.parse().expect("a type")).collect(),
            vision_types: vision_types.iter().map(|t| t.parse().expect("a type")).collect(),
            out: dir.join("gguf"),
            force: false,
            dry_run: false,
            verbose: false,
            threads: 1,
        };
        convert(&inputs, &plan, &results, &Progress::new(true))
            .unwrap_or_else(|e| panic!("{name} does not convert: {e:#}"));
        Converted { dir }
    }

    pub fn decoder(&self, name: &str, ty: &str) -> PathBuf {
        self.dir.join("gguf").join(format!("{name}-{ty}.gguf"))
    }

    pub fn vision(&self, name: &str, ty: &str) -> PathBuf {
        self.dir.join("gguf").join(format!("{name}-vision-{ty}.gguf"))
    }
}
