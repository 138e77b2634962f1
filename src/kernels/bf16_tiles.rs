//! Products of bfloat16 matrices on AMX's tile registers, summed in f32 over the whole depth.
//!
//! `result[rows, tokens] = left[rows, depth] · right[depth, tokens]`. Left are a layer's weights, right its activations; both
//! are packed as tiles of 16 by 64 bytes lie in the registers:
//!
//! - **left**: groups of [`ROWS`] rows; a group has a block for every [`STEP`] columns, and a block the tile of the group's first
//!   16 rows before that of the others. A tile's row is 32 columns of a row. [`LeftRow`] writes it.
//! - **right**: vectors of [`TOKENS`] tokens; a vector has a tile for every `STEP` features. A tile's row is two features of all
//!   16 tokens, token by token. [`RightVector`] writes it from vectors over tokens, [`pack_tokens`] from tokens in rows.
//!
//! Columns and features beyond the depth must be zero on both sides; rows and tokens that are none may hold anything.
//! Numbers below 2^-126 count as zero. A thread works alone: callers share out rows or tokens.
//!
//! # Safety
//! Everything here may only be used where [`available`] says so; pointers must be valid for what the layout says. Generic
//! functions are inlined, best into a function compiled for AVX-512F, BW, DQ and BF16.

use std::arch::x86_64::*;

use super::bf16::{interleaved, joined, transposed};
use super::tile_products::{clear, store, Bf16, Finish, Numbers, Place, Sums, SUMS, TILE_BYTES, VECTORS};
use super::tiles::{configure, permitted, release, TILE};

/// Columns of left tiles, and features of right ones.
pub(crate) const STEP: usize = 2 * TILE;
/// Rows of a group of the left operand.
pub(crate) const ROWS: usize = 2 * TILE;
/// Tokens of a vector of the right operand.
pub(crate) const TOKENS: usize = TILE;

/// Numbers in a tile of bfloat16.
const TILE_LEN: usize = TILE * STEP;

/// Whether this processor has what the module needs, and the system lets this process use it.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bf16")
        && permitted()
}

/// Numbers of a packed left operand, if the address space has as many.
pub(crate) fn left_len(rows: usize, depth: usize) -> Option<usize> {
    rows.checked_next_multiple_of(ROWS)?.checked_mul(depth.checked_next_multiple_of(STEP)?)
}

/// Numbers of a packed right operand, if the address space has as many.
pub(crate) fn right_len(tokens: usize, depth: usize) -> Option<usize> {
    tokens.checked_next_multiple_of(TOKENS)?.checked_mul(depth.checked_next_multiple_of(STEP)?)
}

/// A row of a left operand, to be written.
#[derive(Clone, Copy)]
pub(crate) struct LeftRow(*mut u16);

impl LeftRow {
    /// Row `row` of the operand at `packed`, which has `steps` steps of depth.
    #[inline(always)]
    pub(crate) unsafe fn new(packed: *mut u16, steps: usize, row: usize) -> LeftRow {
        LeftRow(packed.add(row / ROWS * steps * ROWS * STEP + row % ROWS * STEP))
    }

    /// The same row, from `steps` steps further on.
    #[inline(always)]
    pub(crate) fn further(self, steps: usize) -> LeftRow {
        LeftRow(self.0.wrapping_add(steps * ROWS * STEP))
    }

    /// Writes the columns from `step · STEP` on.
    #[inline(always)]
    pub(crate) unsafe fn set(self, step: usize, first: __m512, second: __m512) {
        self.set_bf16(step, joined(first, second));
    }

    /// As `set`, from bfloat16.
    #[inline(always)]
    pub(crate) unsafe fn set_bf16(self, step: usize, columns: __m512i) {
        _mm512_storeu_si512(self.0.add(step * ROWS * STEP).cast(), columns);
    }
}

