//! With AVX-512 VNNI: 16 tokens' sums are a vector, and four columns of a row a number that all of them are multiplied with.
//!
//! The instruction wants one side without signs. That is the weights' here: 128 is added to them, and 128 times the sum of a token's
//! features is what its sums start from, with a minus. Blocks are added up in f32, offsets are multiplied in f32.
//!
//! # Safety
//! As for [`int8_unpacking`](super); the function that all is inlined into must be compiled for AVX512-VNNI as well.

use std::arch::x86_64::*;

use super::super::tile_products::{Finish, Sums};
use super::super::tiles::TILE;
use super::{ahead, Gathered, Product, RowBlock, Weights, BLOCK, MOST_VECTORS, RUNS, STEP, STEPS, TOKENS};

/// Rows of a group.
const ROWS: usize = 2 * TILE;
/// Sums that registers have room for.
const SUMS: usize = 24;
/// Rows whose sums are added up at a time.
const FINISHED: usize = 4;

/// Whether this processor has what the module needs.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni")
}

/// A block of a vector of tokens.
#[repr(C, align(64))]
struct TokenBlock {
    /// Four features of every token after the other.
    numbers: [[i8; 4 * TOKENS]; BLOCK / 4],
    scales: [f32; TOKENS],
    /// What sums start from.
    starts: [i32; TOKENS],
    /// Of runs of features.
    sums: [[f32; TOKENS]; RUNS],
}

/// Bytes of a vector of tokens, if the address space has as many.
pub(crate) fn vector_bytes(blocks: usize) -> Option<usize> {
    blocks.checked_mul(size_of::<TokenBlock>())
}

/// Writes a vector from tokens in rows, `stride` floats apart: `tokens` of them, at most [`TOKENS`], the others zero.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) unsafe fn pack(src: *const f32, stride: usize, tokens: usize, blocks: usize, out: *mut u8) {
    for block in 0..blocks {
        let out = &mut *out.cast::<TokenBlock>().add(block);
        let gathered = Gathered::new(src.add(block * BLOCK), stride, tokens);
        (out.scales, out.sums) = (gathered.scales, gathered.sums);
        let mut starts = _mm512_setzero_si512();
        for step in 0..STEPS {
            for (i, row) in gathered.step(step).into_iter().enumerate() {
                starts = _mm512_dpbusd_epi32(starts, _mm512_set1_epi8(-128), row);
                _mm512_store_si512(out.numbers[step * TILE + i].as_mut_ptr().cast(), row);
            }
        }
        _mm512_store_si512(out.starts.as_mut_ptr().cast(), _mm512_sub_epi32(_mm512_setzero_si512(), starts));
    }
}

/// What a product is computed in.
#[repr(C, align(64))]
struct Scratch {
    /// A block of a group.
    numbers: [[u8; BLOCK]; ROWS],
    offsets: [[f32; RUNS]; ROWS],
    scales: [f32; ROWS],
    /// A block's sums of some rows and vectors.
    sums: [[i32; TOKENS]; SUMS],
    /// All blocks' sums so far: of the first 16 rows and every vector, then of the others.
    totals: [Sums; ROWS / TILE * MOST_VECTORS],
}

/// Bytes of memory that a product needs.
pub(crate) const MEMORY_BYTES: usize = size_of::<Scratch>();

/// Where a row's block is unpacked to.
struct Row {
    numbers: *mut u8,
    offsets: *mut f32,
    scale: *mut f32,
}

impl RowBlock for Row {
    #[inline(always)]
    unsafe fn set(&self, step: usize, numbers: __m512i) {
        let without_sign = _mm512_xor_si512(numbers, _mm512_set1_epi8(-128));
        _mm512_store_si512(self.numbers.add(step * STEP).cast(), without_sign);
    }

    #[inline(always)]
    unsafe fn set_scale(&self, scale: f32) {
        *self.scale = scale;
    }

    #[inline(always)]
    unsafe fn set_offsets(&self, offsets: __m256) {
        _mm256_store_ps(self.offsets, offsets);
    }
}

/// A product while it is computed.
struct Multiplication<'a, W> {
    product: &'a Product,
    weights: &'a W,
    scratch: &'a mut Scratch,
    /// Runs with offsets in a block.
    runs: usize,
}

