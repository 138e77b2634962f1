//! Decoder files other than TinyGPT-V's: what llama.cpp knows loads and generates; what does not add up is refused with a
//! reason.

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::gguf_writer::{File, Value, F16};
use common::tiny::{self, Vocabulary};
use common::TempDir;
use tinygptv::{Error, Finish, Model, ModelOptions, Profile, Sampling, Session, SessionOptions};

fn load(test: &str, file: &File) -> tinygptv::Result<Arc<Model>> {
    let dir = TempDir::new(test);
    let path = dir.join("tiny.gguf");
    file.write(&path);
    Model::load(&path, None, &ModelOptions { threads: 1, ..ModelOptions::default() })
}

fn loaded(test: &str, file: &File) -> Arc<Model> {
    load(test, file).unwrap_or_else(|e| panic!("{test}: {e}"))
}

fn session(model: Arc<Model>) -> Session {
    let options = SessionOptions { max_new_tokens: 8, ..SessionOptions::default() };
    Session::new(model, &options).expect("a session")
}

/// Logits after a fixed prompt.
fn logits(model: Arc<Model>) -> Vec<f32> {
    let n = model.info().vocabulary;
    let mut session = session(model);
    session.prefill("the quick ###").expect("a prompt");
    let logits = session.logits().to_vec();
    assert_eq!(logits.len(), n);
    assert!(logits.iter().all(|l| l.is_finite()), "{:?}", &logits[..8]);
    logits
}

fn assert_generates(test: &str, architecture: &str, file: &File, vocabulary: &Vocabulary) {
    let model = loaded(test, file);
    assert_eq!(model.info().architecture, architecture);
    assert_eq!(model.info().vocabulary, vocabulary.len());
    assert_eq!((model.info().embedding_width, model.info().context_length), (tiny::WIDTH, tiny::CONTEXT));
    assert_eq!(model.info().image_tokens, 0);
    let first = logits(model.clone());
    assert!(common::difference(&first, &logits(model.clone())).largest == 0.0, "the same prompt, the same logits");
    let mut session = session(model.clone());
    session.ask("the quick ###", &mut |_| true).expect("an answer");
    let s = *session.statistics();
    assert!(s.generated_tokens == 8 && s.finish == Finish::Length || s.finish == Finish::Stop, "{s:?}");
    session.ask("and then", &mut |_| true).expect("a second answer");
    assert!(session.statistics().reused_tokens > 0);
    let image = tinygptv::Image::from_pixels(&[0; 12], 2, 2, 0, tinygptv::PixelFormat::Rgb).expect("a picture");
    assert!(matches!(session.add_image(&image, None), Err(Error::InvalidArgument(_))), "there is no vision file");
}

#[test]
fn a_stock_phi2_loads_and_generates() {
    let vocabulary = tiny::codegen_like();
    assert_generates("phi2-stock", "phi2", &tiny::phi2(&vocabulary), &vocabulary);
}

#[test]
fn a_phi2_with_the_extra_norms_loads_and_generates() {
    let vocabulary = tiny::codegen_like();
    let mut file = tiny::phi2(&vocabulary);
    tiny::add_extra_norms(&mut file);
    assert_generates("phi2-norms", "phi2", &file, &vocabulary);
}

#[test]
fn a_llama_loads_and_generates() {
    let vocabulary = tiny::sentence_piece();
    assert_generates("llama", "llama", &tiny::llama(&vocabulary), &vocabulary);
}

#[test]
fn a_gpt2_loads_and_generates() {
    let mut vocabulary = tiny::byte_level();
    vocabulary.pre = "gpt-2";
    assert_generates("gpt2", "gpt2", &tiny::gpt2(&vocabulary), &vocabulary);
}

#[test]
fn a_stablelm_loads_and_generates() {
    let vocabulary = tiny::sentence_piece();
    assert_generates("stablelm", "stablelm", &tiny::stablelm(&vocabulary), &vocabulary);
}

