//! Products of rows of llama.cpp's k-quants with activations in 8 bits.

use llama_cpp_sys_2 as llama;

use crate::prefetch::fetch;

/// Numbers in a block of a k-quant.
pub(super) const BLOCK: usize = 256;

/// Columns that a kernel multiplies at a time at most: a weight that has been unpacked is used for all of them.
pub(super) const COLUMNS: usize = 4;

/// Rows that a kernel reads side by side, a quarter of all rows apart. The processor fetches ahead in each page that is
/// read, by so many lines: from four pages it gets half as much again of memory as from one.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) const PLACES: usize = 4;

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
    pub scale: f32,
    pub numbers: [i8; BLOCK],
    /// Of 16 numbers each.
    pub sums: [i16; BLOCK / 16],
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
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // only x86 has kernels of ours
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

/// How far ahead weights are fetched, in bytes: the processor's own prefetching ends with every page.
const AHEAD: usize = 2048;

/// Fetches what lies ahead of `bytes` bytes that are about to be read; there need not be any memory.
#[inline(always)]
pub(super) fn fetch_ahead(p: *const u8, bytes: usize) {
    fetch(p.wrapping_add(AHEAD), bytes);
}

/// A half-precision number.
///
/// # Safety
/// Two bytes must be readable.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn half(p: *const u8) -> f32 {
    use std::arch::x86_64::{_mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtss_f32};
    // SAFETY: the caller's; everything that has AVX2 has F16C.
    unsafe {
        let bits = p.cast::<u16>().read_unaligned();
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
    }
}

/// Scales and minima of Q4_K and Q5_K: eight of 6 bits each in twelve bytes.
///
/// # Safety
/// Twelve bytes must be readable.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn scales_and_minima(p: *const u8) -> (u64, u64) {
    const SIX: u32 = 0x3f3f_3f3f;
    const FOUR: u32 = 0x0f0f_0f0f;
    const TWO: u32 = 0x0303_0303;
    // SAFETY: the caller's.
    let [a, b, c] = unsafe { p.cast::<[u32; 3]>().read_unaligned() };
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let scales = join(a & SIX, (c & FOUR) | (a >> 6 & TWO) << 4);
    let minima = join(b & SIX, (c >> 4 & FOUR) | (b >> 6 & TWO) << 4);
    (scales, minima)
}

/// The kernel for a type on this processor, where there is a faster one than ggml's.
pub(super) fn dots(ty: llama::ggml_type) -> Option<&'static dyn Dots> {
    all_dots(ty).next()
}

/// All kernels for a type that this processor can run, fastest first.
#[cfg(target_arch = "x86_64")]
pub(super) fn all_dots(ty: llama::ggml_type) -> impl Iterator<Item = &'static dyn Dots> {
    use super::{kquants_avx2, kquants_avx512};
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni");
    let found = [
        avx512.then(|| kquants_avx512::dots(ty)),
        kquants_avx2::vnni_available().then(|| kquants_avx2::dots(ty, true)),
        kquants_avx2::available().then(|| kquants_avx2::dots(ty, false)),
    ];
    found.into_iter().flatten().flatten()
}

/// Elsewhere ggml's are as good as any.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn all_dots(_ty: llama::ggml_type) -> impl Iterator<Item = &'static dyn Dots> {
    std::iter::empty()
}
