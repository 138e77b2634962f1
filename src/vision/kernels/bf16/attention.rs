//! Attention in bfloat16 on AMX's tiles, with scores, softmax and sums in f32.
//!
//! The online softmax of FlashAttention (arXiv 2205.14135) over chunks of keys. Scores are keys by queries and the result is
//! features by queries, so that a vector is one row and many queries. A head's keys and values are packed once as left operands,
//! tiles of 16 rows by 32 columns: keys as `[key][feature]`, values as `[feature][key]`, with a row of ones behind the last
//! feature, whose products are the sums that softmax divides by. Queries and probabilities are right operands.
//!
//! The tile unit computes a chunk's scores while the vector unit makes probabilities of those before.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Bf16Kernel`'s

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::{AttentionHead, HeadFeatures};
use crate::kernels::bf16::{exp2, transposed, truncated};
use crate::kernels::bf16_tiles::{RightVector, STEP, TOKENS};
use crate::kernels::tiles::{configure, release, TILE};

/// Queries at a time: two tiles.
const QUERIES: usize = 2 * TILE;
/// Keys at a time; a multiple of 32.
const CHUNK: usize = 128;
/// Features of a head at most; a multiple of 32.
pub(super) const MOST_FEATURES: usize = 128;
/// Numbers that a tile of bfloat16 takes.
const TILE_LEN: usize = TILE * STEP;
/// Below this 2^x would not show beside the largest, which is at least 1; and subnormal numbers are slow.
const LEAST_EXPONENT: f32 = -80.0;
/// Exponents up to this need not be counted from a higher score: their powers, and sums of them, are far from the end of f32.
const MOST_EXPONENT: f32 = 8.0;

/// What is at hand while one block of queries is worked on.
#[repr(C, align(64))]
struct Work {
    q: [u16; MOST_FEATURES * QUERIES],
    /// Of a chunk; where probabilities have been made of them, those of the next one.
    scores: [f32; CHUNK * QUERIES],
    p: [u16; CHUNK * QUERIES],
    out: [f32; (MOST_FEATURES + STEP) * QUERIES],
}

/// `c[32, 32] (+)= a[32, 32·steps] · b[32·steps, 32]`: two tiles by two. Its sums are in the tile registers from [`Self::clear`]
/// or [`Self::load`] to [`Self::store`].
struct TileProduct {
    a: *const u16,
    /// Bytes from the first row of tiles to the second in `a`.
    a_low: usize,
    /// Bytes from a step to the next in `a`.
    a_step: usize,
    /// Rows are 128 bytes.
    b: *const u16,
    /// Rows are 128 bytes.
    c: *mut f32,
}

impl TileProduct {
    #[inline(always)]
    unsafe fn clear(&self) {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, nomem),
        );
    }

    #[inline(always)]
    unsafe fn load(&self) {
        asm!(
            "tileloadd tmm0, [{c} + {row}]",
            "tileloadd tmm1, [{c} + {row} + 64]",
            "tileloadd tmm2, [{c} + {row} + 2048]",
            "tileloadd tmm3, [{c} + {row} + 2112]",
            c = in(reg) self.c, row = in(reg) QUERIES * 4,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, readonly),
        );
    }

    /// Adds the products of some steps, at least one.
    #[inline(always)]
    unsafe fn add(&self, steps: Range<usize>) {
        let a = self.a.wrapping_byte_add(steps.start * self.a_step);
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
            a = inout(reg) a => _,
            low = inout(reg) a.wrapping_byte_add(self.a_low) => _,
            a_step = in(reg) self.a_step,
            a_row = in(reg) 64usize,
            b = inout(reg) self.b.wrapping_byte_add(steps.start * 2048) => _,
            row = in(reg) QUERIES * 4,
            steps = inout(reg) steps.len() => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }

    #[inline(always)]
    unsafe fn store(&self) {
        asm!(
            "tilestored [{c} + {row}], tmm0",
            "tilestored [{c} + {row} + 64], tmm1",
            "tilestored [{c} + {row} + 2048], tmm2",
            "tilestored [{c} + {row} + 2112], tmm3",
            c = in(reg) self.c, row = in(reg) QUERIES * 4,
            options(nostack),
        );
    }
}

