//! NEON (AArch64, where it is always there): 4 lanes, 32 registers.
#![allow(unsafe_op_in_unsafe_fn)] // each method is one intrinsic or a few; their contract is `Simd`'s

use std::arch::aarch64::*;

use super::{body, kernel, AttentionTile, GemmTile, Kernel, NormColumn, Simd, WeightBlock};

#[derive(Clone, Copy)]
pub(crate) struct Neon;

impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    const VECTORS: usize = 5;
    const ROWS: usize = 4;
    const DEPTH: usize = 256;

    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        vdupq_n_f32(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> float32x4_t {
        vld1q_f32(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: float32x4_t) {
        vst1q_f32(p, v)
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vaddq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vsubq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vmulq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vdivq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        vfmaq_f32(c, a, b)
    }
    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vminq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vmaxq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn sqrt(a: float32x4_t) -> float32x4_t {
        vsqrtq_f32(a)
    }
    #[inline(always)]
    unsafe fn round(a: float32x4_t) -> float32x4_t {
        vrndnq_f32(a)
    }
    #[inline(always)]
    unsafe fn exp2_int(n: float32x4_t) -> float32x4_t {
        let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
        vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> float32x4_t {
        // The conversion instruction works on a type that stable Rust lacks: convert by integer arithmetic, as
        // `body::f16_to_f32` does.
        let h = vmovl_u16(vreinterpret_u16_u8(vld1_u8(p)));
        let magnitude = vshlq_n_u32::<13>(vandq_u32(h, vdupq_n_u32(0x7fff)));
        let exponent = vandq_u32(h, vdupq_n_u32(0x7c00));
        let normal = vaddq_u32(magnitude, vdupq_n_u32((127 - 15) << 23));
        let smallest = vdupq_n_u32(113 << 23);
        let subnormal = vreinterpretq_u32_f32(vsubq_f32(
            vreinterpretq_f32_u32(vorrq_u32(smallest, magnitude)),
            vreinterpretq_f32_u32(smallest),
        ));
        let special = vorrq_u32(magnitude, vdupq_n_u32(0x7f80_0000));
        let bits = vbslq_u32(vceqzq_u32(exponent), subnormal, normal);
        let bits = vbslq_u32(vceqq_u32(exponent, vdupq_n_u32(0x7c00)), special, bits);
        let sign = vshlq_n_u32::<16>(vandq_u32(h, vdupq_n_u32(0x8000)));
        vreinterpretq_f32_u32(vorrq_u32(bits, sign))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> float32x4_t {
        vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(p))))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> float32x4_t {
        let four = vcreate_s8(p.cast::<u32>().read_unaligned() as u64);
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four))))
    }
}

kernel!(NeonKernel, Neon, "NEON", "neon");
