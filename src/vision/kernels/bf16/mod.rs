//! Products in bfloat16, with sums in f32: weights rounded on the way in, activations kept rounded between layers.
//!
//! bfloat16 has f32's range, so that there are no scales and no outliers to care for, and 8 bits of mantissa: as many as Q8_0 has.
//! How operands are laid out is the instruction set's own affair: weights are its *left* operand, packed for a block of rows;
//! activations its *right* one, vectors of tokens one behind the other. Results are f32 in the token panels of [`super`], or the
//! right operand of what comes next.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // only x86 has kernels of ours

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(test)]
mod tests;

use super::NormColumn;
use crate::gguf::TensorType;
use std::ops::Range;

/// Rows of a layer's weights to be packed, a range of their columns.
pub(crate) struct PackWeights {
    /// Q8_0 or BF16.
    pub ty: TensorType,
    /// First row, as it lies in the file.
    pub data: *const u8,
    /// Bytes from a row to the next.
    pub row_bytes: usize,
    /// Rows wanted.
    pub rows: usize,
    /// First column wanted; a multiple of 32.
    pub column: usize,
    /// Columns wanted.
    pub columns: usize,
    /// [`Bf16Kernel::left_len`] numbers.
    pub out: *mut u16,
}

/// One vector of tokens to be rounded.
pub(crate) struct RoundColumn {
    /// First feature.
    pub src: *const f32,
    /// Floats from a feature to the next.
    pub stride: usize,
    /// Features.
    pub features: usize,
    /// The vector's place in a right operand.
    pub out: *mut u16,
}

/// A block of rows times all tokens.
pub(crate) struct Bf16Product {
    /// Rows wanted.
    pub rows: usize,
    /// Products a sum has: the columns of `left`.
    pub depth: usize,
    /// Packed rows.
    pub left: *const u16,
    /// Vectors of tokens.
    pub vectors: usize,
    /// A right operand.
    pub right: *const u16,
    /// Features that it has.
    pub features: usize,
    /// Its first feature that is multiplied; a multiple of 32.
    pub feature: usize,
    /// One value a row, or null.
    pub bias: *const f32,
}

/// Where results go in f32.
pub(crate) struct ToPanels {
    /// A matrix in panels, with the product's tokens.
    pub matrix: *mut f32,
    /// Features that it has.
    pub rows: usize,
    /// The feature that the product's first row becomes.
    pub row: usize,
    /// Whether to add to what is there.
    pub accumulate: bool,
}

/// Where results go in bfloat16.
pub(crate) struct ToOperand {
    /// A right operand, with the product's tokens.
    pub right: *mut u16,
    /// Features that it has.
    pub features: usize,
    /// The feature that the product's first row becomes; a multiple of 32.
    pub feature: usize,
    /// Whether their GELU goes there.
    pub gelu: bool,
}

/// Features of one head in a right operand.
#[derive(Clone, Copy)]
pub(crate) struct HeadFeatures {
    /// The operand.
    pub operand: *const u16,
    /// Features that it has.
    pub features: usize,
    /// The head's first.
    pub feature: usize,
}

/// Softmax attention of one head.
pub(crate) struct AttentionHead {
    /// Width of the head.
    pub head: usize,
    /// Queries.
    pub q: HeadFeatures,
    /// Keys.
    pub k: HeadFeatures,
    /// Values.
    pub v: HeadFeatures,
    /// Keys there are.
    pub keys: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// A right operand with the queries' tokens.
    pub out: *mut u16,
    /// Features that it has.
    pub out_features: usize,
    /// The head's first there.
    pub out_feature: usize,
}

/// Products in bfloat16 for one instruction set.
///
/// # Safety
/// As for [`super::Kernel`].
pub(crate) trait Bf16Kernel: Sync {
    /// Name of the instructions.
    fn name(&self) -> &'static str;
    /// Tokens in a vector.
    fn lanes(&self) -> usize;
    /// Tokens in a full panel of its results.
    fn panel(&self) -> usize;
    /// Row counts that are a multiple of it are fastest; a block whose results go to an operand has such a count, unless it is
    /// the last.
    fn row_group(&self) -> usize;
    /// Numbers in packed weights, if the address space has as many.
    fn left_len(&self, rows: usize, columns: usize) -> Option<usize>;
    /// Numbers in a right operand, if the address space has as many. Vectors of tokens have the same share each.
    fn right_len(&self, tokens: usize, features: usize) -> Option<usize>;
    /// Whether it has attention for heads of this width.
    fn attends(&self, head: usize) -> bool;
    /// Floats of memory, on a cache line's boundary, that a head takes while it is worked on.
    fn attention_floats(&self, head: usize, keys: usize) -> usize;
    /// Weights to packed ones.
    unsafe fn pack_weights(&self, block: &PackWeights);
    /// Activations to a vector of a right operand.
    unsafe fn round(&self, column: &RoundColumn);
    /// LayerNorm of one vector of tokens, to a vector of a right operand.
    unsafe fn layer_norm(&self, column: &NormColumn, out: *mut u16);
    /// A product, to f32.
    unsafe fn multiply(&self, product: &Bf16Product, to: &ToPanels);
    /// A product, to bfloat16.
    unsafe fn multiply_to_operand(&self, product: &Bf16Product, to: &ToOperand);
    /// Packs a head's keys and values, once for all queries.
    unsafe fn pack_head(&self, head: &AttentionHead, memory: *mut f32);
    /// Attention for some vectors of queries.
    unsafe fn attend(&self, head: &AttentionHead, vectors: Range<usize>, memory: *mut f32);
}

/// The products that this processor can run, fastest first; each fits a float kernel by its panels.
pub(crate) fn available() -> Vec<&'static dyn Bf16Kernel> {
    #[allow(unused_mut)] // on other architectures
    let mut found: Vec<&'static dyn Bf16Kernel> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    if crate::kernels::bf16_tiles::available() {
        found.push(&amx::AmxKernel);
    }
    found
}
