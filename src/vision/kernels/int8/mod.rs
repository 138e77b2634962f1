//! Products of 8-bit numbers: weights as Q8_0 has them, activations quantised on the way in.
//!
//! Depth is cut into *groups* of [`Int8Kernel::group`] features. Within a group a token's activations share a scale, and so
//! do the weights of a row: the 32-value blocks of Q8_0 are brought to the largest scale among them. Products of a group are
//! summed exactly in integers, groups in f32.
//!
//! A group with an outlier, an activation that would leave its neighbours nothing of 8 bits and magnifies what rounding does to
//! its weights, is in two parts: the rounded numbers, and, 254 times finer, what rounding left. So are the group's weights then,
//! and three of the four products are summed; the fourth is too small to matter (compare LLM.int8, arXiv 2208.07339, which
//! computes features with outliers in floating point).
//!
//! Quantised activations keep the token panels of [`super`]: for every four features of a group the values of all tokens lie
//! side by side, four to a token, which is what dot-product instructions take; for instructions that multiply matrices, eight.
//! Behind a part's values are its scales, one a token, and behind them, where an instruction set needs it, a correction, one a
//! token. The second part always has room; its scales are zero where it is not used.
//!
//! [`Quants`], [`Tiles`], and [`Dot`] or [`Products`] are what an instruction set provides; [`rounding`] and [`products`] hold the algorithms
//! written over them.

mod products;
mod rounding;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_imports))] // only x86 multiplies words
mod words;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod single;
#[cfg(test)]
mod tests;

use super::{AttentionTile, Simd};
use words::WordAttention;

/// Vectors of 32-bit integers beside those of floats.
///
/// # Safety
/// As for [`Simd`].
trait Integers: Simd {
    /// `LANES` of them.
    type I: Copy;

    /// Rounds to i32.
    unsafe fn store_i32(p: *mut i32, v: Self::V);
    unsafe fn load_i32(p: *const i32) -> Self::I;
    unsafe fn to_f32(sums: Self::I) -> Self::V;
}

/// How an instruction set stores quantised numbers.
///
/// # Safety
/// As for [`Simd`].
trait Quants: 'static {
    /// The float vectors.
    type S: Integers;
    /// Features of a group: 64, two blocks of weights.
    const GROUP: usize;
    /// Bytes of a quantised number, in activations and weights.
    const VALUE_BYTES: usize;
    /// Features of a token that lie side by side: 4 or 8.
    const RUN: usize = 4;
    /// Bytes that a group of weights of a row takes when packed: the numbers, and what [`finish_row`](Self::finish_row) adds.
    const ROW_BYTES: usize = Self::GROUP * Self::VALUE_BYTES;
    /// What a group's sums start at for each token.
    const CORRECTION: Correction;

    /// Rounds four features of `LANES` tokens, all in −127…127, and stores them token by token, a run from one to the next.
    unsafe fn store_x(p: *mut u8, features: [<Self::S as Simd>::V; 4]);
    /// Stores 32 weights, multiplied by `ratio` / 2^15 and rounded, or with `REST` what rounding left, times 254.
    unsafe fn rescale<const REST: bool>(src: *const u8, ratio: i16, out: *mut u8);
    /// Completes a row's group of weights, which [`rescale`](Self::rescale) has stored at `row`.
    #[inline(always)]
    unsafe fn finish_row(_row: *mut u8) {}
}

/// What a group's sums start at, and why.
#[derive(Clone, Copy, PartialEq)]
enum Correction {
    /// Zero.
    None,
    /// −128 times the sum of the activations: weights are stored plus 128, as unsigned numbers.
    Offset,
    /// The negative sum of the products of each two activations side by side: weights and activations are added before they are
    /// multiplied.
    Pairs,
}

/// Sums of an instruction set's products.
type Sum<Q> = <<Q as Quants>::S as Integers>::I;

/// How an instruction set's registers are used.
///
/// # Safety
/// As for [`Simd`].
trait Tiles: Quants {
    /// Weight rows in a register tile: 6 or 4; or 12, of which a tile of `N` vectors has `12 / N`.
    const ROWS: usize;
    /// Groups whose scaled sums a register tile adds up before they go to memory: more than 1 only where registers hold twice
    /// as many sums.
    const GROUPS: usize = 1;

    /// Multiplies a panel of a single token, if there is a faster way than as one of many.
    #[inline(always)]
    unsafe fn single(_: &Int8Tile) -> bool {
        false
    }
}

