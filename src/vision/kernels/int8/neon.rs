//! NEON with the dot-product extension (Armv8.4, and most processors since 2018).
#![allow(unsafe_op_in_unsafe_fn)] // each method is one intrinsic or a few; their contract is `Dot`'s

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::neon::Neon;
use super::{body, int8_kernel, Dot, Int8Kernel, Int8Tile, PackBlock, QuantizeGroup, Quants, Simd};

struct Dotprod;

impl Quants for Dotprod {
    type S = Neon;
    const GROUP: usize = 64;
    const VALUE_BYTES: usize = 1;
    const OFFSET: bool = false;

    #[inline(always)]
    unsafe fn store_x(p: *mut u8, features: [float32x4_t; 4]) {
        let [a, b, c, d] = features.map(|v| vmovn_s32(vcvtnq_s32_f32(v)));
        // Bytes of features 0, 1 of four tokens, then of features 2, 3; then token by token.
        let low =
            vreinterpretq_s16_s8(vcombine_s8(vmovn_s16(vcombine_s16(vzip1_s16(a, b), vzip2_s16(a, b))), vdup_n_s8(0)));
        let high =
            vreinterpretq_s16_s8(vcombine_s8(vmovn_s16(vcombine_s16(vzip1_s16(c, d), vzip2_s16(c, d))), vdup_n_s8(0)));
        vst1q_s8(p.cast(), vreinterpretq_s8_s16(vzip1q_s16(low, high)));
    }
    #[inline(always)]
    unsafe fn store_i32(p: *mut i32, v: float32x4_t) {
        vst1q_s32(p, vcvtnq_s32_f32(v));
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

impl Dot for Dotprod {
    type I = int32x4_t;
    type X = int8x16_t;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        vdupq_n_s32(0)
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> int32x4_t {
        vld1q_s32(p)
    }
    #[inline(always)]
    unsafe fn to_f32(sums: int32x4_t) -> float32x4_t {
        vcvtq_f32_s32(sums)
    }
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

int8_kernel!(DotprodKernel, Dotprod, "NEON dotprod", rows 4, 96, "neon,dotprod");