#[test]
fn the_extra_norms_change_the_logits() {
    let stock = tiny::phi2(&tiny::byte_level());
    let mut with_norms = stock.clone();
    tiny::add_extra_norms(&mut with_norms);
    let without = logits(loaded("without-norms", &stock));
    let with = logits(loaded("with-norms", &with_norms));
    let d = common::difference(&with, &without);
    assert!(d.relative > 0.1, "{d:?}");
    // Each of them counts.
    for name in tiny::extra_norm_names(tiny::LAYERS - 1) {
        let mut changed = with_norms.clone();
        let n = if name.contains("post") { tiny::WIDTH } else { tiny::WIDTH / tiny::HEADS };
        let values: Vec<f32> = (0..n).map(|i| 0.3 + i as f32 * 0.1).collect();
        changed.tensor(&name, &[n], &values);
        let d = common::difference(&logits(loaded(&format!("changed-{name}"), &changed)), &with);
        assert!(d.relative > 1e-3, "{name}: {d:?}");
    }
}

#[test]
fn the_post_attention_epsilon_counts() {
    let mut file = tiny::phi2(&tiny::byte_level());
    tiny::add_extra_norms(&mut file);
    let usual = logits(loaded("epsilon-default", &file));
    file.set("tinygptv.post_attention_norm_epsilon", 1e-6f32);
    assert!(common::difference(&logits(loaded("epsilon-same", &file)), &usual).largest == 0.0, "1e-6 is the default");
    file.set("tinygptv.post_attention_norm_epsilon", 0.5f32);
    let d = common::difference(&logits(loaded("epsilon-other", &file)), &usual);
    assert!(d.relative > 1e-3, "{d:?}");
}

#[test]
fn separate_query_key_and_value_are_the_fused_ones() {
    let fused = tiny::phi2(&tiny::byte_level());
    let mut separate = fused.clone();
    for i in 0..tiny::LAYERS {
        separate
            .split_rows(&format!("blk.{i}.attn_qkv"), &["attn_q", "attn_k", "attn_v"].map(|n| format!("blk.{i}.{n}")));
    }
    let d = common::difference(&logits(loaded("separate", &separate)), &logits(loaded("fused", &fused)));
    assert!(d.relative < 1e-5, "{d:?}");
}

/// The message of the refusal.
fn refusal(test: &str, file: &File) -> String {
    match load(test, file) {
        Ok(_) => panic!("{test} is accepted"),
        Err(e @ (Error::UnsupportedModel { .. } | Error::BadModelFile { .. })) => e.to_string(),
        Err(e) => panic!("{test}: another kind of error: {e:?}"),
    }
}

fn assert_mentions(test: &str, file: &File, wanted: &[&str]) {
    let message = refusal(test, file);
    assert!(wanted.iter().all(|w| message.contains(w)), "{test}: {wanted:?} are not all in: {message}");
}

#[test]
fn some_of_the_extra_norms_are_not_enough() {
    let mut complete = tiny::phi2(&tiny::byte_level());
    tiny::add_extra_norms(&mut complete);
    for layer in 0..tiny::LAYERS {
        for name in tiny::extra_norm_names(layer) {
            let mut file = complete.clone();
            file.remove_tensor(&name);
            assert_mentions(&format!("without-{name}"), &file, &[&name]);
        }
    }
}

#[test]
fn every_tensor_of_a_phi2_is_needed() {
    let complete = tiny::phi2(&tiny::byte_level());
    let names: Vec<String> = complete.tensor_names().map(String::from).collect();
    assert_eq!(names.len(), 5 + tiny::LAYERS * 10);
    for name in names {
        let mut file = complete.clone();
        file.remove_tensor(&name);
        // Without the fused tensor the separate ones are looked for.
        let wanted = name.replace("attn_qkv.weight", "attn_q.weight");
        assert_mentions(&format!("without-{name}"), &file, &[&wanted]);
    }
}

#[test]
fn wrong_shapes_are_named_with_both_shapes() {
    let complete = tiny::phi2(&tiny::byte_level());
    for (name, shape, shapes) in [
        ("blk.1.ffn_up.weight", vec![tiny::MLP, tiny::WIDTH + 1], ["[64, 33]", "[64, 32]"]),
        ("blk.0.attn_norm.bias", vec![tiny::WIDTH - 1], ["[31]", "[32]"]),
        ("output.weight", vec![100, tiny::WIDTH], ["[100, 32]", "[262, 32]"]),
        ("blk.0.attn_output.weight", vec![tiny::WIDTH * tiny::WIDTH], ["[1024]", "[32, 32]"]),
    ] {
        let mut file = complete.clone();
        file.tensor(name, &shape, &vec![0.5; shape.iter().product()]);
        assert_mentions(&format!("shape-{name}"), &file, &[name, shapes[0], shapes[1]]);
    }
}