/// Products of an instruction set.
///
/// # Safety
/// As for [`Simd`].
trait Products: Tiles {
    /// Sums of the products of `R` rows of a group's weights with `N` vectors of its activations, from `start` on.
    unsafe fn products<const R: usize, const N: usize>(
        w: *const u8,
        x: *const u8,
        start: [Sum<Self>; N],
    ) -> [[Sum<Self>; N]; R];
}

/// Products that are dot products of four features.
///
/// # Safety
/// As for [`Simd`].
trait Dot: Tiles {
    /// Four features of `LANES` tokens.
    type X: Copy;
    unsafe fn load_x(p: *const u8) -> Self::X;
    /// Adds the products of four features with the four weights at `w`.
    unsafe fn dot(sums: Sum<Self>, x: Self::X, w: *const u8) -> Sum<Self>;
}

/// One group of features of one panel of tokens, to be quantised.
pub(crate) struct QuantizeGroup {
    /// First feature.
    pub src: *const f32,
    /// Floats from a feature to the next.
    pub stride: usize,
    /// Features there are, at most [`Int8Kernel::group`]; the others count as zero.
    pub features: usize,
    /// Vectors of tokens.
    pub vectors: usize,
    /// Vectors in a row of the quantised panel.
    pub width: usize,
    /// First token's place in the quantised group's first part.
    pub out: *mut u8,
    /// First token's scale there; the correction is `width` vectors behind it.
    pub scales: *mut f32,
}

/// Rows of Q8_0 weights to be packed.
pub(crate) struct PackBlock {
    /// First row, as it lies in the file.
    pub data: *const u8,
    /// Bytes from a row to the next.
    pub row_bytes: usize,
    /// Rows wanted.
    pub rows: usize,
    /// Rows that there is room for in a group of the packed weights.
    pub packed_rows: usize,
    /// Columns there are; a multiple of 32.
    pub columns: usize,
    /// For every group of columns the rows' weights.
    pub out: *mut u8,
    /// One scale a row and group.
    pub scales: *mut f32,
    /// Of which groups the second part is wanted, too: one flag a group.
    pub split: *const bool,
    /// The second parts, like `out`.
    pub rest: *mut u8,
    /// Their scales, like `scales`.
    pub rest_scales: *mut f32,
}

/// `c[rows, tokens] = w[rows, depth] · x[depth, tokens] (+ c) (+ bias)` on one panel.
pub(crate) struct Int8Tile {
    /// Rows wanted.
    pub rows: usize,
    /// Rows that there is room for in a group of the packed weights.
    pub packed_rows: usize,
    /// Groups in the depth.
    pub groups: usize,
    /// The first group's first row wanted.
    pub w: *const u8,
    /// Its scale.
    pub w_scales: *const f32,
    /// The same of the second parts, which all groups have that are in two parts in `x`.
    pub rest: *const u8,
    /// Its scale.
    pub rest_scales: *const f32,
    /// One value a row, or null.
    pub bias: *const f32,
    /// The panel's first group; the others follow.
    pub x: *const u8,
    /// Vectors in a row of the panel.
    pub vectors: usize,
    /// Tokens in the panel; lanes beyond them may become any finite numbers.
    pub tokens: usize,
    /// `rows` rows of an f32 panel of the same width.
    pub c: *mut f32,
    /// Whether to add to what `c` holds.
    pub accumulate: bool,
}

/// Quantised products for one instruction set. Its panels are those of the float kernels of the same vector length.
///
/// # Safety
/// As for [`super::Kernel`].
pub(crate) trait Int8Kernel: Sync {
    /// Name of the instructions.
    fn name(&self) -> &'static str;
    /// Tokens in a vector.
    fn lanes(&self) -> usize;
    /// Tokens in a full panel.
    fn panel(&self) -> usize;
    /// Features of a group.
    fn group(&self) -> usize;
    /// Bytes of a quantised activation.
    fn value_bytes(&self) -> usize;
    /// Bytes that a group of weights of a row takes when packed.
    fn row_bytes(&self) -> usize;
    /// Bytes that a token takes in a quantised group.
    fn token_bytes(&self) -> usize;
    /// Bytes from a token's place in a quantised group to the next one's.
    fn token_step(&self) -> usize;
    /// Rows in a register tile: row counts that are a multiple of it are fastest.
    fn row_group(&self) -> usize;
    /// Rows that one call of `multiply` should have at most, so that their part of the result stays in the L1 cache.
    fn row_block(&self) -> usize;
    /// Activations to quantised ones.
    unsafe fn quantize(&self, group: &QuantizeGroup);
    /// Weights to packed ones.
    unsafe fn pack(&self, block: &PackBlock);
    /// A product on one panel.
    unsafe fn multiply(&self, tile: &Int8Tile);
    /// GELU in place on `len` values, a multiple of [`lanes`](Self::lanes): to an error of 6e-5 or of 6e-6 of x, less than what 8 bits show,
    /// in less than half of the time of the exact one.
    unsafe fn gelu(&self, data: *mut f32, len: usize);
    /// Attention with 16-bit numbers, where that is faster than in f32.
    fn words(&self) -> Option<&'static dyn WordAttention> {
        None
    }
}

