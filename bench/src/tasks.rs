//! What is measured, and of whom.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::contestant::Contestant;
use crate::pair::Pair;
use crate::protocol::Request;

/// Key of this library, in the build that measures.
pub const OURS: &str = "tinygptv";
/// Key of this library in a build for this very processor.
pub const OURS_NATIVE: &str = "tinygptv-native";
/// Key of this library's embeddings beside those of F32 weights.
pub const ACCURACY: &str = "accuracy";
/// Key of this library with decoder weights repacked at load.
pub const OURS_FAST: &str = "tinygptv-fast";
/// Positions of the prompt whose evaluation is timed.
pub const PREFILL: usize = 96;
/// Tokens whose generation is timed.
pub const DECODE: usize = 16;
/// Positions of the context where loading and memory are measured.
pub const CONTEXT: usize = 2048;
/// Tokens of the answer where memory is measured.
pub const ANSWER: usize = 20;
/// Other busy threads, where there are any.
pub const BUSY: usize = 2;

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Seconds,
    /// Measured in seconds for so many of something, shown as so many a second.
    PerSecond(f64),
    Bytes,
    Count,
    /// Of 1, where only what is missing counts.
    Likeness,
    OperationsPerSecond,
    BytesPerSecond,
}

/// A row of a table: one figure of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Short name, unique.
    pub key: String,
    /// Name for the table.
    pub title: String,
    /// Which of the figures that a request gives.
    pub figure: String,
    pub unit: Unit,
}

impl Row {
    fn new(key: &str, title: &str, figure: &str, unit: Unit) -> Row {
        Row { key: key.to_owned(), title: title.to_owned(), figure: figure.to_owned(), unit }
    }
}

/// One request that all of some contestants are asked in turn.
pub struct Task {
    pub request: Request,
    pub rows: Vec<Row>,
    pub contestants: Vec<String>,
    /// Every measurement has a new process.
    pub fresh: bool,
    /// Other busy threads meanwhile.
    pub busy: usize,
}

/// The groups of tasks, for `--only`.
pub const GROUPS: [&str; 9] = ["peaks", "load", "encode", "prefill", "decode", "questions", "busy", "memory", ACCURACY];

/// What decides about tasks and contestants.
pub struct Selection {
    pub groups: Vec<String>,
    pub quick: bool,
    pub threads: usize,
    /// Another build of this program, for this very processor.
    pub native: Option<PathBuf>,
    /// A Python for the peers that need one.
    pub python: PathBuf,
    /// Sizes of the vision encoder, as `pair::vision_sizes` gives them.
    pub sizes: serde_json::Value,
    /// Blocks of the encoder that peers compute of which only some are.
    pub blocks: usize,
    /// Where peers may keep files.
    pub folder: PathBuf,
}

/// Key of llama.cpp with its default settings.
pub const LLAMA: &str = "llama.cpp";
/// Key of llama.cpp with weights left where they are, as ours are by default.
pub const LLAMA_MAPPED: &str = "llama.cpp-mapped";
const GGML_TYPES: [&str; 4] = ["bf16", "f16", "q8_0", "q4_0"];
const PYTHON_PEERS: [(&str, &str); 4] = [
    ("pytorch-fp32", "PyTorch fp32"),
    ("pytorch-bf16", "PyTorch bf16"),
    ("pytorch-int8", "PyTorch dynamic int8"),
    ("onnxruntime-int8", "ONNX Runtime int8"),
];

