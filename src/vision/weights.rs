//! Reading a vision file's tensors: linear layers stay mapped, small tensors are copied and their numbers checked.

use std::collections::HashSet;

use super::linear::Linear;
use super::ops::Norm;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Tensor, TensorType};
use crate::memory;

/// Hands out a file's tensors and remembers which, so that none is left over unnoticed.
pub(super) struct Weights<'a> {
    file: &'a Gguf,
    read: HashSet<String>,
}

/// How the weights of the image encoder's and the Q-Former's linear layers are stored; nothing twice.
pub(super) fn layer_types(file: &Gguf) -> Vec<TensorType> {
    let matrix = |name: &str| (name.starts_with("v.blk.") || name.starts_with("qf.blk.")) && name.ends_with(".weight");
    let mut types = Vec::new();
    for tensor in file.tensors().iter().filter(|t| t.shape.len() == 2 && matrix(&t.name)) {
        if !types.contains(&tensor.ty) {
            types.push(tensor.ty);
        }
    }
    types
}

impl<'a> Weights<'a> {
    pub(super) fn new(file: &'a Gguf) -> Self {
        Weights { file, read: HashSet::new() }
    }

    pub(super) fn file(&self) -> &'a Gguf {
        self.file
    }

    fn tensor(&mut self, name: String, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.file.tensor(&name, shape)?;
        self.read.insert(name);
        Ok(tensor)
    }

    /// An F32 tensor of finite numbers.
    pub(super) fn values(&mut self, name: impl Into<String>, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.tensor(name.into(), shape)?;
        if tensor.ty() != TensorType::F32 {
            return Err(self.unsupported_type(&tensor, "F32"));
        }
        let mut values = Vec::new();
        memory::extend(&mut values, tensor.bytes().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)))?;
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(i) => Err(Error::bad_file(
                self.file.path(),
                format!(
                    "value {i} of its tensor '{}' is {}; convert the model again from sound weights",
                    tensor.name(),
                    values[i]
                ),
            )),
        }
    }

    /// `name.weight` `[outputs, inputs]` and `name.bias` `[outputs]`.
    pub(super) fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear> {
        let weight = self.tensor(format!("{name}.weight"), &[outputs, inputs])?;
        if let TensorType::Other(_) = weight.ty() {
            return Err(self.unsupported_type(&weight, "F32, F16, BF16 or Q8_0"));
        }
        let bias = self.values(format!("{name}.bias"), &[outputs])?;
        Ok(Linear::new(weight, bias, outputs, inputs))
    }

    /// `name.weight` `[width, 3, patch, patch]` as the matrix `[width, 3·patch²]`, and `name.bias`, which is not in the layer.
    pub(super) fn patch_embedding(&mut self, name: &str, width: usize, patch: usize) -> Result<(Linear, Vec<f32>)> {
        let weight = self.tensor(format!("{name}.weight"), &[width, 3, patch, patch])?;
        if let TensorType::Other(_) | TensorType::Q8_0 = weight.ty() {
            return Err(self.unsupported_type(&weight, "F32, F16 or BF16"));
        }
        let bias = self.values(format!("{name}.bias"), &[width])?;
        Ok((Linear::new(weight, Vec::new(), width, 3 * patch * patch), bias))
    }

    /// `name.weight` and `name.bias`, both `[width]`.
    pub(super) fn norm(&mut self, name: &str, width: usize, epsilon: f32) -> Result<Norm> {
        Ok(Norm {
            weight: self.values(format!("{name}.weight"), &[width])?,
            bias: self.values(format!("{name}.bias"), &[width])?,
            epsilon,
        })
    }

    /// Refuses a file with tensors that no one asked for: it is of a model that this code does not compute.
    pub(super) fn finish(self) -> Result<()> {
        match self.file.tensors().iter().find(|t| !self.read.contains(&t.name)) {
            None => Ok(()),
            Some(t) => Err(Error::unsupported(
                self.file.path(),
                format!(
                    "it has a tensor '{}' that this version does not know; use a newer version of the library, or convert \
                     the model again",
                    t.name
                ),
            )),
        }
    }

    fn unsupported_type(&self, tensor: &Tensor, supported: &str) -> Error {
        Error::unsupported(
            self.file.path(),
            format!(
                "its tensor '{}' is stored as {} where {supported} is supported; convert the model again with a supported type",
                tensor.name(),
                tensor.ty()
            ),
        )
    }
}
