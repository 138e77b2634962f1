//! Attention on products of 16-bit numbers, twice as many of which are multiplied at a time as f32; written once over [`Words`].
//!
//! The online softmax of FlashAttention (arXiv 2205.14135) over blocks of keys, as in [`super::super::body`] over panels. Queries
//! and keys are rounded to some 12 bits and a sign, each token with a scale of its own; values to 13 bits and a sign, each feature
//! with a scale for each block of keys; probabilities to 12 bits beside the largest so far. Sums of a block's products are exact.
//!
//! Everything here is `inline(always)`, as in [`super::super::body`].
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `WordAttention`'s

use super::super::{AttentionTile, HeadTokens};
use super::rounding::magnitude;
use super::{Integers, Simd};

/// Keys of a block: a few panels.
const KEYS: usize = 64;
/// Keys, or features of values, in a register tile.
const ROWS: usize = 4;
/// Largest value and probability: a block's sum of products stays below 2^31, even if rounding adds one to each probability.
const MOST_VALUE: f32 = 8191.0;
const MOST_PROBABILITY: f32 = 4094.0;
/// Below this 2^x would not show beside the largest, 1; and subnormal numbers are slow.
const LEAST_EXPONENT: f32 = -80.0;

/// Softmax attention on products of 16-bit numbers, from f32 to f32.
///
/// # Safety
/// As for [`super::Kernel`]; the tile's scratch has room for [`floats`](Self::floats) floats.
pub(crate) trait WordAttention: Sync {
    /// Floats of scratch memory that a head takes.
    fn floats(&self, head: usize, tokens: usize) -> usize;
    /// Rounds keys and values of the tile's head to the beginning of its scratch memory.
    unsafe fn pack(&self, tile: &AttentionTile);
    /// Attention for the tile's queries; `pack` had the same head and scratch memory.
    unsafe fn attend(&self, tile: &AttentionTile);
}

/// Vectors that hold pairs of 16-bit numbers.
///
/// # Safety
/// As for [`Simd`].
pub(super) trait Paired: Integers {
    /// Rounds two vectors of numbers in −32767…32767 and stores them as pairs, the numbers of `a` first.
    unsafe fn store_pairs(p: *mut i32, a: Self::V, b: Self::V);
    /// 2^x to a relative error of 8e-5, for |x| ≤ 100.
    unsafe fn exp2(x: Self::V) -> Self::V;
}

/// Products of an instruction set's pairs.
///
/// # Safety
/// As for [`Simd`].
pub(super) trait Words: 'static {
    /// The vectors.
    type S: Paired;

    /// Adds the products of pairs with one pair, both products of a lane.
    unsafe fn dot(sums: Sums<Self>, x: Sums<Self>, pair: i32) -> Sums<Self>;
}

type Vector<W> = <<W as Words>::S as Simd>::V;
type Sums<W> = <<W as Words>::S as Integers>::I;

/// Tokens of a full panel.
const fn panel<S: Simd>() -> usize {
    S::LANES * S::VECTORS
}

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
    /// Keys come first: `[block][pair][key]`; then their scales; values `[block][feature][pair of keys]`, where a key's partner is half
    /// a block further on, and their scales, one a feature and block; the queries of one panel, `[pair][query]`; a block's scores
    /// and probabilities, `[key][query]` and `[pair of keys][query]`.
    fn new<S: Simd>(head: usize, tokens: usize) -> Layout {
        const { assert!(KEYS.is_multiple_of(panel::<S>()) && (KEYS / 2).is_multiple_of(S::LANES)) };
        const { assert!(S::LANES.is_multiple_of(ROWS)) };
        let (pairs, blocks) = (head.div_ceil(2), tokens.div_ceil(KEYS));
        let line = |n: usize| n.next_multiple_of(16);
        let key_scales = blocks * pairs * KEYS;
        let values = key_scales + blocks * KEYS;
        let value_scales = values + blocks * head * KEYS / 2;
        let queries = value_scales + line(blocks * head);
        let scores = queries + line(pairs * panel::<S>());
        let probabilities = scores + KEYS * panel::<S>();
        let end = probabilities + KEYS / 2 * panel::<S>();
        Layout { pairs, key_scales, values, value_scales, queries, scores, probabilities, end }
    }
}

/// See [`WordAttention::floats`].
pub(super) fn floats<W: Words>(head: usize, tokens: usize) -> usize {
    Layout::new::<W::S>(head, tokens).end
}

