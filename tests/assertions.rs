//! llama.cpp's failed assertions are errors of the call, and nothing is left of them (docs/assertions.md).

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::gguf_writer::{File, F16};
use common::tiny;
use common::TempDir;
use tinygptv::decoder::{Decoder, DecoderModel, DecoderOptions, Kernels, KvType, LoadOptions, Slot};
use tinygptv::gguf::Gguf;
use tinygptv::{Error, Model, ModelOptions};

fn gpt2() -> File {
    let mut vocabulary = tiny::byte_level();
    vocabulary.pre = "gpt-2";
    tiny::gpt2(&vocabulary)
}

fn load(path: &Path) -> tinygptv::Result<Arc<Model>> {
    Model::load(path, None, &ModelOptions { threads: 1, ..ModelOptions::default() })
}

/// Keys of a llama file on whose values llama.cpp asserts, and a part of what it then says.
const FATAL: [(&str, u32, &str); 5] = [
    ("llama.expert_count", 4, "GGML_ASSERT(n_expert_used_max > 0)"),
    ("llama.expert_count", 100_000, "GGML_ASSERT(hparams.n_expert <= LLAMA_MAX_EXPERTS)"),
    ("llama.expert_used_count", 4, "GGML_ASSERT(n_expert_used_max <= hparams.n_expert)"),
    ("llama.expert_group_count", 4, "GGML_ASSERT(hparams.n_expert_groups == 0)"),
    ("llama.nextn_predict_layers", 3, "GGML_ASSERT(hparams.n_layer_nextn <= hparams.n_layer_all)"),
];

fn fatal_file(path: &Path, key: &str, value: u32) {
    let mut file = tiny::llama(&tiny::sentence_piece());
    file.set(key, value);
    file.write(path);
}

#[test]
fn an_assertion_while_loading_is_an_error() {
    let dir = TempDir::new("assertions-loading");
    let path = dir.join("case.gguf");
    for (key, value, said) in FATAL {
        fatal_file(&path, key, value);
        match load(&path) {
            Err(Error::UnsupportedModel { problem, .. }) => {
                assert!(problem.contains(said), "{key}: {problem}");
                assert!(!problem.contains("/src/"), "folders of the machine that built it: {problem}");
            }
            other => panic!("{key}: {:?}", other.map(|_| "loaded")),
        }
    }
}

/// A GPT-2, which has a row for each position that it was trained for.
fn overlong_model(dir: &TempDir) -> Arc<DecoderModel> {
    let path = dir.join("gpt2.gguf");
    gpt2().write(&path);
    let gguf = Gguf::open(&path).expect("a file");
    Arc::new(DecoderModel::load(&gguf, &LoadOptions::default(), &mut |_| true).expect("a model"))
}

/// A context of more positions than that, which a session would refuse.
fn overlong(model: &Arc<DecoderModel>) -> Decoder {
    let options =
        DecoderOptions { capacity: 2 * tiny::CONTEXT, threads: 1, kv_type: KvType::F16, kernels: Kernels::default() };
    Decoder::new(model.clone(), &options, Arc::default()).expect("a context")
}

#[test]
fn an_assertion_while_computing_costs_what_the_context_held() {
    let dir = TempDir::new("assertions-computing");
    let model = overlong_model(&dir);
    let mut decoder = overlong(&model);
    let slots = |n: usize| vec![Slot::Token(7); n];
    decoder.evaluate(&slots(tiny::CONTEXT)).expect("all positions there are");
    match decoder.evaluate(&slots(tiny::CONTEXT + 1)) {
        Err(Error::Decoder(text)) => assert!(text.contains("GGML_ASSERT(i01 >= 0 && i01 < ne01)"), "{text}"),
        other => panic!("{other:?}"),
    }
    // What failed was made anew, and holds nothing.
    for reused in [0, 2] {
        assert_eq!(decoder.evaluate(&slots(3)).expect("it works again"), reused);
    }
    overlong(&model).evaluate(&slots(3)).expect("so do others of the same model");
}

