//! AMX: a tile instruction multiplies 16 rows by 16 tokens over 64 features.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Int8Kernel`'s

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::avx512::Avx512;
use super::avx512::{interleave, rescaled};
use super::{body, int8_kernel, Int8Kernel, Int8Tile, PackBlock, QuantizeGroup, Quants, Simd};
use crate::kernels::tiles::{configure, release, TILE};

struct Amx;

impl Quants for Amx {
    type S = Avx512;
    const GROUP: usize = 128;
    const VALUE_BYTES: usize = 1;
    const OFFSET: bool = false;

    #[inline(always)]
    unsafe fn store_x(p: *mut u8, features: [__m512; 4]) {
        _mm512_storeu_si512(p.cast(), interleave(features));
    }
    #[inline(always)]
    unsafe fn store_i32(p: *mut i32, v: __m512) {
        _mm512_storeu_si512(p.cast(), _mm512_cvtps_epi32(v));
    }
    #[inline(always)]
    unsafe fn rescale<const REST: bool>(src: *const u8, ratio: i16, out: *mut u8) {
        _mm256_storeu_si256(out.cast(), rescaled::<REST>(src, ratio));
    }
}

/// Rows that are multiplied at a time: two tiles.
const ROWS: usize = 2 * TILE;

/// Sums of two by two tiles.
#[repr(C, align(64))]
struct Sums([i32; ROWS * ROWS]);

