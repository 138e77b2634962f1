//! Products with a panel's only token on AVX-512 VNNI.
//!
//! A picture has one token more than patches, so that the last panel mostly holds one: as a panel it would cost as much as a
//! full vector of tokens. Here lanes go along the depth instead.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Int8Kernel`'s

use std::arch::x86_64::*;

use super::avx512::Vnni;
use super::products::{operands, Operands, PARTS};
use super::rounding::part_bytes;
use super::{Int8Tile, Quants};

const GROUP: usize = Vnni::GROUP;
const LANES: usize = 16;
/// Groups that are gathered at a time.
const GATHERED: usize = 32;
/// Rows whose sums are kept in registers.
const ROWS: usize = 8;

/// One group of the token.
#[derive(Clone, Copy)]
struct Gathered {
    /// Its features in order.
    values: __m512i,
    /// The correction in the first lane.
    start: __m512i,
    scale: f32,
    w: *const u8,
    w_scales: *const f32,
}

/// Takes the first token out of a group of a panel that is one vector wide.
#[inline(always)]
unsafe fn gather(Operands { x, w, w_scales }: Operands) -> Gathered {
    let mut fours = [0i32; GROUP / 4];
    for (i, four) in fours.iter_mut().enumerate() {
        *four = x.cast::<i32>().add(i * LANES).read();
    }
    let scales: *const f32 = x.add(GROUP * LANES).cast();
    let correction = scales.add(LANES).cast::<i32>().read();
    Gathered {
        values: _mm512_loadu_si512(fours.as_ptr().cast()),
        start: _mm512_maskz_set1_epi32(1, correction),
        scale: *scales,
        w,
        w_scales,
    }
}

/// Sums of `R` rows from `r` on are added to the first lanes of the result's.
#[inline(always)]
unsafe fn rows<const R: usize>(t: &Int8Tile, groups: &[Gathered], r: usize, load: bool, bias: bool) {
    let mut totals = [_mm512_setzero_ps(); R];
    for group in groups {
        let (w, w_scales) = (group.w.add(r * GROUP), group.w_scales.add(r));
        for (i, total) in totals.iter_mut().enumerate() {
            let sums = _mm512_dpbusd_epi32(group.start, _mm512_loadu_si512(w.add(i * GROUP).cast()), group.values);
            let scale = _mm512_set1_ps(*w_scales.add(i) * group.scale);
            *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scale, *total);
        }
    }
    for (i, total) in totals.into_iter().enumerate() {
        let c = t.c.add((r + i) * LANES);
        let bias = if bias { *t.bias.add(r + i) } else { 0.0 };
        let sum = _mm512_maskz_broadcastss_ps(1, _mm_set_ss(_mm512_reduce_add_ps(total) + bias));
        // Lanes without a token stay finite.
        let before = if load { _mm512_loadu_ps(c) } else { _mm512_setzero_ps() };
        _mm512_storeu_ps(c, _mm512_add_ps(before, sum));
    }
}

/// What [`super::Int8Kernel::multiply`] does, for a tile of one token.
#[inline(always)]
pub(super) unsafe fn multiply(t: &Int8Tile) {
    debug_assert!(t.tokens == 1 && t.vectors == 1 && part_bytes::<Vnni>() == GROUP + 8);
    let (mut load, mut bias) = (t.accumulate, !t.bias.is_null());
    for part in PARTS {
        let mut rest = (0..t.groups).filter_map(|g| operands::<Vnni>(t, g, part));
        loop {
            let nothing = Gathered {
                values: _mm512_setzero_si512(),
                start: _mm512_setzero_si512(),
                scale: 0.0,
                w: std::ptr::null(),
                w_scales: std::ptr::null(),
            };
            let (mut gathered, mut count) = ([nothing; GATHERED], 0);
            for (to, operands) in gathered.iter_mut().zip(&mut rest) {
                *to = gather(operands);
                count += 1;
            }
            if count == 0 {
                break;
            }
            let mut r = 0;
            while t.rows - r >= ROWS {
                rows::<ROWS>(t, &gathered[..count], r, load, bias);
                r += ROWS;
            }
            while r < t.rows {
                rows::<1>(t, &gathered[..count], r, load, bias);
                r += 1;
            }
            (load, bias) = (true, false);
        }
    }
}
