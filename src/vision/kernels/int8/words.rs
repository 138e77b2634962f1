//! Attention on products of 16-bit numbers: `vpdpwssd` of AVX-512 VNNI multiplies twice as many of them at a time as there are
//! f32 in a vector.
//!
//! The online softmax of FlashAttention (arXiv 2205.14135) over panels of keys, as in [`super::super::body`]. Queries and keys
//! are rounded to some 12 bits and a sign, each token with a scale of its own; values to 13 bits and a sign, each feature with a
//! scale for each panel of keys; probabilities to 12 bits beside the largest so far. Sums of a panel's products are exact.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `WordAttention`'s

use std::arch::x86_64::*;

use super::super::{AttentionTile, HeadTokens};
use super::WordAttention;
use crate::kernels::bf16::{exp2, transposed};

const LANES: usize = 16;
/// Vectors of a full panel.
const VECTORS: usize = 4;
/// Tokens of a full panel.
const PANEL: usize = LANES * VECTORS;
/// Keys, or features of values, in a register tile.
const ROWS: usize = 4;
/// Largest value and probability: a panel's sum of products stays below 2^31.
const MOST_VALUE: f32 = 8191.0;
const MOST_PROBABILITY: f32 = 4095.0;
/// Below this 2^x would not show beside the largest, 1; and subnormal numbers are slow.
const LEAST_EXPONENT: f32 = -80.0;

/// Where the parts of a head lie in scratch memory, in 32-bit numbers, each at the beginning of a cache line.
struct Layout {
    /// Pairs of features.
    pairs: usize,
    key_scales: usize,
    values: usize,
    value_scales: usize,
    queries: usize,
    scores: usize,
    probabilities: usize,
    end: usize,
}

impl Layout {
    /// Keys come first: `[key][pair]`; then their scales; values `[panel][feature][pair of keys]` and their scales, one a feature and
    /// panel; the queries of one panel, `[pair][query]`; a panel's scores and probabilities.
    fn new(head: usize, tokens: usize) -> Layout {
        let (pairs, panels) = (head.div_ceil(2), tokens.div_ceil(PANEL));
        let line = |n: usize| n.next_multiple_of(LANES);
        let key_scales = line(panels * PANEL * pairs);
        let values = key_scales + panels * PANEL;
        let value_scales = values + panels * head * PANEL / 2;
        let queries = value_scales + line(panels * head);
        let scores = queries + pairs * PANEL;
        let probabilities = scores + PANEL * PANEL;
        Layout {
            pairs,
            key_scales,
            values,
            value_scales,
            queries,
            scores,
            probabilities,
            end: probabilities + PANEL * PANEL / 2,
        }
    }
}

/// The width of a panel of keys, and the keys in it.
fn keys_of(t: &AttentionTile, panel: usize) -> (usize, usize) {
    let keys = t.tokens - panel * PANEL;
    if keys <= PANEL {
        (t.last_width, keys)
    } else {
        (PANEL, PANEL)
    }
}

/// A head's first feature in a panel of keys.
fn features_of(m: HeadTokens, panel: usize, width: usize) -> *const f32 {
    m.matrix.wrapping_add(panel * PANEL * m.rows + m.row * width)
}

/// Largest rounded magnitude of queries and keys: a sum over the head stays below 2^31.
fn most_key(head: usize) -> f32 {
    (((1u64 << 31) - 1) as f64 / head as f64).sqrt().floor().min(8191.0) as f32
}

#[inline(always)]
unsafe fn magnitude(x: __m512) -> __m512 {
    _mm512_andnot_ps(_mm512_set1_ps(-0.0), x)
}

/// Two vectors of rounded numbers as one of pairs.
#[inline(always)]
unsafe fn paired(a: __m512, b: __m512) -> __m512i {
    let low = _mm512_and_si512(_mm512_cvtps_epi32(a), _mm512_set1_epi32(0xffff));
    _mm512_or_si512(low, _mm512_slli_epi32::<16>(_mm512_cvtps_epi32(b)))
}

/// By what numbers up to `peak` are multiplied to be at most `most`; numbers too small for the reciprocal become zero.
#[inline(always)]
unsafe fn inverse(peak: __m512, most: f32) -> __m512 {
    _mm512_div_ps(_mm512_set1_ps(most), _mm512_max_ps(peak, _mm512_set1_ps(1e-30)))
}

/// Scale and reciprocal of a vector of tokens, whose features are `stride` floats apart. The scale of what is not finite is NaN.
#[inline(always)]
unsafe fn token_scales(src: *const f32, stride: usize, head: usize) -> (__m512, __m512) {
    let (mut peak, mut poison) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for f in 0..head {
        let v = _mm512_loadu_ps(src.add(f * stride));
        peak = _mm512_max_ps(magnitude(v), peak);
        poison = _mm512_fmadd_ps(v, _mm512_setzero_ps(), poison);
    }
    let most = most_key(head);
    (_mm512_fmadd_ps(peak, _mm512_set1_ps(1.0 / most), poison), inverse(peak, most))
}

