//! Products of rows of llama.cpp's k-quants with activations in 8 bits.

use llama_cpp_sys_2 as llama;

/// Numbers in a block of a k-quant.
pub(super) const BLOCK: usize = 256;

/// Columns that a kernel multiplies at a time at most: a weight that has been unpacked is used for all of them.
pub(super) const COLUMNS: usize = 4;

/// A block of activations in 8 bits: what ggml calls Q8_K, but for the order of `numbers`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Activations {
    pub numbers: [i8; BLOCK],
    /// Sums of 16 numbers each, in their own order.
    pub sums: [i16; BLOCK / 16],
    pub scale: f32,
}

/// ggml's `block_q8_K`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Q8K {
    scale: f32,
    numbers: [i8; BLOCK],
    sums: [i16; BLOCK / 16],
}

/// How a kernel wants the numbers of a block, in runs of 32.
pub(super) type Order = [usize; BLOCK / 32];

/// Brings what ggml quantised into a kernel's order.
pub(super) fn reorder(from: &[Q8K], order: &Order, to: &mut [Activations]) {
    for (from, to) in from.iter().zip(to) {
        for (run, &source) in order.iter().enumerate() {
            to.numbers[32 * run..][..32].copy_from_slice(&from.numbers[32 * source..][..32]);
        }
        to.sums = from.sums;
        to.scale = from.scale;
    }
}

/// Rows of a matrix of `blocks` blocks a row, times up to [`COLUMNS`] columns.
pub(super) struct Rows {
    /// First row.
    pub weights: *const u8,
    /// Bytes from a row to the next.
    pub row_bytes: usize,
    pub rows: usize,
    /// Blocks in a row.
    pub blocks: usize,
    /// First column.
    pub activations: *const Activations,
    pub columns: usize,
    /// Result of the first row and column.
    pub out: *mut f32,
    /// Floats from a column of the result to the next.
    pub out_stride: usize,
}

/// Inner loops for one type of weights and one instruction set.
pub(super) trait Dots: Sync {
    fn order(&self) -> &'static Order;
    /// # Safety
    /// The pointers must be valid for what [`Rows`] says, and the processor have the instruction set.
    unsafe fn multiply(&self, rows: &Rows);
}

/// The kernel for a type on this processor, where there is a faster one than ggml's.
pub(super) fn dots(ty: llama::ggml_type) -> Option<&'static dyn Dots> {
    #[cfg(target_arch = "x86_64")]
    {
        super::kquants_avx512::dots(ty)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = ty;
        None
    }
}
