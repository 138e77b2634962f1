//! LoRA: low-rank changes of the decoder's matrices, found under both spellings and merged at conversion.

use std::rc::Rc;

use anyhow::{bail, ensure, Result};

use crate::source::Sources;
use crate::stored::StoredTensor;

/// The change of one matrix: `scale · B · A`.
pub struct Lora {
    a: StoredTensor,
    b: StoredTensor,
    scale: f32,
}

/// A change read into memory: A is `[rank, in]`, B `[out, rank]`, already scaled.
pub struct LoraFactors {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
}

/// The scale of all changes of a checkpoint.
#[derive(Clone, Copy)]
pub struct Alpha {
    /// The value itself.
    pub value: f64,
    /// Rank that the checkpoint's configuration states.
    pub rank: Option<i64>,
}

impl Lora {
    /// The change of `A [rank, in]` and `B [out, rank]`.
    pub fn new(a: StoredTensor, b: StoredTensor, alpha: f64) -> Lora {
        let scale = (alpha / a.shape[0] as f64) as f32;
        Lora { a, b, scale }
    }

    /// The change of the matrix `module.weight` of shape `[rows, columns]`, if the checkpoint has one.
    pub fn find(sources: &mut Sources, module: &str, shape: [usize; 2], alpha: Alpha) -> Result<Option<Rc<Lora>>> {
        let mut found = None;
        // Newer versions of PEFT name the adapter, older ones do not.
        for spelling in [".default", ""] {
            let (a, b) = (format!("{module}.lora_A{spelling}.weight"), format!("{module}.lora_B{spelling}.weight"));
            match (sources.has(&a), sources.has(&b)) {
                (false, false) => continue,
                (true, false) => bail!("the checkpoint has '{a}' but not '{b}'"),
                (false, true) => bail!("the checkpoint has '{b}' but not '{a}'"),
                (true, true) => {}
            }
            ensure!(found.is_none(), "the checkpoint has LoRA for '{module}' under both spellings");
            let rank = sources.shape_of(&a, 2)?[0];
            if let Some(stated) = alpha.rank {
                ensure!(
                    stated == rank as i64,
                    "'{a}' has rank {rank}, but the checkpoint's configuration says lora_r = {stated}"
                );
            }
            let a = sources.require(&a, &[rank, shape[1]])?;
            let b = sources.require(&b, &[shape[0], rank])?;
            found = Some(Rc::new(Lora::new(a, b, alpha.value)));
        }
        Ok(found)
    }

    /// Reads both factors.
    pub fn load(&self) -> Result<LoraFactors> {
        let mut b = self.b.read_all()?;
        b.iter_mut().for_each(|x| *x *= self.scale);
        Ok(LoraFactors { a: self.a.read_all()?, b, rank: self.a.shape[0] })
    }
}

impl LoraFactors {
    /// Adds rows `row ..` of the change to `weights`, which has `width` columns.
    pub fn add(&self, row: usize, weights: &mut [f32], width: usize) {
        let factors = self.b[row * self.rank..].chunks_exact(self.rank);
        let mut delta = vec![0f32; width];
        for (out, b) in weights.chunks_exact_mut(width).zip(factors) {
            delta.fill(0.0);
            for (&b, a) in b.iter().zip(self.a.chunks_exact(width)) {
                for (sum, &a) in delta.iter_mut().zip(a) {
                    *sum += b * a;
                }
            }
            for (w, d) in out.iter_mut().zip(&delta) {
                *w += d;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_b_times_a() {
        // A = [[1, 2, 3], [0, 1, 0]], B = [[1, 0], [2, 10]] (scaled): B·A = [[1, 2, 3], [2, 14, 6]].
        let factors = LoraFactors { a: vec![1., 2., 3., 0., 1., 0.], b: vec![1., 0., 2., 10.], rank: 2 };
        let mut w = [100.0; 6];
        factors.add(0, &mut w, 3);
        assert_eq!(w, [101., 102., 103., 102., 114., 106.]);
        let mut second = [0.0; 3];
        factors.add(1, &mut second, 3);
        assert_eq!(second, [2., 14., 6.]);
    }
}
