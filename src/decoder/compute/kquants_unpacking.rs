//! Rows of k-quants as 8-bit integers.
//!
//! A k-quant's weight is a number of 4 to 6 bits, less the middle of their range, times its run's scale in 6 to 8 bits, times the
//! block's, plus its run's offset. The product of the first two takes up to 13 bits; the lower ones, of which a block has most where
//! weights are largest, are rounded away here: beside what quantising has rounded before, that adds 1 % (Q4_K), 4 % (Q5_K) and
//! 12 % (Q6_K) of variance, by calculation.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Unpacker`'s

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::dequantize::Rows;
use super::kquants::{half, scales_and_minima, BLOCK};
use crate::kernels::int8_unpacking::{self, RowBlock, Weights};
use crate::prefetch::fetch_to_second_level;

const _: () = assert!(BLOCK == int8_unpacking::BLOCK);

/// A type of weights.
pub(super) trait Type {
    /// Bytes of a block.
    const BYTES: usize;
    /// Whether runs have offsets.
    const OFFSETS: bool;
    unsafe fn unpack(block: *const u8, out: &impl RowBlock);
}

/// Rows as they are kept in the file.
pub(super) struct Kept<T> {
    rows: Rows,
    of: PhantomData<T>,
}

impl<T: Type> Kept<T> {
    pub(super) fn new(rows: &Rows) -> Kept<T> {
        Kept { rows: *rows, of: PhantomData }
    }

    #[inline(always)]
    fn at(&self, row: usize, block: usize) -> *const u8 {
        self.rows.first.wrapping_add(row * self.rows.stride + block * T::BYTES)
    }
}

impl<T: Type> Weights for Kept<T> {
    const OFFSETS: bool = T::OFFSETS;

    #[inline(always)]
    unsafe fn unpack(&self, row: usize, block: usize, out: &impl RowBlock) {
        T::unpack(self.at(row, block), out);
    }

    #[inline(always)]
    unsafe fn fetch(&self, row: usize, block: usize) {
        fetch_to_second_level(self.at(row, block), T::BYTES);
    }
}

/// `number · scale / 2^shift`, rounded to the nearest, and to even ones in the middle, for all scales of 6 bits and all numbers of
/// a type, counted from the middle of their range.
#[repr(C, align(64))]
struct Products<const NUMBERS: usize>([[i8; NUMBERS]; 64]);

impl<const NUMBERS: usize> Products<NUMBERS> {
    const fn new(shift: u32) -> Self {
        let mut products = [[0; NUMBERS]; 64];
        let mut i = 0;
        while i < 64 * NUMBERS {
            let (scale, number) = (i / NUMBERS, i % NUMBERS);
            let product = scale as i32 * (number as i32 - NUMBERS as i32 / 2);
            let (whole, rest, half) = (product >> shift, product & ((1 << shift) - 1), 1 << (shift - 1));
            let up = rest > half || (rest == half && whole & 1 == 1);
            products[scale][number] = (whole + up as i32) as i8;
            i += 1;
        }
        Products(products)
    }
}

/// Which of two numbers the lanes of scales and minima take.
static FIRST_OR_SECOND: [i32; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];

/// Writes scale and offsets of a block of Q4_K or Q5_K whose numbers are `middle` too high and divided by `divisor`; gives the
/// runs' scales.
#[inline(always)]
unsafe fn set_scales(p: *const u8, out: &impl RowBlock, middle: f32, divisor: f32) -> u64 {
    let (scales, minima) = scales_and_minima(p.add(4));
    // The block's scale for scales and that for minima.
    let both = _mm_cvtph_ps(_mm_cvtsi32_si128(p.cast::<i32>().read_unaligned()));
    out.set_scale(_mm_cvtss_f32(both) * divisor);
    let lanes = _mm512_loadu_si512(FIRST_OR_SECOND.as_ptr().cast());
    let factors =
        _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(_mm_mul_ps(both, _mm_setr_ps(middle, 1.0, 0.0, 0.0))));
    let integers = _mm512_cvtepu8_epi32(_mm_set_epi64x(minima as i64, scales as i64));
    let products = _mm512_mul_ps(_mm512_cvtepi32_ps(integers), factors);
    out.set_offsets(_mm256_sub_ps(_mm512_castps512_ps256(products), _mm512_extractf32x8_ps::<1>(products)));
    scales
}

/// 32 bytes twice, the second time shifted so that their upper halves are the lower ones.
#[inline(always)]
unsafe fn halves(p: *const u8) -> __m512i {
    let upper = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi64x(4));
    _mm512_srlv_epi64(_mm512_broadcast_i64x4(_mm256_loadu_si256(p.cast())), upper)
}

pub(super) struct Q4K;

static PRODUCTS_OF_4_BITS: Products<16> = Products::new(2);

impl Type for Q4K {
    const BYTES: usize = 144;
    const OFFSETS: bool = true;