/// Where the packed parts of a head lie, in numbers of bfloat16.
struct Layout {
    /// Features of keys, rounded up to steps.
    features: usize,
    /// Rows of values, the ones among them, rounded up to pairs of tiles.
    rows: usize,
    /// Keys, rounded up.
    keys: usize,
}

impl Layout {
    fn new(head: usize, keys: usize) -> Layout {
        let rows = (head + 1).next_multiple_of(2 * TILE);
        Layout { features: head.next_multiple_of(STEP), rows, keys: keys.next_multiple_of(STEP) }
    }

    /// The tile of keys from `key` on, with the features from `feature` on.
    fn key(&self, key: usize, feature: usize) -> usize {
        (key / TILE * (self.features / STEP) + feature / STEP) * TILE_LEN
    }

    /// The tile of values of the features from `feature` on, with the keys from `key` on.
    fn value(&self, key: usize, feature: usize) -> usize {
        self.features * self.keys + (key / STEP * (self.rows / TILE) + feature / TILE) * TILE_LEN
    }

    /// Behind them.
    fn work(&self) -> usize {
        (self.features + self.rows) * self.keys
    }
}

/// Floats of memory that a head takes.
pub(super) fn scratch_floats(head: usize, keys: usize) -> usize {
    Layout::new(head, keys).work() / 2 + size_of::<Work>() / 4
}

/// Two features, from an even one on, of vector `vector`, in turns; zero beyond the head's last feature.
#[inline(always)]
unsafe fn pair(t: &AttentionHead, of: &HeadFeatures, feature: usize, vector: usize) -> __m512i {
    if feature >= t.head {
        return _mm512_setzero_si512();
    }
    let vectors = of.operand.add(vector * of.features.next_multiple_of(STEP) * TOKENS);
    _mm512_loadu_si512(vectors.add((of.feature + feature) * TOKENS).cast())
}

/// The first (0) or second (1) number of every pair of two vectors.
static HALVES: [[u16; 32]; 2] = {
    let mut order = [[0; 32]; 2];
    let mut i = 0;
    while i < 32 {
        order[0][i] = 2 * i as u16;
        order[1][i] = 2 * i as u16 + 1;
        i += 1;
    }
    order
};

/// See [`super::Bf16Kernel::pack_head`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
pub(super) unsafe fn pack(t: &AttentionHead, memory: *mut f32) {
    let (layout, packed) = (Layout::new(t.head, t.keys), memory.cast::<u16>());
    let vectors = t.keys.div_ceil(TOKENS);
    for vector in 0..layout.keys / TILE {
        for feature in (0..layout.features).step_by(STEP) {
            let mut pairs = [_mm512_setzero_si512(); TILE];
            for (i, v) in pairs.iter_mut().enumerate() {
                // What is no key is not looked at.
                *v = pair(t, &t.k, feature + 2 * i, vector.min(vectors - 1));
            }
            let tile = packed.add(layout.key(vector * TILE, feature));
            for (i, row) in transposed(pairs).into_iter().enumerate() {
                _mm512_store_si512(tile.add(i * STEP).cast(), row);
            }
        }
    }
    let (even, odd) = (_mm512_loadu_si512(HALVES[0].as_ptr().cast()), _mm512_loadu_si512(HALVES[1].as_ptr().cast()));
    for key in (0..layout.keys).step_by(STEP) {
        let left = t.keys - key;
        // Values beyond the last key must be zero.
        let mask = if left < STEP { (1 << left) - 1 } else { u32::MAX };
        let (first, second) = (key / TOKENS, (key / TOKENS + 1).min(vectors - 1));
        let row = |feature: usize| packed.add(layout.value(key, feature) + feature % TILE * STEP).cast();
        for feature in (0..t.head).step_by(2) {
            let (a, b) = (pair(t, &t.v, feature, first), pair(t, &t.v, feature, second));
            _mm512_store_si512(row(feature), _mm512_maskz_permutex2var_epi16(mask, a, even, b));
            _mm512_store_si512(row(feature + 1), _mm512_maskz_permutex2var_epi16(mask, a, odd, b));
        }
        const ONE: i16 = 0x3f80;
        _mm512_store_si512(row(t.head), _mm512_maskz_set1_epi16(mask, ONE));
        for feature in t.head + 1..layout.rows {
            _mm512_store_si512(row(feature), _mm512_setzero_si512());
        }
    }
}