/// Keys of a block.
fn keys_of(t: &AttentionTile, block: usize) -> usize {
    KEYS.min(t.tokens - block * KEYS)
}

/// One panel's part of a head in a block of keys.
struct Part {
    /// The first feature, and floats from a feature to the next.
    features: *const f32,
    width: usize,
    /// The first key's place in the block, and the keys there are.
    first: usize,
    keys: usize,
}

/// The panels of `m` that a block consists of.
fn parts<S: Simd>(t: &AttentionTile, m: HeadTokens, block: usize) -> impl Iterator<Item = Part> {
    let (full, tokens, last_width) = (panel::<S>(), t.tokens, t.last_width);
    (0..keys_of(t, block)).step_by(full).map(move |first| {
        let token = block * KEYS + first;
        let left = tokens - token;
        let width = if left <= full { last_width } else { full };
        Part { features: m.matrix.wrapping_add(token * m.rows + m.row * width), width, first, keys: left.min(full) }
    })
}

/// Largest rounded magnitude of queries and keys: a sum over the head stays below 2^31.
fn most_key(head: usize) -> f32 {
    (((1u64 << 31) - 1) as f64 / head as f64).sqrt().floor().min(8191.0) as f32
}

/// By what numbers up to `peak` are multiplied to be at most `most`; numbers too small for the reciprocal become zero.
#[inline(always)]
unsafe fn inverse<S: Simd>(peak: S::V, most: f32) -> S::V {
    S::div(S::splat(most), S::max(peak, S::splat(1e-30)))
}

/// Rounds a vector of tokens, whose features are `stride` floats apart, to pairs of features, `to_stride` pairs apart. Returns the
/// scale, which is NaN where a number is not finite.
#[inline(always)]
unsafe fn round_tokens<W: Words>(
    src: *const f32,
    stride: usize,
    head: usize,
    to: *mut i32,
    to_stride: usize,
) -> Vector<W> {
    let zero = W::S::splat(0.0);
    let (mut peak, mut poison) = (zero, zero);
    for f in 0..head {
        let v = W::S::load(src.add(f * stride));
        peak = W::S::max(magnitude::<W::S>(v), peak);
        poison = W::S::fma(v, zero, poison);
    }
    let most = most_key(head);
    let inverse = inverse::<W::S>(peak, most);
    for pair in 0..head.div_ceil(2) {
        let f = 2 * pair;
        let a = W::S::mul(W::S::load(src.add(f * stride)), inverse);
        let b = if f + 1 < head { W::S::mul(W::S::load(src.add((f + 1) * stride)), inverse) } else { zero };
        W::S::store_pairs(to.add(pair * to_stride), a, b);
    }
    W::S::fma(peak, W::S::splat(1.0 / most), poison)
}

/// Rounds a feature of a block's values to pairs, and returns the scale, which is NaN if a value is not finite.
#[inline(always)]
unsafe fn round_values<W: Words>(values: &[f32; KEYS], to: *mut i32) -> f32 {
    let lanes = W::S::LANES;
    let zero = W::S::splat(0.0);
    let (mut peak, mut poison) = (zero, zero);
    for first in (0..KEYS).step_by(lanes) {
        let v = W::S::load(values.as_ptr().add(first));
        peak = W::S::max(magnitude::<W::S>(v), peak);
        poison = W::S::fma(v, zero, poison);
    }
    let (mut peaks, mut poisons) = ([0f32; 16], [0f32; 16]);
    W::S::store(peaks.as_mut_ptr(), peak);
    W::S::store(poisons.as_mut_ptr(), poison);
    let peak = peaks.into_iter().fold(0.0, f32::max);
    let inverse = inverse::<W::S>(W::S::splat(peak), MOST_VALUE);
    for first in (0..KEYS / 2).step_by(lanes) {
        let a = W::S::mul(W::S::load(values.as_ptr().add(first)), inverse);
        let b = W::S::mul(W::S::load(values.as_ptr().add(first + KEYS / 2)), inverse);
        W::S::store_pairs(to.add(first), a, b);
    }
    peak / MOST_VALUE + poisons.iter().sum::<f32>()
}

