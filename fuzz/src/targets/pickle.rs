//! Pickles: alone, and as that of a PyTorch checkpoint.

use std::io::{Cursor, Write};

use tinygptv_convert::pickle::Pickle;
use tinygptv_convert::torch_file;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::checkpoint;
use crate::model;

/// Bytes of each of the two entries that a tensor may lie in.
const DATA: [u8; 96] = [0x3c; 96];

/// Runs the pickle, then opens an archive that has it and two entries of data.
pub fn run(input: &[u8]) {
    if let Ok(pickle) = Pickle::load(input) {
        for key in ["model", "state_dict", "config"] {
            pickle.get(pickle.root, key);
        }
        let file = model::file(&archive(input));
        if let Ok(opened) = torch_file::open(file.path()) {
            checkpoint::read(&opened);
        }
    }
}

/// A PyTorch checkpoint with this pickle.
pub fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("x/data.pkl", pickle), ("x/data/0", &DATA), ("x/data/1", &DATA)] {
        zip.start_file(name, options).and_then(|()| Ok(zip.write_all(bytes)?)).expect("an entry in memory");
    }
    zip.finish().expect("an archive in memory").into_inner()
}
