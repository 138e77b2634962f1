//! An encoded image: the vectors that stand for it among the decoder's inputs.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// `rows` vectors of `width` floats, row-major, and an identity by which the KV cache recognises them.
#[derive(Debug)]
pub struct Embedding {
    values: Vec<f32>,
    rows: usize,
    width: usize,
    id: u64,
}

impl Embedding {
    /// Takes row-major values. Fails unless there are `rows` × `width` of them, all finite.
    pub fn new(values: Vec<f32>, rows: usize, width: usize) -> Result<Embedding> {
        if rows == 0 || width == 0 || rows.checked_mul(width) != Some(values.len()) {
            return Err(Error::InvalidArgument(format!(
                "an image embedding of {rows} × {width} needs {} floats, {} were passed",
                rows.saturating_mul(width),
                values.len()
            )));
        }
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::InvalidArgument(format!(
                "image embedding value {i} is not finite; the vision file may be damaged"
            )));
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Ok(Embedding { values, rows, width, id: NEXT.fetch_add(1, Ordering::Relaxed) })
    }

    /// All values, row-major `[rows, width]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Vectors, each of which takes one position of the decoder's context.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Floats of one vector: the decoder's embedding width.
    pub fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..(i + 1) * self.width]
    }

    /// Unique in the process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}