/// A pair of features of a vector of tokens, rounded; zero beyond the last.
#[inline(always)]
unsafe fn token_pair(src: *const f32, stride: usize, head: usize, pair: usize, inverse: __m512) -> __m512i {
    let f = 2 * pair;
    if f >= head {
        return _mm512_setzero_si512();
    }
    let a = _mm512_mul_ps(_mm512_loadu_ps(src.add(f * stride)), inverse);
    let b = if f + 1 < head {
        _mm512_mul_ps(_mm512_loadu_ps(src.add((f + 1) * stride)), inverse)
    } else {
        _mm512_setzero_ps()
    };
    paired(a, b)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni")]
unsafe fn pack(t: &AttentionTile) {
    let layout = Layout::new(t.head, t.tokens);
    for panel in 0..t.tokens.div_ceil(PANEL) {
        let (width, keys) = keys_of(t, panel);
        let from = features_of(t.k, panel, width);
        for first in (0..width).step_by(LANES) {
            let src = from.add(first);
            let key = panel * PANEL + first;
            let (scale, inverse) = token_scales(src, width, t.head);
            _mm512_storeu_ps(t.scratch.add(layout.key_scales + key), scale);
            for pair in (0..layout.pairs).step_by(LANES) {
                let mut rows = [_mm512_setzero_si512(); LANES];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = token_pair(src, width, t.head, pair + i, inverse);
                }
                let count = (layout.pairs - pair).min(LANES);
                let mask = ((1u32 << count) - 1) as __mmask16;
                for (i, row) in transposed(rows).into_iter().enumerate() {
                    let to = t.scratch.add((key + i) * layout.pairs + pair);
                    _mm512_mask_storeu_epi32(to.cast(), mask, row);
                }
            }
        }
        let from = features_of(t.v, panel, width);
        for r in 0..t.head {
            let row = panel * t.head + r;
            let to = t.scratch.add(layout.values + row * PANEL / 2).cast::<u16>();
            let mut vectors = [_mm512_setzero_ps(); VECTORS];
            let (mut peak, mut poison) = (_mm512_setzero_ps(), _mm512_setzero_ps());
            for (n, v) in vectors.iter_mut().enumerate() {
                let lanes = keys.saturating_sub(n * LANES).min(LANES);
                let mask = ((1u32 << lanes) - 1) as __mmask16;
                *v = _mm512_maskz_loadu_ps(mask, from.wrapping_add(r * width + n * LANES));
                peak = _mm512_max_ps(magnitude(*v), peak);
                poison = _mm512_fmadd_ps(*v, _mm512_setzero_ps(), poison);
            }
            let peak = _mm512_reduce_max_ps(peak);
            let inverse = inverse(_mm512_set1_ps(peak), MOST_VALUE);
            for (n, v) in vectors.into_iter().enumerate() {
                let rounded = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(v, inverse)));
                _mm256_storeu_si256(to.add(n * LANES).cast(), rounded);
            }
            *t.scratch.add(layout.value_scales + row) = peak / MOST_VALUE + _mm512_reduce_add_ps(poison);
        }
    }
}

/// `R` rows of `pairs` pairs, `stride` pairs apart, with `N` vectors of tokens: sums of products.
#[inline(always)]
unsafe fn products<const R: usize, const N: usize>(
    rows: *const i32,
    stride: usize,
    tokens: *const i32,
    pairs: usize,
) -> [[__m512i; N]; R] {
    let mut sums = [[_mm512_setzero_si512(); N]; R];
    for i in 0..pairs {
        let mut x = [_mm512_setzero_si512(); N];
        for (n, x) in x.iter_mut().enumerate() {
            *x = _mm512_loadu_si512(tokens.add((i * N + n) * LANES).cast());
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let w = _mm512_set1_epi32(*rows.add(r * stride + i));
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = _mm512_dpwssd_epi32(*sum, x, w);
            }
        }
    }
    sums
}

/// Scores of `R` keys, without the queries' scales.
#[inline(always)]
unsafe fn scores<const R: usize, const N: usize>(
    keys: *const i32,
    pairs: usize,
    scales: *const f32,
    q: *const i32,
    to: *mut f32,
) {
    for (r, sums) in products::<R, N>(keys, pairs, q, pairs).into_iter().enumerate() {
        let scale = _mm512_set1_ps(*scales.add(r));
        for (n, sum) in sums.into_iter().enumerate() {
            _mm512_storeu_ps(to.add((r * N + n) * LANES), _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale));
        }
    }
}

/// Adds `R` features of a panel's values, weighted, to what was summed so far, which fades.
#[inline(always)]
unsafe fn weighted<const R: usize, const N: usize>(
    values: *const i32,
    scales: *const f32,
    p: *const i32,
    pairs: usize,
    fade: Option<[__m512; N]>,
    to: *mut f32,
) {
    for (r, sums) in products::<R, N>(values, PANEL / 2, p, pairs).into_iter().enumerate() {
        let scale = _mm512_set1_ps(*scales.add(r));
        for (n, sum) in sums.into_iter().enumerate() {
            let at = to.add((r * N + n) * LANES);
            let before = match fade {
                Some(fade) => _mm512_mul_ps(_mm512_loadu_ps(at), fade[n]),
                None => _mm512_setzero_ps(),
            };
            _mm512_storeu_ps(at, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, before));
        }
    }
}

