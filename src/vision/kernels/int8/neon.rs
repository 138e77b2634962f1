//! NEON with the dot-product extension (Armv8.4, and most processors since 2018), and with products of 8-bit matrices (Armv8.6,
//! phones since 2021).
#![allow(unsafe_op_in_unsafe_fn)] // each method is one intrinsic or a few; their contract is `Dot`'s

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::neon::Neon;
use super::{
    int8_kernel, Correction, Dot, Int8Kernel, Int8Tile, Integers, PackBlock, Products, QuantizeGroup, Quants, Simd,
    Sum, Tiles,
};

impl Integers for Neon {
    type I = int32x4_t;

    #[inline(always)]
    unsafe fn store_i32(p: *mut i32, v: float32x4_t) {
        vst1q_s32(p, vcvtnq_s32_f32(v));
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> int32x4_t {
        vld1q_s32(p)
    }
    #[inline(always)]
    unsafe fn to_f32(sums: int32x4_t) -> float32x4_t {
        vcvtq_f32_s32(sums)
    }
}

struct Dotprod;

/// Four features of four tokens, rounded, token by token.
#[inline(always)]
unsafe fn four_by_four(features: [float32x4_t; 4]) -> int8x16_t {
    let [a, b, c, d] = features.map(|v| vmovn_s32(vcvtnq_s32_f32(v)));
    // Bytes of features 0, 1 of four tokens, then of features 2, 3; then token by token.
    let pairs = |first: int16x4_t, second: int16x4_t| {
        let bytes = vmovn_s16(vcombine_s16(vzip1_s16(first, second), vzip2_s16(first, second)));
        vreinterpretq_s16_s8(vcombine_s8(bytes, vdup_n_s8(0)))
    };
    vreinterpretq_s8_s16(vzip1q_s16(pairs(a, b), pairs(c, d)))
}

impl Quants for Dotprod {
    type S = Neon;
    const GROUP: usize = 64;
    const VALUE_BYTES: usize = 1;
    const CORRECTION: Correction = Correction::None;

    #[inline(always)]
    unsafe fn store_x(p: *mut u8, features: [float32x4_t; 4]) {
        vst1q_s8(p.cast(), four_by_four(features));
    }
    #[inline(always)]
    unsafe fn rescale<const REST: bool>(src: *const u8, ratio: i16, out: *mut u8) {
        for i in (0..32).step_by(8) {
            let wide = vmovl_s8(vld1_s8(src.add(i).cast()));
            let mut scaled = vqrdmulhq_n_s16(wide, ratio);
            if REST {
                // Less than half of 2^15, so that the low halves of the products tell it.
                let rest = vsubq_s16(vmulq_n_s16(wide, ratio), vshlq_n_s16::<15>(scaled));
                scaled = vqrdmulhq_n_s16(rest, 254);
            }
            vst1_s8(out.add(i).cast(), vqmovn_s16(scaled));
        }
    }
}

impl Tiles for Dotprod {
    const ROWS: usize = 4;
}

impl Dot for Dotprod {
    type X = int8x16_t;

    #[inline(always)]
    unsafe fn load_x(p: *const u8) -> int8x16_t {
        vld1q_s8(p.cast())
    }
    #[inline(always)]
    unsafe fn dot(sums: int32x4_t, x: int8x16_t, w: *const u8) -> int32x4_t {
        let w = vdupq_n_s32(w.cast::<i32>().read_unaligned());
        let mut sums = sums;
        // The intrinsic is not in stable Rust.
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums, in(vreg) x, in(vreg) w,
            options(pure, nomem, nostack, preserves_flags));
        sums
    }
}

struct Matrices;

impl Quants for Matrices {
    type S = Neon;
    const GROUP: usize = 64;
    const VALUE_BYTES: usize = 1;
    const RUN: usize = 8;
    const CORRECTION: Correction = Correction::None;

    #[inline(always)]
    unsafe fn store_x(p: *mut u8, features: [float32x4_t; 4]) {
        let tokens = vreinterpretq_s32_s8(four_by_four(features));
        vst1q_lane_s32::<0>(p.cast(), tokens);
        vst1q_lane_s32::<1>(p.add(8).cast(), tokens);
        vst1q_lane_s32::<2>(p.add(16).cast(), tokens);
        vst1q_lane_s32::<3>(p.add(24).cast(), tokens);
    }
    #[inline(always)]
    unsafe fn rescale<const REST: bool>(src: *const u8, ratio: i16, out: *mut u8) {
        Dotprod::rescale::<REST>(src, ratio, out);
    }
}

/// Adds the products of two rows' eight features with those of two tokens: `[r0·t0, r0·t1, r1·t0, r1·t1]`.
#[inline(always)]
unsafe fn two_by_two(sums: int32x4_t, rows: int8x16_t, tokens: int8x16_t) -> int32x4_t {
    let mut sums = sums;
    // The intrinsic is not in stable Rust.
    asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums, in(vreg) rows, in(vreg) tokens,
        options(pure, nomem, nostack, preserves_flags));
    sums
}

impl Tiles for Matrices {
    const ROWS: usize = 4;
}

impl Products for Matrices {
    #[inline(always)]
    unsafe fn products<const R: usize, const N: usize>(
        w: *const u8,
        x: *const u8,
        start: [Sum<Self>; N],
    ) -> [[Sum<Self>; N]; R] {
        // Of two rows and the two halves of a vector. A row that is alone is multiplied twice.
        let mut squares = [[[vdupq_n_s32(0); 2]; N]; R];
        for k in (0..Self::GROUP).step_by(Self::RUN) {
            let mut halves = [[vdupq_n_s8(0); 2]; N];
            for (n, half) in halves.as_flattened_mut().iter_mut().enumerate() {
                *half = vld1q_s8(x.add(k * N * Neon::LANES + n * 16).cast());
            }
            for (pair, squares) in squares.iter_mut().take(R.div_ceil(2)).enumerate() {
                let row = |r: usize| vld1_s8(w.add(r.min(R - 1) * Self::GROUP + k).cast());
                let rows = vcombine_s8(row(2 * pair), row(2 * pair + 1));
                for (square, half) in squares.as_flattened_mut().iter_mut().zip(halves.as_flattened()) {
                    *square = two_by_two(*square, rows, *half);
                }
            }
        }
        let mut sums = [start; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (sum, square) in sums.iter_mut().zip(squares[r / 2]) {
                let [left, right] = square.map(|square| vreinterpretq_s64_s32(square));
                let row = if r % 2 == 0 { vzip1q_s64(left, right) } else { vzip2q_s64(left, right) };
                *sum = vaddq_s32(*sum, vreinterpretq_s32_s64(row));
            }
        }
        sums
    }
}

int8_kernel!(DotprodKernel, Dotprod, "NEON dotprod", 96, "neon,dotprod");
int8_kernel!(MatricesKernel, Matrices, "NEON i8mm", 96, "neon,i8mm");