/// See [`super::Bf16Kernel::attend`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
pub(super) unsafe fn attend(t: &AttentionHead, vectors: Range<usize>, memory: *mut f32) {
    let layout = Layout::new(t.head, t.keys);
    let packed = memory.cast::<u16>();
    let work = &mut *packed.add(layout.work()).cast::<Work>();
    configure();
    for vector in vectors.clone().step_by(QUERIES / TILE) {
        queries(t, &layout, packed, vector, (vectors.end - vector).min(QUERIES / TILE), work);
    }
    release();
}

/// What softmax knows of a block of queries.
struct Softmax {
    /// Scores come out as exponents of 2.
    scale: __m512,
    /// Scores that exponents are counted from: the highest so far, or one at most [`MOST_EXPONENT`] below.
    origin: [__m512; 2],
    /// The same, scaled.
    shift: [__m512; 2],
}

impl Softmax {
    /// Counts exponents from the peaks where these are too high to count from what was before; tells what to multiply by what was
    /// summed so far, if anything.
    #[inline(always)]
    unsafe fn raise(&mut self, peaks: [__m512; 2]) -> Option<[__m512; 2]> {
        let rise = |n: usize| _mm512_mul_ps(_mm512_sub_ps(peaks[n], self.origin[n]), self.scale);
        let too_high = [0, 1].map(|n| _mm512_cmp_ps_mask::<_CMP_GT_OQ>(rise(n), _mm512_set1_ps(MOST_EXPONENT)));
        if too_high == [0; 2] {
            return None;
        }
        let fade = [0, 1].map(|n| {
            let fade = exp2(_mm512_max_ps(_mm512_set1_ps(LEAST_EXPONENT), _mm512_sub_ps(_mm512_setzero_ps(), rise(n))));
            _mm512_mask_mov_ps(_mm512_set1_ps(1.0), too_high[n], fade)
        });
        for n in 0..2 {
            self.origin[n] = _mm512_mask_mov_ps(self.origin[n], too_high[n], peaks[n]);
            self.shift[n] = _mm512_mul_ps(self.origin[n], self.scale);
        }
        Some(fade)
    }
}

/// Up to two vectors of queries.
#[inline(always)]
unsafe fn queries(
    t: &AttentionHead,
    layout: &Layout,
    packed: *const u16,
    vector: usize,
    count: usize,
    work: &mut Work,
) {
    for feature in (0..layout.features).step_by(2) {
        for n in 0..2 {
            let v = pair(t, &t.q, feature, vector + n.min(count - 1));
            _mm512_store_si512(work.q.as_mut_ptr().add(feature * QUERIES + n * STEP).cast(), v);
        }
    }
    let scale = _mm512_set1_ps(t.scale * std::f32::consts::LOG2_E);
    let mut softmax = Softmax { scale, origin: [_mm512_set1_ps(f32::MIN); 2], shift: [_mm512_setzero_ps(); 2] };
    let chunks = t.keys.div_ceil(CHUNK);
    let keys_of = |chunk: usize| CHUNK.min(t.keys - chunk * CHUNK);
    let steps = layout.features / STEP;
    for chunk in 0..=chunks {
        for key in (0..CHUNK).step_by(QUERIES) {
            let scores = (chunk < chunks && key < keys_of(chunk)).then(|| TileProduct {
                a: packed.add(layout.key(chunk * CHUNK + key, 0)),
                a_low: steps * TILE_LEN * 2,
                a_step: TILE_LEN * 2,
                b: work.q.as_ptr(),
                c: work.scores.as_mut_ptr().add(key * QUERIES),
            });
            let last = if chunk > 0 { keys_of(chunk - 1) } else { 0 };
            if let Some(scores) = &scores {
                scores.clear();
            }
            // Step by step, so that both units have work.
            for step in 0..steps {
                if let Some(scores) = &scores {
                    scores.add(step..step + 1);
                }
                if key < last {
                    let from = |step: usize| key + STEP / 2 * step / steps * 2;
                    probabilities(&softmax, &work.scores, from(step)..from(step + 1), last, &mut work.p);
                }
            }
            if let Some(scores) = &scores {
                scores.store();
            }
        }
        let keys = if chunk < chunks { keys_of(chunk) } else { 0 };
        let mut peaks = softmax.origin;
        if chunk > 0 {
            let steps = keys_of(chunk - 1).div_ceil(STEP);
            for feature in (0..layout.rows).step_by(2 * TILE) {
                let sums = TileProduct {
                    a: packed.add(layout.value((chunk - 1) * CHUNK, feature)),
                    a_low: TILE_LEN * 2,
                    a_step: layout.rows / TILE * TILE_LEN * 2,
                    b: work.p.as_ptr(),
                    c: work.out.as_mut_ptr().add(feature * QUERIES),
                };
                if chunk > 1 {
                    sums.load();
                } else {
                    sums.clear();
                }
                sums.add(0..steps);
                sums.store();
                // Meanwhile.
                let part = |feature: usize| keys * feature / layout.rows;
                raise_peaks(&mut peaks, &work.scores, part(feature)..part(feature + 2 * TILE));
            }
        } else {
            raise_peaks(&mut peaks, &work.scores, 0..keys);
        }
        if let Some(fade) = softmax.raise(peaks).filter(|_| chunk > 0) {
            for r in 0..layout.rows {
                for (n, fade) in fade.into_iter().enumerate() {
                    let p = work.out.as_mut_ptr().add(r * QUERIES + n * TILE);
                    _mm512_store_ps(p, _mm512_mul_ps(_mm512_load_ps(p), fade));
                }
            }
        }
    }
    for n in 0..count {
        let row = |r: usize| work.out.as_ptr().wrapping_add(r * QUERIES + n * TILE);
        let inverse = _mm512_div_ps(_mm512_set1_ps(1.0), _mm512_load_ps(row(t.head)));
        let out = RightVector::new(t.out, t.out_features.div_ceil(STEP), vector + n);
        for r in (0..t.head).step_by(2) {
            let [a, b] = [_mm512_load_ps(row(r)), _mm512_load_ps(row(r + 1))];
            out.set(t.out_feature + r, _mm512_mul_ps(a, inverse), _mm512_mul_ps(b, inverse));
        }
        if t.out_feature + t.head == t.out_features {
            for f in (t.out_features..t.out_features.next_multiple_of(STEP)).step_by(2) {
                out.set(f, _mm512_setzero_ps(), _mm512_setzero_ps());
            }
        }
    }
}

