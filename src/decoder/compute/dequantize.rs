//! Rows of quantised weights as bfloat16, packed for AMX's tiles.
//!
//! A number of few bits is looked up in a table of what it stands for, which costs less than computing it. Rounding to bfloat16
//! (8 bits) adds an error that is small beside that of the quantisation.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `rows`'s

use std::arch::x86_64::*;

use llama_cpp_sys_2 as llama;

use super::kquants::{half, scales_and_minima, BLOCK};
use super::kquants_avx512::{Block, Q4K, Q5K, Q6K};
use crate::kernels::bf16::joined;
use crate::kernels::bf16_tiles::{LeftRow, ROWS, STEP};

/// Bytes of a block of 32 numbers.
const Q8_0_BYTES: usize = 34;
/// Bytes of a block of 32 numbers.
const Q4_0_BYTES: usize = 18;

/// Packs a row.
pub(super) type Row = unsafe fn(weights: *const u8, blocks: usize, out: LeftRow);

/// Packs rows of one type of weights.
#[derive(Clone, Copy)]
pub(super) struct Packer {
    row: Row,
    /// Numbers in a block: a row has a whole number of them.
    pub block: usize,
    /// Bytes of a block.
    bytes: usize,
}

/// How many parts of a row ahead weights are fetched.
const AHEAD: usize = 2;

/// How to pack a type, if it is one that loses nothing to speak of.
pub(super) fn packer(ty: llama::ggml_type) -> Option<Packer> {
    let (row, block, bytes): (Row, usize, usize) = match ty {
        llama::GGML_TYPE_Q4_K => (q4_k, BLOCK, Q4K::BYTES),
        llama::GGML_TYPE_Q5_K => (q5_k, BLOCK, Q5K::BYTES),
        llama::GGML_TYPE_Q6_K => (q6_k, BLOCK, Q6K::BYTES),
        llama::GGML_TYPE_Q8_0 => (q8_0, STEP, Q8_0_BYTES),
        llama::GGML_TYPE_Q4_0 => (q4_0, STEP, Q4_0_BYTES),
        _ => return None,
    };
    Some(Packer { row, block, bytes })
}

impl Packer {
    /// Packs `rows` rows, which are `stride` bytes apart; those that are missing to whole groups stay as they are.
    ///
    /// # Safety
    /// `weights` must have the rows, of `depth` numbers each, and `out` room for `left_len(rows, depth)`; the processor must
    /// be one that the tiles are available on.
    pub(super) unsafe fn rows(self, weights: *const u8, stride: usize, rows: usize, depth: usize, out: *mut u16) {
        debug_assert!(rows <= ROWS);
        let part = BLOCK.min(depth);
        let part_bytes = part / self.block * self.bytes;
        for column in (0..depth).step_by(part) {
            let blocks = part.min(depth - column) / self.block;
            for r in 0..rows {
                let p = weights.add(r * stride + column / self.block * self.bytes);
                for line in (0..part_bytes).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD * part_bytes + line).cast());
                }
                (self.row)(p, blocks, LeftRow::new(out.add(column * ROWS), depth / STEP, r));
            }
        }
    }
}

/// The two runs of 32 numbers in a vector, as indices of 16 bits.
#[inline(always)]
unsafe fn indices(numbers: __m512i) -> [__m512i; 2] {
    [
        _mm512_cvtepu8_epi16(_mm512_castsi512_si256(numbers)),
        _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64::<1>(numbers)),
    ]
}

/// Eight bytes as f32, times a factor.
#[inline(always)]
unsafe fn eight(bytes: u64, factor: f32) -> [f32; 8] {
    let numbers = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes as i64)));
    let mut out = [0.0; 8];
    _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(numbers, _mm256_set1_ps(factor)));
    out
}

/// Sixteen bytes with signs as f32, times a factor.
#[inline(always)]
unsafe fn scaled(bytes: __m128i, factor: f32) -> __m512 {
    _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), _mm512_set1_ps(factor))
}

/// 0, 1, 2, …
#[inline(always)]
unsafe fn count_from(first: f32) -> __m512 {
    let count = _mm512_set_ps(15., 14., 13., 12., 11., 10., 9., 8., 7., 6., 5., 4., 3., 2., 1., 0.);
    _mm512_add_ps(count, _mm512_set1_ps(first))
}

