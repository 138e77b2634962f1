//! What is asked of a checkpoint file that could be opened.

use tinygptv_convert::stored::Checkpoint;

/// Numbers read from each end of a tensor.
const SAMPLE: usize = 256;

/// Reads some numbers of every tensor.
pub fn read(checkpoint: &Checkpoint) {
    assert!(!checkpoint.tensors.is_empty());
    for tensor in checkpoint.tensors.iter().filter(|t| t.dtype.is_float()) {
        let n = tensor.elements().min(SAMPLE);
        for start in [0, tensor.elements() - n] {
            let mut values = Vec::new();
            if tensor.read(start, n, &mut values).is_ok() {
                assert_eq!(values.len(), n, "{}", tensor.place());
            }
        }
    }
}
