//! What the integration tests share: the demo model, the golden files, a little arithmetic.

#![allow(dead_code)] // each test binary uses another part

pub mod gguf_writer;
pub mod random;
pub mod scoring;
pub mod tiny;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::Value as Json;
use tinygptv::{Embedding, Image, Model, ModelOptions, Session, SessionOptions};

/// The reference's limit on an answer, `tests/reference/answer.py`.
pub const MAX_NEW_TOKENS: usize = 64;

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn demo(name: &str) -> PathBuf {
    root().join("assets/demo").join(name)
}

pub fn decoder_file(ty: &str) -> PathBuf {
    demo(&format!("tinygptv-demo-{ty}.gguf"))
}

pub fn vision_file(ty: &str) -> PathBuf {
    demo(&format!("tinygptv-demo-vision-{ty}.gguf"))
}

pub fn golden(name: &str) -> PathBuf {
    root().join("tests/golden").join(name)
}

fn load(decoder: &str, vision: &str) -> Arc<Model> {
    // One thread: the tests run side by side, and threads of one small graph on a busy machine mostly wait for each other.
    // No cache: tests that encode the same picture want to see it encoded.
    let options = ModelOptions { threads: 1, embedding_cache: Some(0), ..ModelOptions::default() };
    Model::load(&decoder_file(decoder), Some(&vision_file(vision)), &options)
        .unwrap_or_else(|e| panic!("the demo model ({decoder}, vision {vision}) does not load: {e}"))
}

/// Decoder and vision in F16, as the checkpoint has them.
pub fn f16() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| load("f16", "f16"))
}

pub fn q8_0() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| load("q8_0", "q8_0"))
}

pub fn q4_k_m() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| load("q4_k_m", "q8_0"))
}

pub fn options() -> SessionOptions {
    SessionOptions { max_new_tokens: MAX_NEW_TOKENS, ..SessionOptions::default() }
}

pub fn session(model: &Arc<Model>) -> Session {
    Session::new(model.clone(), &options()).expect("a session")
}

pub fn session_with(model: &Arc<Model>, options: SessionOptions) -> Session {
    Session::new(model.clone(), &options).expect("a session")
}

/// Asks without listening to the stream.
pub fn ask(session: &mut Session, question: &str) -> String {
    session.ask(question, &mut |_| true).unwrap_or_else(|e| panic!("{question:?}: {e}"))
}

/// Asks in a new conversation about one image.
pub fn ask_about(session: &mut Session, embedding: &Arc<Embedding>, question: &str) -> String {
    session.reset();
    session.add_embedding(embedding.clone()).expect("an embedding of this model");
    ask(session, question)
}

pub fn open_image(path: &Path) -> Image {
    Image::open(path).unwrap_or_else(|e| panic!("{e}"))
}

pub fn encode(model: &Model, path: &Path) -> Arc<Embedding> {
    model.encode(&open_image(path), tinygptv::vision::Control::default()).unwrap_or_else(|e| panic!("{e}"))
}

pub fn read_text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn read_json(path: &Path) -> Json {
    serde_json::from_str(&read_text(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Raw little-endian f32.
pub fn read_f32(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(bytes.len() % 4, 0, "{} is no f32 file", path.display());
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

pub fn text<'a>(json: &'a Json, key: &str) -> &'a str {
    json[key].as_str().unwrap_or_else(|| panic!("no text {key:?} in {json}"))
}

pub fn list<'a>(json: &'a Json, key: &str) -> &'a [Json] {
    json[key].as_array().unwrap_or_else(|| panic!("no list {key:?} in {json}"))
}

pub fn ids(json: &Json) -> Vec<i32> {
    let ids = json.as_array().expect("a list of ids");
    ids.iter().map(|id| id.as_i64().expect("an id") as i32).collect()
}

/// One of the eight pictures that came with the demo model.
pub struct Scene {
    pub name: String,
    pub image: PathBuf,
    pub embedding: Vec<f32>,
    pub questions: Vec<Json>,
    /// (question, answer)
    pub conversation: Vec<(String, String)>,
}

pub fn scenes() -> Vec<Scene> {
    let folder = golden("demo");
    let json = read_json(&folder.join("questions.json"));
    let scenes: Vec<Scene> = list(&json, "items")
        .iter()
        .map(|item| Scene {
            name: text(item, "image").to_owned(),
            image: folder.join(text(item, "image")),
            embedding: read_f32(&folder.join(text(item, "img_embeds"))),
            questions: list(item, "questions").to_vec(),
            conversation: list(item, "conversation")
                .iter()
                .map(|turn| (text(turn, "question").to_owned(), text(turn, "answer").to_owned()))
                .collect(),
        })
        .collect();
    assert_eq!(scenes.len(), 8);
    scenes
}

/// How far `ours` is from `golden`.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// ‖ours − golden‖ / ‖golden‖
    pub relative: f64,
    pub largest: f64,
    pub cosine: f64,
}

pub fn difference(ours: &[f32], golden: &[f32]) -> Difference {
    assert_eq!(ours.len(), golden.len(), "as many numbers");
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    let gaps: Vec<f32> = ours.iter().zip(golden).map(|(a, b)| a - b).collect();
    Difference {
        relative: (dot(&gaps, &gaps) / dot(golden, golden)).sqrt(),
        largest: gaps.iter().fold(0.0, |m, g| f64::from(g.abs()).max(m)),
        cosine: dot(ours, golden) / (dot(ours, ours) * dot(golden, golden)).sqrt(),
    }
}

/// A folder of one test, removed at its end.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(name: &str) -> TempDir {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        TempDir(path)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
