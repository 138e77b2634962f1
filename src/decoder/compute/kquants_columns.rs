//! k-quants times many columns with vectors of 256 bits: a block of some rows is unpacked once and multiplied with all columns.
//!
//! Lanes belong to columns: four numbers of a row are multiplied with those of 8 columns at a time, and sums need not be added up
//! across lanes. The integers are those of ggml's products.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Unpacker`'s

use std::arch::x86_64::*;

use llama_cpp_sys_2 as llama;

use super::dequantize::Rows;
use super::kquants::{BLOCK, Q8K};
use super::kquants_avx2::{Block, Sums};
use crate::kernels::bf16_tiles::TokenRows;
use crate::kernels::int8_unpacking::{ahead, Product, MOST_VECTORS, TOKENS};
use crate::prefetch::fetch_to_second_level;

/// Columns of a vector.
const LANES: usize = 8;
/// Vectors that [`TOKENS`] columns take.
const VECTORS: usize = TOKENS / LANES;
/// Rows that are unpacked at a time.
const ROWS: usize = 16;
/// Rows that are multiplied at a time: their sums take half of the registers.
const TILE_ROWS: usize = 2;
/// Numbers that share a scale.
const RUN: usize = 16;
/// Runs in a block.
const RUNS: usize = BLOCK / RUN;
/// Steps of four numbers in a run.
const STEPS: usize = RUN / 4;

/// A block of [`TOKENS`] columns.
#[repr(C, align(64))]
struct ColumnBlock {
    /// Four numbers of every column after the other.
    numbers: [[[i8; 4]; TOKENS]; BLOCK / 4],
    /// Sums of two runs of every column.
    sums: [[[i16; 2]; TOKENS]; RUNS / 2],
    scales: [f32; TOKENS],
}

/// Bytes of [`TOKENS`] columns, if the address space has as many.
pub(super) fn vector_bytes(blocks: usize) -> Option<usize> {
    blocks.checked_mul(size_of::<ColumnBlock>())
}

/// Writes columns that lie in rows, `stride` floats apart: `tokens` of them, at most [`TOKENS`], the others zero.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn pack(src: *const f32, stride: usize, tokens: usize, blocks: usize, out: *mut u8) {
    let from_float = (*llama::ggml_get_type_traits_cpu(llama::GGML_TYPE_Q8_K)).from_float;
    let from_float = from_float.expect("ggml quantises to Q8_K");
    out.write_bytes(0, blocks * size_of::<ColumnBlock>());
    for block in 0..blocks {
        let out = &mut *out.cast::<ColumnBlock>().add(block);
        for token in 0..tokens {
            let features = src.add(token * stride + block * BLOCK);
            let mut rounded = Q8K { scale: 0.0, numbers: [0; BLOCK], sums: [0; BLOCK / 16] };
            from_float(features, (&raw mut rounded).cast(), BLOCK as i64);
            // ggml loses what is not a number.
            let finite = std::slice::from_raw_parts(features, BLOCK).iter().fold(true, |all, x| all & x.is_finite());
            out.scales[token] = if finite { rounded.scale } else { f32::NAN };
            for (to, four) in out.numbers.iter_mut().zip(rounded.numbers.as_chunks().0) {
                to[token] = *four;
            }
            for (to, two) in out.sums.iter_mut().zip(rounded.sums.as_chunks().0) {
                to[token] = *two;
            }
        }
    }
}

/// A block of a row, unpacked.
#[repr(C, align(64))]
struct RowBlock {
    numbers: [[u8; 4]; BLOCK / 4],
    /// As [`Sums::spread`] has them.
    scales: [i32; RUNS],
    /// Of the sums of two runs, to be taken off.
    offsets: [i32; RUNS / 2],
    /// Of what `numbers` gives, and of what `offsets` gives.
    scale: f32,
    offset_scale: f32,
}

/// What a product is computed in.
#[repr(C, align(64))]
struct Scratch {
    rows: [RowBlock; ROWS],
    /// All blocks' sums so far.
    totals: [[[f32; TOKENS]; ROWS]; MOST_VECTORS],
}

/// Bytes of memory that a product needs.
pub(super) const MEMORY_BYTES: usize = size_of::<Scratch>();

#[inline(always)]
unsafe fn unpack<S: Sums, B: Block>(p: *const u8, out: &mut RowBlock) {
    let w = B::unpack(p);
    for (i, numbers) in w.numbers.into_iter().enumerate() {
        _mm256_store_si256(out.numbers.as_mut_ptr().add(LANES * i).cast(), numbers);
    }
    for (i, scales) in S::spread(w.scales).into_iter().enumerate() {
        _mm256_store_si256(out.scales.as_mut_ptr().add(LANES * i).cast(), scales);
    }
    _mm256_store_si256(out.offsets.as_mut_ptr().cast(), w.offsets);
    (out.scale, out.offset_scale) = (w.scale, w.offset_scale);
}

