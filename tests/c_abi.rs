//! The C ABI as C programs see it: tests/c, compiled and run as a user would, with their memory watched.
//!
//! `TGV_TEST_RUNNER=valgrind` runs them under valgrind instead of AddressSanitizer. `CC` and `CXX` are honoured. Every
//! program tells in its first lines what it shows.
#![cfg(unix)]

mod common;

#[path = "common/c_program.rs"]
mod c_program;
#[path = "common/spoilt.rs"]
mod spoilt;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use c_program::{watcher, Language, Outcome, Program, Watch, Workshop, FOUND};
use common::{decoder_file, demo, golden, root, scenes, text, tiny, vision_file};

// The statuses that files are refused with; tests/c/header.c pins all of them.
const FILE_NOT_FOUND: i32 = 7003;
const BAD_MODEL_FILE: i32 = 7005;
const UNSUPPORTED_MODEL: i32 = 7006;
const MODEL_MISMATCH: i32 = 7007;

/// Arguments of a program.
#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn with(mut self, argument: impl Into<OsString>) -> Self {
        self.0.push(argument.into());
        self
    }

    fn files(decoder: &str, vision: &str) -> Self {
        Arguments::default().with(decoder_file(decoder)).with(vision_file(vision))
    }

    /// What every program that needs a model starts with, and a question of one word.
    fn short() -> Self {
        Arguments::files("f16", "f16").with(demo("shapes-2.png")).with("What color is the star?").with("red")
    }

    /// The same with a question whose answer takes some thirty tokens.
    fn long() -> Self {
        Arguments::files("f16", "f16")
            .with(demo("shapes-1.png"))
            .with("Describe this image.")
            .with("There is a small yellow square, a large green circle, a large blue triangle and a large red circle.")
    }
}

#[track_caller]
fn succeeds(program: &str, arguments: Arguments) {
    Workshop::new().program(program).run(arguments.0).succeeds();
}

/// (picture, question, answer) of the two pictures that `make demo` shows.
fn demo_questions() -> Vec<[OsString; 3]> {
    let json = common::read_json(&common::golden("demo_pictures.json"));
    let questions: Vec<_> = json
        .as_array()
        .expect("a list")
        .iter()
        .map(|q| [demo(text(q, "image")).into(), text(q, "question").into(), text(q, "answer").into()])
        .collect();
    assert_eq!(questions.len(), 6);
    questions
}

/// The same of the eight golden pictures.
fn golden_questions() -> Vec<[OsString; 3]> {
    let of_scene = |scene: common::Scene| -> Vec<[OsString; 3]> {
        let image = scene.image;
        scene
            .questions
            .iter()
            .map(|q| [image.clone().into(), text(q, "question").into(), text(q, "answer").into()])
            .collect()
    };
    scenes().into_iter().flat_map(of_scene).collect()
}

// ---- Header and library

fn header() -> String {
    common::read_text(&root().join("include/tinygptv.h"))
}

/// Every word of the header that starts like this.
fn words(text: &str, start: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_word(c)).filter(|w| w.starts_with(start)).map(str::to_owned).collect()
}

/// Lines that are neither comments nor empty.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        out.push_str(&rest[..start]);
        rest = rest[start..].find("*/").map_or("", |end| &rest[start + end + 2..]);
    }
    out + rest
}

/// Names of the functions that the header declares.
fn declared_functions() -> BTreeSet<String> {
    let code = code(&header());
    let declarations = code.split(';').filter(|d| !d.contains("typedef") && d.contains('('));
    let name = |d: &str| d.split('(').next()?.split([' ', '*', '\n']).next_back().map(str::to_owned);
    let names: BTreeSet<String> = declarations.filter_map(name).filter(|n| n.starts_with("tgv_")).collect();
    assert!(names.len() > 25, "this test no longer understands the header: {names:?}");
    names
}

fn check_header(language: Language) {
    let source = root().join("tests/c/header.c");
    Workshop::new().build(&source, language, watcher()).run([""; 0]).succeeds();
}

#[test]
fn header_is_c99() {
    check_header(Language::C("c99"));
}

#[test]
fn header_is_c11() {
    check_header(Language::C("c11"));
}

#[test]
fn header_is_cpp17() {
    check_header(Language::Cpp("c++17"));
}

