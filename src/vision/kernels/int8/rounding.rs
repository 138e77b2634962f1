//! To 8 bits: activations, weights, and GELU for what is rounded afterwards; written once over [`Quants`].
//!
//! Everything here is `inline(always)`, as in [`super::super::body`].
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Int8Kernel`'s

use super::super::body::{read_u16, Q8_0_BYTES, Q8_0_VALUES};
use super::{Correction, Integers, PackBlock, QuantizeGroup, Quants, Simd};

/// Bytes of a token in one part of a quantised group: the rounded numbers, or what rounding left.
pub(super) const fn part_bytes<Q: Quants>() -> usize {
    Q::GROUP * Q::VALUE_BYTES + if matches!(Q::CORRECTION, Correction::None) { 4 } else { 8 }
}

/// A group is rounded twice as finely as 8 bits where its largest magnitude is this many times the mean: its other numbers
/// would not survive otherwise. Normally distributed numbers stay below 6.
const OUTLIER: f32 = 16.0;
/// Steps of the second part in one of the first.
const FINER: f32 = 254.0;

#[inline(always)]
pub(super) unsafe fn magnitude<S: Simd>(v: S::V) -> S::V {
    S::max(v, S::sub(S::splat(0.0), v))
}

/// See [`super::Int8Kernel::quantize`]. The scale takes the largest magnitude to 127; numbers that are not finite make it NaN.
#[inline(always)]
pub(super) unsafe fn quantize<Q: Quants>(t: &QuantizeGroup) {
    let lanes = Q::S::LANES;
    let zero = Q::S::splat(0.0);
    let second = part_bytes::<Q>() * t.width * lanes;
    for n in 0..t.vectors {
        let (mut peak, mut total) = (zero, zero);
        for f in 0..t.features {
            let v = Q::S::load(t.src.add(f * t.stride + n * lanes));
            peak = Q::S::max(magnitude::<Q::S>(v), peak);
            total = Q::S::add(total, magnitude::<Q::S>(v));
        }
        let scale = Q::S::mul(peak, Q::S::splat(1.0 / 127.0));
        let scale = Q::S::fma(total, zero, scale);
        // A group of zeros, or of numbers too small for the reciprocal, stays zero.
        let inverse = Q::S::min(Q::S::div(Q::S::splat(127.0), Q::S::max(peak, Q::S::splat(1e-30))), Q::S::splat(1e32));
        part::<Q, false>(t, n, scale, inverse, 0);

        let mut excess = [0f32; 16];
        let limit = Q::S::mul(total, Q::S::splat(OUTLIER / t.features as f32));
        Q::S::store(excess.as_mut_ptr(), Q::S::sub(peak, limit));
        if excess[..lanes].iter().any(|&e| e > 0.0) {
            part::<Q, true>(t, n, Q::S::mul(scale, Q::S::splat(1.0 / FINER)), inverse, second);
        } else {
            Q::S::store(t.scales.byte_add(second).add(n * lanes), zero);
        }
    }
}

/// Writes one part of vector `n` of a group, `offset` bytes behind the first: numbers times `inverse`, rounded, or what that
/// leaves; scales; corrections.
#[inline(always)]
unsafe fn part<Q: Quants, const REST: bool>(
    t: &QuantizeGroup,
    n: usize,
    scale: <Q::S as Simd>::V,
    inverse: <Q::S as Simd>::V,
    offset: usize,
) {
    let lanes = Q::S::LANES;
    let zero = Q::S::splat(0.0);
    let mut sum = zero;
    for f in (0..Q::GROUP).step_by(4) {
        let mut four = [zero; 4];
        for (i, v) in four.iter_mut().enumerate() {
            if f + i < t.features {
                *v = Q::S::mul(Q::S::load(t.src.add((f + i) * t.stride + n * lanes)), inverse);
                if REST {
                    *v = Q::S::mul(Q::S::sub(*v, Q::S::round(*v)), Q::S::splat(FINER));
                }
            }
        }
        // Sums of whole numbers, exact as there are so few.
        match Q::CORRECTION {
            Correction::None => {}
            Correction::Offset => sum = four.iter().fold(sum, |sum, &v| Q::S::add(sum, Q::S::round(v))),
            Correction::Pairs => {
                let [a, b, c, d] = four.map(|v| Q::S::round(v));
                sum = Q::S::fma(c, d, Q::S::fma(a, b, sum));
            }
        }
        let (run, within) = (f / Q::RUN * Q::RUN, f % Q::RUN);
        Q::store_x(t.out.add(offset + ((run * t.width + n * Q::RUN) * lanes + within) * Q::VALUE_BYTES), four);
    }
    let scales = t.scales.byte_add(offset);
    Q::S::store(scales.add(n * lanes), scale);
    let factor = match Q::CORRECTION {
        Correction::None => return,
        Correction::Offset => -128.0,
        Correction::Pairs => -1.0,
    };
    Q::S::store_i32(scales.add((t.width + n) * lanes).cast(), Q::S::mul(sum, Q::S::splat(factor)));
}

/// See [`super::Int8Kernel::gelu`]. x·Φ(x), where Φ(x) − ½ is x times a polynomial in x², fitted on |x| ≤ 4.5 to the least largest
/// error in the result; beyond that it is 0 and 1.
#[inline(always)]
pub(super) unsafe fn gelu<S: Simd>(data: *mut f32, len: usize) {
    const END: f32 = 4.5;
    const Q: [f32; 9] = [
        3.000_046e-11,
        -3.283_95e-9,
        1.580_272e-7,
        -4.431_716e-6,
        8.121_01e-5,
        -1.036_256e-3,
        9.580_664e-3,
        -6.597_729e-2,
        3.987_086e-1,
    ];
    for i in (0..len).step_by(S::LANES) {
        let p = data.add(i);
        let x = S::load(p);
        let clipped = S::max(S::min(x, S::splat(END)), S::splat(-END));
        let square = S::mul(clipped, clipped);
        let mut q = S::splat(Q[0]);
        for c in &Q[1..] {
            q = S::fma(q, square, S::splat(*c));
        }
        S::store(p, S::mul(x, S::fma(q, clipped, S::splat(0.5))));
    }
}

/// Blocks of weights in a group.
const BLOCKS: usize = 2;
/// Lanes of a vector at most.
const MOST_LANES: usize = 16;

/// See [`super::Int8Kernel::pack`]. A scale that is not finite makes the group's scale NaN.
#[inline(always)]
pub(super) unsafe fn pack<Q: Quants>(b: &PackBlock) {
    const { assert!(Q::GROUP == BLOCKS * Q8_0_VALUES && Q::S::LANES <= MOST_LANES) };
    let half = Q8_0_VALUES * Q::VALUE_BYTES;
    let blocks = b.columns / Q8_0_VALUES;
    // Beyond the last column activations are zero, but memory must be what the correction takes it for.
    let nothing = [0u8; Q8_0_VALUES];
    for r in 0..b.rows {
        // A row at a time, as it lies in the file, and of it the scales of as many groups as a vector has lanes.
        let row = b.data.add(r * b.row_bytes);
        for first in (0..blocks).step_by(BLOCKS * Q::S::LANES) {
            let count = (blocks - first).min(BLOCKS * Q::S::LANES);
            let mut factors = [[0u16; MOST_LANES]; BLOCKS];
            let mut at = row.add(first * Q8_0_BYTES);
            let [firsts, seconds] = &mut factors;
            for (a, b) in firsts.iter_mut().zip(seconds).take(count / BLOCKS) {
                *a = read_u16(at);
                *b = read_u16(at.add(Q8_0_BYTES));
                // Hidden from the compiler, which would compute all addresses beforehand, in vectors.
                at = std::hint::black_box(at).add(BLOCKS * Q8_0_BYTES);
            }
            if !count.is_multiple_of(BLOCKS) {
                factors[0][count / BLOCKS] = read_u16(at);
            }
            let (scales, ratios) = group_scales::<Q::S>(&factors);
            for i in 0..count.div_ceil(BLOCKS) {
                let g = first / BLOCKS + i;
                let (to, split) = (g * b.packed_rows + r, *b.split.add(g));
                let (out, rest) = (b.out.add(to * Q::ROW_BYTES), b.rest.add(to * Q::ROW_BYTES));
                for (part, ratios) in ratios.iter().enumerate() {
                    let block = first + BLOCKS * i + part;
                    let quants = if block < blocks { row.add(block * Q8_0_BYTES + 2) } else { nothing.as_ptr() };
                    // What is not a number became the least i32, and becomes zero.
                    let ratio = ratios[i] as i16;
                    Q::rescale::<false>(quants, ratio, out.add(part * half));
                    if split {
                        Q::rescale::<true>(quants, ratio, rest.add(part * half));
                    }
                }
                Q::finish_row(out);
                *b.scales.add(to) = scales[i];
                if split {
                    Q::finish_row(rest);
                    *b.rest_scales.add(to) = scales[i] / FINER;
                }
            }
        }
    }
}

/// The scales of a vector of groups, and what their blocks' quants are multiplied by, times 2^15. `factors` are the blocks' scales
/// in f16: the first of each group, then the second.
#[inline(always)]
unsafe fn group_scales<S: Integers>(
    factors: &[[u16; MOST_LANES]; BLOCKS],
) -> ([f32; MOST_LANES], [[i32; MOST_LANES]; BLOCKS]) {
    let zero = S::splat(0.0);
    let [a, b] = [S::load_f16(factors[0].as_ptr().cast()), S::load_f16(factors[1].as_ptr().cast())];
    let scale = S::max(magnitude::<S>(a), magnitude::<S>(b));
    let poison = S::fma(a, zero, S::mul(b, zero));
    let inverse = S::div(S::splat(32767.0), scale);
    let (mut scales, mut ratios) = ([0f32; MOST_LANES], [[0i32; MOST_LANES]; BLOCKS]);
    S::store(scales.as_mut_ptr(), S::add(scale, poison));
    S::store_i32(ratios[0].as_mut_ptr(), S::mul(a, inverse));
    S::store_i32(ratios[1].as_mut_ptr(), S::mul(b, inverse));
    (scales, ratios)
}
