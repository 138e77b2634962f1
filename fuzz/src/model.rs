//! The tiny model that several targets share, and files that hold an input.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tempfile::{NamedTempFile, TempDir};
use tinygptv::{Model, ModelOptions};
use tinygptv_convert::output::Progress;
use tinygptv_convert::result::ResultOptions;
use tinygptv_convert::synth::{synth, SynthOptions};
use tinygptv_convert::types::{DecoderType, VisionType};

/// As small as a model with every part of TinyGPT-V can be: images of 28 px in 4 patches, 2 queries, 192 positions.
const DIMENSIONS: &str = "vocabulary=300,context=192,width=32,layers=1,heads=2,rotary=8,mlp=32,grid=2,vit-width=32,\
                          vit-blocks=1,vit-heads=2,vit-mlp=32,queries=2,qf-width=32,qf-layers=2,qf-heads=2,qf-mlp=32,\
                          projection=32";

/// The two files of a model.
pub struct Pair {
    _folder: TempDir,
    /// Decoder file.
    pub decoder: PathBuf,
    /// Vision file.
    pub vision: PathBuf,
}

/// A tiny pair of random weights with 8-bit vision weights.
pub fn tiny() -> &'static Pair {
    static PAIR: OnceLock<Pair> = OnceLock::new();
    PAIR.get_or_init(|| make("f16", "q8_0"))
}

/// A tiny pair with weights of these types.
pub fn make(decoder: &str, vision: &str) -> Pair {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = SynthOptions {
        dimensions: DIMENSIONS.parse().expect("dimensions"),
        stage: 4,
        image_size: None,
        outliers: 0,
        seed: 1,
    };
    let results = ResultOptions {
        name: "tiny".into(),
        decoder_types: vec![decoder.parse::<DecoderType>().expect("a type")],
        vision_types: vec![vision.parse::<VisionType>().expect("a type")],
        out: folder.path().to_owned(),
        force: true,
        dry_run: false,
        verbose: false,
        threads: 1,
    };
    synth(&options, &results, &Progress::new(true)).expect("a tiny model");
    let file = |name: &str, ty: &str| folder.path().join(format!("tiny-{name}{ty}.gguf"));
    Pair { decoder: file("", decoder), vision: file("vision-", vision), _folder: folder }
}

/// One thread and no more than a few hundred megabytes.
pub fn options() -> ModelOptions {
    ModelOptions { threads: 1, memory_limit: 256 << 20, ..ModelOptions::default() }
}

/// The tiny model, loaded.
pub fn loaded() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| {
        let pair = tiny();
        Model::load(&pair.decoder, Some(&pair.vision), &options()).expect("the tiny model loads")
    })
}

/// A file of these bytes, for as long as it lives.
pub fn file(bytes: &[u8]) -> NamedTempFile {
    file_with_hole(bytes, 0)
}

/// A file of these bytes and that many zeros, which take no space on the disk.
pub fn file_with_hole(bytes: &[u8], zeros: u64) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).and_then(|()| file.as_file().set_len(bytes.len() as u64 + zeros)).expect("room for it");
    file
}

/// Where the repository's files are.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The header of a GGUF file: all but its tensors' data.
pub fn header_of(path: &Path) -> Vec<u8> {
    tinygptv::gguf::Gguf::open(path).unwrap_or_else(|e| panic!("{e}")).header().to_vec()
}