/// Compiles [`rounding`] and [`products`] for `$quants` with the given target features as `$kernel`.
macro_rules! int8_kernel {
    ($kernel:ident, $quants:ty, $name:expr, $block:expr $(, words $words:ident)? $(, $features:literal)?) => {
        /// The quantised products of this instruction set.
        pub(super) struct $kernel;

        // SAFETY of the unsafe calls below: the functions are only reached through a `$kernel`, which `available` hands out
        // after it found the features; what the pointers must satisfy is passed on to the caller.
        impl Int8Kernel for $kernel {
            fn name(&self) -> &'static str {
                $name
            }
            fn lanes(&self) -> usize {
                <<$quants as Quants>::S as Simd>::LANES
            }
            fn panel(&self) -> usize {
                <<$quants as Quants>::S as Simd>::LANES * <<$quants as Quants>::S as Simd>::VECTORS
            }
            fn group(&self) -> usize {
                <$quants as Quants>::GROUP
            }
            fn value_bytes(&self) -> usize {
                <$quants as Quants>::VALUE_BYTES
            }
            fn row_bytes(&self) -> usize {
                <$quants as Quants>::ROW_BYTES
            }
            fn token_bytes(&self) -> usize {
                2 * super::rounding::part_bytes::<$quants>()
            }
            fn token_step(&self) -> usize {
                <$quants as Quants>::RUN * <$quants as Quants>::VALUE_BYTES
            }
            fn row_group(&self) -> usize {
                <$quants as super::Tiles>::ROWS
            }
            fn row_block(&self) -> usize {
                $block
            }
            unsafe fn quantize(&self, group: &QuantizeGroup) {
                $(#[target_feature(enable = $features)])?
                unsafe fn f(group: &QuantizeGroup) {
                    unsafe { super::rounding::quantize::<$quants>(group) }
                }
                unsafe { f(group) }
            }
            unsafe fn pack(&self, block: &PackBlock) {
                $(#[target_feature(enable = $features)])?
                unsafe fn f(block: &PackBlock) {
                    unsafe { super::rounding::pack::<$quants>(block) }
                }
                unsafe { f(block) }
            }
            unsafe fn multiply(&self, tile: &Int8Tile) {
                $(#[target_feature(enable = $features)])?
                unsafe fn f(tile: &Int8Tile) {
                    unsafe { super::products::multiply::<$quants>(tile) }
                }
                unsafe { f(tile) }
            }
            unsafe fn gelu(&self, data: *mut f32, len: usize) {
                $(#[target_feature(enable = $features)])?
                unsafe fn f(data: *mut f32, len: usize) {
                    unsafe { super::rounding::gelu::<<$quants as Quants>::S>(data, len) }
                }
                unsafe { f(data, len) }
            }
            $(fn words(&self) -> Option<&'static dyn super::words::WordAttention> {
                Some(&$words)
            })?
        }
    };
}
use int8_kernel;

/// The quantised products that this processor can run, fastest first; each fits a float kernel by its panels.
pub(crate) fn available() -> Vec<&'static dyn Int8Kernel> {
    #[allow(unused_mut)] // on other architectures
    let mut found: Vec<&'static dyn Int8Kernel> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
        {
            found.push(&avx512::VnniKernel);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            if is_x86_feature_detected!("avxvnni") {
                found.push(&avx2::AvxVnniKernel);
            }
            found.push(&avx2::PairsKernel);
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        if std::arch::is_aarch64_feature_detected!("i8mm") {
            found.push(&neon::MatricesKernel);
        }
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            found.push(&neon::DotprodKernel);
        }
    }
    found
}
