//! AVX-VNNI, and AVX2 without it.
#![allow(unsafe_op_in_unsafe_fn)] // each method is one intrinsic or a few; their contract is `Dot`'s

use std::arch::x86_64::*;

use super::super::avx2::Avx2;
use super::words::{word_attention, Paired, Words};
use super::{
    int8_kernel, Correction, Dot, Int8Kernel, Int8Tile, Integers, PackBlock, Products, QuantizeGroup, Quants, Simd,
    Tiles,
};

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

/// Winograd's inner product (A New Algorithm for Inner Product, IEEE Transactions on Computers C-17, 1968): for each two features
/// side by side, x₀·w₀ + x₁·w₁ = (x₀ + w₁)·(x₁ + w₀) − x₀·x₁ − w₀·w₁. One product and two sums do for two products, and what is
/// taken away again is known for each token and for each row. Numbers have 16 bits: `vpmaddubsw`, which multiplies 8, would
/// saturate. Processors without VNNI add more vectors a cycle than they multiply.
struct Pairs;

/// Four bytes in all lanes.
#[inline(always)]
unsafe fn broadcast(p: *const u8) -> __m256i {
    _mm256_set1_epi32(p.cast::<i32>().read_unaligned())
}

impl Paired for Avx2 {
    #[inline(always)]
    unsafe fn store_pairs(p: *mut i32, a: __m256, b: __m256) {
        let low = _mm256_and_si256(_mm256_cvtps_epi32(a), _mm256_set1_epi32(0xffff));
        let pairs = _mm256_or_si256(low, _mm256_slli_epi32::<16>(_mm256_cvtps_epi32(b)));
        _mm256_storeu_si256(p.cast(), pairs);
    }
    /// A minimax polynomial in what is left beside the nearest integer.
    #[inline(always)]
    unsafe fn exp2(x: __m256) -> __m256 {
        let n = _mm256_cvtps_epi32(x);
        let r = _mm256_sub_ps(x, _mm256_cvtepi32_ps(n));
        let mut p = _mm256_set1_ps(5.517_167e-2);
        for c in [0.242_611_12, 0.693_261, 0.999_928_1] {
            p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
        }
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32::<23>(n)))
    }
}

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
    const CORRECTION: Correction = Correction::Offset;

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
        _mm256_dpbusd_avx_epi32(sums, broadcast(w), x)
    }
}

impl Quants for Pairs {
    type S = Avx2;
    const GROUP: usize = 64;
    const VALUE_BYTES: usize = 2;
    const ROW_BYTES: usize = Self::GROUP * Self::VALUE_BYTES + 4;
    const CORRECTION: Correction = Correction::Pairs;

    #[inline(always)]
    unsafe fn store_x(p: *mut u8, [a, b, c, d]: [__m256; 4]) {
        Avx2::store_pairs(p.cast(), a, c);
        Avx2::store_pairs(p.add(32).cast(), b, d);
    }
    #[inline(always)]
    unsafe fn rescale<const REST: bool>(src: *const u8, ratio: i16, out: *mut u8) {
        // b, d, a, c.
        let order = _mm256_broadcastsi128_si256(_mm_setr_epi8(2, 3, 6, 7, 0, 1, 4, 5, 10, 11, 14, 15, 8, 9, 12, 13));
        for (i, half) in rescaled::<REST>(src, ratio).into_iter().enumerate() {
            _mm256_storeu_si256(out.add(32 * i).cast(), _mm256_shuffle_epi8(half, order));
        }
    }
    #[inline(always)]
    unsafe fn finish_row(row: *mut u8) {
        let mut sum = _mm256_setzero_si256();
        for i in 0..Self::GROUP / 16 {
            let w = _mm256_loadu_si256(row.add(32 * i).cast());
            // b·a + d·c in every other lane.
            sum = _mm256_sub_epi32(sum, _mm256_madd_epi16(w, _mm256_srli_epi64::<32>(w)));
        }
        let half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let whole = _mm_cvtsi128_si32(half) + _mm_extract_epi32::<2>(half);
        row.add(Self::GROUP * Self::VALUE_BYTES).cast::<i32>().write_unaligned(whole);
    }
}

impl Tiles for Pairs {
    const ROWS: usize = 4;
}

impl Products for Pairs {
    #[inline(always)]
    unsafe fn products<const R: usize, const N: usize>(
        w: *const u8,
        x: *const u8,
        start: [__m256i; N],
    ) -> [[__m256i; N]; R] {
        let mut sums = [start; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            let correction = broadcast(w.add(r * Self::ROW_BYTES + Self::GROUP * 2));
            for sum in sums {
                *sum = _mm256_add_epi32(*sum, correction);
            }
        }
        for k in (0..Self::GROUP).step_by(4) {
            let mut xs = [[_mm256_setzero_si256(); 2]; N];
            for (n, v) in xs.iter_mut().enumerate() {
                let at = x.add((k * N + n * 4) * 16);
                *v = [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())];
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let at = w.add(r * Self::ROW_BYTES + k * 2);
                let (bd, ac) = (broadcast(at), broadcast(at.add(4)));
                for (sum, x) in sums.iter_mut().zip(xs) {
                    let products = _mm256_madd_epi16(_mm256_add_epi16(x[0], bd), _mm256_add_epi16(x[1], ac));
                    *sum = _mm256_add_epi32(*sum, products);
                }
            }
        }
        sums
    }
}

impl Words for AvxVnni {
    type S = Avx2;

    #[inline(always)]
    unsafe fn dot(sums: __m256i, x: __m256i, pair: i32) -> __m256i {
        _mm256_dpwssd_avx_epi32(sums, x, _mm256_set1_epi32(pair))
    }
}

impl Words for Pairs {
    type S = Avx2;

    #[inline(always)]
    unsafe fn dot(sums: __m256i, x: __m256i, pair: i32) -> __m256i {
        _mm256_add_epi32(sums, _mm256_madd_epi16(x, _mm256_set1_epi32(pair)))
    }
}

word_attention!(AvxVnniWords, AvxVnni, "avx2,fma,f16c,avxvnni");
word_attention!(PairWords, Pairs, "avx2,fma,f16c");
int8_kernel!(AvxVnniKernel, AvxVnni, "AVX-VNNI", 192, words AvxVnniWords, "avx2,fma,f16c,avxvnni");
int8_kernel!(PairsKernel, Pairs, "AVX2", 192, words PairWords, "avx2,fma,f16c");