/// Takes scores of some keys into account.
#[inline(always)]
unsafe fn raise_peaks(peaks: &mut [__m512; 2], scores: &[f32; CHUNK * QUERIES], keys: Range<usize>) {
    for (n, peak) in peaks.iter_mut().enumerate() {
        let score = |key: usize| _mm512_load_ps(scores.as_ptr().add(key * QUERIES + n * TILE));
        let mut four = [*peak; 4];
        let whole = keys.start + keys.len() / 4 * 4;
        for key in (keys.start..whole).step_by(4) {
            for (i, peak) in four.iter_mut().enumerate() {
                *peak = _mm512_max_ps(score(key + i), *peak);
            }
        }
        for key in whole..keys.end {
            four[0] = _mm512_max_ps(score(key), four[0]);
        }
        *peak = _mm512_max_ps(_mm512_max_ps(four[0], four[1]), _mm512_max_ps(four[2], four[3]));
    }
}

/// The probabilities, not yet divided, of some keys of a chunk, an even number of them; zeros from `end` on. Scores that are no
/// numbers stay so.
#[inline(always)]
unsafe fn probabilities(
    s: &Softmax,
    scores: &[f32; CHUNK * QUERIES],
    keys: Range<usize>,
    end: usize,
    p: &mut [u16; CHUNK * QUERIES],
) {
    for key in keys.step_by(2) {
        for n in 0..2 {
            let mut pair = [_mm512_setzero_ps(); 2];
            for (i, v) in pair.iter_mut().enumerate().take(end.saturating_sub(key)) {
                let score = _mm512_load_ps(scores.as_ptr().add((key + i) * QUERIES + n * TILE));
                let exponent = _mm512_fmsub_ps(score, s.scale, s.shift[n]);
                *v = exp2(_mm512_max_ps(_mm512_set1_ps(LEAST_EXPONENT), exponent));
            }
            let out = p.as_mut_ptr().add(key * QUERIES + n * STEP);
            // Sums come from the same numbers, so that what all of them lack is divided out.
            _mm512_store_si512(out.cast(), truncated(pair[0], pair[1]));
        }
    }
}
