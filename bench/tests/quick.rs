//! The program from end to end, with a model small enough for a test.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value as Json;
use tinygptv_bench::report::Report;
use tinygptv_bench::tasks::GROUPS;

/// Rows are whole blocks of 256, as k-quants want them.
const SMALL: &str =
    "vocabulary=800,context=2048,width=256,layers=2,heads=4,rotary=16,mlp=512,grid=4,vit-width=96,vit-blocks=2,\
                     vit-heads=2,vit-mlp=160,queries=8,qf-width=64,qf-layers=3,qf-heads=2,qf-mlp=128,projection=80";

fn bench(folder: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinygptv-bench"));
    command.args(["--quick", "--quiet", "--threads", "1", "--dims", SMALL, "--folder"]).arg(folder.join("models"));
    // No Python: its peers must be told as missing.
    command.args(["--python", "/no/such/python"]).args(more).output().unwrap()
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn everything_is_measured_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (json, svg, doc) = (file("r.json"), file("r.svg"), file("speed.md"));
    std::fs::write(&doc, "# Speed\n<!-- measured: begin -->\nold\n<!-- measured: end -->\n").unwrap();
    let native = env!("CARGO_BIN_EXE_tinygptv-bench");
    let all = ["--native", native, "--json", &json, "--svg", &svg, "--doc", &doc];
    let printed = succeeded(&bench(dir.path(), &all));

    let text = std::fs::read_to_string(&json).unwrap();
    let report: Report = serde_json::from_str(&text).unwrap();
    let expect = |row: &str, contestants: &[&str]| {
        for contestant in contestants {
            let series = report.measured.of(row, contestant).unwrap_or_else(|| panic!("no {row} of {contestant}"));
            assert_eq!(series.values.len(), 2, "two rounds of {row}");
            assert!(series.values.iter().all(|v| v.is_some_and(|v| v > 0.0)), "{row} {contestant}: {series:?}");
        }
    };
    let decoders =
        ["tinygptv", "tinygptv-native", "tinygptv-fast", "llama.cpp", "llama.cpp-native", "llama.cpp-mapped"];
    expect("load", &decoders);
    expect("prefill", &decoders);
    expect("decode", &decoders);
    expect("encode_small", &["tinygptv", "tinygptv-native"]);
    expect("encode_small", &["ggml-bf16", "ggml-f16", "ggml-q8_0", "ggml-q4_0", "ggml-q4_0-native"]);
    for row in ["first_question", "second_question", "second_evaluated", "same_picture", "busy_encode", "answer"] {
        expect(row, &["tinygptv"]);
    }
    expect("busy_decode", &["tinygptv", "llama.cpp-mapped"]);
    expect("peak_read", &["machine"]);
    expect("cosine", &["accuracy"]);
    if cfg!(target_os = "linux") {
        expect("resident", &["tinygptv"]);
        expect("private", &["tinygptv"]);
    }
    for peer in ["pytorch-fp32", "pytorch-bf16", "pytorch-int8", "onnxruntime-int8"] {
        let failure = report.measured.failures.iter().find(|f| f.contestant == peer).unwrap();
        assert!(failure.reason.contains("/no/such/python"), "{failure:?}");
    }
    assert_eq!(report.measured.failures.len(), 4, "{:?}", report.measured.failures);
    let judged = |t: &&tinygptv_bench::report::targets::Target| t.met.is_some();
    assert!(report.targets.iter().filter(judged).count() >= 6, "{:?}", report.targets);

    assert!(printed.contains("decode, tokens/s") && printed.contains("No such file"));
    let document = std::fs::read_to_string(&doc).unwrap();
    assert_eq!(std::fs::read(file("speed.svg")).unwrap(), std::fs::read(&svg).unwrap(), "the document's plot");
    assert!(document.contains(printed.trim()) && !document.contains("old"));
    assert!(std::fs::read_to_string(&svg).unwrap().contains("decode, tokens/s"));

    // What was written is enough to tell everything again, and models are made once.
    let again = succeeded(&bench(dir.path(), &["--from", &json]));
    assert_eq!(again, printed);
    let made = |dir: &Path| -> Vec<_> {
        let files = std::fs::read_dir(dir.join("models")).unwrap().map(|e| e.unwrap());
        let files = files.filter(|e| e.path().extension().is_some_and(|x| x == "gguf"));
        files.map(|e| (e.file_name(), e.metadata().unwrap().modified().unwrap())).collect()
    };
    let before = made(dir.path());
    assert_eq!(before.len(), 5);
    let one = succeeded(&bench(dir.path(), &["--only", "prefill", "--rounds", "1", "--json", &json]));
    assert!(one.contains("prefill of 96 positions") && !one.contains("decode, tokens/s"));
    let report: Json = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(report["settings"]["rounds"], "1");
    let same = |a: &[_], b: &[_]| a.len() == b.len() && a.iter().all(|x| b.contains(x));
    assert!(same(&before, &made(dir.path())), "models were made again");
}

#[test]
fn mistakes_are_named_before_anything_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |more: &[&str], expected: &[&str]| {
        let output = bench(dir.path(), more);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && expected.iter().all(|e| said.contains(e)), "{said}");
    };
    let mut all = vec!["--only"];
    all.push("speed");
    refused(&all, &GROUPS);
    refused(&["--rounds", "0"], &["--rounds"]);
    refused(&["--doc", "/no/such/file.md"], &["cannot read '/no/such/file.md'"]);
    refused(&["--native", "/no/such/program"], &["/no/such/program", "leave --native out"]);
    let doc = dir.path().join("no-markers.md");
    std::fs::write(&doc, "# Speed\n").unwrap();
    refused(&["--doc", doc.to_str().unwrap()], &["measured: begin"]);
    refused(&["--from", doc.to_str().unwrap()], &["is no report"]);
    assert!(!dir.path().join("models").exists());
}
