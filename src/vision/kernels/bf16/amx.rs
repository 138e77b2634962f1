//! Products in bfloat16 on AMX's tiles.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Bf16Kernel`'s

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::avx512::Avx512;
use super::super::body::{self, read_u16, Q8_0_BYTES};
use super::super::{NormColumn, Simd};
use super::{attention, AttentionHead, Bf16Kernel, Bf16Product, PackWeights, RoundColumn, ToOperand, ToPanels};
use crate::gguf::TensorType;
use crate::kernels::bf16::exp2;
use crate::kernels::bf16_tiles::{left_len, multiply, right_len, LeftRow, Product, RightVector, ROWS, STEP, TOKENS};
use crate::kernels::tile_products::{Finish, Sums};
use crate::kernels::tiles::TILE;

/// Vectors in a full panel.
const VECTORS: usize = Avx512::VECTORS;
/// Rows of weights that are asked for before they are packed: what is wanted of a row is too short for the processor to guess.
const AHEAD: usize = 3;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn pack_weights(b: &PackWeights) {
    let steps = b.columns.div_ceil(STEP);
    for r in 0..b.rows {
        let row = LeftRow::new(b.out, steps, r);
        let src = b.data.add(r * b.row_bytes);
        match b.ty {
            TensorType::Q8_0 => {
                // A block of weights is a step.
                for step in 0..steps {
                    let src = src.add((b.column / STEP + step) * Q8_0_BYTES);
                    _mm_prefetch::<_MM_HINT_T0>(src.wrapping_add(AHEAD * b.row_bytes).cast());
                    let scale = _mm512_cvtph_ps(_mm256_set1_epi16(read_u16(src) as i16));
                    let half = |i: usize| _mm512_mul_ps(scale, Avx512::load_i8(src.add(2 + i)));
                    row.set(step, half(0), half(TILE));
                }
            }
            TensorType::BF16 => {
                for step in 0..steps {
                    let left = b.columns - step * STEP;
                    let mask = if left < STEP { (1 << left) - 1 } else { u32::MAX };
                    let src = src.add((b.column + step * STEP) * 2);
                    _mm_prefetch::<_MM_HINT_T0>(src.wrapping_add(AHEAD * b.row_bytes).cast());
                    row.set_bf16(step, _mm512_maskz_loadu_epi16(mask, src.cast()));
                }
            }
            other => unreachable!("weights of type {other} are multiplied in f32"),
        }
    }
}

/// Writes a vector of tokens whose features `feature(i)` gives, with zeros up to a whole step.
#[inline(always)]
unsafe fn write_features(out: RightVector, features: usize, feature: impl Fn(usize) -> __m512) {
    let whole = features / 2 * 2;
    for f in (0..whole).step_by(2) {
        out.set(f, feature(f), feature(f + 1));
    }
    for f in (whole..features.next_multiple_of(STEP)).step_by(2) {
        let first = if f < features { feature(f) } else { _mm512_setzero_ps() };
        out.set(f, first, _mm512_setzero_ps());
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn round(c: &RoundColumn) {
    write_features(RightVector::new(c.out, 0, 0), c.features, |f| _mm512_loadu_ps(c.src.add(f * c.stride)));
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn layer_norm(c: &NormColumn, out: *mut u16) {
    let moments = body::moments::<Avx512>(c);
    write_features(RightVector::new(out, 0, 0), c.features, |f| body::normalised::<Avx512>(c, &moments, f));
}

/// gelu(x) to a relative error of 4e-4, less than what bfloat16 rounds: max(x, 0) − |x|·Φ(−|x|), where log2 Φ(−t) is close to
/// a polynomial, fitted on 0 ≤ t ≤ 5 to the least largest relative error in the result.
#[inline(always)]
unsafe fn gelu(x: __m512) -> __m512 {
    const Q: [f32; 5] = [3.032_396e-3, -3.969_72e-2, -4.748_878e-1, -1.144_228, -1.000_586_2];
    let magnitude = _mm512_abs_ps(x);
    let t = _mm512_min_ps(magnitude, _mm512_set1_ps(5.0));
    let mut q = _mm512_set1_ps(Q[0]);
    for c in &Q[1..] {
        q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(*c));
    }
    _mm512_fnmadd_ps(magnitude, exp2(q), _mm512_max_ps(x, _mm512_setzero_ps()))
}

/// Sums with their bias, in panels.
struct Panels<'a, const BIAS: bool, const LOAD: bool> {
    product: &'a Bf16Product,
    to: &'a ToPanels,
}

impl<const BIAS: bool, const LOAD: bool> Finish for Panels<'_, BIAS, LOAD> {
    #[inline(always)]
    unsafe fn tile(&self, row: usize, rows: usize, vector: usize, sums: &Sums) {
        let panel = vector / VECTORS * VECTORS;
        let width = (self.product.vectors - panel).min(VECTORS) * TOKENS;
        let first = panel * TOKENS * self.to.rows + (self.to.row + row) * width + (vector - panel) * TOKENS;
        for r in 0..rows {
            let p = self.to.matrix.add(first + r * width);
            let mut v = sums.row(r);
            if BIAS {
                v = _mm512_add_ps(v, _mm512_set1_ps(*self.product.bias.add(row + r)));
            }
            if LOAD {
                v = _mm512_add_ps(v, _mm512_loadu_ps(p));
            }
            _mm512_storeu_ps(p, v);
        }
    }
}

