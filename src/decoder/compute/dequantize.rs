//! Rows of quantised weights as bfloat16, packed for AMX's tiles.
//!
//! Rounding to bfloat16 (8 bits) adds an error that is small beside that of the quantisation.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Packer`'s

use std::arch::x86_64::*;
use std::marker::PhantomData;

use llama_cpp_sys_2 as llama;

use super::kquants::half;
use crate::kernels::bf16::{joined, truncated};
use crate::kernels::bf16_tiles::{LeftRow, TokenRows, ROWS, STEP};
use crate::kernels::bf16_unpacking::{self, Weights, AHEAD, STRETCH};
use crate::prefetch::fetch_to_second_level;

/// Rows of weights.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub first: *const u8,
    /// Bytes from a row to the next.
    pub stride: usize,
    pub count: usize,
    /// Numbers in a row, whole blocks.
    pub depth: usize,
}

/// What is done with rows of one type of weights.
///
/// # Safety
/// The processor must be one that the tiles are available on; pointers must be valid for what they point to.
#[derive(Clone, Copy)]
pub(super) struct Packer {
    /// Numbers in a block: a row has a whole number of them.
    pub block: usize,
    /// Packs at most [`ROWS`] rows as a left operand; those that are missing to whole groups stay as they are.
    pub pack: unsafe fn(rows: &Rows, out: *mut u16),
    /// Multiplies them with few tokens: the product's rows and steps are those of `rows`.
    pub multiply: unsafe fn(rows: &Rows, product: &bf16_unpacking::Product, out: &TokenRows),
}

/// How to pack a type, if it is one that loses nothing to speak of.
pub(super) fn packer(ty: llama::ggml_type) -> Option<Packer> {
    match ty {
        llama::GGML_TYPE_Q8_0 => Some(Packer::of::<Q8_0>()),
        llama::GGML_TYPE_Q4_0 => Some(Packer::of::<Q4_0>()),
        _ => None,
    }
}

impl Packer {
    fn of<T: Type>() -> Packer {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16,avx2,fma,f16c")]
        unsafe fn pack<T: Type>(rows: &Rows, out: *mut u16) {
            debug_assert!(rows.count <= ROWS);
            let kept = Kept::<T>::new(rows);
            let steps = rows.depth / STEP;
            for stretch in 0..rows.depth.div_ceil(STRETCH) {
                for row in 0..rows.count {
                    kept.fetch(row, stretch + AHEAD);
                    kept.unpack(row, stretch, LeftRow::new(out, steps, row).further(stretch * (STRETCH / STEP)));
                }
            }
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16,avx2,fma,f16c")]
        unsafe fn multiply<T: Type>(rows: &Rows, product: &bf16_unpacking::Product, out: &TokenRows) {
            bf16_unpacking::multiply(product, &Kept::<T>::new(rows), out);
        }
        Packer { block: T::BLOCK, pack: pack::<T>, multiply: multiply::<T> }
    }
}

/// A type of weights.
trait Type {
    /// Numbers in a block.
    const BLOCK: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Writes a block's numbers from step `step` of the row on.
    unsafe fn unpack(block: *const u8, out: LeftRow, step: usize);
}

/// Rows as they are kept in the file.
struct Kept<T> {
    rows: Rows,
    of: PhantomData<T>,
}

impl<T: Type> Kept<T> {
    #[inline(always)]
    unsafe fn new(rows: &Rows) -> Self {
        Kept { rows: *rows, of: PhantomData }
    }

    #[inline(always)]
    fn at(&self, row: usize, stretch: usize) -> *const u8 {
        self.rows.first.wrapping_add(row * self.rows.stride + stretch * (STRETCH / T::BLOCK) * T::BYTES)
    }
}

impl<T: Type> Weights for Kept<T> {
    #[inline(always)]
    unsafe fn unpack(&self, row: usize, stretch: usize, out: LeftRow) {
        let blocks = STRETCH.min(self.rows.depth - stretch * STRETCH) / T::BLOCK;
        let first = self.at(row, stretch);
        for block in 0..blocks {
            T::unpack(first.add(block * T::BYTES), out, block * (T::BLOCK / STEP));
        }
    }

    #[inline(always)]
    unsafe fn fetch(&self, row: usize, stretch: usize) {
        fetch_to_second_level(self.at(row, stretch), STRETCH / T::BLOCK * T::BYTES);
    }
}

/// What is added to numbers before they are scaled.
const BIAS: f32 = 128.0;

/// 32 numbers below 128 in 16 bits, times scales, less offsets, in bfloat16. An offset is `BIAS · scale` too high.
///
/// Scales and offsets are for 16 pairs of neighbours. A number in the lower bits of 128's bfloat16 makes that much more of it.
#[inline(always)]
unsafe fn scaled(numbers: __m512i, scale: __m512, offset: __m512) -> __m512i {
    let bias = _mm512_set1_epi32(BIAS.to_bits() as i32);
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let even = _mm512_or_si512(_mm512_slli_epi32::<16>(numbers), bias);
    let odd = _mm512_ternarylogic_epi32::<0xea>(numbers, upper, bias);
    let even = _mm512_fmsub_ps(_mm512_castsi512_ps(even), scale, offset);
    let odd = _mm512_fmsub_ps(_mm512_castsi512_ps(odd), scale, offset);
    // Rounded to the nearest: cheaper by hand than VCVTNE2PS2BF16, which does not leave neighbours beside each other.
    let half = _mm512_set1_epi32(0x8000);
    let even = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(even), half));
    let odd = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(odd), half));
    truncated(even, odd)
}

/// Sixteen bytes with signs as f32, times a factor.
#[inline(always)]
unsafe fn bytes(p: *const u8, factor: f32) -> __m512 {
    _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))), _mm512_set1_ps(factor))
}

#[allow(non_camel_case_types)] // ggml's name
struct Q8_0;

impl Type for Q8_0 {
    const BLOCK: usize = STEP;
    const BYTES: usize = 34;

    #[inline(always)]
    unsafe fn unpack(p: *const u8, out: LeftRow, step: usize) {
        let scale = half(p);
        out.set_bf16(step, joined(bytes(p.add(2), scale), bytes(p.add(18), scale)));
    }
}

#[allow(non_camel_case_types)] // ggml's name
struct Q4_0;

impl Type for Q4_0 {
    const BLOCK: usize = STEP;
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn unpack(p: *const u8, out: LeftRow, step: usize) {
        let scale = half(p);
        let bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(p.add(2).cast()));
        // The first half of a block has the lower bits.
        let low = _mm256_and_si256(bytes, _mm256_set1_epi16(15));
        let numbers = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), _mm256_srli_epi16::<4>(bytes));
        // Numbers are 8 too high.
        out.set_bf16(step, scaled(numbers, _mm512_set1_ps(scale), _mm512_set1_ps((BIAS + 8.0) * scale)));
    }
}