/// Scales and minima of a block's runs.
#[inline(always)]
unsafe fn runs(p: *const u8) -> ([f32; 8], [f32; 8]) {
    let (scales, minima) = scales_and_minima(p.add(4));
    (eight(scales, half(p)), eight(minima, half(p.add(2))))
}

/// What the numbers in `count` stand for in a run.
#[inline(always)]
unsafe fn table(count: __m512, run: usize, scales: &[f32; 8], minima: &[f32; 8]) -> __m512 {
    _mm512_fmsub_ps(count, _mm512_set1_ps(scales[run]), _mm512_set1_ps(minima[run]))
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx2,fma,f16c")]
unsafe fn q4_k(weights: *const u8, blocks: usize, out: LeftRow) {
    let count = count_from(0.0);
    // Two runs share a table: the second has its upper half.
    let upper = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi8(16));
    for block in 0..blocks {
        let p = weights.add(block * Q4K::BYTES);
        let (scales, minima) = runs(p);
        for (numbers, pair) in Q4K::unpack(p).numbers.into_iter().zip(Q4K::ORDER.as_chunks::<2>().0) {
            let both = joined(table(count, pair[0], &scales, &minima), table(count, pair[1], &scales, &minima));
            for (indices, run) in indices(_mm512_or_si512(numbers, upper)).into_iter().zip(pair) {
                out.set_bf16(block * (BLOCK / STEP) + run, _mm512_permutexvar_epi16(indices, both));
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx2,fma,f16c")]
unsafe fn q5_k(weights: *const u8, blocks: usize, out: LeftRow) {
    let (low, high) = (count_from(0.0), count_from(16.0));
    for block in 0..blocks {
        let p = weights.add(block * Q5K::BYTES);
        let (scales, minima) = runs(p);
        for (numbers, pair) in Q5K::unpack(p).numbers.into_iter().zip(Q5K::ORDER.as_chunks::<2>().0) {
            for (indices, &run) in indices(numbers).into_iter().zip(pair) {
                let all = joined(table(low, run, &scales, &minima), table(high, run, &scales, &minima));
                out.set_bf16(block * (BLOCK / STEP) + run, _mm512_permutexvar_epi16(indices, all));
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx2,fma,f16c")]
unsafe fn q6_k(weights: *const u8, blocks: usize, out: LeftRow) {
    for block in 0..blocks {
        let p = weights.add(block * Q6K::BYTES);
        let scale = _mm512_set1_ps(half(p.add(208)));
        let mut scales = [0.0_f32; 16];
        let bytes = _mm_loadu_si128(p.add(192).cast());
        _mm512_storeu_ps(scales.as_mut_ptr(), _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), scale));
        for (v, numbers) in Q6K::unpack(p).numbers.into_iter().enumerate() {
            let numbers = _mm512_sub_epi8(numbers, _mm512_set1_epi8(32));
            let s = &scales[4 * v..][..4];
            let step = block * (BLOCK / STEP) + 2 * v;
            let a = scaled(_mm512_castsi512_si128(numbers), s[0]);
            let b = scaled(_mm512_extracti32x4_epi32::<1>(numbers), s[1]);
            out.set(step, a, b);
            let a = scaled(_mm512_extracti32x4_epi32::<2>(numbers), s[2]);
            let b = scaled(_mm512_extracti32x4_epi32::<3>(numbers), s[3]);
            out.set(step + 1, a, b);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx2,fma,f16c")]
unsafe fn q8_0(weights: *const u8, blocks: usize, out: LeftRow) {
    for block in 0..blocks {
        let p = weights.add(block * Q8_0_BYTES);
        let scale = half(p);
        let (a, b) = (_mm_loadu_si128(p.add(2).cast()), _mm_loadu_si128(p.add(18).cast()));
        out.set(block, scaled(a, scale), scaled(b, scale));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx2,fma,f16c")]
unsafe fn q4_0(weights: *const u8, blocks: usize, out: LeftRow) {
    let count = count_from(-8.0);
    for block in 0..blocks {
        let p = weights.add(block * Q4_0_BYTES);
        let table = _mm512_mul_ps(count, _mm512_set1_ps(half(p)));
        let table = joined(table, table);
        let bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(p.add(2).cast()));
        // The first half of a block has the lower bits.
        let low = _mm256_and_si256(bytes, _mm256_set1_epi16(15));
        let indices = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), _mm256_srli_epi16::<4>(bytes));
        out.set_bf16(block, _mm512_permutexvar_epi16(indices, table));
    }
}
