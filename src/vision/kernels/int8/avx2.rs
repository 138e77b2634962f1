//! AVX-VNNI, and AVX2 without it, where 16-bit pairs are multiplied: `vpmaddubsw` would saturate.
#![allow(unsafe_op_in_unsafe_fn)] // each method is one intrinsic or a few; their contract is `Dot`'s

use std::arch::x86_64::*;

use super::super::avx2::Avx2;
use super::{int8_kernel, Dot, Int8Kernel, Int8Tile, Integers, PackBlock, QuantizeGroup, Quants, Simd, Tiles};

impl Integers for Avx2 {
    type I = __m256i;

    #[inline(always)]
    unsafe fn store_i32(p: *mut i32, v: __m256) {
        _mm256_storeu_si256(p.cast(), _mm256_cvtps_epi32(v));
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> __m256i {
        _mm256_loadu_si256(p.cast())
    }
    #[inline(always)]
    unsafe fn to_f32(sums: __m256i) -> __m256 {
        _mm256_cvtepi32_ps(sums)
    }
}

struct AvxVnni;
struct Pairs;

/// See [`Quants::rescale`]: two halves of 16-bit numbers.
#[inline(always)]
unsafe fn rescaled<const REST: bool>(src: *const u8, ratio: i16) -> [__m256i; 2] {
    let ratio = _mm256_set1_epi16(ratio);
    let mut halves = [_mm256_setzero_si256(); 2];
    for (i, half) in halves.iter_mut().enumerate() {
        let wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(src.add(16 * i).cast()));
        *half = _mm256_mulhrs_epi16(wide, ratio);
        if REST {
            // Less than half of 2^15, so that the low halves of the products tell it.
            let rest = _mm256_sub_epi16(_mm256_mullo_epi16(wide, ratio), _mm256_slli_epi16::<15>(*half));
            *half = _mm256_mulhrs_epi16(rest, _mm256_set1_epi16(254));
        }
    }
    halves
}

impl Quants for AvxVnni {
    type S = Avx2;
    const GROUP: usize = 64;
    const VALUE_BYTES: usize = 1;
    const OFFSET: bool = true;

    #[inline(always)]
    unsafe fn store_x(p: *mut u8, features: [__m256; 4]) {
        let low = _mm256_set1_epi32(0xff);
        let byte = |v: __m256| _mm256_and_si256(_mm256_cvtps_epi32(v), low);
        let [a, b, c] = [features[0], features[1], features[2]].map(byte);
        let d = _mm256_slli_epi32::<24>(_mm256_cvtps_epi32(features[3]));
        let ab = _mm256_or_si256(a, _mm256_slli_epi32::<8>(b));
        let cd = _mm256_or_si256(_mm256_slli_epi32::<16>(c), d);
        _mm256_storeu_si256(p.cast(), _mm256_or_si256(ab, cd));
    }
    #[inline(always)]
    unsafe fn rescale<const REST: bool>(src: *const u8, ratio: i16, out: *mut u8) {
        let [low, high] = rescaled::<REST>(src, ratio);
        // Packing works within 128-bit halves: put the quarters back in order.
        let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(low, high));
        _mm256_storeu_si256(out.cast(), _mm256_xor_si256(bytes, _mm256_set1_epi8(-128)));
    }
}

impl Tiles for AvxVnni {
    const ROWS: usize = 6;
}

impl Dot for AvxVnni {
    type X = __m256i;

    #[inline(always)]
    unsafe fn load_x(p: *const u8) -> __m256i {
        _mm256_loadu_si256(p.cast())
    }
    #[inline(always)]
    unsafe fn dot(sums: __m256i, x: __m256i, w: *const u8) -> __m256i {
        _mm256_dpbusd_avx_epi32(sums, _mm256_set1_epi32(w.cast::<i32>().read_unaligned()), x)
    }
}

impl Quants for Pairs {
    type S = Avx2;
    const GROUP: usize = 64;
    const VALUE_BYTES: usize = 2;
    const OFFSET: bool = false;

    #[inline(always)]
    unsafe fn store_x(p: *mut u8, features: [__m256; 4]) {
        let pair = |a: __m256, b: __m256| {
            let low = _mm256_and_si256(_mm256_cvtps_epi32(a), _mm256_set1_epi32(0xffff));
            _mm256_or_si256(low, _mm256_slli_epi32::<16>(_mm256_cvtps_epi32(b)))
        };
        _mm256_storeu_si256(p.cast(), pair(features[0], features[1]));
        _mm256_storeu_si256(p.add(32).cast(), pair(features[2], features[3]));
    }
    #[inline(always)]
    unsafe fn rescale<const REST: bool>(src: *const u8, ratio: i16, out: *mut u8) {
        for (i, half) in rescaled::<REST>(src, ratio).into_iter().enumerate() {
            _mm256_storeu_si256(out.add(32 * i).cast(), half);
        }
    }
}

impl Tiles for Pairs {
    const ROWS: usize = 4;
}

impl Dot for Pairs {
    type X = [__m256i; 2];

    #[inline(always)]
    unsafe fn load_x(p: *const u8) -> [__m256i; 2] {
        [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())]
    }
    #[inline(always)]
    unsafe fn dot(sums: __m256i, x: [__m256i; 2], w: *const u8) -> __m256i {
        let pair = |i: usize| _mm256_set1_epi32(w.cast::<i32>().wrapping_add(i).read_unaligned());
        let sums = _mm256_add_epi32(sums, _mm256_madd_epi16(x[0], pair(0)));
        _mm256_add_epi32(sums, _mm256_madd_epi16(x[1], pair(1)))
    }
}

int8_kernel!(AvxVnniKernel, AvxVnni, "AVX-VNNI", 192, "avx2,fma,f16c,avxvnni");
int8_kernel!(PairsKernel, Pairs, "AVX2", 192, "avx2,fma,f16c");