#[inline(always)]
unsafe fn lanes<T>(columns: &[T; TOKENS], vector: usize) -> __m256i {
    _mm256_load_si256(columns.as_ptr().add(vector * LANES).cast())
}

/// Adds the products of a block of some rows and columns to `totals`, or writes them where it is the first.
#[inline(always)]
unsafe fn multiply_block<S: Sums, B: Block>(
    rows: &[RowBlock; TILE_ROWS],
    columns: &ColumnBlock,
    totals: *mut [f32; TOKENS],
    first: bool,
) {
    let zero = [[_mm256_setzero_si256(); VECTORS]; TILE_ROWS];
    let (mut sums, mut offsets) = (zero, zero);
    let fit = const {
        if B::FIT / S::NUMBERS < STEPS {
            B::FIT / S::NUMBERS
        } else {
            STEPS
        }
    };
    for run in 0..RUNS {
        for start in (0..STEPS).step_by(fit) {
            let mut products = zero;
            for step in start..start + fit {
                let at = run * STEPS + step;
                for (row, products) in rows.iter().zip(&mut products) {
                    let w = _mm256_set1_epi32(i32::from_ne_bytes(row.numbers[at]));
                    for (vector, products) in products.iter_mut().enumerate() {
                        *products = S::add_up(*products, w, lanes(&columns.numbers[at], vector));
                    }
                }
            }
            for ((row, products), sums) in rows.iter().zip(products).zip(&mut sums) {
                let scale = _mm256_set1_epi32(row.scales[run]);
                for (sum, products) in sums.iter_mut().zip(products) {
                    *sum = S::scale(*sum, products, scale);
                }
            }
        }
    }
    for two in 0..RUNS / 2 {
        for (row, offsets) in rows.iter().zip(&mut offsets) {
            let factors = _mm256_set1_epi32(row.offsets[two]);
            for (vector, offset) in offsets.iter_mut().enumerate() {
                *offset = _mm256_add_epi32(*offset, _mm256_madd_epi16(factors, lanes(&columns.sums[two], vector)));
            }
        }
    }
    for (r, row) in rows.iter().enumerate() {
        for vector in 0..VECTORS {
            let of_columns = _mm256_load_ps(columns.scales.as_ptr().add(vector * LANES));
            let at = totals.add(r).cast::<f32>().add(vector * LANES);
            let so_far = if first { _mm256_setzero_ps() } else { _mm256_load_ps(at) };
            let scale = _mm256_mul_ps(_mm256_set1_ps(row.scale), of_columns);
            let total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[r][vector]), scale, so_far);
            let scale = _mm256_mul_ps(_mm256_set1_ps(row.offset_scale), of_columns);
            _mm256_store_ps(at, _mm256_fnmadd_ps(_mm256_cvtepi32_ps(offsets[r][vector]), scale, total));
        }
    }
}

/// Multiplies rows: the product's rows and blocks are theirs.
#[inline(always)]
pub(super) unsafe fn multiply<S: Sums, B: Block>(rows: &Rows, product: &Product, out: &TokenRows) {
    let scratch = &mut *product.memory.cast::<Scratch>();
    let at = |row: usize, block: usize| rows.first.wrapping_add(row * rows.stride + block * B::BYTES);
    let columns = |vector: usize, block: usize| {
        &*product.tokens.cast::<ColumnBlock>().wrapping_add(vector * product.blocks + block)
    };
    for first in (0..product.rows).step_by(ROWS) {
        let count = ROWS.min(product.rows - first);
        for block in 0..product.blocks {
            for (r, row) in scratch.rows.iter_mut().enumerate().take(count) {
                unpack::<S, B>(at(first + r, block), row);
                let (row, block) = ahead(first + r, block, ROWS, product.blocks);
                fetch_to_second_level(at(row, block), B::BYTES);
            }
            for vector in 0..product.vectors {
                let columns = columns(vector, block);
                for (rows, totals) in
                    scratch.rows.as_chunks().0.iter().zip(scratch.totals[vector].chunks_mut(TILE_ROWS))
                {
                    multiply_block::<S, B>(rows, columns, totals.as_mut_ptr(), block == 0);
                }
            }
        }
        for (vector, totals) in scratch.totals.iter().enumerate().take(product.vectors) {
            let token = vector * TOKENS;
            for t in 0..TOKENS.min(out.tokens - token) {
                let to = out.out.add((token + t) * out.stride + first);
                totals.iter().take(count).enumerate().for_each(|(r, total)| *to.add(r) = total[t]);
            }
        }
    }
}