/// A vector of tokens of a right operand, to be written.
#[derive(Clone, Copy)]
pub(crate) struct RightVector(*mut u16);

impl RightVector {
    /// Vector `vector` of the operand at `packed`, which has `steps` steps of depth.
    #[inline(always)]
    pub(crate) unsafe fn new(packed: *mut u16, steps: usize, vector: usize) -> RightVector {
        RightVector(packed.add(vector * steps * TILE_LEN))
    }

    /// Writes two features, the first of them being `feature`, an even number.
    #[inline(always)]
    pub(crate) unsafe fn set(self, feature: usize, first: __m512, second: __m512) {
        _mm512_storeu_si512(self.0.add(feature * TOKENS).cast(), interleaved(first, second));
    }
}

/// Packs one vector of tokens that lie in rows, `stride` floats apart: `tokens` of them, at most [`TOKENS`], the others zero.
/// Features beyond `features` become zero up to a whole step.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
pub(crate) unsafe fn pack_tokens(src: *const f32, stride: usize, tokens: usize, features: usize, out: RightVector) {
    for first in (0..features).step_by(STEP) {
        let half = |token: usize, feature: usize| {
            if token >= tokens || feature >= features {
                return _mm512_setzero_ps();
            }
            _mm512_maskz_loadu_ps(low_lanes(features - feature), src.add(token * stride + feature))
        };
        let mut pairs = [_mm512_setzero_si512(); TILE];
        for (token, pair) in pairs.iter_mut().enumerate() {
            *pair = joined(half(token, first), half(token, first + TILE));
        }
        for (i, row) in transposed(pairs).into_iter().enumerate() {
            _mm512_storeu_si512(out.0.add((first + 2 * i) * TOKENS).cast(), row);
        }
    }
}

/// A mask of the first `count` lanes; of all where there are more.
#[inline(always)]
fn low_lanes(count: usize) -> __mmask16 {
    if count < TILE {
        (1 << count) - 1
    } else {
        u16::MAX
    }
}

/// What is multiplied.
pub(crate) struct Product {
    /// Rows wanted; `left` has whole groups.
    pub rows: usize,
    /// Packed rows.
    pub left: *const u16,
    /// Vectors of tokens.
    pub vectors: usize,
    /// Their first tiles wanted.
    pub right: *const u16,
    /// Steps from a vector to the next in `right`: more than `steps` where only a part of its depth is wanted.
    pub right_steps: usize,
    /// Steps of depth to sum, at least 1; those of a group in `left`.
    pub steps: usize,
}

/// Sums that wait to be finished: a group of rows and some vectors.
struct Waiting {
    row: usize,
    vector: usize,
    vectors: usize,
}

/// Multiplies, and hands every tile of sums to `finish`. That happens in pieces between the products that follow, so that vector
/// and tile unit work at the same time.
#[inline(always)]
pub(crate) unsafe fn multiply(p: &Product, finish: &impl Finish) {
    debug_assert!(p.steps > 0 && p.right_steps >= p.steps);
    configure();
    let mut sums = [const { Sums::ZERO }; SUMS];
    let mut waiting: Option<Waiting> = None;
    for vector in (0..p.vectors).step_by(VECTORS) {
        let right = p.right.add(vector * p.right_steps * TILE_LEN);
        let vectors = VECTORS.min(p.vectors - vector);
        for row in (0..p.rows).step_by(ROWS) {
            let left = p.left.add(row * p.steps * STEP).cast();
            let place = Place { left, right: right.cast(), stride: p.right_steps * TILE_BYTES };
            clear();
            let mut done = 0;
            for piece in 0..SUMS {
                let end = p.steps * (piece + 1) / SUMS;
                if end > done {
                    Bf16::add_products(vectors, place.further(done), end - done);
                    done = end;
                }
                if let Some(w) = &waiting {
                    finish_tile(p, w, piece, &sums, finish);
                }
            }
            store(vectors, &mut sums);
            waiting = Some(Waiting { row, vector, vectors });
        }
    }
    if let Some(w) = waiting {
        for tile in 0..SUMS {
            finish_tile(p, &w, tile, &sums, finish);
        }
    }
    release();
}

