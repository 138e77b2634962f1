//! The algorithms of the quantised products, written once over [`Quants`], [`Dot`] and [`Products`].
//!
//! Everything here is `inline(always)`, as in [`super::super::body`].
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Int8Kernel`'s

use super::super::body::{read_u16, Q8_0_BYTES, Q8_0_VALUES};
use super::{Dot, Int8Tile, Integers, PackBlock, Products, QuantizeGroup, Quants, Simd, Sum};
use crate::prefetch::fetch_to_second_level;

/// Bytes of a token in one part of a quantised group: the rounded numbers, or what rounding left.
pub(super) const fn part_bytes<Q: Quants>() -> usize {
    Q::GROUP * Q::VALUE_BYTES + if Q::OFFSET { 8 } else { 4 }
}

/// The products of a group in two parts that are summed.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Part {
    /// The first part of both.
    Both,
    /// The activations' second part with the weights' first.
    RestOfX,
    /// The activations' first part with the weights' second.
    RestOfW,
}

/// All of them, the largest first.
pub(super) const PARTS: [Part; 3] = [Part::Both, Part::RestOfX, Part::RestOfW];

/// What is multiplied for one part of a group.
pub(super) struct Operands {
    pub x: *const u8,
    pub w: *const u8,
    pub w_scales: *const f32,
}

/// The operands of a part of group `g`, unless the group is in one part.
#[inline(always)]
pub(super) unsafe fn operands<Q: Quants>(t: &Int8Tile, g: usize, part: Part) -> Option<Operands> {
    let width = t.vectors * Q::S::LANES;
    let bytes = part_bytes::<Q>() * width;
    let (first, second) = (t.x.add(2 * g * bytes), t.x.add((2 * g + 1) * bytes));
    if part != Part::Both && !any_scale(second.add(Q::GROUP * Q::VALUE_BYTES * width).cast(), width) {
        return None;
    }
    let (w, w_scales) = if part == Part::RestOfW { (t.rest, t.rest_scales) } else { (t.w, t.w_scales) };
    Some(Operands {
        x: if part == Part::RestOfX { second } else { first },
        w: w.add(g * t.packed_rows * Q::GROUP * Q::VALUE_BYTES),
        w_scales: w_scales.add(g * t.packed_rows),
    })
}

/// Whether any of the scales is not zero. Those of a second part are, where rounding was fine enough.
#[inline(always)]
unsafe fn any_scale(scales: *const f32, tokens: usize) -> bool {
    std::slice::from_raw_parts(scales, tokens).iter().fold(false, |any, &s| any | (s != 0.0))
}

/// A group is rounded twice as finely as 8 bits where its largest magnitude is this many times the mean: its other numbers
/// would not survive otherwise. Normally distributed numbers stay below 6.
const OUTLIER: f32 = 16.0;
/// Steps of the second part in one of the first.
const FINER: f32 = 254.0;

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
            let magnitude = Q::S::max(v, Q::S::sub(zero, v));
            peak = Q::S::max(magnitude, peak);
            total = Q::S::add(total, magnitude);
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
                if Q::OFFSET {
                    sum = Q::S::add(sum, Q::S::round(*v));
                }
            }
        }
        let (run, within) = (f / Q::RUN * Q::RUN, f % Q::RUN);
        Q::store_x(t.out.add(offset + ((run * t.width + n * Q::RUN) * lanes + within) * Q::VALUE_BYTES), four);
    }
    let scales = t.scales.byte_add(offset);
    Q::S::store(scales.add(n * lanes), scale);
    if Q::OFFSET {
        let correction = Q::S::mul(sum, Q::S::splat(-128.0));
        Q::S::store_i32(scales.add((t.width + n) * lanes).cast(), correction);
    }
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
    let (row_bytes, half) = (Q::GROUP * Q::VALUE_BYTES, Q8_0_VALUES * Q::VALUE_BYTES);
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
            for i in 0..count / BLOCKS {
                factors[0][i] = read_u16(at);
                factors[1][i] = read_u16(at.add(Q8_0_BYTES));
                // Hidden from the compiler, which would compute all addresses beforehand, in vectors.
                at = std::hint::black_box(at).add(BLOCKS * Q8_0_BYTES);
            }
            if count % BLOCKS > 0 {
                factors[0][count / BLOCKS] = read_u16(at);
            }
            let (scales, ratios) = group_scales::<Q::S>(&factors);
            for i in 0..count.div_ceil(BLOCKS) {
                let g = first / BLOCKS + i;
                let (to, split) = (g * b.packed_rows + r, *b.split.add(g));
                for (part, ratios) in ratios.iter().enumerate() {
                    let block = first + BLOCKS * i + part;
                    let quants = if block < blocks { row.add(block * Q8_0_BYTES + 2) } else { nothing.as_ptr() };
                    let at = to * row_bytes + part * half;
                    // What is not a number became the least i32, and becomes zero.
                    let ratio = ratios[i] as i16;
                    Q::rescale::<false>(quants, ratio, b.out.add(at));
                    if split {
                        Q::rescale::<true>(quants, ratio, b.rest.add(at));
                    }
                }
                *b.scales.add(to) = scales[i];
                if split {
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
    let magnitude = |v| S::max(v, S::sub(zero, v));
    let scale = S::max(magnitude(a), magnitude(b));
    let poison = S::fma(a, zero, S::mul(b, zero));
    let inverse = S::div(S::splat(32767.0), scale);
    let (mut scales, mut ratios) = ([0f32; MOST_LANES], [[0i32; MOST_LANES]; BLOCKS]);
    S::store(scales.as_mut_ptr(), S::add(scale, poison));
    S::store_i32(ratios[0].as_mut_ptr(), S::mul(a, inverse));
    S::store_i32(ratios[1].as_mut_ptr(), S::mul(b, inverse));
    (scales, ratios)
}

impl<D: Dot> Products for D {
    const ROWS: usize = <D as Dot>::ROWS;
    const GROUPS: usize = <D as Dot>::GROUPS;

    #[inline(always)]
    unsafe fn single(t: &Int8Tile) -> bool {
        <D as Dot>::single(t)
    }

    #[inline(always)]
    unsafe fn products<const R: usize, const N: usize>(
        w: *const u8,
        x: *const u8,
        start: [Sum<D>; N],
    ) -> [[Sum<D>; N]; R] {
        let lanes = D::S::LANES;
        let mut sums = [start; R];
        for k in (0..D::GROUP).step_by(4) {
            let mut xs = [D::load_x(x.add(k * N * lanes * D::VALUE_BYTES)); N];
            for (n, v) in xs.iter_mut().enumerate().skip(1) {
                *v = D::load_x(x.add((k * N + n * 4) * lanes * D::VALUE_BYTES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                for (sum, v) in sums.iter_mut().zip(xs) {
                    *sum = D::dot(*sum, v, w.add((r * D::GROUP + k) * D::VALUE_BYTES));
                }
            }
        }
        sums
    }
}

/// A register tile over `groups` groups one behind the other: `c[R, N·LANES] += scales · (w[R, GROUP] · x[GROUP, N·LANES])`,
/// or `=` unless `load`, then plus the bias. Operands are those of the first group and the tile's rows.
#[inline(always)]
unsafe fn tile<D: Products, const R: usize, const N: usize>(
    t: &Int8Tile,
    Operands { x, w, w_scales }: Operands,
    groups: usize,
    c: *mut f32,
    bias: *const f32,
    load: bool,
) {
    let lanes = D::S::LANES;
    let values = D::GROUP * N * lanes * D::VALUE_BYTES;
    let mut totals = [[D::S::splat(0.0); N]; R];
    for (r, totals) in totals.iter_mut().enumerate() {
        let start = if bias.is_null() { D::S::splat(0.0) } else { D::S::splat(*bias.add(r)) };
        for (n, total) in totals.iter_mut().enumerate() {
            *total = if load { D::S::add(D::S::load(c.add((r * N + n) * lanes)), start) } else { start };
        }
    }
    for g in 0..groups {
        let x = x.add(2 * g * part_bytes::<D>() * N * lanes);
        let w = w.add(g * t.packed_rows * D::GROUP * D::VALUE_BYTES);
        let w_scales = w_scales.add(g * t.packed_rows);
        let scales: *const f32 = x.add(values).cast();
        let nothing = [0i32; 16];
        let mut start = [D::S::load_i32(nothing.as_ptr()); N];
        if D::OFFSET {
            for (n, s) in start.iter_mut().enumerate() {
                *s = D::S::load_i32(scales.add((N + n) * lanes).cast());
            }
        }
        let sums = D::products::<R, N>(w, x, start);
        for (r, (sums, totals)) in sums.iter().zip(&mut totals).enumerate() {
            let w_scale = D::S::splat(*w_scales.add(r));
            for (n, (sum, total)) in sums.iter().zip(totals).enumerate() {
                let scale = D::S::mul(w_scale, D::S::load(scales.add(n * lanes)));
                *total = D::S::fma(D::S::to_f32(*sum), scale, *total);
            }
        }
    }
    for (r, totals) in totals.iter().enumerate() {
        for (n, total) in totals.iter().enumerate() {
            D::S::store(c.add((r * N + n) * lanes), *total);
        }
    }
}

/// Blocks of memory that are fetched to the second-level cache, some lines at a time.
struct Ahead {
    at: *const u8,
    /// Lines of a block, and those that are left of this one.
    lines: usize,
    left: usize,
    /// Bytes from a block's end to the next one.
    gap: usize,
    /// Blocks left behind this one.
    blocks: usize,
    /// Lines at a time.
    share: usize,
}

const LINE: usize = 64;

impl Ahead {
    /// `blocks` blocks of `bytes` bytes that are `step` bytes apart, in `times` shares.
    #[inline(always)]
    fn new(at: *const u8, bytes: usize, step: usize, blocks: usize, times: usize) -> Ahead {
        let lines = bytes / LINE;
        Ahead { at, lines, left: 0, gap: step - bytes, blocks, share: (lines * blocks).div_ceil(times) }
    }

    /// The next share.
    #[inline(always)]
    fn fetch(&mut self) {
        for _ in 0..self.share {
            if self.left == 0 {
                if self.blocks == 0 {
                    return;
                }
                self.blocks -= 1;
                self.left = self.lines;
            }
            fetch_to_second_level(self.at, LINE);
            self.left -= 1;
            let gap = if self.left == 0 { self.gap } else { 0 };
            self.at = self.at.wrapping_add(LINE + gap);
        }
    }
}

/// See [`super::Int8Kernel::multiply`].
#[inline(always)]
pub(super) unsafe fn multiply<D: Products>(t: &Int8Tile) {
    /// `groups` groups from `g` on.
    #[inline(always)]
    unsafe fn part<D: Products, const N: usize>(t: &Int8Tile, g: usize, groups: usize, part: Part, mut ahead: Ahead) {
        let width = N * D::S::LANES;
        let Some(Operands { x, w, w_scales }) = operands::<D>(t, g, part) else { return };
        let first = g == 0 && part == Part::Both;
        let load = !first || t.accumulate;
        let mut r = 0;
        macro_rules! rows {
            ($rows:literal) => {
                while t.rows - r >= $rows {
                    let bias = if first && !t.bias.is_null() { t.bias.add(r) } else { std::ptr::null() };
                    let w = w.add(r * D::GROUP * D::VALUE_BYTES);
                    let operands = Operands { x, w, w_scales: w_scales.add(r) };
                    ahead.fetch();
                    tile::<D, $rows, N>(t, operands, groups, t.c.add(r * width), bias, load);
                    r += $rows;
                }
            };
        }
        match (D::ROWS, N) {
            (12, 1) => rows!(12),
            (12, 2) | (6, _) => rows!(6),
            (12, 4..) => rows!(3),
            _ => {}
        }
        if D::ROWS != 12 || N < 4 {
            rows!(4);
        }
        rows!(1);
    }
    #[inline(always)]
    unsafe fn f<D: Products, const N: usize>(t: &Int8Tile) {
        let bytes = part_bytes::<D>() * N * D::S::LANES;
        let rows = if D::ROWS == 12 { 12 / N } else { D::ROWS };
        for g in (0..t.groups).step_by(D::GROUPS) {
            let end = t.groups.min(g + D::GROUPS);
            let next = t.groups.min(end + D::GROUPS) - end;
            // Second parts, which lie between, are mostly unused.
            let ahead = Ahead::new(t.x.add(2 * end * bytes), bytes, 2 * bytes, next, t.rows.div_ceil(rows));
            part::<D, N>(t, g, end - g, Part::Both, ahead);
        }
        for (g, rest) in PARTS[1..].iter().flat_map(|&rest| (0..t.groups).map(move |g| (g, rest))) {
            part::<D, N>(t, g, 1, rest, Ahead::new(t.x, 0, 0, 0, 1));
        }
    }
    if t.tokens == 1 && D::single(t) {
        return;
    }
    match t.vectors {
        1 => f::<D, 1>(t),
        2 if D::S::VECTORS >= 2 => f::<D, 2>(t),
        3 if D::S::VECTORS >= 3 => f::<D, 3>(t),
        4 if D::S::VECTORS >= 4 => f::<D, 4>(t),
        5 if D::S::VECTORS >= 5 => f::<D, 5>(t),
        n => unreachable!("a panel of {n} vectors"),
    }
}
