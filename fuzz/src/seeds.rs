//! First inputs of each target, made from real files.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::model::{self, header_of, repository};
use crate::targets::c_api;

/// A named input.
pub type Seed = (String, Vec<u8>);

/// The seeds of a target.
pub fn of(target: &str) -> Vec<Seed> {
    match target {
        "decoder_gguf" => decoders(),
        "vision_gguf" => visions(),
        "image" => files(&repository().join("tests/golden/pictures"), 8192, &["json"]),
        "c_api" => programs(),
        "pickle" => pickles(),
        "torch_archive" => archives(),
        "safetensors" => safetensors(),
        "prompt" => prompts(),
        "stream" => texts().map(|(name, t)| (name, stream(t))).collect(),
        "grounding" => {
            texts().map(|(name, t)| (name, [b"\xe0\x01\x40\x01\x02\x05\x09", t.as_bytes()].concat())).collect()
        }
        "tokenizer" => texts().map(|(name, t)| (name, t.as_bytes().to_vec())).collect(),
        other => panic!("there is no target {other}"),
    }
}

/// The files of a folder that are at most so long.
fn files(folder: &Path, longest: u64, but_not: &[&str]) -> Vec<Seed> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|p| !p.extension().is_some_and(|e| but_not.iter().any(|b| e == *b)))
        .filter(|p| p.metadata().is_ok_and(|m| m.is_file() && m.len() <= longest))
        .collect();
    paths.sort();
    let name = |p: &Path| p.file_name().expect("a name").to_string_lossy().into_owned();
    paths.iter().map(|p| (name(p), fs::read(p).expect("a file that can be read"))).collect()
}

fn demo(name: &str) -> PathBuf {
    repository().join("assets/demo").join(name)
}

fn decoders() -> Vec<Seed> {
    let pair = model::make("f16", "f16");
    let quantised = model::make("q8_0", "f16");
    let stock = repository().join("tests/golden/stock_phi2/stock.gguf");
    [("tiny-f16", pair.decoder.as_path()), ("tiny-q8_0", &quantised.decoder), ("stock", &stock)]
        .map(|(name, path)| (name.to_owned(), header_of(path)))
        .into_iter()
        .filter(|(_, bytes)| bytes.len() < 1 << 15)
        .collect()
}

fn visions() -> Vec<Seed> {
    let [f16, q8_0] = ["f16", "q8_0"].map(|ty| model::make("f16", ty));
    let [demo_f16, demo_q8_0] = ["f16", "q8_0"].map(|ty| demo(&format!("tinygptv-demo-vision-{ty}.gguf")));
    [("tiny-f16", &f16.vision), ("tiny-q8_0", &q8_0.vision), ("demo-f16", &demo_f16), ("demo-q8_0", &demo_q8_0)]
        .map(|(name, path)| (name.to_owned(), header_of(path)))
        .to_vec()
}

/// A conversation, a batch, boxes, a constraint, embeddings: each call with good arguments.
fn programs() -> Vec<Seed> {
    let program = |name: &str, calls: &[&str]| {
        let number = |call: &str| c_api::CALLS.iter().position(|c| c.0 == call).unwrap_or_else(|| panic!("no {call}"));
        let instruction = |call: &&str| {
            let mut bytes = [0; c_api::INSTRUCTION];
            bytes[0] = number(call) as u8;
            // Several texts where there can be several, and one with boxes.
            match *call {
                "tgv_session_rank" => bytes[5] = 3,
                "tgv_session_ask_each" | "tgv_session_set_answers" => bytes[3] = 3,
                "tgv_boxes_push" => bytes[3] = 14,
                _ => {}
            }
            bytes
        };
        (name.to_owned(), calls.iter().flat_map(instruction).collect::<Vec<u8>>())
    };
    const START: [&str; 3] = ["tgv_session_create", "tgv_image_from_pixels", "tgv_session_add_image"];
    let after_start = |name: &str, calls: &[&str]| program(name, &[&START, calls].concat());
    vec![
        after_start(
            "conversation",
            &["tgv_session_ask", "tgv_session_ask", "tgv_session_statistics", "tgv_session_reset"],
        ),
        after_start("rank", &["tgv_session_rank", "tgv_session_ask_each", "tgv_session_ask"]),
        after_start(
            "constraint",
            &["tgv_session_set_grammar", "tgv_session_ask", "tgv_session_set_answers", "tgv_session_ask"],
        ),
        after_start("sampling", &["tgv_session_set_sampling", "tgv_session_ask", "tgv_session_free", "tgv_image_free"]),
        program(
            "embedding",
            &[
                "tgv_session_create",
                "tgv_image_from_memory",
                "tgv_embedding_encode",
                "tgv_embedding_copy",
                "tgv_embedding_save",
                "tgv_embedding_load",
                "tgv_session_add_embedding",
                "tgv_embedding_free",
                "tgv_session_ask",
            ],
        ),
        program(
            "boxes",
            &[
                "tgv_image_from_file",
                "tgv_boxes_create",
                "tgv_boxes_push",
                "tgv_boxes_count",
                "tgv_boxes_get",
                "tgv_boxes_draw",
            ],
        ),
        program(
            "model",
            &["tgv_model_load", "tgv_model_plan", "tgv_model_get_info", "tgv_model_template_count", "tgv_model_free"],
        ),
        program("everything", &c_api::CALLS.map(|c| c.0)),
    ]
}