/// The products of [`group_products`] with the given instructions before, in and after the loop over the depth.
macro_rules! products {
    ($w:expr, $x:expr, $stride:expr, $out:expr, [$($zero:literal)*], [$($step:literal)*], [$($store:literal)*]) => {
        asm!(
            $($zero,)*
            "2:",
            $($step,)*
            "add {w}, 64",
            "add {low}, 64",
            "add {x}, {jump}",
            "dec {steps}",
            "jnz 2b",
            $($store,)*
            w = inout(reg) $w => _,
            low = inout(reg) $w.add(TILE * Amx::GROUP) => _,
            x = inout(reg) $x => _,
            jump = in(reg) TILE * $stride,
            x_stride = in(reg) $stride,
            w_stride = in(reg) Amx::GROUP,
            out = in(reg) $out.0.as_mut_ptr(),
            out_stride = in(reg) ROWS * 4,
            steps = inout(reg) Amx::GROUP / 64 => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// `out[32, N·16] = w[32, GROUP] · x[GROUP, N·16]`; rows of `x` are `stride` bytes apart and hold four features.
#[inline(always)]
unsafe fn group_products<const N: usize>(w: *const u8, x: *const u8, stride: usize, out: &mut Sums) {
    if N == 2 {
        products!(w, x, stride, out,
            ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"],
            ["tileloadd tmm6, [{x} + {x_stride}]"
             "tileloadd tmm4, [{w} + {w_stride}]"
             "tdpbssd tmm0, tmm4, tmm6"
             "tileloadd tmm7, [{x} + {x_stride} + 64]"
             "tdpbssd tmm1, tmm4, tmm7"
             "tileloadd tmm5, [{low} + {w_stride}]"
             "tdpbssd tmm2, tmm5, tmm6"
             "tdpbssd tmm3, tmm5, tmm7"],
            ["tilestored [{out} + {out_stride}], tmm0"
             "tilestored [{out} + {out_stride} + 64], tmm1"
             "tilestored [{out} + {out_stride} + 2048], tmm2"
             "tilestored [{out} + {out_stride} + 2112], tmm3"]);
    } else {
        products!(w, x, stride, out,
            ["tilezero tmm0" "tilezero tmm2"],
            ["tileloadd tmm6, [{x} + {x_stride}]"
             "tileloadd tmm4, [{w} + {w_stride}]"
             "tdpbssd tmm0, tmm4, tmm6"
             "tileloadd tmm5, [{low} + {w_stride}]"
             "tdpbssd tmm2, tmm5, tmm6"],
            ["tilestored [{out} + {out_stride}], tmm0"
             "tilestored [{out} + {out_stride} + 2048], tmm2"]);
    }
}

/// What becomes of [`Sums`].
#[derive(Clone, Copy)]
struct Scaling {
    rows: usize,
    vectors: usize,
    w_scales: *const f32,
    x_scales: *const f32,
    bias: *const f32,
    c: *mut f32,
    /// Floats from a row of `c` to the next.
    stride: usize,
    load: bool,
}

/// `c = sums · scales (+ c) (+ bias)`.
#[inline(always)]
unsafe fn scale(s: &Scaling, sums: &Sums) {
    #[inline(always)]
    unsafe fn f<const N: usize, const LOAD: bool, const BIAS: bool>(s: &Scaling, sums: &Sums) {
        let mut x_scales = [_mm512_setzero_ps(); N];
        for (n, v) in x_scales.iter_mut().enumerate() {
            *v = _mm512_loadu_ps(s.x_scales.add(n * TILE));
        }
        for r in 0..s.rows {
            let w_scale = _mm512_set1_ps(*s.w_scales.add(r));
            for (n, x_scale) in x_scales.into_iter().enumerate() {
                let p = s.c.add(r * s.stride + n * TILE);
                let mut before = if LOAD { _mm512_loadu_ps(p) } else { _mm512_setzero_ps() };
                if BIAS {
                    before = _mm512_add_ps(before, _mm512_set1_ps(*s.bias.add(r)));
                }
                let sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums.0.as_ptr().add(r * ROWS + n * TILE).cast()));
                _mm512_storeu_ps(p, _mm512_fmadd_ps(sum, _mm512_mul_ps(w_scale, x_scale), before));
            }
        }
    }
    match (s.vectors, s.load, s.bias.is_null()) {
        (2, true, true) => f::<2, true, false>(s, sums),
        (2, false, true) => f::<2, false, false>(s, sums),
        (2, true, false) => f::<2, true, true>(s, sums),
        (2, false, false) => f::<2, false, true>(s, sums),
        (_, true, true) => f::<1, true, false>(s, sums),
        (_, false, true) => f::<1, false, false>(s, sums),
        (_, true, false) => f::<1, true, true>(s, sums),
        (_, false, false) => f::<1, false, true>(s, sums),
    }
}

/// See [`super::Int8Kernel::multiply`]. While the tile unit works on a product, the vector unit scales the one before.
#[inline(always)]
unsafe fn multiply(t: &Int8Tile) {
    configure();
    let mut sums = [const { Sums([0; ROWS * ROWS]) }; 2];
    let mut waiting: Option<Scaling> = None;
    let mut turn = 0;
    let (width, stride) = (t.vectors * TILE, t.vectors * TILE * 4);
    for (g, part) in body::PARTS.iter().flat_map(|&part| (0..t.groups).map(move |g| (g, part))) {
        let Some(body::Operands { x, w, w_scales }) = body::operands::<Amx>(t, g, part) else { continue };
        let x_scales: *const f32 = x.add(Amx::GROUP * width).cast();
        let first = g == 0 && part == body::Part::Both;
        for r in (0..t.rows).step_by(ROWS) {
            let w = w.add(r * Amx::GROUP);
            for n in (0..t.vectors).step_by(2) {
                let vectors = (t.vectors - n).min(2);
                let out = &mut sums[turn];
                match vectors {
                    2 => group_products::<2>(w, x.add(n * 64), stride, out),
                    _ => group_products::<1>(w, x.add(n * 64), stride, out),
                }
                turn ^= 1;
                let next = Scaling {
                    rows: (t.rows - r).min(ROWS),
                    vectors,
                    w_scales: w_scales.add(r),
                    x_scales: x_scales.add(n * TILE),
                    bias: if first && !t.bias.is_null() { t.bias.add(r) } else { std::ptr::null() },
                    c: t.c.add(r * width + n * TILE),
                    stride: width,
                    load: !first || t.accumulate,
                };
                if let Some(s) = waiting.replace(next) {
                    scale(&s, &sums[turn]);
                }
            }
        }
    }
    if let Some(s) = waiting {
        scale(&s, &sums[turn ^ 1]);
    }
    release();
}

int8_kernel!(AmxKernel, Amx, super::AMX, rows ROWS, ROWS, 64, multiply, "avx512f,avx512bw");