#[test]
fn an_assertion_in_a_file_meets_the_calling_thread_first() {
    let dir = TempDir::new("assertions-threads");
    let path = dir.join("stablelm.gguf");
    let mut file = tiny::stablelm(&tiny::sentence_piece());
    // ggml multiplies by single precision only.
    file.typed_tensor(
        "blk.1.attn_k_norm.weight",
        &[tiny::HEADS, tiny::WIDTH / tiny::HEADS],
        F16,
        vec![0; 2 * tiny::WIDTH],
    );
    file.write(&path);
    let gguf = Gguf::open(&path).expect("a file");
    let model = Arc::new(DecoderModel::load(&gguf, &LoadOptions::default(), &mut |_| true).expect("a model"));
    let options = DecoderOptions { capacity: 32, threads: 2, kv_type: KvType::F16, kernels: Kernels::Ggml };
    match Decoder::new(model, &options, Arc::default()) {
        Err(Error::Decoder(text)) => assert!(text.contains("unsupported types"), "{text}"),
        other => panic!("{:?}", other.map(|_| "a context")),
    }
}

/// The functions of llama.cpp that `text` calls by their own names.
fn called(text: &str) -> BTreeSet<&str> {
    let starts = ["llama::llama_", "llama::ggml_"].into_iter().flat_map(|s| text.match_indices(s));
    let name = |(at, _): (usize, &str)| {
        let rest = &text[at + "llama::".len()..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        rest[end..].starts_with('(').then_some(&rest[..end])
    };
    starts.filter_map(name).collect()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() {
            rust_files(&entry, found);
        } else if entry.extension().is_some_and(|e| e == "rs") && !entry.ends_with("compute/tests.rs") {
            found.push(entry);
        }
    }
}

#[test]
fn the_inventory_names_every_call_that_nothing_guards() {
    let inventory = common::read_text(&common::root().join("docs/assertions.md"));
    let mut files = Vec::new();
    rust_files(&common::root().join("src"), &mut files);
    let mut names = 0;
    for file in &files {
        let text = common::read_text(file);
        let code = text.split("#[cfg(all(test, unix))]").next().unwrap_or(&text);
        for name in called(code) {
            assert!(
                inventory.contains(&format!("`{name}`")),
                "{name} of {} is not in docs/assertions.md",
                file.display()
            );
            names += 1;
        }
    }
    assert!(names > 10, "this test no longer finds the calls");
    let lock = common::read_text(&common::root().join("Cargo.lock"));
    let version = lock.split("name = \"llama-cpp-sys-2\"\nversion = \"").nth(1).and_then(|rest| rest.split('"').next());
    let version = version.expect("the version");
    assert!(inventory.contains(&format!("llama-cpp-sys-2 {version}")), "look through the assertions of {version} anew");
}

/// What the allocator has handed out, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn allocated() -> usize {
    // SAFETY: no requirements.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// Tells the second process of `failed_assertions_leave_next_to_nothing_behind` what it is.
const CHILD: &str = "TGV_TEST_ASSERTIONS";

/// Alone in a process, where nobody else allocates.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn child_fails_again_and_again() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    const ROUNDS: usize = 30;
    let dir = TempDir::new("assertions-memory");
    let path = dir.join("case.gguf");
    fatal_file(&path, FATAL[0].0, FATAL[0].1);
    let slots = vec![Slot::Token(7); tiny::CONTEXT + 1];
    let model = overlong_model(&dir);
    let fail = || {
        assert!(load(&path).is_err());
        assert!(overlong(&model).evaluate(&slots).is_err());
    };
    // What is set up once.
    fail();
    fail();
    let before = allocated();
    (0..ROUNDS).for_each(|_| fail());
    let grown = allocated().saturating_sub(before) / ROUNDS;
    // A few hundred bytes of ggml's C frames, which have nobody to clean up after them; a model takes 300 KB, a context more.
    println!("{grown} bytes are left of each failure");
    assert!(grown < 4096, "{grown} bytes are left of each failure");
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn failed_assertions_leave_next_to_nothing_behind() {
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child_fails_again_and_again", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("this program can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("are left of each"), "{}: {said}{complained}", output.status);
    println!("{said}");
}
