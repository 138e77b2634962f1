//! How one tensor of the result is made from tensors of the checkpoints, in slabs of rows, so that memory stays small.

use std::rc::Rc;

use anyhow::{ensure, Result};

use crate::lora::{Lora, LoraFactors};
use crate::quantize::{q8_0_rest, Q8_0_BLOCK};
use crate::stored::StoredTensor;

/// Most numbers of a tensor that are worked on at once: 16 MiB as `f32`.
const SLAB: usize = 4 << 20;

/// Rows of the result that come from consecutive rows of one stored tensor.
#[derive(Clone)]
pub struct Run {
    /// Where they come from; `None` makes zeros.
    pub tensor: Option<StoredTensor>,
    /// First row there.
    pub first: usize,
    /// Number of rows.
    pub rows: usize,
    /// What LoRA adds, and the row of its B that belongs to the first row.
    pub delta: Option<(Rc<Lora>, usize)>,
}

/// Where a tensor's numbers come from.
#[derive(Clone)]
pub enum Recipe {
    /// Rows copied from stored tensors, one run after the other.
    Rows(Vec<Run>),
    /// One number everywhere.
    Fill(f32),
    /// `second · first`: two affine maps without anything between them are one.
    FoldWeight { first: StoredTensor, second: StoredTensor },
    /// The bias of the same fold: `second · first_bias + second_bias`.
    FoldBias { first_bias: StoredTensor, second: StoredTensor, second_bias: StoredTensor },
    /// Another recipe's tensor with rows and columns rescaled or made twice.
    Changed(Box<Changed>),
}

/// What becomes of another recipe's tensor.
#[derive(Clone)]
pub struct Changed {
    pub of: Recipe,
    /// The shape that it makes.
    pub shape: Vec<usize>,
    /// What each row is multiplied by; nothing if empty.
    pub rows: Vec<f32>,
    /// What each column is multiplied by; nothing if empty.
    pub columns: Vec<f32>,
    /// What comes behind it.
    pub again: Again,
}

/// A block of rows or columns that are made a second time, zeros where they are fewer.
#[derive(Clone)]
pub enum Again {
    Nothing,
    /// These rows.
    Rows(Vec<usize>),
    /// What rounding to Q8_0 leaves of these columns.
    Rests(Vec<usize>),
}

impl Changed {
    fn produce(&self, mut sink: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let width: usize = self.shape.iter().skip(1).product();
        let mut copies = match &self.again {
            Again::Rows(_) => vec![0.0; Q8_0_BLOCK * width],
            _ => Vec::new(),
        };
        let (mut out, mut row) = (Vec::new(), 0);
        self.of.produce(&self.shape, &mut |values: &[f32]| {
            out.clear();
            for values in values.chunks_exact(width) {
                let start = out.len();
                out.extend_from_slice(values);
                let changed = &mut out[start..];
                if let Some(factor) = self.rows.get(row) {
                    changed.iter_mut().for_each(|v| *v *= factor);
                }
                changed.iter_mut().zip(&self.columns).for_each(|(v, factor)| *v *= factor);
                match &self.again {
                    Again::Nothing => {}
                    Again::Rows(rows) => {
                        for (_, copy) in rows.iter().zip(copies.chunks_exact_mut(width)).filter(|(&r, _)| r == row) {
                            copy.copy_from_slice(changed);
                        }
                    }
                    Again::Rests(columns) => {
                        let mut rests = [0.0; Q8_0_BLOCK];
                        for (rest, column) in rests.iter_mut().zip(columns) {
                            let block = column / Q8_0_BLOCK * Q8_0_BLOCK;
                            *rest = q8_0_rest(&changed[block..block + Q8_0_BLOCK])?[column - block];
                        }
                        out.extend(rests);
                    }
                }
                row += 1;
            }
            sink(&out)
        })?;
        if copies.is_empty() {
            return Ok(());
        }
        sink(&copies)
    }
}

impl Recipe {
    /// A whole stored tensor as it is.
    pub fn whole(tensor: StoredTensor) -> Recipe {
        let rows = tensor.shape.first().copied().unwrap_or(1);
        Recipe::Rows(vec![Run { tensor: Some(tensor), first: 0, rows, delta: None }])
    }

    /// A whole stored tensor that is seen as `rows` rows.
    pub fn reshaped(tensor: StoredTensor, rows: usize) -> Recipe {
        Recipe::Rows(vec![Run { tensor: Some(tensor), first: 0, rows, delta: None }])
    }

    /// Where the numbers come from, for the plan and for messages.
    pub fn describe(&self) -> String {
        match self {
            Recipe::Fill(value) => format!("{value} everywhere"),
            Recipe::FoldWeight { first, second } => format!("{} × {}", second.key, first.key),
            Recipe::FoldBias { first_bias, second, second_bias } => {
                format!("{} × {} + {}", second.key, first_bias.key, second_bias.key)
            }
            Recipe::Rows(runs) => {
                let mut keys: Vec<&str> = Vec::new();
                for run in runs {
                    let key = run.tensor.as_ref().map_or("zeros", |t| &t.key);
                    if !keys.contains(&key) {
                        keys.push(key);
                    }
                }
                let lora = if runs.iter().any(|r| r.delta.is_some()) { " + LoRA" } else { "" };
                let order = if runs.len() > keys.len() { ", rows reordered" } else { "" };
                format!("{}{lora}{order}", keys.join(", "))
            }
            Recipe::Changed(changed) => changed.of.describe(),
        }
    }