#[inline(always)]
unsafe fn attend_panel<const N: usize>(t: &AttentionTile) {
    let layout = Layout::new(t.head, t.tokens);
    let (q, s, p) = (
        t.scratch.add(layout.queries).cast::<i32>(),
        t.scratch.add(layout.scores),
        t.scratch.add(layout.probabilities).cast::<i32>(),
    );
    let mut scale = [_mm512_setzero_ps(); N];
    for (n, scale) in scale.iter_mut().enumerate() {
        let src = t.q.add(n * LANES);
        let (own, inverse) = token_scales(src, N * LANES, t.head);
        // 2^x is what is computed.
        *scale = _mm512_mul_ps(own, _mm512_set1_ps(t.scale * std::f32::consts::LOG2_E));
        for pair in 0..layout.pairs {
            let words = token_pair(src, N * LANES, t.head, pair, inverse);
            _mm512_storeu_si512(q.add((pair * N + n) * LANES).cast(), words);
        }
    }
    let mut highest = [_mm512_set1_ps(f32::MIN); N];
    let mut total = [_mm512_setzero_ps(); N];
    for panel in 0..t.tokens.div_ceil(PANEL) {
        let (_, keys) = keys_of(t, panel);
        for j in (0..keys).step_by(ROWS) {
            let key = panel * PANEL + j;
            let words = t.scratch.add(key * layout.pairs).cast::<i32>();
            let scales = t.scratch.add(layout.key_scales + key);
            scores::<ROWS, N>(words, layout.pairs, scales, q, s.add(j * N * LANES));
        }
        let mut fade = [_mm512_setzero_ps(); N];
        for n in 0..N {
            let at = s.add(n * LANES);
            let mut peak = highest[n];
            for j in 0..keys {
                peak = _mm512_max_ps(peak, _mm512_loadu_ps(at.add(j * N * LANES)));
            }
            let least = _mm512_set1_ps(LEAST_EXPONENT);
            fade[n] = exp2(_mm512_max_ps(_mm512_mul_ps(_mm512_sub_ps(highest[n], peak), scale[n]), least));
            highest[n] = peak;
            let mut sum = _mm512_mul_ps(total[n], fade[n]);
            for pair in 0..keys.div_ceil(2) {
                let mut both = [_mm512_setzero_ps(); 2];
                for (i, e) in both.iter_mut().enumerate().take(keys - 2 * pair) {
                    let score = _mm512_loadu_ps(at.add((2 * pair + i) * N * LANES));
                    // What is not a number comes through: it is the second operand.
                    let x = _mm512_max_ps(least, _mm512_mul_ps(_mm512_sub_ps(score, peak), scale[n]));
                    *e = _mm512_mul_ps(exp2(x), _mm512_set1_ps(MOST_PROBABILITY));
                    sum = _mm512_add_ps(sum, *e);
                }
                _mm512_storeu_si512(p.add((pair * N + n) * LANES).cast(), paired(both[0], both[1]));
            }
            total[n] = sum;
        }
        let fade = (panel > 0).then_some(fade);
        let pairs = keys.div_ceil(2);
        let mut r = 0;
        while r < t.head {
            let row = panel * t.head + r;
            let values = t.scratch.add(layout.values + row * PANEL / 2).cast::<i32>();
            let scales = t.scratch.add(layout.value_scales + row);
            let to = t.out.add(r * N * LANES);
            if t.head - r >= ROWS {
                weighted::<ROWS, N>(values, scales, p, pairs, fade, to);
                r += ROWS;
            } else {
                weighted::<1, N>(values, scales, p, pairs, fade, to);
                r += 1;
            }
        }
    }
    for (n, total) in total.into_iter().enumerate() {
        let inverse = _mm512_div_ps(_mm512_set1_ps(1.0), total);
        for r in 0..t.head {
            let at = t.out.add((r * N + n) * LANES);
            _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), inverse));
        }
    }
}

/// The instructions' attention.
pub(super) struct VnniWords;

// SAFETY of the unsafe calls below: a `VnniWords` is only reached through a kernel that needs the same features.
impl WordAttention for VnniWords {
    fn floats(&self, head: usize, tokens: usize) -> usize {
        Layout::new(head, tokens).end
    }

    unsafe fn pack(&self, tile: &AttentionTile) {
        pack(tile);
    }

    unsafe fn attend(&self, tile: &AttentionTile) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni")]
        unsafe fn f<const N: usize>(tile: &AttentionTile) {
            attend_panel::<N>(tile);
        }
        match tile.vectors {
            1 => f::<1>(tile),
            2 => f::<2>(tile),
            3 => f::<3>(tile),
            4 => f::<4>(tile),
            n => unreachable!("a panel of {n} vectors"),
        }
    }
}
