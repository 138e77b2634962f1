//! safetensors files.

use tinygptv_convert::safetensors_file;

use super::checkpoint;
use crate::model;

/// Opens the input as a `.safetensors` file and reads its tensors.
pub fn run(input: &[u8]) {
    let file = model::file(input);
    if let Ok(opened) = safetensors_file::open(file.path()) {
        checkpoint::read(&opened);
    }
}
