//! Products of weights in blocks with few tokens, both in 8 bits, the weights unpacked while they are multiplied.
//!
//! A block is 256 columns of a row, or features of a token, as integers with one scale:
//!
//! `result[row, token] = Σ scale[row, b] · scale[token, b] · (weights[row, b] · features[token, b]) + Σ offset[row, r] · sum[token, r]`
//!
//! over blocks `b` and runs `r` of 32, where `sum` is that of a run's features before rounding. A block of a group of rows is
//! unpacked to memory that stays in the first-level cache, and multiplied with all tokens, 16 of them in a vector: by
//! [`tiles`] where the processor has AMX, or by [`vnni`].
//!
//! # Safety
//! Each of the two may only be used where its `available` says so; pointers must be valid for what is said about them. Generic
//! functions are inlined, into a function compiled for AVX-512F, BW, DQ and VL, and what the module needs besides.

pub(crate) mod tiles;
pub(crate) mod vnni;

use std::arch::x86_64::*;

use super::bf16::transposed;
use super::tiles::TILE;

/// Columns and features of a block.
pub(crate) const BLOCK: usize = 256;
/// Tokens of a vector.
pub(crate) const TOKENS: usize = TILE;
/// Vectors of tokens at most.
pub(crate) const MOST_VECTORS: usize = 6;

/// Columns of a step of depth.
const STEP: usize = 64;
/// Steps in a block.
const STEPS: usize = BLOCK / STEP;
/// Columns that share an offset.
const RUN: usize = 32;
/// Runs in a block.
const RUNS: usize = BLOCK / RUN;

/// Blocks ahead that weights are fetched.
const AHEAD: usize = 2;

/// The row and block to fetch while others are unpacked, which may be one of the next group's: a group has `group` rows of
/// `blocks` blocks.
#[inline(always)]
pub(crate) fn ahead(row: usize, block: usize, group: usize, blocks: usize) -> (usize, usize) {
    match block + AHEAD {
        block if block < blocks => (row, block),
        block => (row + group, block - blocks),
    }
}

/// Rows of weights as they are kept.
pub(crate) trait Weights {
    /// Whether they have offsets.
    const OFFSETS: bool;
    /// Writes a row's block.
    unsafe fn unpack(&self, row: usize, block: usize, out: &impl RowBlock);
    /// Says that it will be unpacked soon, if there is such a row.
    unsafe fn fetch(&self, row: usize, block: usize);
}

/// Where a row's block goes.
pub(crate) trait RowBlock {
    /// Writes 64 integers, in −127…127.
    unsafe fn set(&self, step: usize, numbers: __m512i);
    /// What the integers are to be multiplied with.
    unsafe fn set_scale(&self, scale: f32);
    /// What is to be added to the weights of each run.
    unsafe fn set_offsets(&self, offsets: __m256);
}

/// What is multiplied.
pub(crate) struct Product {
    /// Rows of the weights.
    pub rows: usize,
    /// Blocks of a row, at least 1.
    pub blocks: usize,
    /// Vectors of tokens, 1 to [`MOST_VECTORS`].
    pub vectors: usize,
    /// The vectors as the module packs them, on a cache line's boundary.
    pub tokens: *mut u8,
    /// As many bytes as the module needs, on a cache line's boundary, that hold numbers of any kind.
    pub memory: *mut u8,
}

/// A block of a token's features in 8 bits.
struct Rounded {
    numbers: [__m512i; STEPS],
    scale: f32,
    /// Of runs, before rounding.
    sums: [f32; RUNS],
}

/// Rounds a block of features.
#[inline(always)]
unsafe fn rounded(features: *const f32) -> Rounded {
    let (mut largest, mut total) = (_mm512_setzero_ps(), 0.0);
    let mut sums = [0.0; RUNS];
    for (run, sum) in sums.iter_mut().enumerate() {
        let (a, b) = (_mm512_loadu_ps(features.add(run * RUN)), _mm512_loadu_ps(features.add(run * RUN + 16)));
        largest = _mm512_max_ps(largest, _mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
        *sum = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
        total += *sum;
    }
    let largest = _mm512_reduce_max_ps(largest);
    // What is not finite makes the scale NaN.
    let scale = largest / 127.0 + total * 0.0;
    let by = _mm512_set1_ps(if largest > 0.0 { 127.0 / largest } else { 0.0 });
    let mut numbers = [_mm512_setzero_si512(); STEPS];
    for (step, numbers) in numbers.iter_mut().enumerate() {
        let mut parts = [_mm_setzero_si128(); 4];
        for (i, part) in parts.iter_mut().enumerate() {
            let features = _mm512_loadu_ps(features.add(STEP * step + 16 * i));
            *part = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(features, by)));
        }
        let (low, high) = (_mm256_set_m128i(parts[1], parts[0]), _mm256_set_m128i(parts[3], parts[2]));
        *numbers = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
    }
    Rounded { numbers, scale, sums }
}

/// A block of a vector of tokens in 8 bits.
struct Gathered {
    rows: [[__m512i; STEPS]; TOKENS],
    scales: [f32; TOKENS],
    /// Of runs, before rounding.
    sums: [[f32; TOKENS]; RUNS],
}

impl Gathered {
    /// Rounds a block of tokens whose features lie in rows, `stride` floats apart: `tokens` of them, the others zero.
    #[inline(always)]
    unsafe fn new(src: *const f32, stride: usize, tokens: usize) -> Gathered {
        let mut all = Gathered {
            rows: [[_mm512_setzero_si512(); STEPS]; TOKENS],
            scales: [0.0; TOKENS],
            sums: [[0.0; TOKENS]; RUNS],
        };
        for token in 0..tokens {
            let features = rounded(src.add(token * stride));
            all.rows[token] = features.numbers;
            all.scales[token] = features.scale;
            for (sums, sum) in all.sums.iter_mut().zip(features.sums) {
                sums[token] = sum;
            }
        }
        all
    }

    /// A step's features, by fours: those of every token after the other.
    #[inline(always)]
    unsafe fn step(&self, step: usize) -> [__m512i; STEP / 4] {
        let mut rows = [_mm512_setzero_si512(); TOKENS];
        for (row, token) in rows.iter_mut().zip(&self.rows) {
            *row = token[step];
        }
        transposed(rows)
    }
}
