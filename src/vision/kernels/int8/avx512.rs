//! AVX-512 VNNI: `vpdpbusd` multiplies unsigned by signed bytes, so weights are stored plus 128.
#![allow(unsafe_op_in_unsafe_fn)] // each method is one intrinsic or a few; their contract is `Dot`'s

use std::arch::x86_64::*;

use super::super::avx512::Avx512;
use super::words::{word_attention, Paired, Words};
use super::{
    int8_kernel, Correction, Dot, Int8Kernel, Int8Tile, Integers, PackBlock, QuantizeGroup, Quants, Simd, Tiles,
};
use crate::kernels::bf16::exp2;

impl Integers for Avx512 {
    type I = __m512i;

    #[inline(always)]
    unsafe fn store_i32(p: *mut i32, v: __m512) {
        _mm512_storeu_si512(p.cast(), _mm512_cvtps_epi32(v));
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> __m512i {
        _mm512_loadu_si512(p.cast())
    }
    #[inline(always)]
    unsafe fn to_f32(sums: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(sums)
    }
}

pub(super) struct Vnni;

/// Four vectors of rounded numbers as bytes: in each 32-bit lane the four numbers in order.
#[inline(always)]
unsafe fn interleave(v: [__m512; 4]) -> __m512i {
    let low = _mm512_set1_epi32(0xff);
    let byte = |v: __m512| _mm512_and_si512(_mm512_cvtps_epi32(v), low);
    let [a, b, c] = [v[0], v[1], v[2]].map(byte);
    let d = _mm512_slli_epi32::<24>(_mm512_cvtps_epi32(v[3]));
    let ab = _mm512_or_si512(a, _mm512_slli_epi32::<8>(b));
    // Or of three.
    _mm512_ternarylogic_epi32::<0xfe>(ab, _mm512_slli_epi32::<16>(c), d)
}

/// See [`Quants::rescale`].
#[inline(always)]
unsafe fn rescaled<const REST: bool>(src: *const u8, ratio: i16) -> __m256i {
    let (wide, ratio) = (_mm512_cvtepi8_epi16(_mm256_loadu_si256(src.cast())), _mm512_set1_epi16(ratio));
    let mut scaled = _mm512_mulhrs_epi16(wide, ratio);
    if REST {
        // Less than half of 2^15, so that the low halves of the products tell it.
        let rest = _mm512_sub_epi16(_mm512_mullo_epi16(wide, ratio), _mm512_slli_epi16::<15>(scaled));
        scaled = _mm512_mulhrs_epi16(rest, _mm512_set1_epi16(254));
    }
    _mm512_cvtepi16_epi8(scaled)
}

impl Quants for Vnni {
    type S = Avx512;
    const GROUP: usize = 64;
    const VALUE_BYTES: usize = 1;
    const CORRECTION: Correction = Correction::Offset;

    #[inline(always)]
    unsafe fn store_x(p: *mut u8, features: [__m512; 4]) {
        _mm512_storeu_si512(p.cast(), interleave(features));
    }
    #[inline(always)]
    unsafe fn rescale<const REST: bool>(src: *const u8, ratio: i16, out: *mut u8) {
        _mm256_storeu_si256(out.cast(), _mm256_xor_si256(rescaled::<REST>(src, ratio), _mm256_set1_epi8(-128)));
    }
}

impl Tiles for Vnni {
    const ROWS: usize = 12;
    const GROUPS: usize = 4;

    #[inline(always)]
    unsafe fn single(t: &Int8Tile) -> bool {
        super::single::multiply(t);
        true
    }
}

impl Dot for Vnni {
    type X = __m512i;

    #[inline(always)]
    unsafe fn load_x(p: *const u8) -> __m512i {
        _mm512_loadu_si512(p.cast())
    }
    #[inline(always)]
    unsafe fn dot(sums: __m512i, x: __m512i, w: *const u8) -> __m512i {
        _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(w.cast::<i32>().read_unaligned()), x)
    }
}

impl Paired for Avx512 {
    #[inline(always)]
    unsafe fn store_pairs(p: *mut i32, a: __m512, b: __m512) {
        let low = _mm512_and_si512(_mm512_cvtps_epi32(a), _mm512_set1_epi32(0xffff));
        let pairs = _mm512_or_si512(low, _mm512_slli_epi32::<16>(_mm512_cvtps_epi32(b)));
        _mm512_storeu_si512(p.cast(), pairs);
    }
    #[inline(always)]
    unsafe fn exp2(x: __m512) -> __m512 {
        exp2(x)
    }
}

impl Words for Vnni {
    type S = Avx512;

    #[inline(always)]
    unsafe fn dot(sums: __m512i, x: __m512i, pair: i32) -> __m512i {
        _mm512_dpwssd_epi32(sums, x, _mm512_set1_epi32(pair))
    }
}

word_attention!(VnniWords, Vnni, "avx512f,avx512bw,avx512dq,avx512vnni");

// Results are read and written once for four groups, so that the second-level cache is near enough for them.
int8_kernel!(VnniKernel, Vnni, "AVX-512 VNNI", 1020, words VnniWords, "avx512f,avx512bw,avx512vnni");
