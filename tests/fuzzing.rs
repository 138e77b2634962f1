//! Fuzz targets without a fuzzer: committed inputs, those that once crashed, and mutations of all of them from a fixed seed.
//!
//! `make fuzz TARGET=…` runs a target with libFuzzer; docs/testing.md tells what came of it.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::{root, tiny, TempDir};
use tinygptv_fuzz::mutator::Mutator;
use tinygptv_fuzz::seeds::Seed;
use tinygptv_fuzz::targets::c_api;
use tinygptv_fuzz::{corpus, model, seeds, target, TARGETS};

/// The files of a folder, in the order of their names; none where there is no such folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    paths
}

/// The contents of a folder's files.
fn contents(folder: &Path) -> Vec<Vec<u8>> {
    files(folder).iter().map(|path| fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).collect()
}

fn corpus_file(name: &str) -> PathBuf {
    root().join("fuzz/corpus").join(name)
}

/// What libFuzzer found for a target; nothing where none was committed.
fn found(name: &str) -> Vec<Vec<u8>> {
    fs::read(corpus_file(name)).map_or_else(|_| Vec::new(), |packed| corpus::unpack(&packed))
}

/// Headers of small decoders of other architectures and vocabularies.
fn other_decoders() -> Vec<Seed> {
    let folder = TempDir::new("fuzz-seeds");
    let pieces = tiny::sentence_piece();
    let bytes = tiny::byte_level();
    [("phi2", tiny::phi2(&bytes)), ("llama", tiny::llama(&pieces)), ("gpt2", tiny::gpt2(&bytes))]
        .into_iter()
        .map(|(name, file)| {
            let path = folder.join(name);
            file.write(&path);
            (format!("other-{name}"), model::header_of(&path))
        })
        .collect()
}

fn seeds_of(name: &str) -> Vec<Seed> {
    let mut seeds = seeds::of(name);
    if name == "decoder_gguf" {
        seeds.extend(other_decoders());
    }
    assert!(!seeds.is_empty(), "no seeds");
    seeds
}

/// Runs every input of a target and so many mutations of them.
fn replay(name: &str, mutations: usize) {
    let target = target(name).expect("a target of this name");
    let mut inputs: Vec<Vec<u8>> = seeds_of(name).into_iter().map(|(_, bytes)| bytes).collect();
    inputs.extend(found(name));
    inputs.extend(contents(&root().join("fuzz/regressions").join(name)));
    // What runs when an input ends the process is the last file written.
    let last = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzzing-{name}"));
    let run = |input: &[u8]| {
        fs::write(&last, input).expect("room for an input");
        (target.run)(input);
    };
    inputs.iter().for_each(|input| run(input));
    let mut mutator = Mutator::new(1);
    for i in 0..mutations {
        let other = &inputs[(i * 7 + 3) % inputs.len()];
        run(&mutator.mutate(&inputs[i % inputs.len()], other, target.max_len));
    }
    fs::remove_file(last).expect("it was written");
}

#[test]
fn decoder_gguf() {
    replay("decoder_gguf", 2000);
}

#[test]
fn vision_gguf() {
    replay("vision_gguf", 1000);
}

#[test]
fn image() {
    replay("image", 4000);
}

#[test]
fn c_api_calls() {
    replay("c_api", 500);
}

#[test]
fn pickle() {
    replay("pickle", 4000);
}

#[test]
fn torch_archive() {
    replay("torch_archive", 4000);
}

#[test]
fn safetensors() {
    replay("safetensors", 4000);
}

#[test]
fn prompt() {
    replay("prompt", 4000);
}

#[test]
fn stream() {
    replay("stream", 4000);
}

#[test]
fn grounding() {
    replay("grounding", 4000);
}

#[test]
fn tokenizer() {
    replay("tokenizer", 4000);
}

/// The tests above, the targets, their programs and the folders of inputs name the same things.
#[test]
fn no_target_is_forgotten() {
    let source = common::read_text(&root().join("tests/fuzzing.rs"));
    let programs = files(&root().join("fuzz/libfuzzer/fuzz_targets"));
    let programs: BTreeSet<String> =
        programs.iter().map(|p| p.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    let names: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    assert_eq!(programs, names);
    for name in &names {
        assert!(source.contains(&format!("replay(\"{name}\"")), "{name} is not replayed");
    }
    for path in files(&root().join("fuzz/corpus")).into_iter().chain(files(&root().join("fuzz/regressions"))) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(names.contains(&name), "{} is of no target", path.display());
    }
}

/// Every function of the header is called by the target of the C API.
#[test]
fn every_function_is_fuzzed() {
    let header = common::read_text(&root().join("include/tinygptv.h"));
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let code: String = header.lines().filter(|l| !l.trim_start().starts_with('*')).collect::<Vec<_>>().join("\n");
    let declared: BTreeSet<&str> = code
        .match_indices("tgv_")
        .filter(|&(at, _)| !code[..at].ends_with(is_name))
        .map(|(at, _)| &code[at..at + code[at..].find(|c| !is_name(c)).unwrap_or(code.len() - at)])
        .filter(|name| code.contains(&format!("{name}(")))
        .collect();
    let called: BTreeSet<&str> = c_api::CALLS.iter().map(|c| c.0).collect();
    assert_eq!(called, declared);
}

/// For `make fuzz`: writes seeds and corpus of all targets as files to the folder that the environment names.
#[test]
fn inputs_are_written_where_asked_for() {
    let Some(folder) = std::env::var_os("TGV_FUZZ_INPUTS") else { return };
    for target in TARGETS {
        let folder = Path::new(&folder).join(target.name);
        fs::create_dir_all(&folder).expect("a folder");
        let found = found(target.name).into_iter().enumerate().map(|(i, bytes)| (format!("found-{i}"), bytes));
        for (name, bytes) in seeds_of(target.name).into_iter().chain(found) {
            fs::write(folder.join(name), bytes).expect("room for an input");
        }
    }
}

/// For `make fuzz-corpus`: packs a folder of inputs for each target that has one.
#[test]
fn inputs_are_packed_where_asked_for() {
    let Some(folder) = std::env::var_os("TGV_FUZZ_PACK") else { return };
    for target in TARGETS {
        let inputs = contents(&Path::new(&folder).join(target.name));
        if !inputs.is_empty() {
            fs::create_dir_all(root().join("fuzz/corpus")).expect("a folder");
            fs::write(corpus_file(target.name), corpus::pack(inputs)).expect("room for the corpus");
        }
    }
}
