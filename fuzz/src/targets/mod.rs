//! The targets, one file each.

pub mod c_api;
mod checkpoint;
pub mod decoder_gguf;
pub mod grounding;
pub mod image;
pub mod pickle;
pub mod prompt;
pub mod safetensors;
pub mod stream;
pub mod tokenizer;
pub mod torch_archive;
pub mod vision_gguf;
