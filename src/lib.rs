//! # tinygptv
//!
//! Questions about pictures, answered on the user's own device: TinyGPT-V (EVA-CLIP ViT-g, BLIP-2 Q-Former, a modified
//! Phi-2) from two GGUF files. The same library has a C header, `include/tinygptv.h`; this is the safe Rust API under it.
//!
//! ```no_run
//! use std::path::Path;
//! use tinygptv::{Image, Model, ModelOptions, Session, SessionOptions};
//!
//! # fn main() -> tinygptv::Result<()> {
//! let model = Model::load(Path::new("demo.gguf"), Some(Path::new("demo-vision.gguf")), &ModelOptions::default())?;
//! let mut session = Session::new(model, &SessionOptions::default())?;
//! session.add_image(&Image::open(Path::new("shapes.png"))?, None)?;
//! let answer = session.ask("What color is the star?", &mut |piece| {
//!     print!("{piece}");
//!     true
//! })?;
//! # drop(answer);
//! # Ok(())
//! # }
//! ```
//!
//! Data walks one way: `ffi → session → prompt/tokenizer/vision/decoder → model → gguf`.
//!
//! - [`gguf`]: GGUF files, mapped or copied, strictly validated; nothing else parses GGUF.
//! - [`image`]: pictures in, pixels exactly as PIL would resize them out.
//! - [`vision`]: pixels → image embedding: ViT, ln_vision, Q-Former, projection, with kernels chosen at run time.
//! - [`decoder`]: embeddings and tokens → logits → tokens; the only room that talks to llama.cpp.
//! - [`tokenizer`]: text ⇄ token ids.
//! - [`prompt`]: templates: question and images → segments.
//! - [`stream`]: token bytes → whole characters, stop texts removed.
//! - [`grounding`], [`drawing`]: boxes in an answer → structs, and onto the picture.
//! - [`model`], [`session`], [`embedding`]: what a user holds; `cache` and `embedding_file` keep embeddings, in memory and in
//!   files.
//! - [`plan`]: how much memory that takes; [`processors`]: how many threads, and where they run.
//! - [`error`], [`log`], [`threads`], `sync`, `memory`, `whole_file`: what everything shares; `kernels`: products on tile registers, for both halves.

#![deny(missing_docs)]
#![warn(unsafe_op_in_unsafe_fn)]

mod cache;
pub mod decoder;
pub mod drawing;
pub mod embedding;
mod embedding_file;
pub mod error;
mod ffi;
pub mod gguf;
pub mod grounding;
pub mod image;
#[cfg(target_arch = "x86_64")]
mod kernels;
pub mod log;
mod memory;
pub mod model;
mod panics;
pub mod plan;
mod prefetch;
pub mod processors;
pub mod prompt;
pub mod session;
mod stack;
pub mod stream;
mod sync;
pub mod threads;
pub mod tokenizer;
pub mod vision;
mod whole_file;

pub use decoder::Sampling;
pub use embedding::Embedding;
pub use error::{Error, Result};
pub use image::{Image, PixelFormat};
pub use model::{Files, Model, ModelInfo, ModelOptions, Profile};
pub use session::{
    CancelHandle, Constraint, Finish, Phase, Progress, ProgressListener, RankOptions, Session, SessionOptions,
    Statistics, WhenFull,
};
