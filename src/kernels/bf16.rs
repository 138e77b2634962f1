//! Vectors of bfloat16 numbers, and turning what vectors hold.
//!
//! # Safety
//! All functions are inlined into one that was compiled for AVX-512F, BW, DQ and BF16, and may only run where the processor has them.

use std::arch::x86_64::*;

/// Two vectors as one of bfloat16, `b` behind `a`.
#[inline(always)]
pub(crate) unsafe fn joined(a: __m512, b: __m512) -> __m512i {
    std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a))
}

/// Which numbers of [`joined`] vectors make an interleaved one.
static INTERLEAVED: [u16; 32] = {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    order
};

/// Two vectors as one of bfloat16, their numbers in turns.
#[inline(always)]
pub(crate) unsafe fn interleaved(a: __m512, b: __m512) -> __m512i {
    _mm512_permutexvar_epi16(_mm512_loadu_si512(INTERLEAVED.as_ptr().cast()), joined(a, b))
}

/// As [`interleaved`], rounded towards zero, in a third of the time.
#[inline(always)]
pub(crate) unsafe fn truncated(a: __m512, b: __m512) -> __m512i {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(a));
    _mm512_ternarylogic_epi32::<0xf8>(low, _mm512_castps_si512(b), upper)
}

/// Turns a 16×16 matrix of 32-bit numbers about its diagonal.
#[inline(always)]
pub(crate) unsafe fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut a = rows;
    let mut b = rows;
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    for i in 0..4 {
        for j in 0..2 {
            b[4 * i + 2 * j] = _mm512_unpacklo_epi64(a[4 * i + j], a[4 * i + 2 + j]);
            b[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a[4 * i + j], a[4 * i + 2 + j]);
        }
    }
    // Now quarters of 4×4 are turned; b[4i + j] has columns j, j+4, j+8, j+12 of rows 4i…4i+3.
    for j in 0..4 {
        let low = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[j], b[4 + j]);
        let high = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[j], b[4 + j]);
        let low2 = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[8 + j], b[12 + j]);
        let high2 = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[8 + j], b[12 + j]);
        a[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low, low2);
        a[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low, low2);
        a[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(high, high2);
        a[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(high, high2);
    }
    a
}

/// 2^x to a relative error of 8e-5, less than what bfloat16 rounds: a minimax polynomial in what is above the integer below.
/// Results below 2^-126 may be slow.
#[inline(always)]
pub(crate) unsafe fn exp2(x: __m512) -> __m512 {
    const BELOW: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    let r = _mm512_reduce_ps::<BELOW>(x);
    let mut p = _mm512_set1_ps(7.802_449e-2);
    for c in [0.226_067_58, 0.695_833_2, 0.999_925_26] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    // Takes the integer below by itself.
    _mm512_scalef_ps(p, x)
}
