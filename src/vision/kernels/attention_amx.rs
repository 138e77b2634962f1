//! Attention in bfloat16 on AMX's tiles, with scores, softmax and sums in f32.
//!
//! The same online softmax as in [`super::body`], over chunks of keys. Scores are keys by queries and the result is features by
//! queries, so that a vector is one row and many queries, as in token panels. A head's keys and values are packed once:
//! both as left operands, tiles of 16 rows by 32 columns one behind the other, keys as `[key][feature]`, values as
//! `[feature][key]`. Queries and probabilities are right operands: two rows at a time, interleaved.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `PackedAttention`'s

use std::arch::asm;
use std::arch::x86_64::*;

use super::avx512::Avx512;
use super::{AttentionTile, HeadTokens, PackedAttention, Simd};
use crate::kernels::bf16::{interleaved, joined, transposed};
use crate::kernels::tiles::{configure, release, TILE};

/// Queries at a time: two tiles.
const QUERIES: usize = 2 * TILE;
/// Columns of a left operand's tile, and rows of a right one's before they are interleaved.
const DEPTH: usize = 32;
/// Keys at a time; a multiple of 32.
const CHUNK: usize = 128;
/// Features of a head at most; a multiple of 32.
const MOST_FEATURES: usize = 128;
/// Floats that a left operand's tile takes.
const TILE_FLOATS: usize = TILE * DEPTH / 2;

/// What is at hand while one block of queries is worked on.
#[repr(C, align(64))]
struct Work {
    q: [f32; MOST_FEATURES * QUERIES / 2],
    scores: [f32; CHUNK * QUERIES],
    p: [f32; CHUNK * QUERIES / 2],
    out: [f32; MOST_FEATURES * QUERIES],
}

/// 2^x for x ≤ 0 to a relative error of 8e-5: less than what bfloat16 rounds. A minimax polynomial in what is beyond the
/// nearest integer.
#[inline(always)]
unsafe fn exp2_negative(x: __m512) -> __m512 {
    // What is smaller would not show beside the largest, 1; but subnormal numbers are slow.
    let x = _mm512_max_ps(x, _mm512_set1_ps(-80.0));
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
    let r = _mm512_sub_ps(x, n);
    let mut p = _mm512_set1_ps(5.517_166_6e-2);
    for c in [0.242_611_12, 0.693_261, 0.999_928_1] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, n)
}

/// `c[32, 32] (+)= a[32, 32·steps] · b[32·steps, 32]`: two tiles by two. A step is `a_step` bytes from the next in `a`, whose
/// second row of tiles is `a_low` bytes behind the first; rows of `c` and of `b` are 128 bytes.
#[inline(always)]
unsafe fn product(a: *const f32, a_low: usize, a_step: usize, b: *const f32, steps: usize, c: *mut f32, load: bool) {
    if load {
        asm!(
            "tileloadd tmm0, [{c} + {row}]",
            "tileloadd tmm1, [{c} + {row} + 64]",
            "tileloadd tmm2, [{c} + {row} + 2048]",
            "tileloadd tmm3, [{c} + {row} + 2112]",
            c = in(reg) c, row = in(reg) QUERIES * 4,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, readonly),
        );
    } else {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, nomem),
        );
    }
    asm!(
        "2:",
        "tileloadd tmm6, [{b} + {row}]",
        "tileloadd tmm4, [{a} + {a_row}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm7, [{b} + {row} + 64]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm5, [{low} + {a_row}]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "add {a}, {a_step}",
        "add {low}, {a_step}",
        "add {b}, 2048",
        "dec {steps}",
        "jnz 2b",
        "tilestored [{c} + {row}], tmm0",
        "tilestored [{c} + {row} + 64], tmm1",
        "tilestored [{c} + {row} + 2048], tmm2",
        "tilestored [{c} + {row} + 2112], tmm3",
        a = inout(reg) a => _,
        low = inout(reg) a.byte_add(a_low) => _,
        a_step = in(reg) a_step,
        a_row = in(reg) 64usize,
        b = inout(reg) b => _,
        row = in(reg) QUERIES * 4,
        c = in(reg) c,
        steps = inout(reg) steps => _,
        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
        options(nostack),
    );
}

/// Where the packed parts of a head lie, in floats.
struct Layout {
    /// Features, rounded up.
    features: usize,
    /// Tokens, rounded up.
    tokens: usize,
    work: usize,
}