/// Finishes one tile of a group's, unless it has no rows or tokens.
#[inline(always)]
unsafe fn finish_tile(p: &Product, w: &Waiting, tile: usize, sums: &[Sums; SUMS], finish: &impl Finish) {
    let (row, n) = (w.row + tile / VECTORS * TILE, tile % VECTORS);
    if row < p.rows && n < w.vectors {
        finish.tile(row, (p.rows - row).min(TILE), w.vector + n, &sums[tile]);
    }
}

/// Stores results token by token, each token's rows side by side.
pub(crate) struct TokenRows {
    /// The first token's first row.
    pub out: *mut f32,
    /// Floats from a token to the next.
    pub stride: usize,
    /// Tokens there are; what a last vector has beyond them is dropped.
    pub tokens: usize,
}

impl Finish for TokenRows {
    #[inline(always)]
    unsafe fn tile(&self, row: usize, rows: usize, vector: usize, sums: &Sums) {
        let mut turned = [_mm512_setzero_si512(); TILE];
        for (i, v) in turned.iter_mut().enumerate() {
            *v = _mm512_castps_si512(sums.row(i));
        }
        let first = vector * TOKENS;
        for (i, v) in transposed(turned).into_iter().enumerate().take(self.tokens - first) {
            let p = self.out.add((first + i) * self.stride + row);
            _mm512_mask_storeu_ps(p, low_lanes(rows), _mm512_castsi512_ps(v));
        }
    }
}