#[test]
fn header_test_misses_nothing() {
    let header = code(&header());
    let test = common::read_text(&root().join("tests/c/header.c"));
    let named = words(&test, "tgv_");
    for function in declared_functions() {
        assert!(named.contains(&function), "{function} is not in tests/c/header.c");
    }
    let constants = words(&test, "TGV_");
    for constant in words(&header, "TGV_") {
        assert!(constants.contains(&constant), "{constant} is not in tests/c/header.c");
    }
    // typedef struct name { … } name; the opaque ones have no body.
    let mut fields = 0;
    for definition in header.split("typedef struct ").skip(1) {
        let Some((name, rest)) = definition.split_once(" {").filter(|(name, _)| !name.contains(';')) else { continue };
        let (body, _) = rest.split_once('}').expect("the end of a struct");
        for field in body.split(';').map(str::trim).filter(|f| !f.is_empty()) {
            let field = field.split([' ', '*']).next_back().expect("its name");
            assert!(test.contains(&format!("FIELD({name}, {field}, ")), "{name}.{field} is not in tests/c/header.c");
            fields += 1;
        }
    }
    assert!(fields > 40, "only {fields} fields found: this test no longer understands the header");
}

/// The last word of every line that `nm` prints.
fn nm(arguments: &[&str], library: &Path) -> BTreeSet<String> {
    let output = Command::new("nm").args(arguments).arg(library).output().expect("nm starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    // macOS puts an underscore in front of every name, ELF a version behind some.
    let name = |l: &str| l.split_whitespace().next_back().map(|w| w.split('@').next().unwrap_or(w).to_owned());
    let plain = |w: String| if cfg!(target_os = "macos") { w.trim_start_matches('_').to_owned() } else { w };
    text.lines().filter_map(name).map(plain).collect()
}

#[test]
fn library_exports_the_header_and_nothing_else() {
    let workshop = Workshop::new();
    let arguments: &[&str] = if cfg!(target_os = "macos") { &["-gU"] } else { &["-D", "--defined-only"] };
    assert_eq!(nm(arguments, &workshop.library()), declared_functions());
}

#[test]
fn library_needs_no_second_runtime() {
    let workshop = Workshop::new();
    let arguments: &[&str] = if cfg!(target_os = "macos") { &["-gu"] } else { &["-D", "--undefined-only"] };
    let needed = nm(arguments, &workshop.library());
    // ggml and llama.cpp are inside, and OpenMP, which would bring spinning threads into the host, is not used at all.
    for prefix in ["ggml_", "llama_", "gguf_", "tgv", "GOMP_", "__kmpc_", "omp_"] {
        let found: Vec<&String> = needed.iter().filter(|n| n.starts_with(prefix)).collect();
        assert!(found.is_empty(), "{found:?}");
    }
    assert!(needed.contains("malloc"), "this test no longer sees what the library needs");
}

#[cfg(target_os = "linux")]
#[test]
fn library_links_with_the_system_only() {
    let workshop = Workshop::new();
    let output = Command::new("readelf").arg("-d").arg(workshop.library()).output().expect("readelf starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut needed = 0;
    for line in text.lines() {
        // No search paths of the machine that built it, no relocated code.
        assert!(!["RPATH", "RUNPATH", "TEXTREL"].iter().any(|tag| line.contains(tag)), "{line}");
        if let Some((_, name)) = line.split_once("Shared library: [") {
            let system = ["libstdc++.", "libgcc_s.", "libm.", "libc.", "libpthread.", "libdl.", "librt.", "ld-linux"];
            assert!(system.iter().any(|s| name.starts_with(s)), "{line}");
            needed += 1;
        }
    }
    assert!(needed > 1, "readelf told nothing: {text}");
}

// ---- The watcher itself

/// Runs a program that does wrong on purpose: whoever watches must have noticed.
#[track_caller]
fn is_noticed(program: &str, arguments: Arguments, sanitizers_say: &str, valgrind_says: &str) {
    let workshop = Workshop::new();
    let outcome = workshop.program(program).run(arguments.0);
    let says = match watcher() {
        Watch::Sanitizers => sanitizers_say,
        Watch::Valgrind => valgrind_says,
        Watch::Nobody => return,
    };
    outcome.exits_with(FOUND);
    assert!(outcome.stderr.contains(says), "the watcher does not say {says:?}\n{}", outcome.report());
}

// AddressSanitizer finds leaks on Linux only.
#[cfg(target_os = "linux")]
#[test]
fn canary_leak() {
    is_noticed("canary_leak", Arguments::short(), "LeakSanitizer: detected memory leaks", "definitely lost");
}

#[test]
fn canary_use_after_free() {
    is_noticed("canary_use_after_free", Arguments::short(), "heap-use-after-free", "Invalid read");
}

#[test]
fn canary_overflow() {
    is_noticed("canary_overflow", Arguments::short(), "heap-buffer-overflow", "Invalid write");
}

#[test]
fn canary_undefined() {
    // Memcheck looks at memory only.
    if watcher() != Watch::Valgrind {
        is_noticed("canary_undefined", Arguments::default(), "signed integer overflow", "");
    }
}

// ---- Answers

fn answers(decoder: &str, vision: &str, how: &str, questions: Vec<[OsString; 3]>) {
    let mut arguments = Arguments::files(decoder, vision).with(how);
    arguments.0.extend(questions.into_iter().flatten());
    succeeds("answers", arguments);
}

/// All of them, or some where the runner is slow.
fn sample<T>(items: Vec<T>) -> Vec<T> {
    let step = if watcher() == Watch::Valgrind { 6 } else { 1 };
    items.into_iter().step_by(step).collect()
}

#[test]
fn answers_f16() {
    answers("f16", "f16", "exact", demo_questions());
}

#[test]
fn answers_f16_golden() {
    answers("f16", "f16", "exact", sample(golden_questions()));
}

#[test]
fn answers_q8_0() {
    answers("q8_0", "f16", "similar", demo_questions());
}

#[test]
fn answers_q4_k_m() {
    answers("q4_k_m", "q8_0", "similar", demo_questions());
}

#[test]
fn conversation() {
    let workshop = Workshop::new();
    let program = workshop.program("conversation");
    for scene in sample(scenes()) {
        let mut arguments = Arguments::files("f16", "f16").with(scene.image);
        arguments.0.extend(scene.conversation.into_iter().flat_map(|(q, a)| [q.into(), a.into()]));
        program.run(arguments.0).succeeds();
    }
}

#[test]
fn embeddings() {
    succeeds("embeddings", Arguments::short());
}

#[test]
fn pixels() {
    succeeds("pixels", Arguments::short());
}

#[test]
fn struct_sizes() {
    succeeds("struct_sizes", Arguments::short());
}

#[test]
fn sampling() {
    succeeds("sampling", Arguments::short());
}

#[test]
fn cache() {
    let workshop = Workshop::new();
    let arguments = Arguments::short().with(workshop.path("")).with(vision_file("q8_0"));
    workshop.program("cache").run(arguments.0).succeeds();
}

#[test]
fn load_options() {
    // The first processor that this process may use.
    let allowed = (0..63).find(|i| tinygptv::processors::ProcessorMask(1 << i).check().is_ok()).unwrap_or(0);
    succeeds("load_options", Arguments::short().with((1u64 << allowed).to_string()));
}

#[test]
fn copied_files() {
    let workshop = Workshop::new();
    let arguments = Arguments::short().with(workshop.path(""));
    workshop.program("copied_files").run(arguments.0).succeeds();
}

#[test]
fn plan() {
    succeeds("plan", Arguments::short());
}

#[test]
fn phases() {
    succeeds("phases", Arguments::short());
}

#[test]
fn tasks() {
    succeeds("tasks", Arguments::short());
}

#[test]
fn endings() {
    // Two texts inside the answer: of several tokens, and within words.
    succeeds("endings", Arguments::long().with("a large green").with("riangl"));
}

#[test]
fn model_info() {
    let size = |path: &Path| std::fs::metadata(path).expect("a model file").len().to_string();
    let arguments = Arguments::short().with("256").with("16").with("112").with("517");
    succeeds("model_info", arguments.with(size(&decoder_file("f16"))).with(size(&vision_file("f16"))));
}

#[test]
fn text_only() {
    let workshop = Workshop::new();
    let plain = workshop.path("plain.gguf");
    tiny::phi2(&tiny::byte_level()).write(&plain);
    let arguments = Arguments::short().with(plain).with(tiny::WIDTH.to_string());
    workshop.program("text_only").run(arguments.0).succeeds();
}

#[test]
fn boxes() {
    let workshop = Workshop::new();
    let [picture, question, answer] = demo_questions().swap_remove(2);
    let arguments = Arguments::files("f16", "f16").with(picture).with(question).with(answer);
    workshop.program("boxes").run(arguments.with(workshop.path("boxes.png")).0).succeeds();
}

// ---- Bad input

/// Model files that must be refused.
struct Refusals {
    workshop: Workshop,
    arguments: Arguments,
    count: usize,
}

impl Refusals {
    fn new() -> Refusals {
        Refusals { workshop: Workshop::new(), arguments: Arguments::short(), count: 0 }
    }

    fn pair(&mut self, decoder: &Path, vision: Option<&Path>, status: i32, fragment: &str) {
        self.arguments.0.extend([
            decoder.into(),
            vision.map_or("-".into(), OsString::from),
            status.to_string().into(),
            fragment.into(),
        ]);
    }

    fn file(&mut self, bytes: &[u8]) -> PathBuf {
        self.count += 1;
        self.workshop.write(&format!("{}.gguf", self.count), bytes)
    }

    /// As decoder, beside a sound vision file.
    fn decoder(&mut self, bytes: &[u8], status: i32, fragment: &str) {
        let path = self.file(bytes);
        self.pair(&path, Some(&vision_file("f16")), status, fragment);
    }

    /// As vision file, beside a sound decoder.
    fn vision(&mut self, bytes: &[u8], status: i32, fragment: &str) {
        let path = self.file(bytes);
        self.pair(&decoder_file("f16"), Some(&path), status, fragment);
    }

    fn both(&mut self, bytes: &[u8], status: i32, fragment: &str) {
        self.decoder(bytes, status, fragment);
        self.vision(bytes, status, fragment);
    }

    fn check(self) {
        self.workshop.program("bad_models").run(self.arguments.0).succeeds();
    }
}

#[test]
fn bad_models_of_other_kinds() {
    let mut r = Refusals::new();
    let (decoder, vision) = (decoder_file("f16"), vision_file("f16"));
    for path in [Path::new("no/such/model.gguf"), Path::new("")] {
        r.pair(path, Some(&vision), FILE_NOT_FOUND, "cannot open");
        r.pair(&decoder, Some(path), FILE_NOT_FOUND, "cannot open");
    }
    let folder = root().join("assets");
    r.pair(&folder, Some(&vision), BAD_MODEL_FILE, "folder");
    r.pair(&decoder, Some(&folder), BAD_MODEL_FILE, "folder");
    for picture in [demo("shapes-1.png"), r.file(b"\xff\xd8\xff\xe0...."), r.file(b"GIF89a....")] {
        r.pair(&picture, Some(&vision), BAD_MODEL_FILE, "picture");
        r.pair(&decoder, Some(&picture), BAD_MODEL_FILE, "picture");
    }
    r.both(b"", BAD_MODEL_FILE, "empty");
    r.both(b"PK\x03\x04 and so on", BAD_MODEL_FILE, "tinygptv-convert");
    r.both(b"version https://git-lfs.github.com/spec/v1\n", BAD_MODEL_FILE, "git lfs pull");
    r.both(b"<!DOCTYPE html>", BAD_MODEL_FILE, "web page");
    r.both(b"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}", BAD_MODEL_FILE, "safetensors");
    r.both(b"FUGG\0\0\0\x03", BAD_MODEL_FILE, "big-endian");
    r.both(b"just some text", BAD_MODEL_FILE, "magic");
    r.both(&[0; 64], BAD_MODEL_FILE, "magic");
    r.both(&spoilt::noise(4096), BAD_MODEL_FILE, "magic");
    r.both(&[b"GGUF".as_slice(), &spoilt::noise(4096)].concat(), BAD_MODEL_FILE, "GGUF");
    r.both(&[b"GGUF\x03\0\0\0".as_slice(), &spoilt::noise(4096)].concat(), BAD_MODEL_FILE, "claims");
    let two_keys = [b"GGUF\x03\0\0\0".as_slice(), &0u64.to_le_bytes(), &2u64.to_le_bytes(), &spoilt::noise(4096)];
    r.both(&two_keys.concat(), BAD_MODEL_FILE, "corrupt");
    r.check();
}

#[test]
fn bad_models_that_are_no_pair() {
    let mut r = Refusals::new();
    let (decoder, vision) = (decoder_file("f16"), vision_file("f16"));
    r.pair(&vision, Some(&decoder), MODEL_MISMATCH, "swapped");
    r.pair(&vision, Some(&vision), MODEL_MISMATCH, "decoder .gguf first");
    r.pair(&decoder, Some(&decoder), MODEL_MISMATCH, "vision .gguf second");
    r.pair(&vision, None, MODEL_MISMATCH, "vision file");
    let turned = |id: &str| id.chars().rev().collect();
    r.decoder(&spoilt::with_text(&decoder, "tinygptv.pair_id", turned), MODEL_MISMATCH, "conversions");
    r.vision(&spoilt::with_text(&vision, "tinygptv.pair_id", turned), MODEL_MISMATCH, "conversions");
    // A decoder of another width, which carries no pair_id that could tell.
    let narrow = r.workshop.path("narrow.gguf");
    tiny::phi2(&tiny::byte_level()).write(&narrow);
    r.pair(&narrow, Some(&vision), MODEL_MISMATCH, "vectors of 256 floats");
    r.check();
}

#[test]
fn bad_models_of_other_dimensions() {
    let mut r = Refusals::new();
    let (decoder, vision) = (decoder_file("f16"), vision_file("f16"));
    for (key, value, fragment) in [
        ("clip.vision.projection_dim", 128, "mm.0"),
        ("clip.vision.projection_dim", 0, "projection_dim"),
        ("clip.vision.embedding_length", 96, "where its metadata make it"),
        ("clip.vision.feed_forward_length", 512, "where its metadata make it"),
        ("clip.vision.block_count", 5, "v.blk.4"),
        ("clip.vision.block_count", u32::MAX, "block_count"),
        ("clip.vision.image_size", 113, "113"),
        ("clip.vision.image_size", 8190, "patches"),
        ("clip.vision.patch_size", 7, "where its metadata make it"),
        ("clip.vision.attention.head_count", 5, "heads"),
        ("tinygptv.qformer.query_count", 17, "qf.query_tokens"),
        ("tinygptv.qformer.cross_attention_interval", 0, "cross_attention_interval"),
    ] {
        r.vision(&spoilt::with_u32(&vision, key, value), UNSUPPORTED_MODEL, fragment);
    }
    for (key, value, fragment) in [
        ("phi2.embedding_length", 128, "where its metadata make it"),
        ("phi2.block_count", 77, "blk."),
        ("phi2.block_count", 0, "block_count"),
        ("phi2.context_length", 0, "context_length"),
        ("phi2.context_length", u32::MAX, "context_length"),
        ("phi2.attention.head_count", 0, "head_count"),
        ("phi2.attention.head_count", 3, "heads"),
        ("phi2.rope.dimension_count", 1000, "rotary"),
        ("phi2.feed_forward_length", 1, "where its metadata make it"),
    ] {
        r.decoder(&spoilt::with_u32(&decoder, key, value), UNSUPPORTED_MODEL, fragment);
    }
    r.decoder(&unknown_architecture(), UNSUPPORTED_MODEL, "llama.cpp");
    r.check();
}

/// Passes our checks, which know the tensors of phi2 only, and fails llama.cpp's.
fn unknown_architecture() -> Vec<u8> {
    spoilt::with_text(&decoder_file("f16"), "general.architecture", |_| "phi9".into())
}

fn bad_models_cut(as_decoder: bool) {
    let mut r = Refusals::new();
    let path = if as_decoder { decoder_file("q4_k_m") } else { vision_file("q8_0") };
    let whole = std::fs::read(&path).expect("a model file");
    for cut in spoilt::cuts(&path) {
        let fragment = if cut < 4 { "magic" } else { "truncated" };
        match as_decoder {
            true => r.decoder(&whole[..cut], BAD_MODEL_FILE, fragment),
            false => r.vision(&whole[..cut], BAD_MODEL_FILE, fragment),
        }
    }
    r.check();
}

#[test]
fn bad_models_cut_decoder() {
    bad_models_cut(true);
}

#[test]
fn bad_models_cut_vision() {
    bad_models_cut(false);
}

fn flipped_bits(kind: &str, file: &Path) {
    const FLIPS: usize = 250;
    let workshop = Workshop::new();
    let scratch = workshop.write("scratch.gguf", &std::fs::read(file).expect("a model file"));
    let header = spoilt::header_length(file);
    let arguments = Arguments::short().with(kind).with(scratch).with(header.to_string()).with(FLIPS.to_string());
    workshop.program("flipped_bits").run(arguments.0).succeeds();
}

#[test]
fn flipped_bits_decoder() {
    flipped_bits("decoder", &decoder_file("f16"));
}

#[test]
fn flipped_bits_vision() {
    flipped_bits("vision", &vision_file("f16"));
}

#[test]
fn damaged_weights() {
    let workshop = Workshop::new();
    let decoder = workshop.write("decoder.gguf", &spoilt::with_bad_tensor(&decoder_file("f16"), "blk.0.ffn_up.weight"));
    let vision = workshop.write("vision.gguf", &spoilt::with_bad_tensor(&vision_file("f16"), "v.blk.0.ffn_up.weight"));
    let arguments = Arguments::short().with(decoder).with(vision);
    workshop.program("damaged_weights").run(arguments.0).succeeds();
}

#[test]
fn bad_pictures() {
    let workshop = Workshop::new();
    let jpeg = golden("pictures/jpeg-420-225x223.jpg");
    let arguments = Arguments::short().with(demo("shapes-1.png")).with(jpeg).with(workshop.path("scratch.png"));
    workshop.program("bad_pictures").run(arguments.0).succeeds();
}

#[test]
fn bad_arguments() {
    succeeds("bad_arguments", Arguments::short());
}

#[test]
fn bad_texts() {
    succeeds("bad_texts", Arguments::short());
}

#[test]
fn context() {
    succeeds("context", Arguments::long());
}

// ---- Little memory, full disks

/// Runs tests/c/out_of_memory.c.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[track_caller]
fn out_of_memory(files: &str, how: &[&str]) {
    let workshop = Workshop::new();
    let jpeg = golden("pictures/jpeg-420-225x223.jpg");
    let mut arguments = Arguments::short().with(jpeg).with(workshop.path("scratch")).with(files).0;
    arguments.extend(how.iter().map(OsString::from));
    // A sanitizer has an allocator of its own, and stack traces of those processes would take most of the time.
    let outcome = workshop.unwatched_program("out_of_memory").run_with(arguments, "", &[("RUST_BACKTRACE", "0")]);
    outcome.exits_with(0);
    println!("{}", outcome.stdout.lines().next_back().unwrap_or_default());
}

const MAPPED: &str = "0";
const COPIED: &str = "1";
/// More than any allocation.
const NO_LIMIT: &str = "1000000000000";

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn memory_is_exhausted() {
    out_of_memory(MAPPED, &["exhausted"]);
    out_of_memory(COPIED, &["exhausted"]);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn large_allocations_fail() {
    out_of_memory(MAPPED, &["65536", NO_LIMIT, "1"]);
    out_of_memory(COPIED, &["65536", NO_LIMIT, "1"]);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn small_allocations_fail() {
    out_of_memory(MAPPED, &["4096", "65536", "3"]);
    out_of_memory(MAPPED, &["1", "4096", "499"]);
}

#[cfg(target_os = "linux")]
#[test]
fn full_disk() {
    let workshop = Workshop::new();
    let arguments = Arguments::short().with(workshop.path("folder"));
    workshop.program("full_disk").run(arguments.0).succeeds();
}

// ---- Callbacks

#[test]
fn silence() {
    let workshop = Workshop::new();
    let broken = workshop.write("broken.gguf", &unknown_architecture());
    let arguments = Arguments::short().with(workshop.path("written.txt")).with(broken);
    workshop.program("silence").run(arguments.0).succeeds();
}

#[test]
fn reentry() {
    succeeds("reentry", Arguments::long());
}

#[test]
fn free_inside() {
    succeeds("free_inside", Arguments::long());
}

#[test]
fn progress() {
    succeeds("progress", Arguments::short());
}

// ---- Lifetimes

#[test]
fn free_elsewhere() {
    succeeds("free_elsewhere", Arguments::long());
}

#[test]
fn free_orders() {
    succeeds("free_orders", Arguments::short());
}

#[test]
fn load_cycles() {
    // What a sanitizer keeps back of freed memory would count as growth.
    Workshop::new().unwatched_program("load_cycles").run(Arguments::short().0).succeeds();
}

#[test]
fn load_cycles_watched() {
    let workshop = Workshop::new();
    let program = workshop.program("load_cycles");
    program.run_with(Arguments::short().0, "", &[("TGV_TEST_ROUNDS_DIVISOR", "20")]).succeeds();
}

#[test]
fn reload() {
    let workshop = Workshop::new();
    let arguments = Arguments::short().with(workshop.library());
    workshop.unwatched_program("reload").run(arguments.0).succeeds();
}

/// The library leaves the process's handlers as they are.
#[cfg(target_os = "linux")]
#[test]
fn terminate() {
    let workshop = Workshop::new();
    let source = root().join("tests/c/terminate.cpp");
    let program = workshop.build(&source, Language::Cpp("c++17"), Watch::Nobody);
    program.run(Arguments::short().with(workshop.library()).0).succeeds();
}

// ---- Threads

#[test]
fn threads() {
    let mut arguments = Arguments::files("f16", "f16");
    arguments.0.extend(demo_questions().into_iter().flatten());
    arguments.0.extend(golden_questions().into_iter().skip(1).step_by(4).flatten());
    succeeds("threads", arguments);
}

#[test]
fn cancel() {
    let [question, answer] = ["How many shapes are there?", "four"];
    let long = Arguments::long().0;
    let mut arguments = Arguments(long[..3].to_vec()).with(question).with(answer);
    arguments.0.extend_from_slice(&long[3..]);
    succeeds("cancel", arguments);
}

#[test]
fn log_swap() {
    succeeds("log_swap", Arguments::default().with(decoder_file("f16")));
}

#[test]
fn two_users() {
    succeeds("two_users", Arguments::short().with(decoder_file("q4_k_m")).with(vision_file("q8_0")));
}

#[test]
fn one_session() {
    succeeds("one_session", Arguments::long());
}

// ---- Examples

fn example(workshop: &Workshop, name: &str) -> Program {
    workshop.build(&root().join(format!("examples/{name}.c")), Language::C("c99"), watcher())
}

/// The example's only complaint: one line that starts with its name.
#[track_caller]
fn complains(outcome: &Outcome, name: &str, fragment: &str) {
    outcome.exits_with(1);
    let line = outcome.stderr.trim_end();
    assert!(
        line.starts_with(&format!("{name}: ")) && !line.contains('\n') && line.contains(fragment),
        "{}",
        outcome.report()
    );
    assert!(outcome.stdout.is_empty(), "{}", outcome.report());
}

#[test]
fn example_ask_explains_itself() {
    let workshop = Workshop::new();
    let ask = example(&workshop, "ask");
    for help in ["--help", "-h"] {
        let outcome = ask.run([help]);
        outcome.succeeds();
        assert!(outcome.stdout.starts_with("usage: ask "), "{}", outcome.report());
    }
    let files = Arguments::short().0;
    for arguments in [&[][..], &files[..1], &files[..3], &["-x".into()], &["-t".into()], &["-t".into(), "many".into()]]
    {
        let outcome = ask.run(arguments);
        outcome.exits_with(2);
        assert!(outcome.stderr.contains("usage: ask ") && outcome.stdout.is_empty(), "{}", outcome.report());
    }
}

#[test]
fn example_ask_answers() {
    let workshop = Workshop::new();
    let ask = example(&workshop, "ask");
    let questions = demo_questions();
    for [picture, question, answer] in &questions {
        let outcome = ask.run(Arguments::files("f16", "f16").with(picture).with(question).0);
        outcome.succeeds();
        assert_eq!(outcome.stdout.trim_end_matches('\n'), answer.to_str().expect("UTF-8"), "{}", outcome.report());
    }
    // Several questions about one picture, each with its question above it.
    let picture = &questions[0][0];
    let mut arguments = Arguments::files("f16", "f16").with(picture);
    let mut expected = String::new();
    for [_, question, answer] in questions.iter().filter(|q| q[0] == *picture) {
        arguments = arguments.with(question);
        expected += &format!("> {}\n{}\n", question.to_string_lossy(), answer.to_string_lossy());
    }
    let outcome = ask.run(arguments.0);
    outcome.succeeds();
    assert_eq!(outcome.stdout, expected);
}

#[test]
fn example_ask_options() {
    let workshop = Workshop::new();
    let ask = example(&workshop, "ask");
    let run =
        |options: &[&str]| ask.run(options.iter().map(OsString::from).chain(Arguments::long().0.into_iter().take(4)));
    let short = run(&["-n", "2", "-t", "1"]);
    short.succeeds();
    assert!(short.stdout.len() < 20 && "There is a small".starts_with(short.stdout.trim_end()), "{}", short.report());
    let figures = run(&["-s", "-n", "4"]);
    figures.exits_with(0);
    assert!(figures.stderr.contains("for 4 tokens"), "{}", figures.report());
    let log = run(&["-v", "-n", "4"]);
    log.exits_with(0);
    assert!(log.stderr.lines().count() > 5 && log.stdout == figures.stdout, "{}", log.report());
    complains(&run(&["-p", "no such template"]), "ask", "no such template");
}

#[test]
fn example_ask_fails_in_one_line() {
    let workshop = Workshop::new();
    let ask = example(&workshop, "ask");
    let (decoder, vision, picture) = (decoder_file("f16"), vision_file("f16"), demo("shapes-1.png"));
    let none = PathBuf::from("no/such/file");
    for (files, fragment) in [
        ([&none, &vision, &picture], "no/such/file"),
        ([&decoder, &none, &picture], "no/such/file"),
        ([&decoder, &vision, &none], "no/such/file"),
        ([&vision, &decoder, &picture], "swapped"),
        ([&picture, &vision, &decoder], "picture, not a model"),
        ([&decoder, &vision, &decoder], "GGUF model file"),
    ] {
        let arguments = files.into_iter().map(OsString::from).chain(["What color is the star?".into()]);
        complains(&ask.run(arguments), "ask", fragment);
    }
}

#[test]
fn example_chat_follows_a_script() {
    let workshop = Workshop::new();
    let chat = example(&workshop, "chat");
    let (first, second) = (demo("shapes-1.png"), demo("shapes-2.png"));
    let arguments = || Arguments::files("f16", "f16").with(&first).0;
    let second = second.display();
    let script = format!(
        "How many shapes are there?\n\
         Describe this image.\n\
         /image no/such/picture.png\n\
         /reset\n\
         /image {second}\n\
         What color is the star?\n\
         \n\
         /quit\n\
         What color is the circle?\n"
    );
    let outcome = chat.run_with_input(arguments(), &script);
    outcome.exits_with(0);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(lines[0].contains("phi2"), "{}", outcome.report());
    assert_eq!(lines[1], "> four", "{}", outcome.report());
    assert!(lines[2].starts_with("> There is a small yellow square"), "{}", outcome.report());
    assert_eq!(lines[3], "> > > > red", "{}", outcome.report());
    assert!(outcome.stderr.contains("no/such/picture.png"), "{}", outcome.report());
    assert!(!outcome.stdout.contains("purple"), "it went on after /quit\n{}", outcome.report());

    // The end of the input ends the conversation, also in the middle of a line.
    for script in ["", "\n", "How many shapes are there?"] {
        let outcome = chat.run_with_input(arguments(), script);
        outcome.exits_with(0);
        assert_eq!(outcome.stdout.contains("four"), script.starts_with("How"), "{}", outcome.report());
    }
}

#[test]
fn example_chat_explains_itself() {
    let workshop = Workshop::new();
    let chat = example(&workshop, "chat");
    let help = chat.run(["--help"]);
    help.succeeds();
    assert!(help.stdout.starts_with("usage: chat "), "{}", help.report());
    let usage = chat.run([""; 0]);
    usage.exits_with(2);
    assert!(usage.stderr.starts_with("usage: chat "), "{}", usage.report());
    let missing = chat.run(["no/such/file", "no/such/file", "no/such/file"]);
    complains(&missing, "chat", "no/such/file");
    let no_picture = chat.run(Arguments::files("f16", "f16").with("no/such/picture.png").0);
    no_picture.exits_with(1);
    assert!(no_picture.stderr.contains("chat: ") && no_picture.stderr.contains("no/such/picture.png"));
}

#[test]
fn example_ground_finds_and_draws() {
    let workshop = Workshop::new();
    let ground = example(&workshop, "ground");
    let arguments = |out: &Path| {
        let files = Arguments::files("f16", "f16").with(demo("shapes-1.png"));
        files.with("[refer] give me the location of the yellow square").with(out).0
    };
    let drawn = workshop.path("drawn.png");
    let outcome = ground.run(arguments(&drawn));
    outcome.succeeds();
    // The picture is 365 px wide and high; the reference answers {<8><3><28><24>}.
    assert_eq!(outcome.stdout, "{<8><3><28><24>}\nbox 1: x 29 to 102, y 11 to 88 px\n", "{}", outcome.report());
    let before = tinygptv::Image::open(&demo("shapes-1.png")).expect("the picture");
    let after = tinygptv::Image::open(&drawn).expect("the drawing");
    assert_eq!((after.width(), after.height()), (before.width(), before.height()));
    let changed = before.rgb().chunks(3).zip(after.rgb().chunks(3)).filter(|(a, b)| a != b).count();
    // An outline of two pixels around 73 × 77.
    assert!((400..800).contains(&changed), "{changed} pixels are drawn");

    let nowhere = ground.run(arguments(Path::new("no/such/folder/out.png")));
    nowhere.exits_with(1);
    assert!(nowhere.stderr.contains("cannot write 'no/such/folder/out.png'"), "{}", nowhere.report());
    assert!(ground.run(["--help"]).stdout.starts_with("usage: ground "));
}

#[test]
fn example_choose_keeps_to_the_answers() {
    let workshop = Workshop::new();
    let choose = example(&workshop, "choose");
    let answers = ["purple circle", "green square", "blue triangle"];
    let arguments = Arguments::files("f16", "f16").with(demo("shapes-2.png"));
    let arguments =
        answers.iter().fold(arguments.with("What is to the left of the red star?"), |a, answer| a.with(*answer));
    let outcome = choose.run(arguments.0);
    outcome.succeeds();
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 11, "{}", outcome.report());
    let loss = |line: &str| line.split(' ').nth(1).and_then(|n| n.parse::<f32>().ok()).expect("a loss");
    assert!(loss(lines[0]) < loss(lines[1]) && loss(lines[0]) < loss(lines[2]), "{}", outcome.report());
    assert_eq!(lines[3], "chosen      purple circle");
    // The demo model never saw JSON, so which of the answers it writes there is no matter.
    let json = lines[4].strip_prefix("JSON        ").expect("JSON");
    let json: serde_json::Value = serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"));
    assert!(answers.iter().any(|a| json["answer"] == *a), "{json}");
    assert!(lines[5..].contains(&"Is there a purple circle?"), "{}", outcome.report());
    assert!(choose.run(["--help"]).stdout.starts_with("usage: choose "));
    choose.run(["a", "b"]).exits_with(2);
    let missing = choose.run(["no/such/file"; 6]);
    complains(&missing, "choose", "no/such/file");
}

/// The first C program of README.md, as it stands there.
#[test]
fn readme_program_answers() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let source = readme.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a C program");
    let workshop = Workshop::new();
    let path = workshop.write("readme.c", source.as_bytes());
    let outcome = workshop.build(&path, Language::C("c99"), watcher()).run([""; 0]);
    outcome.succeeds();
    assert_eq!(
        outcome.stdout.trim_end(),
        "There is a small yellow square, a large green circle, a large blue triangle and a large red circle."
    );
}