    #[inline(always)]
    unsafe fn unpack(p: *const u8, out: &impl RowBlock) {
        let scales = set_scales(p, out, 8.0, 4.0).to_le_bytes();
        for step in 0..4 {
            let numbers = _mm512_and_si512(halves(p.add(16 + 32 * step)), _mm512_set1_epi8(15));
            let products = |run: usize| PRODUCTS_OF_4_BITS.0[usize::from(scales[run] & 63)].as_ptr().cast::<__m128i>();
            let (first, second) = (_mm_load_si128(products(2 * step)), _mm_load_si128(products(2 * step + 1)));
            let table = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(first), 0xff00, second);
            out.set(step, _mm512_shuffle_epi8(table, numbers));
        }
    }
}

pub(super) struct Q5K;

static PRODUCTS_OF_5_BITS: Products<32> = Products::new(3);

impl Type for Q5K {
    const BYTES: usize = 176;
    const OFFSETS: bool = true;

    #[inline(always)]
    unsafe fn unpack(p: *const u8, out: &impl RowBlock) {
        let scales = set_scales(p, out, 16.0, 8.0).to_le_bytes();
        let second_half = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi8(32));
        // Bit j of a byte is the fifth of run j.
        let rotate = _mm512_inserti64x4::<1>(_mm512_set1_epi64(60), _mm256_set1_epi64x(61));
        let two = _mm512_set1_epi64(2);
        let mut fifth = _mm512_rorv_epi64(_mm512_broadcast_i64x4(_mm256_loadu_si256(p.add(16).cast())), rotate);
        for step in 0..4 {
            let upper = _mm512_ternarylogic_epi32::<0xf8>(second_half, fifth, _mm512_set1_epi8(16));
            let low = halves(p.add(48 + 32 * step));
            let numbers = _mm512_ternarylogic_epi32::<0xf8>(upper, low, _mm512_set1_epi8(15));
            let products = |run: usize| PRODUCTS_OF_5_BITS.0[usize::from(scales[run] & 63)].as_ptr().cast::<__m256i>();
            let (first, second) = (_mm256_load_si256(products(2 * step)), _mm256_load_si256(products(2 * step + 1)));
            let table = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second);
            out.set(step, _mm512_permutexvar_epi8(numbers, table));
            fifth = _mm512_rorv_epi64(fifth, two);
        }
    }
}

pub(super) struct Q6K;

/// Which of 16-bit scales belong to the 16-bit lanes of 64 numbers, for the first of four such vectors.
static LANES: [u16; 32] = {
    let mut lanes = [0; 32];
    let mut i = 0;
    while i < 32 {
        lanes[i] = (i / 8) as u16;
        i += 1;
    }
    lanes
};

/// Numbers of 4 lower and 2 upper bits, times the scales of a step, divided by 32.
///
/// A scale times four, times a number in the upper byte of a word, rounded from 2^15.
#[inline(always)]
unsafe fn sixes(low: __m512i, upper: __m512i, scales: __m512i, step: usize) -> __m512i {
    let upper = _mm512_and_si512(upper, _mm512_set1_epi8(0x30));
    let numbers = _mm512_ternarylogic_epi32::<0xf8>(upper, low, _mm512_set1_epi8(15));
    let numbers = _mm512_sub_epi8(numbers, _mm512_set1_epi8(32));
    let lanes = _mm512_add_epi16(_mm512_loadu_si512(LANES.as_ptr().cast()), _mm512_set1_epi16(4 * step as i16));
    let scale = _mm512_permutexvar_epi16(lanes, scales);
    // Only −32 · −128 gives 128.
    let most = _mm512_set1_epi16(127);
    let even = _mm512_min_epi16(_mm512_mulhrs_epi16(_mm512_slli_epi16::<8>(numbers), scale), most);
    let upper_bytes = _mm512_set1_epi16(0xff00_u16 as i16);
    let odd = _mm512_min_epi16(_mm512_mulhrs_epi16(_mm512_and_si512(numbers, upper_bytes), scale), most);
    _mm512_mask_blend_epi8(0xaaaa_aaaa_aaaa_aaaa, even, _mm512_slli_epi16::<8>(odd))
}

impl Type for Q6K {
    const BYTES: usize = 210;
    const OFFSETS: bool = false;

    #[inline(always)]
    unsafe fn unpack(p: *const u8, out: &impl RowBlock) {
        out.set_scale(half(p.add(208)) * 32.0);
        let scales = _mm256_slli_epi16::<2>(_mm256_cvtepi8_epi16(_mm_loadu_si128(p.add(192).cast())));
        let scales = _mm512_castsi256_si512(scales);
        // The upper two bits of four numbers share a byte; the second half of a vector takes the next two.
        let left = _mm512_inserti64x4::<1>(_mm512_set1_epi16(4), _mm256_set1_epi16(2));
        let right = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(2));
        for i in 0..2 {
            let four = _mm512_loadu_si512(p.add(64 * i).cast());
            let two = _mm512_broadcast_i64x4(_mm256_loadu_si256(p.add(128 + 32 * i).cast()));
            out.set(2 * i, sixes(four, _mm512_sllv_epi16(two, left), scales, 2 * i));
            let (four, two) = (_mm512_srli_epi16::<4>(four), _mm512_srlv_epi16(two, right));
            out.set(2 * i + 1, sixes(four, two, scales, 2 * i + 1));
        }
    }
}