impl Layout {
    fn new(head: usize, tokens: usize) -> Layout {
        let (features, tokens) = (head.next_multiple_of(DEPTH), tokens.next_multiple_of(DEPTH));
        Layout { features, tokens, work: 2 * (features / 2 * tokens) }
    }

    /// The tile of keys from `key` on, with the features from `feature` on.
    fn key(&self, key: usize, feature: usize) -> usize {
        (key / TILE * (self.features / DEPTH) + feature / DEPTH) * TILE_FLOATS
    }

    /// The tile of values of the features from `feature` on, with the keys from `key` on.
    fn value(&self, key: usize, feature: usize) -> usize {
        self.features / 2 * self.tokens + (key / DEPTH * (self.features / TILE) + feature / TILE) * TILE_FLOATS
    }
}

/// 16 tokens from `token` on of one feature; zero beyond the head's last feature and, with a mask, beyond the last token.
#[inline(always)]
unsafe fn load(m: HeadTokens, t: &AttentionTile, feature: usize, token: usize) -> __m512 {
    const FULL: usize = Avx512::LANES * Avx512::VECTORS;
    if feature >= t.head || token >= t.tokens {
        return _mm512_setzero_ps();
    }
    let panel = token / FULL;
    let width = if panel == (t.tokens - 1) / FULL { t.last_width } else { FULL };
    let p = m.matrix.add(panel * FULL * m.rows + (m.row + feature) * width + token % FULL);
    let left = t.tokens - token;
    let mask = if left < TILE { (1 << left) - 1 } else { 0xffff };
    _mm512_maskz_loadu_ps(mask, p)
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack(t: &AttentionTile, packed: *mut f32) {
    let layout = Layout::new(t.head, t.tokens);
    for key in (0..layout.tokens).step_by(TILE) {
        for feature in (0..layout.features).step_by(DEPTH) {
            let mut pairs = [_mm512_setzero_si512(); 16];
            for (i, pair) in pairs.iter_mut().enumerate() {
                *pair = interleaved(load(t.k, t, feature + 2 * i, key), load(t.k, t, feature + 2 * i + 1, key));
            }
            let tile = packed.add(layout.key(key, feature));
            for (i, row) in transposed(pairs).into_iter().enumerate() {
                _mm512_store_si512(tile.add(i * TILE).cast(), row);
            }
        }
    }
    for key in (0..layout.tokens).step_by(DEPTH) {
        for feature in 0..layout.features {
            let both = joined(load(t.v, t, feature, key), load(t.v, t, feature, key + TILE));
            let tile = packed.add(layout.value(key, feature / TILE * TILE));
            _mm512_store_si512(tile.add(feature % TILE * TILE).cast(), both);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn attend(t: &AttentionTile, packed: *mut f32) {
    let work = &mut *packed.add(Layout::new(t.head, t.tokens).work).cast::<Work>();
    configure();
    for vector in (0..t.vectors).step_by(QUERIES / TILE) {
        queries(t, packed, vector, work);
    }
    release();
}

/// Up to two vectors of queries.
#[inline(always)]
unsafe fn queries(t: &AttentionTile, packed: *const f32, vector: usize, work: &mut Work) {
    let layout = Layout::new(t.head, t.tokens);
    let stride = t.vectors * TILE;
    let count = (t.vectors - vector).min(2);
    // Scores come out as exponents of 2.
    let scale = _mm512_set1_ps(t.scale * std::f32::consts::LOG2_E);
    for feature in (0..layout.features).step_by(2) {
        for n in 0..2 {
            let row = |f: usize| {
                if n >= count || f >= t.head {
                    return _mm512_setzero_ps();
                }
                _mm512_mul_ps(scale, _mm512_loadu_ps(t.q.wrapping_add(f * stride + (vector + n) * TILE)))
            };
            let p = work.q.as_mut_ptr().add(feature / 2 * QUERIES + n * TILE);
            _mm512_storeu_si512(p.cast(), interleaved(row(feature), row(feature + 1)));
        }
    }
    let mut highest = [_mm512_set1_ps(f32::MIN); 2];
    let mut total = [_mm512_setzero_ps(); 2];
    for first in (0..t.tokens).step_by(CHUNK) {
        let keys = CHUNK.min(t.tokens - first);
        let padded = keys.next_multiple_of(DEPTH);
        let depth = layout.features / DEPTH;
        for key in (0..padded).step_by(2 * TILE) {
            let a = packed.add(layout.key(first + key, 0));
            let scores = work.scores.as_mut_ptr().add(key * QUERIES);
            product(a, depth * TILE_FLOATS * 4, TILE_FLOATS * 4, work.q.as_ptr(), depth, scores, false);
        }
        let mut fade = [_mm512_setzero_ps(); 2];
        for n in 0..2 {
            let score = |key: usize| _mm512_load_ps(work.scores.as_ptr().wrapping_add(key * QUERIES + n * TILE));
            let (mut peak, mut other) = (highest[n], score(keys - 1));
            for key in (0..keys / 2 * 2).step_by(2) {
                peak = _mm512_max_ps(score(key), peak);
                other = _mm512_max_ps(score(key + 1), other);
            }
            let peak = _mm512_max_ps(peak, other);
            fade[n] = exp2_negative(_mm512_sub_ps(highest[n], peak));
            highest[n] = peak;
            let mut sums = [_mm512_mul_ps(total[n], fade[n]), _mm512_setzero_ps()];
            let p = work.p.as_mut_ptr().add(n * TILE);
            for key in (0..keys / 2 * 2).step_by(2) {
                let a = exp2_negative(_mm512_sub_ps(score(key), peak));
                let b = exp2_negative(_mm512_sub_ps(score(key + 1), peak));
                sums[0] = _mm512_add_ps(sums[0], a);
                sums[1] = _mm512_add_ps(sums[1], b);
                _mm512_store_si512(p.add(key / 2 * QUERIES).cast(), interleaved(a, b));
            }
            if keys % 2 == 1 {
                let a = exp2_negative(_mm512_sub_ps(score(keys - 1), peak));
                sums[0] = _mm512_add_ps(sums[0], a);
                _mm512_store_si512(p.add(keys / 2 * QUERIES).cast(), interleaved(a, _mm512_setzero_ps()));
            }
            for pair in keys.div_ceil(2)..padded / 2 {
                _mm512_store_si512(p.add(pair * QUERIES).cast(), _mm512_setzero_si512());
            }
            total[n] = _mm512_add_ps(sums[0], sums[1]);
        }
        let one = _mm512_set1_ps(1.0);
        let fades = fade.map(|f| _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(f, one) != 0);
        if first > 0 && (fades[0] || fades[1]) {
            for r in 0..layout.features {
                for (n, fade) in fade.into_iter().enumerate() {
                    let p = work.out.as_mut_ptr().add(r * QUERIES + n * TILE);
                    _mm512_store_ps(p, _mm512_mul_ps(_mm512_load_ps(p), fade));
                }
            }
        }
        let step = layout.features / TILE * TILE_FLOATS * 4;
        for feature in (0..layout.features).step_by(2 * TILE) {
            let a = packed.add(layout.value(first, feature));
            let out = work.out.as_mut_ptr().add(feature * QUERIES);
            product(a, TILE_FLOATS * 4, step, work.p.as_ptr(), padded / DEPTH, out, first > 0);
        }
    }
    for (n, total) in total.into_iter().enumerate().take(count) {
        let inverse = _mm512_div_ps(_mm512_set1_ps(1.0), total);
        for r in 0..t.head {
            let v = _mm512_load_ps(work.out.as_ptr().add(r * QUERIES + n * TILE));
            _mm512_storeu_ps(t.out.add(r * stride + (vector + n) * TILE), _mm512_mul_ps(v, inverse));
        }
    }
}

/// Attention on AMX's tiles.
pub(super) struct AmxAttention;

// SAFETY of the unsafe calls: an `AmxAttention` is only handed out where the processor has the features; what the pointers must
// satisfy is passed on to the caller.
impl PackedAttention for AmxAttention {
    fn most_features(&self) -> usize {
        MOST_FEATURES
    }
    fn scratch_floats(&self, head: usize, tokens: usize) -> usize {
        Layout::new(head, tokens).work + size_of::<Work>() / 4
    }
    unsafe fn pack(&self, tile: &AttentionTile, packed: *mut f32) {
        unsafe { pack(tile, packed) }
    }
    unsafe fn attend(&self, tile: &AttentionTile, packed: *mut f32) {
        unsafe { attend(tile, packed) }
    }
}
