//! The bodies of the fuzz targets: each takes any bytes, drives one entrance of the library or the converter with them, and
//! panics when an invariant does not hold. libFuzzer calls them (`fuzz/libfuzzer`, `make fuzz`), and `tests/fuzzing.rs` replays
//! committed inputs and mutations of them.
//!
//! | module | job |
//! |---|---|
//! | `targets` | one file a target |
//! | `header` | the C ABI, from include/tinygptv.h |
//! | `bytes` | taking numbers, choices and texts from an input |
//! | `model` | the tiny model that several targets share, and files for inputs |
//! | `corpus` | the committed inputs of a target in one file |
//! | `seeds` | first inputs, from real files |
//! | `mutator` | small changes of an input, for replays without libFuzzer |

pub mod bytes;
pub mod corpus;
mod header;
pub mod model;
pub mod mutator;
pub mod seeds;
pub mod targets;

/// A fuzz target.
pub struct Target {
    /// Its name: that of its module, its program and its folders.
    pub name: &'static str,
    /// Its body.
    pub run: fn(&[u8]),
    /// Longest input that libFuzzer should make.
    pub max_len: usize,
}

/// All targets.
pub const TARGETS: [Target; 11] = [
    Target { name: "decoder_gguf", run: targets::decoder_gguf::run, max_len: 1 << 15 },
    Target { name: "vision_gguf", run: targets::vision_gguf::run, max_len: 1 << 15 },
    Target { name: "image", run: targets::image::run, max_len: 1 << 13 },
    Target { name: "c_api", run: targets::c_api::run, max_len: 1 << 10 },
    Target { name: "pickle", run: targets::pickle::run, max_len: 1 << 13 },
    Target { name: "torch_archive", run: targets::torch_archive::run, max_len: 1 << 13 },
    Target { name: "safetensors", run: targets::safetensors::run, max_len: 1 << 12 },
    Target { name: "prompt", run: targets::prompt::run, max_len: 1 << 10 },
    Target { name: "stream", run: targets::stream::run, max_len: 1 << 9 },
    Target { name: "grounding", run: targets::grounding::run, max_len: 1 << 10 },
    Target { name: "tokenizer", run: targets::tokenizer::run, max_len: 1 << 10 },
];

/// The target of a name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}
