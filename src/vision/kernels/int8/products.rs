//! The products of quantised numbers, written once over [`Dot`] and [`Products`].
//!
//! Everything here is `inline(always)`, as in [`super::super::body`].
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Int8Kernel`'s

use super::rounding::part_bytes;
use super::{Correction, Dot, Int8Tile, Integers, Products, Quants, Simd, Sum};
use crate::prefetch::Shares;

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
        w: w.add(g * t.packed_rows * Q::ROW_BYTES),
        w_scales: w_scales.add(g * t.packed_rows),
    })
}

/// Whether any of the scales is not zero. Those of a second part are, where rounding was fine enough.
#[inline(always)]
unsafe fn any_scale(scales: *const f32, tokens: usize) -> bool {
    std::slice::from_raw_parts(scales, tokens).iter().fold(false, |any, &s| any | (s != 0.0))
}

impl<D: Dot> Products for D {
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
                    *sum = D::dot(*sum, v, w.add(r * D::ROW_BYTES + k * D::VALUE_BYTES));
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
    // What the sums are added to; a vector at a time.
    let before = |r: usize, n: usize| {
        let start = if bias.is_null() { D::S::splat(0.0) } else { D::S::splat(*bias.add(r)) };
        if load {
            D::S::add(D::S::load(c.add((r * N + n) * lanes)), start)
        } else {
            start
        }
    };
    let mut totals = [[D::S::splat(0.0); N]; R];
    // Registers that hold one group's sums alone have no room for this beside them.
    let late = D::GROUPS == 1;
    if !late {
        for (r, totals) in totals.iter_mut().enumerate() {
            for (n, total) in totals.iter_mut().enumerate() {
                *total = before(r, n);
            }
        }
    }
    for g in 0..if late { 1 } else { groups } {
        let x = x.add(2 * g * part_bytes::<D>() * N * lanes);
        let w = w.add(g * t.packed_rows * D::ROW_BYTES);
        let w_scales = w_scales.add(g * t.packed_rows);
        let scales: *const f32 = x.add(values).cast();
        let nothing = [0i32; 16];
        let mut start = [D::S::load_i32(nothing.as_ptr()); N];
        if D::CORRECTION != Correction::None {
            for (n, s) in start.iter_mut().enumerate() {
                *s = D::S::load_i32(scales.add((N + n) * lanes).cast());
            }
        }
        let sums = D::products::<R, N>(w, x, start);
        for (r, (sums, totals)) in sums.iter().zip(&mut totals).enumerate() {
            let w_scale = D::S::splat(*w_scales.add(r));
            for (n, (sum, total)) in sums.iter().zip(totals).enumerate() {
                let scale = D::S::mul(w_scale, D::S::load(scales.add(n * lanes)));
                let so_far = if late { before(r, n) } else { *total };
                *total = D::S::fma(D::S::to_f32(*sum), scale, so_far);
            }
        }
    }
    for (r, totals) in totals.iter().enumerate() {
        for (n, total) in totals.iter().enumerate() {
            D::S::store(c.add((r * N + n) * lanes), *total);
        }
    }
}

/// Weight rows in a register tile of so many vectors; see [`super::Tiles::ROWS`].
const fn rows_of(rows: usize, vectors: usize) -> usize {
    if rows == 12 {
        12 / vectors
    } else {
        rows
    }
}

/// See [`super::Int8Kernel::multiply`].
#[inline(always)]
pub(super) unsafe fn multiply<D: Products>(t: &Int8Tile) {
    /// `groups` groups from `g` on.
    #[inline(always)]
    unsafe fn part<D: Products, const N: usize>(t: &Int8Tile, g: usize, groups: usize, part: Part, mut ahead: Shares) {
        let width = N * D::S::LANES;
        let Some(Operands { x, w, w_scales }) = operands::<D>(t, g, part) else { return };
        let first = g == 0 && part == Part::Both;
        let load = !first || t.accumulate;
        let mut r = 0;
        macro_rules! rows {
            ($rows:literal) => {
                while t.rows - r >= $rows {
                    let bias = if first && !t.bias.is_null() { t.bias.add(r) } else { std::ptr::null() };
                    let w = w.add(r * D::ROW_BYTES);
                    let operands = Operands { x, w, w_scales: w_scales.add(r) };
                    ahead.fetch();
                    tile::<D, $rows, N>(t, operands, groups, t.c.add(r * width), bias, load);
                    r += $rows;
                }
            };
        }
        match rows_of(D::ROWS, N) {
            12 => rows!(12),
            6 => rows!(6),
            3 => rows!(3),
            _ => {}
        }
        if rows_of(D::ROWS, N) > 3 {
            rows!(4);
        }
        rows!(1);
    }
    #[inline(always)]
    unsafe fn f<D: Products, const N: usize>(t: &Int8Tile) {
        let bytes = part_bytes::<D>() * N * D::S::LANES;
        let tiles = t.rows.div_ceil(rows_of(D::ROWS, N));
        for g in (0..t.groups).step_by(D::GROUPS) {
            let end = t.groups.min(g + D::GROUPS);
            let next = t.groups.min(end + D::GROUPS) - end;
            // Second parts, which lie between, are mostly unused.
            let ahead = Shares::new(t.x.add(2 * end * bytes), bytes, 2 * bytes, next, tiles);
            part::<D, N>(t, g, end - g, Part::Both, ahead);
        }
        for (g, rest) in PARTS[1..].iter().flat_map(|&rest| (0..t.groups).map(move |g| (g, rest))) {
            part::<D, N>(t, g, 1, rest, Shares::new(t.x, 0, 0, 0, 1));
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