/// See [`WordAttention::pack`].
#[inline(always)]
pub(super) unsafe fn pack<W: Words>(t: &AttentionTile) {
    let layout = Layout::new::<W::S>(t.head, t.tokens);
    let keys = t.scratch.cast::<i32>();
    for block in 0..t.tokens.div_ceil(KEYS) {
        for part in parts::<W::S>(t, t.k, block) {
            for lane in (0..part.width).step_by(W::S::LANES) {
                let key = part.first + lane;
                let to = keys.add(block * layout.pairs * KEYS + key);
                let scale = round_tokens::<W>(part.features.add(lane), part.width, t.head, to, KEYS);
                W::S::store(t.scratch.add(layout.key_scales + block * KEYS + key), scale);
            }
        }
        for feature in 0..t.head {
            // Zero for keys that there are not.
            let mut values = [0f32; KEYS];
            for part in parts::<W::S>(t, t.v, block) {
                let src = part.features.add(feature * part.width);
                std::ptr::copy_nonoverlapping(src, values[part.first..].as_mut_ptr(), part.keys);
            }
            let row = block * t.head + feature;
            let to = t.scratch.add(layout.values + row * KEYS / 2).cast();
            *t.scratch.add(layout.value_scales + row) = round_values::<W>(&values, to);
        }
    }
}

/// Sums of products over `pairs` pairs of `R` rows with `N` vectors of tokens; pair `i` of row `r` is at `rows + r·row + i·column`.
#[inline(always)]
unsafe fn products<W: Words, const R: usize, const N: usize>(
    rows: *const i32,
    row: usize,
    column: usize,
    tokens: *const i32,
    pairs: usize,
) -> [[Sums<W>; N]; R] {
    let nothing = [0i32; 16];
    let mut sums = [[W::S::load_i32(nothing.as_ptr()); N]; R];
    for i in 0..pairs {
        let mut x = [W::S::load_i32(tokens.add(i * N * W::S::LANES)); N];
        for (n, x) in x.iter_mut().enumerate().skip(1) {
            *x = W::S::load_i32(tokens.add((i * N + n) * W::S::LANES));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let pair = *rows.add(r * row + i * column);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = W::dot(*sum, x, pair);
            }
        }
    }
    sums
}

/// Scores of `R` keys, without the queries' scales.
#[inline(always)]
unsafe fn scores<W: Words, const R: usize, const N: usize>(
    keys: *const i32,
    scales: *const f32,
    q: *const i32,
    pairs: usize,
    to: *mut f32,
) {
    for (r, sums) in products::<W, R, N>(keys, 1, KEYS, q, pairs).into_iter().enumerate() {
        let scale = W::S::splat(*scales.add(r));
        for (n, sum) in sums.into_iter().enumerate() {
            W::S::store(to.add((r * N + n) * W::S::LANES), W::S::mul(W::S::to_f32(sum), scale));
        }
    }
}

/// Adds `R` features of a block's values, weighted, to what was summed so far, which fades.
#[inline(always)]
unsafe fn weighted<W: Words, const R: usize, const N: usize>(
    values: *const i32,
    scales: *const f32,
    p: *const i32,
    pairs: usize,
    fade: Option<[Vector<W>; N]>,
    to: *mut f32,
) {
    for (r, sums) in products::<W, R, N>(values, KEYS / 2, 1, p, pairs).into_iter().enumerate() {
        let scale = W::S::splat(*scales.add(r));
        for (n, sum) in sums.into_iter().enumerate() {
            let at = to.add((r * N + n) * W::S::LANES);
            let before = match fade {
                Some(fade) => W::S::mul(W::S::load(at), fade[n]),
                None => W::S::splat(0.0),
            };
            W::S::store(at, W::S::fma(W::S::to_f32(sum), scale, before));
        }
    }
}

