//! The algorithms of the kernels, written once over [`Simd`].
//!
//! Everything here is `inline(always)`: it is compiled inside a function that has the instruction set's target features.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Kernel`'s

use super::{AttentionTile, GemmTile, HeadTokens, NormColumn, Simd, WeightBlock};
use crate::gguf::TensorType;

/// Values of one Q8_0 block, and its bytes: a half-precision scale and the quants.
pub(super) const Q8_0_VALUES: usize = 32;
pub(super) const Q8_0_BYTES: usize = 34;

/// A register tile: `c[R, N·LANES] (+)= w[R, depth] · x[depth, N·LANES]`, where `w(r, k)` is at `w + r·row + k·col`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<S: Simd, const R: usize, const N: usize>(
    depth: usize,
    w: *const f32,
    row: usize,
    col: usize,
    x: *const f32,
    c: *mut f32,
    bias: *const f32,
    accumulate: bool,
) {
    let mut sums = [[S::splat(0.0); N]; R];
    if accumulate {
        for (r, sums) in sums.iter_mut().enumerate() {
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(c.add((r * N + n) * S::LANES));
            }
        }
    }
    if !bias.is_null() {
        for (r, sums) in sums.iter_mut().enumerate() {
            let b = S::splat(*bias.add(r));
            for sum in sums {
                *sum = S::add(*sum, b);
            }
        }
    }
    for k in 0..depth {
        let mut xs = [S::splat(0.0); N];
        for (n, v) in xs.iter_mut().enumerate() {
            *v = S::load(x.add((k * N + n) * S::LANES));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let b = S::splat(*w.add(r * row + k * col));
            for (sum, v) in sums.iter_mut().zip(xs) {
                *sum = S::fma(b, v, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (n, sum) in sums.iter().enumerate() {
            S::store(c.add((r * N + n) * S::LANES), *sum);
        }
    }
}

/// Calls `$f::<S, …, N>($args)` with N the number of vectors, 1 to `S::VECTORS`.
macro_rules! for_vectors {
    ($vectors:expr, $f:ident($($arg:expr),*)) => {
        match $vectors {
            1 => $f::<S, 1>($($arg),*),
            2 if S::VECTORS >= 2 => $f::<S, 2>($($arg),*),
            3 if S::VECTORS >= 3 => $f::<S, 3>($($arg),*),
            4 if S::VECTORS >= 4 => $f::<S, 4>($($arg),*),
            5 if S::VECTORS >= 5 => $f::<S, 5>($($arg),*),
            n => unreachable!("a panel of {n} vectors"),
        }
    };
}

/// Rows of weights `row` apart, with their columns `col` apart, times one panel; `S::ROWS` rows at a time.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn product<S: Simd, const N: usize>(
    rows: usize,
    depth: usize,
    w: *const f32,
    row: usize,
    col: usize,
    x: *const f32,
    c: *mut f32,
    bias: *const f32,
    accumulate: bool,
) {
    let width = N * S::LANES;
    let bias_of = |r: usize| if bias.is_null() { bias } else { bias.wrapping_add(r) };
    let mut r = 0;
    macro_rules! groups {
        ($rows:literal) => {
            while rows - r >= $rows {
                tile::<S, $rows, N>(depth, w.add(r * row), row, col, x, c.add(r * width), bias_of(r), accumulate);
                r += $rows;
            }
        };
    }
    if S::ROWS == 8 {
        groups!(8);
    }
    if S::ROWS == 6 {
        groups!(6);
    }
    groups!(4);
    groups!(1);
}

/// See [`super::Kernel::gemm`].
#[inline(always)]
pub(super) unsafe fn gemm<S: Simd>(t: &GemmTile) {
    #[inline(always)]
    unsafe fn f<S: Simd, const N: usize>(t: &GemmTile) {
        product::<S, N>(t.rows, t.depth, t.w, S::DEPTH, 1, t.x, t.c, t.bias, t.accumulate);
    }
    for_vectors!(t.vectors, f(t))
}

/// See [`super::Kernel::unpack`].
#[inline(always)]
pub(super) unsafe fn unpack<S: Simd>(b: &WeightBlock) {
    /// 16-bit floats: whole vectors, then what is left one by one.
    #[inline(always)]
    unsafe fn halves<S: Simd, const BRAIN: bool>(b: &WeightBlock) {
        for r in 0..b.rows {
            let src = b.data.add(r * b.row_bytes + b.column * 2);
            let out = b.out.add(r * S::DEPTH);
            let whole = b.columns / S::LANES * S::LANES;
            for i in (0..whole).step_by(S::LANES) {
                let p = src.add(i * 2);
                S::store(out.add(i), if BRAIN { S::load_bf16(p) } else { S::load_f16(p) });
            }
            for i in whole..b.columns {
                let h = read_u16(src.add(i * 2));
                *out.add(i) = if BRAIN { f32::from_bits((h as u32) << 16) } else { f16_to_f32(h) };
            }
        }
    }
    match b.ty {
        TensorType::F32 => {
            for r in 0..b.rows {
                let src = b.data.add(r * b.row_bytes + b.column * 4);
                std::ptr::copy_nonoverlapping(src, b.out.add(r * S::DEPTH).cast(), b.columns * 4);
            }
        }
        TensorType::F16 => halves::<S, false>(b),
        TensorType::BF16 => halves::<S, true>(b),
        TensorType::Q8_0 => {
            for r in 0..b.rows {
                let src = b.data.add(r * b.row_bytes + b.column / Q8_0_VALUES * Q8_0_BYTES);
                let out = b.out.add(r * S::DEPTH);
                for block in 0..b.columns / Q8_0_VALUES {
                    let src = src.add(block * Q8_0_BYTES);
                    let scale = S::splat(f16_to_f32(read_u16(src)));
                    for i in (0..Q8_0_VALUES).step_by(S::LANES) {
                        S::store(out.add(block * Q8_0_VALUES + i), S::mul(scale, S::load_i8(src.add(2 + i))));
                    }
                }
            }
        }
        TensorType::Other(n) => unreachable!("weights of ggml type {n} are refused when loading"),
    }
}

#[inline(always)]
pub(super) unsafe fn read_u16(p: *const u8) -> u16 {
    u16::from_le(p.cast::<u16>().read_unaligned())
}

/// IEEE half to single precision, without branches so that loops over it vectorise, and without subnormal numbers in single
/// precision, which are slow.
#[inline(always)]
pub(super) fn f16_to_f32(h: u16) -> f32 {
    let h = h as u32;
    let magnitude = (h & 0x7fff) << 13;
    let normal = magnitude + ((127 - 15) << 23);
    // A subnormal half is its mantissa times 2^-24: put the mantissa behind 2^-14 and take that away again.
    let smallest = 113 << 23;
    let subnormal = (f32::from_bits(smallest | magnitude) - f32::from_bits(smallest)).to_bits();
    let bits = match h & 0x7c00 {
        0 => subnormal,
        0x7c00 => magnitude | 0x7f80_0000,
        _ => normal,
    };
    f32::from_bits(bits | (h & 0x8000) << 16)
}

/// e^x for x ≤ 0 to about 1 ulp; e^-60 below −60: that is nothing beside 1, and its products are not subnormal, which is slow.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts (Cody and Waite); a minimax polynomial in r; 2^n by its bits.
#[inline(always)]
pub(crate) unsafe fn exp_negative<S: Simd>(x: S::V) -> S::V {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = S::max(x, S::splat(-60.0));
    let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
    let r = S::fma(n, S::splat(-LN_2_HIGH), x);
    let r = S::fma(n, S::splat(-LN_2_LOW), r);
    let mut p = S::splat(1.381_453_9e-3);
    for c in [8.368_745e-3, 4.166_839e-2, 1.666_652_1e-1, 4.999_999_4e-1] {
        p = S::fma(p, r, S::splat(c));
    }
    let p = S::fma(S::mul(r, r), p, S::add(r, S::splat(1.0)));
    S::mul(p, S::exp2_int(n))
}

/// x·Φ(x), the exact GELU (Hendrycks and Gimpel, arXiv 1606.08415), with an absolute error in Φ below 2e-7.
///
/// Φ(-|x|) = erfc(t)/2 with t = |x|/√2, and erfc(t) = exp(-t·q(t)) with q a polynomial fitted on 0 ≤ t ≤ 5.5 to the least
/// largest error in erfc. Then gelu(x) = max(x, 0) − |x|·Φ(−|x|) on both sides, which keeps the tails accurate.
#[inline(always)]
unsafe fn gelu_vector<S: Simd>(x: S::V) -> S::V {
    const Q: [f32; 10] = [
        6.416_537e-7,
        -1.391_953e-5,
        1.268_600_5e-4,
        -6.230_983e-4,
        1.602_288e-3,
        -5.742_024e-5,
        -1.923_048_7e-2,
        1.028_066_35e-1,
        6.366_146e-1,
        1.128_379_5,
    ];
    let magnitude = S::max(x, S::sub(S::splat(0.0), x));
    let t = S::min(S::mul(magnitude, S::splat(std::f32::consts::FRAC_1_SQRT_2)), S::splat(5.5));
    let mut q = S::splat(Q[0]);
    for c in &Q[1..] {
        q = S::fma(q, t, S::splat(*c));
    }
    let erfc = exp_negative::<S>(S::mul(S::sub(S::splat(0.0), t), q));
    let tail = S::mul(magnitude, S::mul(erfc, S::splat(0.5)));
    S::sub(S::max(x, S::splat(0.0)), tail)
}

/// See [`super::Kernel::gelu`].
#[inline(always)]
pub(super) unsafe fn gelu<S: Simd>(data: *mut f32, len: usize) {
    for i in (0..len).step_by(S::LANES) {
        let p = data.add(i);
        S::store(p, gelu_vector::<S>(S::load(p)));
    }
}

/// What LayerNorm takes from one vector of tokens.
pub(super) struct Moments<S: Simd> {
    mean: S::V,
    /// One over the standard deviation.
    scale: S::V,
}

/// Two passes, in four partial sums against rounding.
#[inline(always)]
pub(super) unsafe fn moments<S: Simd>(c: &NormColumn) -> Moments<S> {
    /// The sum of x − origin, or of its square.
    #[inline(always)]
    unsafe fn moment<S: Simd, const SQUARE: bool>(c: &NormColumn, origin: S::V) -> S::V {
        let mut parts = [S::splat(0.0); 4];
        let whole = c.features / 4 * 4;
        for first in (0..c.features).step_by(4) {
            let count = if first < whole { 4 } else { c.features - whole };
            for (i, part) in parts.iter_mut().enumerate().take(count) {
                let d = S::sub(S::load(c.src.add((first + i) * c.stride)), origin);
                *part = if SQUARE { S::fma(d, d, *part) } else { S::add(d, *part) };
            }
        }
        S::add(S::add(parts[0], parts[1]), S::add(parts[2], parts[3]))
    }
    let count = S::splat(c.features as f32);
    let mean = S::div(moment::<S, false>(c, S::splat(0.0)), count);
    let squares = moment::<S, true>(c, mean);
    let variance = S::div(squares, count);
    Moments { mean, scale: S::div(S::splat(1.0), S::sqrt(S::add(variance, S::splat(c.epsilon)))) }
}

/// LayerNorm of one feature.
#[inline(always)]
pub(super) unsafe fn normalised<S: Simd>(c: &NormColumn, moments: &Moments<S>, feature: usize) -> S::V {
    let x = S::mul(S::sub(S::load(c.src.add(feature * c.stride)), moments.mean), moments.scale);
    S::fma(x, S::splat(*c.weight.add(feature)), S::splat(*c.bias.add(feature)))
}

/// See [`super::Kernel::layer_norm`].
#[inline(always)]
pub(super) unsafe fn layer_norm<S: Simd>(c: &NormColumn, dst: *mut f32, stride: usize) {
    let moments = moments::<S>(c);
    for f in 0..c.features {
        S::store(dst.add(f * stride), normalised::<S>(c, &moments, f));
    }
}

/// See [`super::Kernel::attention`].
///
/// The online softmax of FlashAttention (arXiv 2205.14135): keys come a panel at a time, each query lane keeps its running
/// maximum and sum, and what was summed so far is rescaled when the maximum grows. A score tile never leaves the L1 cache.
#[inline(always)]
pub(super) unsafe fn attention<S: Simd>(t: &AttentionTile) {
    #[inline(always)]
    unsafe fn f<S: Simd, const N: usize>(t: &AttentionTile) {
        let full = S::LANES * S::VECTORS;
        let panels = t.tokens.div_ceil(full);
        let mut highest = [S::splat(f32::MIN); N];
        let mut total = [S::splat(0.0); N];
        let scale = S::splat(t.scale);
        let row_of =
            |m: HeadTokens, panel: usize, width: usize| m.matrix.wrapping_add(panel * full * m.rows + m.row * width);
        let at = |base: *mut f32, r: usize, n: usize| base.wrapping_add((r * N + n) * S::LANES);
        for panel in 0..panels {
            let last = panel + 1 == panels;
            let width = if last { t.last_width } else { full };
            let keys = (t.tokens - panel * full).min(full);
            let s = t.scratch;
            product::<S, N>(keys, t.head, row_of(t.k, panel, width), 1, width, t.q, s, std::ptr::null(), false);
            for n in 0..N {
                let mut peak = highest[n];
                for j in 0..keys {
                    peak = S::max(peak, S::load(at(s, j, n)));
                }
                // In the first round both are zero times something finite: nothing was summed yet.
                let fade = exp_negative::<S>(S::mul(S::sub(highest[n], peak), scale));
                highest[n] = peak;
                let mut sum = S::mul(total[n], fade);
                for j in 0..keys {
                    let e = exp_negative::<S>(S::mul(S::sub(S::load(at(s, j, n)), peak), scale));
                    sum = S::add(sum, e);
                    S::store(at(s, j, n), e);
                }
                total[n] = sum;
                if panel > 0 {
                    for r in 0..t.head {
                        let p = at(t.out, r, n);
                        S::store(p, S::mul(S::load(p), fade));
                    }
                }
            }
            product::<S, N>(t.head, keys, row_of(t.v, panel, width), width, 1, s, t.out, std::ptr::null(), panel > 0);
        }
        for (n, total) in total.into_iter().enumerate() {
            let inverse = S::div(S::splat(1.0), total);
            for r in 0..t.head {
                let p = at(t.out, r, n);
                S::store(p, S::mul(S::load(p), inverse));
            }
        }
    }
    for_vectors!(t.vectors, f(t))
}