impl<W: Weights> Multiplication<'_, W> {
    /// Unpacks a block of the rows from `first` on.
    #[inline(always)]
    unsafe fn unpack(&mut self, first: usize, block: usize) {
        let rows = ROWS.min(self.product.rows - first);
        for i in 0..rows {
            let out = Row {
                numbers: self.scratch.numbers[i].as_mut_ptr(),
                offsets: self.scratch.offsets[i].as_mut_ptr(),
                scale: &mut self.scratch.scales[i],
            };
            self.weights.unpack(first + i, block, &out);
            let (row, block) = ahead(first + i, block, ROWS, self.product.blocks);
            self.weights.fetch(row, block);
        }
    }

    /// The block of `V` vectors of tokens.
    #[inline(always)]
    unsafe fn tokens<const V: usize>(&self, vector: usize, block: usize) -> [&TokenBlock; V] {
        let first = self.product.tokens.cast::<TokenBlock>();
        std::array::from_fn(|v| &*first.wrapping_add((vector + v) * self.product.blocks + block))
    }

    /// Adds the products of `R` rows, from the group's `row` on, with `V` vectors of tokens to the totals.
    #[inline(always)]
    unsafe fn multiply<const R: usize, const V: usize>(&mut self, row: usize, vector: usize, block: usize) {
        let tokens = self.tokens::<V>(vector, block);
        let mut sums = [[_mm512_setzero_si512(); V]; R];
        for (v, tokens) in tokens.iter().enumerate() {
            let start = _mm512_load_si512(tokens.starts.as_ptr().cast());
            sums.iter_mut().for_each(|sums| sums[v] = start);
        }
        let numbers = self.scratch.numbers[row].as_ptr();
        for four in 0..BLOCK / 4 {
            let mut features = [_mm512_setzero_si512(); V];
            for (features, tokens) in features.iter_mut().zip(&tokens) {
                *features = _mm512_load_si512(tokens.numbers[four].as_ptr().cast());
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let weights = _mm512_set1_epi32(*numbers.add(r * BLOCK + 4 * four).cast::<i32>());
                for (sum, features) in sums.iter_mut().zip(&features) {
                    *sum = _mm512_dpbusd_epi32(*sum, weights, *features);
                }
            }
        }
        // Through memory: the compiler would not keep as many in registers for what follows.
        let memory = self.scratch.sums.as_mut_ptr();
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                _mm512_store_si512(memory.add(r * V + v).cast(), sum);
            }
        }
        for r in (0..R).step_by(FINISHED) {
            self.add_up::<V>(row + r, r, vector, block);
        }
    }

    /// Adds the sums of some rows from `row` on, which lie in memory from the `at`th on, and what offsets make to the totals.
    #[inline(always)]
    unsafe fn add_up<const V: usize>(&mut self, row: usize, at: usize, vector: usize, block: usize) {
        let tokens = self.tokens::<V>(vector, block);
        let (sums, tile) = (self.scratch.sums.as_ptr(), row / TILE * self.product.vectors + vector);
        let mut totals = [[_mm512_setzero_ps(); V]; FINISHED];
        for (r, totals) in totals.iter_mut().enumerate() {
            let of_row = _mm512_set1_ps(self.scratch.scales[row + r]);
            for (v, total) in totals.iter_mut().enumerate() {
                let scale = _mm512_mul_ps(of_row, _mm512_load_ps(tokens[v].scales.as_ptr()));
                let sum = _mm512_load_si512(sums.add((at + r) * V + v).cast());
                let so_far =
                    if block == 0 { _mm512_setzero_ps() } else { self.scratch.totals[tile + v].row(row % TILE + r) };
                *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, so_far);
            }
        }
        for run in 0..self.runs {
            for (r, totals) in totals.iter_mut().enumerate() {
                let offset = _mm512_set1_ps(self.scratch.offsets[row + r][run]);
                for (total, tokens) in totals.iter_mut().zip(&tokens) {
                    *total = _mm512_fmadd_ps(offset, _mm512_load_ps(tokens.sums[run].as_ptr()), *total);
                }
            }
        }
        for (r, totals) in totals.into_iter().enumerate() {
            for (v, total) in totals.into_iter().enumerate() {
                self.scratch.totals[tile + v].set_row(row % TILE + r, total);
            }
        }
    }

    #[inline(always)]
    unsafe fn run(&mut self, finish: &impl Finish) {
        let p = self.product;
        for first in (0..p.rows).step_by(ROWS) {
            for block in 0..p.blocks {
                self.unpack(first, block);
                let mut vector = 0;
                while vector < p.vectors {
                    // As many sums as registers have room for, and three vectors rather than one more pass over the weights.
                    let vectors = match p.vectors - vector {
                        4 => 2,
                        left => left.min(3),
                    };
                    for row in (0..ROWS).step_by(8) {
                        match vectors {
                            1 if row % 16 == 0 => self.multiply::<16, 1>(row, vector, block),
                            1 => {}
                            2 => self.multiply::<8, 2>(row, vector, block),
                            _ => self.multiply::<8, 3>(row, vector, block),
                        }
                    }
                    vector += vectors;
                }
            }
            for start in (0..ROWS.min(p.rows - first)).step_by(TILE) {
                for vector in 0..p.vectors {
                    let totals = &self.scratch.totals[start / TILE * p.vectors + vector];
                    finish.tile(first + start, (p.rows - first - start).min(TILE), vector, totals);
                }
            }
        }
    }
}

/// Multiplies, and hands every tile of results to `finish`.
#[inline(always)]
pub(crate) unsafe fn multiply<W: Weights>(product: &Product, weights: &W, finish: &impl Finish) {
    debug_assert!(product.blocks > 0 && (1..=MOST_VECTORS).contains(&product.vectors));
    let scratch = &mut *product.memory.cast::<Scratch>();
    // The compiler must not know: it would unroll the loop over runs and take more registers than there are.
    let runs = std::hint::black_box(if W::OFFSETS { RUNS } else { 0 });
    Multiplication { product, weights, scratch, runs }.run(finish);
}
