//! k-quants with AVX-512 VNNI.
//!
//! A block's numbers are 4 vectors of 64. Their products with the activations are summed up by fours (VPDPBUSD); those sums fit in
//! 16 bits, so that the next instruction (VPDPWSSD) multiplies them with their 6- or 8-bit scales and adds up: no float
//! before the end of a block. Layouts of the blocks: ggml's ggml-common.h.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Dots`'s

use std::arch::x86_64::*;

use llama_cpp_sys_2 as llama;

use super::kquants::{fetch_ahead, half, scales_and_minima, Activations, Dots, Order, Rows, COLUMNS, PLACES};

/// Vectors in a block.
const VECTORS: usize = 4;

/// A block of weights, unpacked.
struct Unpacked {
    /// Without signs, of at most 6 bits.
    numbers: [__m512i; VECTORS],
    /// Of the sums of four numbers: 16 bits, with nothing in the upper half of each lane.
    scales: [__m512i; VECTORS],
    /// Of the activations' sums of 16, to be taken off.
    offsets: __m256i,
    /// Of what `numbers` gives.
    scale: f32,
    /// Of what `offsets` gives.
    offset_scale: f32,
}

/// A type of weights.
trait Block {
    /// Bytes of a block.
    const BYTES: usize;
    /// Which runs of 32 numbers [`Unpacked::numbers`] has.
    const ORDER: Order;

    unsafe fn unpack(p: *const u8) -> Unpacked;
}

/// Runs 0 and 2, then 1 and 3, of each half.
const PAIRED: Order = [0, 2, 1, 3, 4, 6, 5, 7];

/// Which of eight scales belong to which lanes in [`PAIRED`] order.
static PAIRED_LANES: [[u32; 16]; VECTORS] = {
    let mut lanes = [[0; 16]; VECTORS];
    let mut i = 0;
    while i < 64 {
        lanes[i / 16][i % 16] = PAIRED[i / 8] as u32;
        i += 1;
    }
    lanes
};

/// Which of sixteen scales belong to which lanes.
static STRAIGHT_LANES: [[u32; 16]; VECTORS] = {
    let mut lanes = [[0; 16]; VECTORS];
    let mut i = 0;
    while i < 64 {
        lanes[i / 16][i % 16] = (i / 4) as u32;
        i += 1;
    }
    lanes
};

// Functions and not closures: those would not become part of a caller that is compiled for the instruction set.

/// The lanes of `scales` that belong to each vector.
#[inline(always)]
unsafe fn spread(scales: __m512i, lanes: &[[u32; 16]; VECTORS]) -> [__m512i; VECTORS] {
    let mut out = [_mm512_setzero_si512(); VECTORS];
    for (v, lanes) in out.iter_mut().zip(lanes) {
        *v = _mm512_permutexvar_epi32(_mm512_loadu_si512(lanes.as_ptr().cast()), scales);
    }
    out
}

/// The lower four bits of each byte.
#[inline(always)]
unsafe fn low(v: __m512i) -> __m512i {
    _mm512_and_si512(v, _mm512_set1_epi8(15))
}

/// The upper four bits of each byte.
#[inline(always)]
unsafe fn high(v: __m512i) -> __m512i {
    low(_mm512_srli_epi16::<4>(v))
}

/// What Q4_K and Q5_K have in common.
#[inline(always)]
unsafe fn with_minima(p: *const u8, numbers: [__m512i; VECTORS]) -> Unpacked {
    let (scales, minima) = scales_and_minima(p.add(4));
    // Each minimum is for two sums of 16.
    let minima = _mm_cvtsi64_si128(minima as i64);
    Unpacked {
        numbers,
        scales: spread(_mm512_cvtepu8_epi32(_mm_set1_epi64x(scales as i64)), &PAIRED_LANES),
        offsets: _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(minima, minima)),
        scale: half(p),
        offset_scale: half(p.add(2)),
    }
}

struct Q4K;

impl Block for Q4K {
    const BYTES: usize = 144;
    const ORDER: Order = PAIRED;

    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        let (a, b) = (_mm512_loadu_si512(p.add(16).cast()), _mm512_loadu_si512(p.add(80).cast()));
        with_minima(p, [low(a), high(a), low(b), high(b)])
    }
}

struct Q5K;

impl Block for Q5K {
    const BYTES: usize = 176;
    const ORDER: Order = PAIRED;

    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        let fifth = _mm512_broadcast_i64x4(_mm256_loadu_si256(p.add(16).cast()));
        let (a, b) = (_mm512_loadu_si512(p.add(48).cast()), _mm512_loadu_si512(p.add(112).cast()));
        let mut numbers = [low(a), high(a), low(b), high(b)];
        for (v, runs) in numbers.iter_mut().zip(Self::ORDER.as_chunks::<2>().0) {
            // Bit j of the fifth bits belongs to run j.
            let bits = _mm512_inserti64x4::<1>(
                _mm512_set1_epi8((1_u8 << runs[0]) as i8),
                _mm256_set1_epi8((1_u8 << runs[1]) as i8),
            );
            *v = _mm512_mask_add_epi8(*v, _mm512_test_epi8_mask(fifth, bits), *v, _mm512_set1_epi8(16));
        }
        with_minima(p, numbers)
    }
}