#[test]
fn wrong_types_are_named() {
    let complete = tiny::phi2(&tiny::byte_level());
    let mut file = complete.clone();
    file.typed_tensor("blk.0.attn_norm.weight", &[tiny::WIDTH], F16, vec![0; tiny::WIDTH * 2]);
    assert_mentions("half-norm", &file, &["blk.0.attn_norm.weight", "F16"]);
    let mut file = complete;
    file.typed_tensor("output.weight", &[262, tiny::WIDTH], I32, vec![0; 262 * tiny::WIDTH * 4]);
    assert_mentions("integer-weight", &file, &["output.weight", "I32"]);
}

#[test]
fn missing_keys_are_named() {
    let complete = tiny::phi2(&tiny::byte_level());
    for key in [
        "general.architecture",
        "phi2.context_length",
        "phi2.embedding_length",
        "phi2.feed_forward_length",
        "phi2.block_count",
        "phi2.attention.head_count",
        "phi2.attention.layer_norm_epsilon",
        "phi2.rope.dimension_count",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
    ] {
        let mut file = complete.clone();
        file.remove(key);
        assert_mentions(&format!("without-{key}"), &file, &[key]);
    }
}

#[test]
fn values_out_of_range_are_named() {
    let complete = tiny::phi2(&tiny::byte_level());
    let values: [(&str, Value); 8] = [
        ("phi2.block_count", Value::U32(0)),
        ("phi2.block_count", Value::U32(100_000)),
        ("phi2.context_length", Value::U32(0)),
        ("phi2.attention.head_count", Value::U32(5)),
        ("phi2.rope.dimension_count", Value::U32(64)),
        ("phi2.attention.layer_norm_epsilon", Value::F32(f32::NAN)),
        ("phi2.embedding_length", Value::Text("many".into())),
        ("tokenizer.ggml.eos_token_id", Value::U32(262)),
    ];
    for (i, (key, value)) in values.into_iter().enumerate() {
        let mut file = complete.clone();
        file.set(key, value);
        refusal(&format!("range-{i}-{key}"), &file);
    }
}

#[test]
fn vocabularies_that_do_not_add_up_are_refused() {
    let refuse = |test: &str, change: fn(&mut Vocabulary), wanted: &[&str]| {
        let mut vocabulary = tiny::byte_level();
        change(&mut vocabulary);
        // The tensors are those of the sound vocabulary, as in a file of which only this was spoilt.
        let mut file = tiny::phi2(&tiny::byte_level());
        vocabulary.put(&mut file);
        assert_mentions(test, &file, wanted);
    };
    refuse("duplicate-token", |v| v.tokens[7] = v.tokens[3].clone(), &["token 7", "twice"]);
    refuse("types-short", |v| v.types.truncate(9), &["262 tokens", "9 token types"]);
    refuse("merge-of-one", |v| v.merges[1] = "##".into(), &["merge", "not two tokens"]);
    refuse("merge-unknown", |v| v.merges[1] = "q x".into(), &["merge", "q x"]);
    refuse("token-missing", |v| drop(v.tokens.pop()), &["261"]);
    refuse("no-tokens", |v| v.tokens.clear(), &["0 tokens"]);
}

#[test]
fn a_spoilt_llama_is_refused_by_llama_cpp() {
    let vocabulary = tiny::sentence_piece();
    let complete = tiny::llama(&vocabulary);
    let mut missing = complete.clone();
    missing.remove_tensor("blk.1.ffn_gate.weight");
    assert_mentions("llama-missing", &missing, &["llama.cpp", "blk.1.ffn_gate.weight"]);
    let mut shape = complete.clone();
    shape.tensor("blk.0.attn_q.weight", &[16, 32], &[0.1; 512]);
    assert_mentions("llama-shape", &shape, &["llama.cpp", "blk.0.attn_q.weight"]);
    let mut unknown = complete.clone();
    unknown.set("general.architecture", "no-such-thing");
    assert_mentions("llama-unknown", &unknown, &["no-such-thing"]);
    let mut key = complete;
    key.remove("llama.block_count");
    assert_mentions("llama-key", &key, &["block_count"]);
}

