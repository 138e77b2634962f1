//! PyTorch checkpoints: the zip archive and all in it.

use tinygptv_convert::torch_file;

use super::checkpoint;
use crate::model;

/// Opens the input as a `.pth` file and reads its tensors.
pub fn run(input: &[u8]) {
    let file = model::file(input);
    if let Ok(opened) = torch_file::open(file.path()) {
        checkpoint::read(&opened);
    }
}