/// Everybody who could be measured.
///
/// # Errors
/// When this program's own path cannot be had.
pub fn contestants(pair: &Pair, selection: &Selection) -> anyhow::Result<Vec<Contestant>> {
    let mut all = Vec::new();
    let threads = selection.threads.to_string();
    let size = |name: &str| selection.sizes[name].as_u64().unwrap_or(0).to_string();
    let blocks = size("blocks").parse::<usize>().unwrap_or(0).min(selection.blocks).to_string();
    let words = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
    let own = std::env::current_exe()?;
    all.push(Contestant::new("machine", "machine", own.clone(), words(&["worker", "peaks", "--threads", &threads])));
    if let Some(exact) = &pair.exact {
        let mut arguments = words(&["worker", "accuracy", "--threads", &threads]);
        for (flag, path) in [("--vision", &pair.vision[1].1), ("--exact", exact)] {
            arguments.extend([OsString::from(flag), path.into()]);
        }
        all.push(Contestant::new(ACCURACY, "tinygptv, also with F32 weights", own.clone(), arguments));
    }
    let builds = [(Some(own), "", ""), (selection.native.clone(), "-native", ", native build")];
    for (program, suffix, note) in builds {
        let Some(program) = program else { continue };
        let mut add = |key: &str, label: &str, arguments: Vec<OsString>| {
            let arguments = [words(&["worker"]), arguments].concat();
            all.push(Contestant::new(&format!("{key}{suffix}"), &format!("{label}{note}"), program.clone(), arguments));
        };
        let mut ours = words(&["tinygptv", "--threads", &threads, "--decoder"]);
        ours.push(pair.decoder.clone().into());
        for (side, path) in &pair.vision {
            ours.extend([OsString::from("--vision"), prefixed(*side, path)]);
        }
        add(OURS, "tinygptv", ours.clone());
        add(OURS_FAST, "tinygptv, fast profile", [ours, words(&["--fast"])].concat());
        let mut stock = words(&["llama", "--threads", &threads, "--decoder"]);
        stock.push(pair.stock.clone().into());
        add(LLAMA, "llama.cpp, stock Phi-2, default", stock.clone());
        add(LLAMA_MAPPED, "llama.cpp, stock Phi-2, mapped", [stock, words(&["--mapped"])].concat());
        for ty in GGML_TYPES {
            let (width, mlp, patch, of) = (size("width"), size("mlp"), size("patch"), size("blocks"));
            let arguments = [
                "ggml",
                "--type",
                ty,
                "--width",
                &width,
                "--mlp",
                &mlp,
                "--patch",
                &patch,
                "--blocks",
                &blocks,
                "--of-blocks",
                &of,
                "--threads",
                &threads,
            ];
            let label = format!("ggml {}, linear layers only", ty.to_uppercase());
            add(&format!("ggml-{ty}"), &label, words(&arguments));
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers.py");
    for (key, label) in PYTHON_PEERS {
        let mut arguments = vec![script.clone().into_os_string()];
        let sizes = selection.sizes.to_string();
        arguments.extend(words(&[key, "--sizes", &sizes, "--threads", &threads, "--blocks", &blocks, "--folder"]));
        arguments.push(selection.folder.clone().into());
        all.push(Contestant::new(key, label, selection.python.clone(), arguments));
    }
    all.iter_mut().for_each(|c| c.log = Some(selection.folder.join("workers.log")));
    Ok(all)
}

fn prefixed(side: u32, path: &Path) -> OsString {
    let mut text = OsString::from(format!("{side}="));
    text.push(path);
    text
}

/// All tasks of the selection, with whom to ask.
pub fn tasks(pair: &Pair, selection: &Selection) -> Vec<Task> {
    let native = selection.native.is_some();
    let with_native = |keys: &[&str]| -> Vec<String> {
        let both = keys.iter().flat_map(|key| [Some((*key).to_owned()), native.then(|| format!("{key}-native"))]);
        both.flatten().collect()
    };
    let task =
        |request, rows: Vec<Row>, contestants: Vec<String>| Task { request, rows, contestants, fresh: false, busy: 0 };
    let seconds = |key: &str, title: &str| vec![Row::new(key, title, "seconds", Unit::Seconds)];
    let rate = |key: &str, title: &str, n| vec![Row::new(key, title, "seconds", Unit::PerSecond(n as f64))];
    let sides: Vec<u32> = pair.vision.iter().map(|v| v.0).take(if selection.quick { 1 } else { 2 }).collect();
    let decoders = [OURS, LLAMA_MAPPED, OURS_FAST, LLAMA];
    let mut all = Vec::new();
    for group in &selection.groups {
        match group.as_str() {
            "peaks" => {
                let rows = [
                    ("read", "reading memory", Unit::BytesPerSecond),
                    ("f32", "multiplying f32", Unit::OperationsPerSecond),
                    ("int8", "multiplying int8", Unit::OperationsPerSecond),
                    ("bf16_tiles", "multiplying bfloat16 in tiles (AMX)", Unit::OperationsPerSecond),
                ];
                let rows = rows.map(|(figure, title, unit)| Row::new(&format!("peak_{figure}"), title, figure, unit));
                all.push(task(Request::Peaks, rows.into(), vec!["machine".to_owned()]));
            }
            "load" => {
                let request = Request::Load { context: CONTEXT };
                let rows = seconds("load", "load, until ready for a question");
                all.push(Task { fresh: true, ..task(request, rows, with_native(&decoders)) });
            }
            "encode" => {
                for (i, side) in sides.iter().enumerate() {
                    let mut who = with_native(&[OURS]);
                    for ty in GGML_TYPES {
                        who.extend(with_native(&[&format!("ggml-{ty}")]));
                    }
                    who.extend(PYTHON_PEERS.map(|p| p.0.to_owned()));
                    let key = ["encode_small", "encode_large"][i];
                    all.push(task(Request::Encode { side: *side }, seconds(key, &format!("encode, {side} px")), who));
                }
            }
            "prefill" => {
                let title = format!("prefill of {PREFILL} positions, positions/s");
                let request = Request::Prefill { positions: PREFILL };
                all.push(task(request, rate("prefill", &title, PREFILL), with_native(&decoders)));
            }
            "decode" => {
                let request = Request::Decode { positions: PREFILL, tokens: DECODE };
                all.push(task(request, rate("decode", "decode, tokens/s", DECODE), with_native(&decoders)));
            }
            "questions" => {
                let rows = vec![
                    Row::new("first_question", "first question, to the first token", "first", Unit::Seconds),
                    Row::new("second_question", "second question, to the first token", "second", Unit::Seconds),
                    Row::new("second_evaluated", "positions evaluated for it", "second_evaluated", Unit::Count),
                    Row::new("same_picture", "same picture in a new session, encode", "same_picture", Unit::Seconds),
                ];
                all.push(task(Request::Questions, rows, vec![OURS.to_owned()]));
            }
            "busy" => {
                let side = sides[sides.len() - 1];
                let title = format!("encode, {side} px, beside {BUSY} busy threads");
                let encode = task(Request::Encode { side }, seconds("busy_encode", &title), vec![OURS.to_owned()]);
                all.push(Task { busy: BUSY, ..encode });
                let title = format!("decode, tokens/s, beside {BUSY} busy threads");
                let request = Request::Decode { positions: PREFILL, tokens: DECODE / 4 };
                let decode = task(request, rate("busy_decode", &title, DECODE / 4), with_native(&[OURS, LLAMA_MAPPED]));
                all.push(Task { busy: BUSY, ..decode });
            }
            ACCURACY => {
                let rows = vec![
                    Row::new(
                        "cosine",
                        "cosine with embeddings of F32 weights, the least of all",
                        "cosine",
                        Unit::Likeness,
                    ),
                    Row::new("weights_cosine", "the same, of these weights computed in f32", "weights", Unit::Likeness),
                ];
                all.push(task(Request::Accuracy, rows, vec![ACCURACY.to_owned()]));
            }
            _ => {
                let rows = vec![
                    Row::new("answer", &format!("new process to the end of {ANSWER} tokens"), "seconds", Unit::Seconds),
                    Row::new("resident", "memory of that process at most", "resident", Unit::Bytes),
                    Row::new("private", "of it private", "private", Unit::Bytes),
                ];
                let request = Request::Answer { context: CONTEXT, tokens: ANSWER };
                all.push(Task { fresh: true, ..task(request, rows, vec![OURS.to_owned()]) });
            }
        }
    }
    all
}