struct Q6K;

impl Block for Q6K {
    const BYTES: usize = 210;
    const ORDER: Order = [0, 1, 2, 3, 4, 5, 6, 7];

    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        let mut numbers = [_mm512_setzero_si512(); VECTORS];
        // The upper two bits of four numbers share a byte; the second half of a vector takes the next two.
        let left = _mm512_inserti64x4::<1>(_mm512_set1_epi16(4), _mm256_set1_epi16(2));
        let right = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(2));
        let upper = _mm512_set1_epi8(0x30);
        for i in 0..2 {
            let four = _mm512_loadu_si512(p.add(64 * i).cast());
            let two = _mm512_broadcast_i64x4(_mm256_loadu_si256(p.add(128 + 32 * i).cast()));
            numbers[2 * i] = _mm512_or_si512(low(four), _mm512_and_si512(_mm512_sllv_epi16(two, left), upper));
            numbers[2 * i + 1] = _mm512_or_si512(high(four), _mm512_and_si512(_mm512_srlv_epi16(two, right), upper));
        }
        let scales = _mm_loadu_si128(p.add(192).cast());
        // Without the sign's copies in the upper half of a lane.
        let wide = _mm512_maskz_mov_epi16(0x5555_5555, _mm512_cvtepi8_epi32(scales));
        let scale = half(p.add(208));
        Unpacked {
            numbers,
            scales: spread(wide, &STRAIGHT_LANES),
            // Numbers are 32 too high.
            offsets: _mm256_cvtepi8_epi16(scales),
            scale,
            offset_scale: 32.0 * scale,
        }
    }
}

/// `R` rows, which are `apart` rows apart, times `N` columns.
#[inline(always)]
unsafe fn multiply<B: Block, const N: usize, const R: usize>(rows: &Rows, first: usize, apart: usize) {
    let mut sums = [[_mm512_setzero_ps(); N]; R];
    for block in 0..rows.blocks {
        for (r, sums) in sums.iter_mut().enumerate() {
            let p = rows.weights.add((first + r * apart) * rows.row_bytes + block * B::BYTES);
            let w = B::unpack(p);
            fetch_ahead(p, B::BYTES);
            for (n, total) in sums.iter_mut().enumerate() {
                let x: &Activations = &*rows.activations.add(n * rows.blocks + block);
                let mut sum = _mm512_setzero_si512();
                for v in 0..VECTORS {
                    let numbers = _mm512_load_si512(x.numbers.as_ptr().add(64 * v).cast());
                    let fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.numbers[v], numbers);
                    sum = _mm512_dpwssd_epi32(sum, fours, w.scales[v]);
                }
                let scale = _mm512_set1_ps(w.scale * x.scale);
                *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, *total);
                let offset = _mm256_madd_epi16(w.offsets, _mm256_load_si256(x.sums.as_ptr().cast()));
                let scale = _mm512_set1_ps(w.offset_scale * x.scale);
                let offset = _mm512_cvtepi32_ps(_mm512_zextsi256_si512(offset));
                *total = _mm512_fnmadd_ps(offset, scale, *total);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (n, sum) in sums.into_iter().enumerate() {
            *rows.out.add(n * rows.out_stride + first + r * apart) = _mm512_reduce_add_ps(sum);
        }
    }
}

/// All rows times `N` columns, from `R` places at a time.
#[inline(always)]
unsafe fn multiply_all<B: Block, const N: usize, const R: usize>(rows: &Rows) {
    let apart = rows.rows / R;
    for row in 0..apart {
        multiply::<B, N, R>(rows, row, apart);
    }
    for row in apart * R..rows.rows {
        multiply::<B, N, 1>(rows, row, 0);
    }
}

macro_rules! dots {
    ($name:ident, $block:ty) => {
        struct $name;

        // SAFETY of the unsafe call: `dots` hands these out where the processor has the features; what the pointers must satisfy is
        // passed on to the caller.
        impl Dots for $name {
            fn order(&self) -> &'static Order {
                const { &<$block>::ORDER }
            }
            unsafe fn multiply(&self, rows: &Rows) {
                #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
                unsafe fn f<const N: usize, const R: usize>(rows: &Rows) {
                    multiply_all::<$block, N, R>(rows)
                }
                match rows.columns {
                    1 => unsafe { f::<1, PLACES>(rows) },
                    2 => unsafe { f::<2, PLACES>(rows) },
                    3 => unsafe { f::<3, PLACES>(rows) },
                    _ => unsafe { f::<COLUMNS, PLACES>(rows) },
                }
            }
        }
    };
}

dots!(Q4KDots, Q4K);
dots!(Q5KDots, Q5K);
dots!(Q6KDots, Q6K);

/// The kernel for a type; the processor has AVX-512 VNNI.
pub(super) fn dots(ty: llama::ggml_type) -> Option<&'static dyn Dots> {
    match ty {
        llama::GGML_TYPE_Q4_K => Some(&Q4KDots),
        llama::GGML_TYPE_Q5_K => Some(&Q5KDots),
        llama::GGML_TYPE_Q6_K => Some(&Q6KDots),
        _ => None,
    }
}