    /// Makes the tensor of the given shape, slab by slab.
    pub fn produce(&self, shape: &[usize], sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let elements: usize = shape.iter().product();
        match self {
            Recipe::Fill(value) => {
                let slab = vec![*value; elements.min(SLAB)];
                let mut left = elements;
                while left > 0 {
                    let n = left.min(slab.len());
                    sink(&slab[..n])?;
                    left -= n;
                }
                Ok(())
            }
            Recipe::FoldWeight { first, second } => sink(&fold_weight(first, second)?),
            Recipe::FoldBias { first_bias, second, second_bias } => sink(&fold_bias(first_bias, second, second_bias)?),
            Recipe::Changed(changed) => changed.produce(sink),
            Recipe::Rows(runs) => {
                let width: usize = shape.iter().skip(1).product();
                let rows: usize = runs.iter().map(|r| r.rows).sum();
                assert_eq!(rows * width, elements, "a plan's runs make up its tensor");
                produce_rows(runs, width, (SLAB / width).max(1), sink)
            }
        }
    }
}

fn produce_rows(
    runs: &[Run],
    width: usize,
    slab_rows: usize,
    mut sink: impl FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let mut factors: Vec<(Rc<Lora>, LoraFactors)> = Vec::new();
    for (lora, _) in runs.iter().filter_map(|r| r.delta.as_ref()) {
        if !factors.iter().any(|(known, _)| Rc::ptr_eq(known, lora)) {
            factors.push((lora.clone(), lora.load()?));
        }
    }
    let mut slab = Vec::with_capacity(slab_rows.min(runs.iter().map(|r| r.rows).sum()) * width);
    let mut held = 0;
    for run in runs {
        let mut done = 0;
        while done < run.rows {
            let n = (run.rows - done).min(slab_rows - held);
            let start = slab.len();
            match &run.tensor {
                Some(tensor) => tensor.read((run.first + done) * width, n * width, &mut slab)?,
                None => slab.resize(start + n * width, 0.0),
            }
            if let Some((lora, row)) = &run.delta {
                for (_, loaded) in factors.iter().filter(|(known, _)| Rc::ptr_eq(known, lora)) {
                    loaded.add(row + done, &mut slab[start..], width);
                }
            }
            done += n;
            held += n;
            if held == slab_rows {
                sink(&slab)?;
                slab.clear();
                held = 0;
            }
        }
    }
    if !slab.is_empty() {
        sink(&slab)?;
    }
    Ok(())
}

/// `[out, mid] · [mid, in]`, summed in `f64`.
fn fold_weight(first: &StoredTensor, second: &StoredTensor) -> Result<Vec<f32>> {
    let (mid, input) = (first.shape[0], first.shape[1]);
    let (a, b) = (first.read_all()?, second.read_all()?);
    ensure!(second.shape[1] == mid, "the two projections do not fit each other");
    let mut out = Vec::with_capacity(second.shape[0] * input);
    let mut sums = vec![0f64; input];
    for row in b.chunks_exact(mid) {
        sums.fill(0.0);
        for (&w, x) in row.iter().zip(a.chunks_exact(input)) {
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum += f64::from(w) * f64::from(x);
            }
        }
        out.extend(sums.iter().map(|&s| s as f32));
    }
    Ok(out)
}

fn fold_bias(first_bias: &StoredTensor, second: &StoredTensor, second_bias: &StoredTensor) -> Result<Vec<f32>> {
    let (x, w, bias) = (first_bias.read_all()?, second.read_all()?, second_bias.read_all()?);
    let dot = |row: &[f32]| row.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>();
    Ok(w.chunks_exact(x.len()).zip(bias).map(|(row, b)| (dot(row) + f64::from(b)) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::{contiguous, DataFile, Dtype};
    use std::sync::Arc;

    /// A stored F32 tensor of the given values.
    fn stored(shape: &[usize], values: &[f32]) -> StoredTensor {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(temp.path(), &raw).unwrap();
        let file = Arc::new(DataFile::open(temp.path()).unwrap());
        // The open file lives on without its name.
        let (shape, strides) = (shape.to_vec(), contiguous(shape));
        StoredTensor::new(file, "t".into(), Dtype::F32, shape, strides, 0, raw.len() as u64).unwrap()
    }

    #[test]
    fn slabs_of_any_size_give_the_same() {
        let values: Vec<f32> = (0..14).map(|v| v as f32).collect();
        let w = stored(&[7, 2], &values);
        // B·A adds (row, 10·row).
        let rows: Vec<f32> = (0..7).map(|v| v as f32).collect();
        let lora = Rc::new(Lora::new(stored(&[1, 2], &[1.0, 10.0]), stored(&[7, 1], &rows), 1.0));
        let run = |first, rows, delta: Option<usize>| Run {
            tensor: Some(w.clone()),
            first,
            rows,
            delta: delta.map(|row| (lora.clone(), row)),
        };
        let runs = [
            run(4, 3, Some(4)),
            Run { tensor: None, first: 0, rows: 2, delta: None },
            run(0, 4, None),
            run(1, 3, Some(0)),
        ];
        let expected = [
            [12., 49.],
            [15., 61.],
            [18., 73.], // rows 4, 5, 6 and what belongs to them
            [0., 0.],
            [0., 0.],
            [0., 1.],
            [2., 3.],
            [4., 5.],
            [6., 7.],
            [2., 3.],
            [5., 15.],
            [8., 27.], // rows 1, 2, 3 and what belongs to rows 0, 1, 2
        ];
        for slab_rows in 1..15 {
            let mut out = Vec::new();
            let mut sink = |values: &[f32]| {
                assert!(values.len() <= 2 * slab_rows);
                out.extend_from_slice(values);
                Ok(())
            };
            produce_rows(&runs, 2, slab_rows, &mut sink).unwrap();
            assert_eq!(out, expected.as_flattened(), "{slab_rows} rows at a time");
        }
    }
}
