//! Products of weights in floating point with columns of f32, summed in f32: nothing is rounded on the way.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Multiply`'s

use half::{bf16, f16};
use llama_cpp_sys_2 as llama;

use super::best_simd::best_simd;
use crate::vision::kernels::Simd;

/// Rows times columns.
pub(super) struct Block {
    /// First row.
    pub weights: *const u8,
    /// Bytes from a row to the next.
    pub row_bytes: usize,
    pub rows: usize,
    /// First column.
    pub x: *const u8,
    /// Bytes from a column to the next.
    pub column_bytes: usize,
    pub columns: usize,
    /// Numbers in a row, and in a column.
    pub depth: usize,
    /// Result of the first row and column.
    pub out: *mut f32,
    /// Floats from a column of the result to the next.
    pub out_stride: usize,
}

/// Computes a block.
///
/// # Safety
/// The pointers must be valid for what [`Block`] says, and the processor have the instruction set.
pub(super) type Multiply = unsafe fn(&Block);

/// A type of weights.
trait Weight {
    /// Bytes of a number.
    const BYTES: usize;
    unsafe fn load<S: Simd>(p: *const u8) -> S::V;
    unsafe fn one(p: *const u8) -> f32;
}

struct Single;
struct Half;
struct Brain;

impl Weight for Single {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        S::load(p.cast())
    }
    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        p.cast::<f32>().read_unaligned()
    }
}

impl Weight for Half {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        S::load_f16(p)
    }
    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        p.cast::<f16>().read_unaligned().to_f32()
    }
}

impl Weight for Brain {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        S::load_bf16(p)
    }
    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        p.cast::<bf16>().read_unaligned().to_f32()
    }
}

/// Columns multiplied side by side.
const COLUMNS: usize = 4;

/// `R` rows times `C` columns.
#[inline(always)]
unsafe fn tile<S: Simd, W: Weight, const R: usize, const C: usize>(b: &Block, row: usize, column: usize) {
    let w: [*const u8; R] = std::array::from_fn(|r| b.weights.wrapping_add((row + r) * b.row_bytes));
    let x: [*const f32; C] = std::array::from_fn(|c| b.x.wrapping_add((column + c) * b.column_bytes).cast());
    let mut sums = [[S::splat(0.0); C]; R];
    let whole = b.depth / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        let mut v = [S::splat(0.0); C];
        for c in 0..C {
            v[c] = S::load(x[c].add(i));
        }
        for r in 0..R {
            let w = W::load::<S>(w[r].add(i * W::BYTES));
            for c in 0..C {
                sums[r][c] = S::fma(w, v[c], sums[r][c]);
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            let mut lanes = [0.0; 16];
            S::store(lanes.as_mut_ptr(), sums[r][c]);
            let mut half = S::LANES / 2;
            while half > 0 {
                for i in 0..half {
                    lanes[i] += lanes[i + half];
                }
                half /= 2;
            }
            let mut sum = lanes[0];
            for i in whole..b.depth {
                sum = W::one(w[r].add(i * W::BYTES)).mul_add(*x[c].add(i), sum);
            }
            *b.out.add((column + c) * b.out_stride + row + r) = sum;
        }
    }
}

#[inline(always)]
unsafe fn multiply<S: Simd, W: Weight>(b: &Block) {
    const { assert!(S::LANES <= 16) };
    // The sums of a tile must fit the registers, of which AVX2 has 16 and the others 32.
    match S::LANES {
        8 => multiply_by::<S, W, 2>(b),
        _ => multiply_by::<S, W, 4>(b),
    }
}

/// `R` rows at a time.
#[inline(always)]
unsafe fn multiply_by<S: Simd, W: Weight, const R: usize>(b: &Block) {
    for row in (0..b.rows).step_by(R) {
        if row + R > b.rows {
            for row in row..b.rows {
                for column in 0..b.columns {
                    tile::<S, W, 1, 1>(b, row, column);
                }
            }
            break;
        }
        let whole = b.columns / COLUMNS * COLUMNS;
        for column in (0..whole).step_by(COLUMNS) {
            tile::<S, W, R, COLUMNS>(b, row, column);
        }
        for column in whole..b.columns {
            tile::<S, W, R, 1>(b, row, column);
        }
    }
}

/// The function for a type on this processor, if it is a floating-point type.
pub(super) fn multiply_best(ty: llama::ggml_type) -> Option<Multiply> {
    match ty {
        llama::GGML_TYPE_F32 => Some(best_simd!(multiply(b: &Block), Single).0),
        llama::GGML_TYPE_F16 => Some(best_simd!(multiply(b: &Block), Half).0),
        llama::GGML_TYPE_BF16 => Some(best_simd!(multiply(b: &Block), Brain).0),
        _ => None,
    }
}