/// See [`WordAttention::attend`], for queries in `N` vectors.
#[inline(always)]
pub(super) unsafe fn attend<W: Words, const N: usize>(t: &AttentionTile) {
    let lanes = W::S::LANES;
    let layout = Layout::new::<W::S>(t.head, t.tokens);
    let (q, s, p) = (
        t.scratch.add(layout.queries).cast::<i32>(),
        t.scratch.add(layout.scores),
        t.scratch.add(layout.probabilities).cast::<i32>(),
    );
    // 2^x is what is computed.
    let factor = W::S::splat(t.scale * std::f32::consts::LOG2_E);
    let mut scale = [W::S::splat(0.0); N];
    for (n, scale) in scale.iter_mut().enumerate() {
        let own = round_tokens::<W>(t.q.add(n * lanes), N * lanes, t.head, q.add(n * lanes), N * lanes);
        *scale = W::S::mul(own, factor);
    }
    let least = W::S::splat(LEAST_EXPONENT);
    let mut highest = [W::S::splat(f32::MIN); N];
    let mut total = [W::S::splat(0.0); N];
    for block in 0..t.tokens.div_ceil(KEYS) {
        let keys = keys_of(t, block);
        for key in (0..keys).step_by(ROWS) {
            let words = t.scratch.add(block * layout.pairs * KEYS + key).cast::<i32>();
            let scales = t.scratch.add(layout.key_scales + block * KEYS + key);
            scores::<W, ROWS, N>(words, scales, q, layout.pairs, s.add(key * N * lanes));
        }
        let pairs = keys.min(KEYS / 2);
        let mut fade = [W::S::splat(0.0); N];
        for n in 0..N {
            let at = s.add(n * lanes);
            let mut peak = highest[n];
            for key in 0..keys {
                peak = W::S::max(peak, W::S::load(at.add(key * N * lanes)));
            }
            fade[n] = W::S::exp2(W::S::max(W::S::mul(W::S::sub(highest[n], peak), scale[n]), least));
            highest[n] = peak;
            // The factor that makes words of probabilities is in the exponent.
            let most = W::S::splat(MOST_PROBABILITY.log2());
            let offset = W::S::sub(most, W::S::mul(peak, scale[n]));
            let mut sum = W::S::mul(total[n], fade[n]);
            for pair in 0..pairs {
                let mut both = [W::S::splat(0.0); 2];
                for (half, p) in both.iter_mut().enumerate() {
                    let key = pair + half * KEYS / 2;
                    if key < keys {
                        let score = W::S::load(at.add(key * N * lanes));
                        // What is not a number comes through: it is the second operand.
                        *p = W::S::exp2(W::S::max(least, W::S::fma(score, scale[n], offset)));
                        sum = W::S::add(sum, *p);
                    }
                }
                W::S::store_pairs(p.add((pair * N + n) * lanes), both[0], both[1]);
            }
            total[n] = sum;
        }
        let fade = (block > 0).then_some(fade);
        let mut feature = 0;
        while feature < t.head {
            let row = block * t.head + feature;
            let values = t.scratch.add(layout.values + row * KEYS / 2).cast::<i32>();
            let scales = t.scratch.add(layout.value_scales + row);
            let to = t.out.add(feature * N * lanes);
            if t.head - feature >= ROWS {
                weighted::<W, ROWS, N>(values, scales, p, pairs, fade, to);
                feature += ROWS;
            } else {
                weighted::<W, 1, N>(values, scales, p, pairs, fade, to);
                feature += 1;
            }
        }
    }
    for (n, total) in total.into_iter().enumerate() {
        let inverse = W::S::div(W::S::splat(1.0), total);
        for feature in 0..t.head {
            let at = t.out.add((feature * N + n) * lanes);
            W::S::store(at, W::S::mul(W::S::load(at), inverse));
        }
    }
}

/// Compiles attention for `$words` with the given target features as `$attention`.
macro_rules! word_attention {
    ($attention:ident, $words:ty $(, $features:literal)?) => {
        /// Attention on this instruction set's words.
        pub(super) struct $attention;

        // SAFETY of the unsafe calls below: a `$attention` is only reached through a kernel that needs the same features.
        impl super::words::WordAttention for $attention {
            fn floats(&self, head: usize, tokens: usize) -> usize {
                super::words::floats::<$words>(head, tokens)
            }
            unsafe fn pack(&self, tile: &super::AttentionTile) {
                $(#[target_feature(enable = $features)])?
                unsafe fn f(tile: &super::AttentionTile) {
                    unsafe { super::words::pack::<$words>(tile) }
                }
                unsafe { f(tile) }
            }
            unsafe fn attend(&self, tile: &super::AttentionTile) {
                $(#[target_feature(enable = $features)])?
                unsafe fn f<const N: usize>(tile: &super::AttentionTile) {
                    unsafe { super::words::attend::<$words, N>(tile) }
                }
                const MOST: usize = <<$words as super::words::Words>::S as super::Simd>::VECTORS;
                unsafe {
                    match tile.vectors {
                        1 => f::<1>(tile),
                        2 if MOST >= 2 => f::<2>(tile),
                        3 if MOST >= 3 => f::<3>(tile),
                        4 if MOST >= 4 => f::<4>(tile),
                        n => unreachable!("a panel of {n} vectors"),
                    }
                }
            }
        }
    };
}
pub(super) use word_attention;