#[test]
fn an_infinite_weight_gives_an_error_and_no_answer() {
    let mut file = tiny::phi2(&tiny::byte_level());
    file.tensor("output_norm.weight", &[tiny::WIDTH], &[f32::INFINITY; tiny::WIDTH]);
    let mut session = session(loaded("infinite", &file));
    match session.ask("the", &mut |_| true) {
        Err(Error::Decoder(message)) => assert!(message.contains("finite"), "{message}"),
        other => panic!("{other:?}"),
    }
    session.set_sampling(Sampling { greedy: false, ..Sampling::default() }).expect("valid");
    assert!(matches!(session.ask("the", &mut |_| true), Err(Error::Decoder(_))));
}

/// Names of the environment variables that tell the child of `outcome_in_a_process` what to do.
const CHILD_FILE: &str = "TGV_TEST_FILE";
const CHILD_QUESTION: &str = "TGV_TEST_QUESTION";
/// As the question: look up token ids outside the vocabulary instead of asking.
const FOREIGN_IDS: &str = "token ids";

/// Loads a file and asks, in a process of its own, so that what ends that one does not end the tests. Errors are fine.
fn outcome_in_a_process(file: &Path, question: &str) -> Result<(), String> {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child_loads_and_asks", "--nocapture"])
        .env(CHILD_FILE, file)
        .env(CHILD_QUESTION, question)
        .env("GGML_NO_BACKTRACE", "1")
        .output()
        .expect("this program can be started");
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())),
    }
}

#[test]
fn child_loads_and_asks() {
    let Some(file) = std::env::var_os(CHILD_FILE) else { return };
    let question = std::env::var(CHILD_QUESTION).expect("a question");
    // On one thread, and on ggml's own, which have nobody who could catch what they do.
    for (profile, threads) in [(Profile::Mapped, 1), (Profile::Fast, 2)] {
        let options = ModelOptions { threads, profile, ..ModelOptions::default() };
        let Ok(model) = Model::load(Path::new(&file), None, &options) else { continue };
        if question == FOREIGN_IDS {
            for id in [-1, model.info().vocabulary as i32, i32::MIN, i32::MAX] {
                assert!(model.tokenizer().token_bytes(id).is_empty(), "token {id} is outside the vocabulary");
            }
            continue;
        }
        let options = SessionOptions { max_new_tokens: 2, threads, ..SessionOptions::default() };
        let Ok(mut session) = Session::new(model, &options) else { continue };
        let _ = session.ask(&question, &mut |_| true);
    }
}

/// Every file is either refused or used; none ends the process.
fn assert_survives(test: &str, cases: Vec<(&str, File)>, question: &str) {
    let dir = TempDir::new(test);
    let mut fatal = Vec::new();
    for (name, file) in &cases {
        let path = dir.join("case.gguf");
        file.write(&path);
        if let Err(end) = outcome_in_a_process(&path, question) {
            fatal.push(format!("{name}: {end}"));
        }
    }
    assert!(fatal.is_empty(), "{} of {} files end the process:\n{}", fatal.len(), cases.len(), fatal.join("\n"));
}

fn with_key<'a>(file: &File, key: &'a str, value: impl Into<Value>) -> (&'a str, File) {
    let mut file = file.clone();
    file.set(key, value);
    (key, file)
}

#[test]
fn no_token_id_ends_the_process() {
    let files = vec![
        ("our tokenizer", tiny::phi2(&tiny::byte_level())),
        ("llama.cpp's tokenizer", tiny::llama(&tiny::sentence_piece())),
    ];
    assert_survives("token-ids", files, FOREIGN_IDS);
}

#[test]
fn no_phi2_file_ends_the_process() {
    let file = tiny::phi2(&tiny::byte_level());
    let mut nul = tiny::byte_level();
    // llama.cpp reads both up to the NUL.
    nul.tokens[7] = "same\0one".into();
    nul.tokens[8] = "same\0two".into();
    let mut empty = tiny::byte_level();
    // llama.cpp gives an empty token a name, which another token has already.
    empty.tokens[7] = String::new();
    empty.tokens[8] = "[EMPTY_7]".into();
    let cases = vec![
        with_key(&file, "general.alignment", 1u32),
        with_key(&file, "phi2.attention.key_length", 8u32),
        with_key(&file, "phi2.attention.value_length", 8u32),
        with_key(&file, "phi2.expert_count", 4u32),
        with_key(&file, "phi2.nextn_predict_layers", 3u32),
        ("tokens with NUL", tiny::phi2(&nul)),
        ("an empty token", tiny::phi2(&empty)),
    ];
    assert_survives("fatal-phi2", cases, "the");
}