/// The entries of real checkpoints' pickles, and one of every opcode's kind.
fn pickles() -> Vec<Seed> {
    let mut seeds = vec![
        ("tensor".to_owned(), TENSOR.to_vec()),
        ("protocol-0".to_owned(), b"(dp0\nVw\np1\nF1.5\nsI01\nL7L\ns.".to_vec()),
        (
            "namespace".to_owned(),
            b"\x80\x02}q\x00X\x06\x00\x00\x00configcargparse\nNamespace\n)\x81}X\x01\x00\x00\x00aK\x07sbs.".to_vec(),
        ),
        ("refused".to_owned(), b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.".to_vec()),
        ("frame".to_owned(), b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94\x88s.".to_vec()),
    ];
    for name in ["TinyGPT-V_for_Stage4.pth", "blip2_pretrained.pth", "eva_vit_g.pth"] {
        let file = fs::File::open(demo("checkpoint").join(name)).expect("the demo checkpoint");
        let mut archive = zip::ZipArchive::new(file).expect("an archive");
        let entries = archive.len();
        let is_pickle =
            |i: &usize| archive.by_index_raw(*i).is_ok_and(|e| e.name().is_ok_and(|n| n.ends_with("data.pkl")));
        let entry = (0..entries).find(is_pickle).expect("a pickle");
        let mut bytes = Vec::new();
        archive.by_index(entry).expect("the pickle").read_to_end(&mut bytes).expect("it can be read");
        if bytes.len() < 1 << 13 {
            seeds.push((name.to_owned(), bytes));
        }
    }
    seeds
}

/// `{"w": a parameter of 2 x 3 numbers}`, as PyTorch writes it.
const TENSOR: &[u8] =
    b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00\
storageq\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x06tq\x07QK\x00K\x02K\x03\x86\
q\x08K\x03K\x01\x86q\x09\x89ccollections\nOrderedDict\nq\x0a)Rq\x0btq\x0cRq\x0ds.";

fn archives() -> Vec<Seed> {
    let mut seeds: Vec<Seed> =
        pickles().into_iter().map(|(name, bytes)| (name, crate::targets::pickle::archive(&bytes))).collect();
    seeds.retain(|s| s.1.len() < 1 << 13);
    seeds
}

fn safetensors() -> Vec<Seed> {
    let file = |header: &str, data: usize| {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0x3c; data]].concat()
    };
    vec![
        ("one".into(), file(r#"{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#, 24)),
        (
            "several".into(),
            file(
                r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[4],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[8,12]},"c":{"dtype":"I64","shape":[],"data_offsets":[12,20]}}"#,
                20,
            ),
        ),
        ("empty".into(), file(r#"{"e":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#, 0)),
    ]
}

fn prompts() -> Vec<Seed> {
    let seed = |name: &str, images: u8, texts: [&str; 4]| {
        let mut bytes = vec![images, 1];
        for text in texts {
            bytes.push(text.len() as u8);
            bytes.extend_from_slice(text.as_bytes());
        }
        (name.to_owned(), bytes)
    };
    vec![
        seed("chat", 1, ["###Human: {images}{question}###Assistant: ", "<Img>{image}</Img> ", "Give", "What?"]),
        seed("question-first", 2, ["{question}\n{images}", "{image}", "", "{image} {question}"]),
        seed("twice", 1, ["{images}{images}{question}", "{image}", "", "a"]),
    ]
}

fn texts() -> impl Iterator<Item = (String, &'static str)> {
    const TEXTS: [&str; 8] = [
        "There is a small yellow square ### and a large green circle.",
        "<p>a red circle</p> {<12><0><99><100>}<delim>{<1><2><3><4>} and <p>a star</p>{<5><6><7><8>}",
        "{<14><72><28><89>}",
        "[vqa] What's 'the' colour?  I'll\tsay\n\n   so 12345 <|endoftext|>###Human:",
        "Zürich 🔴 👨‍👩‍👧‍👦 日本語 e\u{301} \u{a0}\u{2028}",
        "<p><p></p></p><<<1><2>>><3><4>{}{}",
        "",
        "                                   \t\t\t\t\t\t\t\t\t\t\t\t\t",
    ];
    TEXTS.into_iter().enumerate().map(|(i, text)| (format!("text-{i}"), text))
}

/// Two stop texts, then the text in pieces of up to seven bytes.
fn stream(text: &str) -> Vec<u8> {
    let mut bytes = b"\x02\x03###\x02<p".to_vec();
    for piece in text.as_bytes().chunks(7) {
        bytes.push(piece.len() as u8);
        bytes.extend_from_slice(piece);
    }
    bytes
}