/// [`multiply`] to [`TokenRows`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
pub(crate) unsafe fn multiply_to_token_rows(p: &Product, out: &TokenRows) {
    multiply(p, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    /// Reproducible numbers in −1…1.
    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_769) | 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    fn rounded(x: f32) -> f64 {
        bf16::from_f32(x).to_f64()
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    unsafe fn pack_left(w: &[f32], rows: usize, depth: usize, packed: &mut [u16]) {
        let steps = depth.div_ceil(STEP);
        for (r, w) in w.chunks_exact(depth).enumerate().take(rows) {
            let mut padded = w.to_vec();
            padded.resize(steps * STEP, 0.0);
            let row = LeftRow::new(packed.as_mut_ptr(), steps, r);
            for (step, columns) in padded.chunks_exact(STEP).enumerate() {
                row.set(step, _mm512_loadu_ps(columns.as_ptr()), _mm512_loadu_ps(columns[TILE..].as_ptr()));
            }
        }
    }

    /// `x` is `[tokens][depth]`, as the result is `[tokens][rows]`, with a few numbers behind each token.
    fn product(w: &[f32], x: &[f32], rows: usize, tokens: usize, depth: usize) -> Vec<f32> {
        let (steps, stride) = (depth.div_ceil(STEP), rows + 3);
        // What is no row and no token must not matter.
        let mut left = vec![0x7fc0; left_len(rows, depth).unwrap()];
        let mut right = vec![0x7fc0; right_len(tokens, depth).unwrap()];
        let mut out = vec![7.0; tokens * stride];
        // SAFETY: the vectors have the lengths that the layout asks for.
        unsafe {
            pack_left(w, rows, depth, &mut left);
            for vector in 0..tokens.div_ceil(TOKENS) {
                let first = vector * TOKENS;
                let to = RightVector::new(right.as_mut_ptr(), steps, vector);
                pack_tokens(x.as_ptr().add(first * depth), depth, TOKENS.min(tokens - first), depth, to);
            }
            multiply_to_token_rows(
                &Product {
                    rows,
                    left: left.as_ptr(),
                    vectors: tokens.div_ceil(TOKENS),
                    right: right.as_ptr(),
                    right_steps: steps,
                    steps,
                },
                &TokenRows { out: out.as_mut_ptr(), stride, tokens },
            );
        }
        assert!(out.chunks_exact(stride).all(|token| token[rows..] == [7.0; 3]), "wrote beyond a token's rows");
        out.chunks_exact(stride).flat_map(|token| token[..rows].to_vec()).collect()
    }

    #[test]
    fn products_over_odd_shapes() {
        if !available() {
            return;
        }
        for (rows, tokens, depth) in [
            (1, 1, 1),
            (16, 16, 32),
            (17, 33, 31),
            (31, 15, 65),
            (32, 47, 96),
            (33, 48, 100),
            (70, 49, 320),
            (5, 81, 1000),
            (100, 100, 33),
        ] {
            let (w, x) = (noise(rows * depth, 1), noise(tokens * depth, 2));
            let out = product(&w, &x, rows, tokens, depth);
            for token in 0..tokens {
                for row in 0..rows {
                    let expected: f64 =
                        (0..depth).map(|k| rounded(w[row * depth + k]) * rounded(x[token * depth + k])).sum();
                    let got = f64::from(out[token * rows + row]);
                    let limit = 2e-6 * (depth as f64).sqrt() + 1e-6;
                    assert!(
                        (got - expected).abs() < limit,
                        "{rows}×{depth}×{tokens}, row {row}, token {token}: {got}, not {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_part_of_the_depth() {
        if !available() {
            return;
        }
        let (rows, tokens, depth) = (40, 52, 96);
        let (w, x) = (noise(rows * depth, 3), noise(tokens * depth, 4));
        let whole = product(&w, &x, rows, tokens, depth);
        // The packed activations of all 96 features, of which the last 64 are multiplied.
        let tail: Vec<f32> = w.chunks_exact(depth).flat_map(|row| row[32..].to_vec()).collect();
        let head: Vec<f32> = w.chunks_exact(depth).flat_map(|row| row[..32].to_vec()).collect();
        let head_x: Vec<f32> = x.chunks_exact(depth).flat_map(|row| row[..32].to_vec()).collect();
        let first = product(&head, &head_x, rows, tokens, 32);
        let mut left = vec![0; left_len(rows, 64).unwrap()];
        let mut right = vec![0; right_len(tokens, depth).unwrap()];
        let mut second = vec![0.0; tokens * rows];
        // SAFETY: as in `product`.
        unsafe {
            pack_left(&tail, rows, 64, &mut left);
            for vector in 0..tokens.div_ceil(TOKENS) {
                let first = vector * TOKENS;
                let to = RightVector::new(right.as_mut_ptr(), depth / STEP, vector);
                pack_tokens(x.as_ptr().add(first * depth), depth, TOKENS.min(tokens - first), depth, to);
            }
            multiply_to_token_rows(
                &Product {
                    rows,
                    left: left.as_ptr(),
                    vectors: tokens.div_ceil(TOKENS),
                    right: right.as_ptr().add(TILE_LEN),
                    right_steps: depth / STEP,
                    steps: 2,
                },
                &TokenRows { out: second.as_mut_ptr(), stride: rows, tokens },
            );
        }
        for ((whole, first), second) in whole.iter().zip(first).zip(second) {
            assert!((whole - first - second).abs() < 1e-5, "{whole}, not {first} + {second}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_reach_their_results() {
        if !available() {
            return;
        }
        let (rows, tokens, depth) = (33, 20, 64);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (mut w, mut x) = (noise(rows * depth, 5), noise(tokens * depth, 6));
            x[3 * depth + 40] = bad;
            w[32 * depth + 7] = bad;
            for (i, v) in product(&w, &x, rows, tokens, depth).into_iter().enumerate() {
                assert_eq!(v.is_finite(), i / rows != 3 && i % rows != 32, "{bad}: {v} at {i}");
            }
        }
    }
}