/// Sums with their bias, or the GELU of that, as the next operation's operand.
struct Operand<'a, const GELU: bool> {
    product: &'a Bf16Product,
    to: &'a ToOperand,
}

impl<const GELU: bool> Finish for Operand<'_, GELU> {
    #[inline(always)]
    unsafe fn tile(&self, row: usize, rows: usize, vector: usize, sums: &Sums) {
        let out = RightVector::new(self.to.right, self.to.features.div_ceil(STEP), vector);
        for r in (0..TILE).step_by(2) {
            let mut pair = [_mm512_setzero_ps(); 2];
            for (i, v) in pair.iter_mut().enumerate().take(rows.saturating_sub(r)) {
                *v = sums.row(r + i);
                if !self.product.bias.is_null() {
                    *v = _mm512_add_ps(*v, _mm512_set1_ps(*self.product.bias.add(row + r + i)));
                }
                if GELU {
                    *v = gelu(*v);
                }
            }
            out.set(self.to.feature + row + r, pair[0], pair[1]);
        }
    }
}

fn product(p: &Bf16Product) -> Product {
    Product {
        rows: p.rows,
        left: p.left,
        vectors: p.vectors,
        right: p.right.wrapping_add(p.feature * TOKENS),
        right_steps: p.features.div_ceil(STEP),
        steps: p.depth.div_ceil(STEP),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn multiply_to_panels(p: &Bf16Product, to: &ToPanels) {
    match (p.bias.is_null(), to.accumulate) {
        (true, false) => multiply(&product(p), &Panels::<false, false> { product: p, to }),
        (true, true) => multiply(&product(p), &Panels::<false, true> { product: p, to }),
        (false, false) => multiply(&product(p), &Panels::<true, false> { product: p, to }),
        (false, true) => multiply(&product(p), &Panels::<true, true> { product: p, to }),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn multiply_to_operand(p: &Bf16Product, to: &ToOperand) {
    if to.gelu {
        multiply(&product(p), &Operand::<true> { product: p, to });
    } else {
        multiply(&product(p), &Operand::<false> { product: p, to });
    }
    // Where the last tile of a step has no rows.
    let last = p.rows.next_multiple_of(TILE);
    for vector in 0..p.vectors {
        let out = RightVector::new(to.right, to.features.div_ceil(STEP), vector);
        for r in (last..last.next_multiple_of(STEP)).step_by(2) {
            out.set(to.feature + r, _mm512_setzero_ps(), _mm512_setzero_ps());
        }
    }
}

/// Products on AMX's tiles, on the panels of AVX-512.
pub(super) struct AmxKernel;

// SAFETY of the unsafe calls: an `AmxKernel` is only handed out where the processor has the features; what the pointers must
// satisfy is passed on to the caller.
impl Bf16Kernel for AmxKernel {
    fn name(&self) -> &'static str {
        "AMX"
    }
    fn lanes(&self) -> usize {
        TOKENS
    }
    fn panel(&self) -> usize {
        VECTORS * TOKENS
    }
    fn row_group(&self) -> usize {
        ROWS
    }
    fn left_len(&self, rows: usize, columns: usize) -> Option<usize> {
        left_len(rows, columns)
    }
    fn right_len(&self, tokens: usize, features: usize) -> Option<usize> {
        right_len(tokens, features)
    }
    unsafe fn pack_weights(&self, block: &PackWeights) {
        unsafe { pack_weights(block) }
    }
    unsafe fn round(&self, column: &RoundColumn) {
        unsafe { round(column) }
    }
    unsafe fn layer_norm(&self, column: &NormColumn, out: *mut u16) {
        unsafe { layer_norm(column, out) }
    }
    unsafe fn multiply(&self, product: &Bf16Product, to: &ToPanels) {
        unsafe { multiply_to_panels(product, to) }
    }
    unsafe fn multiply_to_operand(&self, product: &Bf16Product, to: &ToOperand) {
        unsafe { multiply_to_operand(product, to) }
    }
    fn attends(&self, head: usize) -> bool {
        head.is_multiple_of(2) && head <= attention::MOST_FEATURES
    }
    fn attention_floats(&self, head: usize, keys: usize) -> usize {
        attention::scratch_floats(head, keys)
    }
    unsafe fn pack_head(&self, head: &AttentionHead, memory: *mut f32) {
        unsafe { attention::pack(head, memory) }
    }
    unsafe fn attend(&self, head: &AttentionHead, vectors: Range<usize>, memory: *mut f32) {
        unsafe { attention::attend(head, vectors, memory) }
    }
}