#[test]
fn no_file_of_another_architecture_ends_the_process() {
    let llama = tiny::llama(&tiny::sentence_piece());
    let mut vocabulary = tiny::byte_level();
    vocabulary.pre = "gpt-2";
    let gpt2 = tiny::gpt2(&vocabulary);
    let cases = vec![
        with_key(&llama, "llama.block_count", 0u32),
        with_key(&llama, "llama.block_count", 100_000u32),
        with_key(&llama, "llama.context_length", u32::MAX),
        with_key(&llama, "llama.attention.layer_norm_rms_epsilon", -1f32),
        with_key(&llama, "llama.expert_count", 4u32),
        with_key(&llama, "llama.nextn_predict_layers", 3u32),
        with_key(&gpt2, "gpt2.attention.layer_norm_epsilon", -1f32),
        with_key(&gpt2, "gpt2.attention.key_length", 8u32),
    ];
    assert_survives("fatal-others", cases, "the");
}

/// ggml's numbers of types, and the bytes of one value.
const TYPES: [(u32, usize); 7] = [(F16, 2), (I8, 1), (I16, 2), (I32, 4), (I64, 8), (F64, 8), (BF16, 2)];
const I8: u32 = 24;
const I16: u32 = 25;
const I32: u32 = 26;
const I64: u32 = 27;
const F64: u32 = 28;
const BF16: u32 = 30;

#[test]
fn no_type_of_tensor_ends_the_process() {
    let llama = tiny::llama(&tiny::sentence_piece());
    let mut cases = Vec::new();
    let (width, square) = ([tiny::WIDTH], [tiny::WIDTH; 2]);
    for (name, shape) in [("blk.0.attn_norm.weight", &width[..]), ("blk.0.attn_q.weight", &square)] {
        for (ty, bytes) in TYPES {
            let mut file = llama.clone();
            file.typed_tensor(name, shape, ty, vec![0; shape.iter().product::<usize>() * bytes]);
            cases.push((name, file));
        }
    }
    // Norms of a matrix's shape, which may be stored as weights are.
    let stablelm = tiny::stablelm(&tiny::sentence_piece());
    for name in ["blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"] {
        let mut file = stablelm.clone();
        file.typed_tensor(name, &[tiny::HEADS, tiny::WIDTH / tiny::HEADS], F16, vec![0; 2 * tiny::WIDTH]);
        cases.push((name, file));
    }
    assert_survives("fatal-types", cases, "the");
}

#[test]
fn no_vocabulary_ends_the_process() {
    let whole = tiny::sentence_piece();
    let mut without_bytes = whole.clone();
    let keep: Vec<usize> = (0..whole.len()).filter(|&i| whole.types[i] != tiny::BYTE).collect();
    without_bytes.tokens = keep.iter().map(|&i| whole.tokens[i].clone()).collect();
    without_bytes.types = keep.iter().map(|&i| whole.types[i]).collect();
    without_bytes.scores = keep.iter().map(|&i| whole.scores[i]).collect();
    let mut of_kind = ["bert", "t5", "rwkv", "plamo2", "none", "no_vocab"].map(|kind| {
        let mut vocabulary = whole.clone();
        vocabulary.model = kind;
        (kind, tiny::llama(&vocabulary))
    });
    of_kind.sort_by_key(|c| c.0);
    let mut cases = vec![("without byte tokens", tiny::llama(&without_bytes))];
    cases.extend(of_kind);
    assert_survives("fatal-vocabularies", cases, "Zürich 🔴");
}

#[test]
fn no_long_word_ends_the_process() {
    // llama.cpp splits some vocabularies' texts with std::regex, which recurses for every character.
    let cases = ["phi-2", "llama-bpe", "qwen2", "deepseek-llm", "gpt-4o"].map(|pre| {
        let mut vocabulary = tiny::codegen_like();
        vocabulary.pre = pre;
        (pre, tiny::phi2(&vocabulary))
    });
    assert_survives("fatal-words", cases.into(), &"a".repeat(100_000));
}
