//! Any processor: arrays of values, which compilers turn into the vectors that the target has.
#![allow(unsafe_op_in_unsafe_fn)] // pointers are the only unsafe thing here; their contract is `Simd`'s

use std::array::from_fn;

use super::{body, kernel, AttentionTile, GemmTile, Kernel, NormColumn, Simd, WeightBlock};

/// Arrays of `LANES` values, `VECTORS` of them to a panel.
#[derive(Clone, Copy)]
pub(crate) struct Arrays<const LANES: usize, const VECTORS: usize>;

/// Four values: what every target has a vector for (SSE2 on x86-64).
pub(crate) type Portable = Arrays<4, 2>;

#[inline(always)]
unsafe fn u16_at(p: *const u8, i: usize) -> u16 {
    u16::from_le(p.cast::<u16>().add(i).read_unaligned())
}

impl<const L: usize, const VECTORS: usize> Simd for Arrays<L, VECTORS> {
    type V = [f32; L];
    const LANES: usize = L;
    const VECTORS: usize = VECTORS;
    const ROWS: usize = 4;
    const DEPTH: usize = 512;

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; L] {
        [x; L]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; L] {
        p.cast::<[f32; L]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; L]) {
        p.cast::<[f32; L]>().write_unaligned(v)
    }
    #[inline(always)]
    unsafe fn add(a: [f32; L], b: [f32; L]) -> [f32; L] {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; L], b: [f32; L]) -> [f32; L] {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; L], b: [f32; L]) -> [f32; L] {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: [f32; L], b: [f32; L]) -> [f32; L] {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; L], b: [f32; L], c: [f32; L]) -> [f32; L] {
        // Not mul_add: without the instruction that is a function call.
        from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn min(a: [f32; L], b: [f32; L]) -> [f32; L] {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn max(a: [f32; L], b: [f32; L]) -> [f32; L] {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn sqrt(a: [f32; L]) -> [f32; L] {
        from_fn(|i| a[i].sqrt())
    }
    #[inline(always)]
    unsafe fn round(a: [f32; L]) -> [f32; L] {
        // Adding 1.5·2^23 leaves no bits for a fraction.
        const BIG: f32 = 12_582_912.0;
        from_fn(|i| (a[i] + BIG) - BIG)
    }
    #[inline(always)]
    unsafe fn exp2_int(n: [f32; L]) -> [f32; L] {
        // NaN becomes 0 here.
        from_fn(|i| f32::from_bits((((n[i] as i32) + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> [f32; L] {
        from_fn(|i| body::f16_to_f32(u16_at(p, i)))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> [f32; L] {
        from_fn(|i| f32::from_bits((u16_at(p, i) as u32) << 16))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> [f32; L] {
        from_fn(|i| *p.add(i) as i8 as f32)
    }
}

kernel!(PortableKernel, Portable, "portable");
