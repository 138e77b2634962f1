//! k-quants with AVX2, and with the 256-bit VNNI of processors that have no AVX-512.
//!
//! A block's numbers are 8 runs of 32. Layouts of the blocks: ggml's ggml-common.h.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Dots`'s

use std::arch::x86_64::*;
use std::marker::PhantomData;

use llama_cpp_sys_2 as llama;

use super::kquants::{fetch_ahead, half, scales_and_minima, Activations, Dots, Order, Rows, COLUMNS, PLACES};

/// Runs in a block.
const RUNS: usize = 8;

/// Whether this processor has what [`Pairs`] need.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Whether it has what [`Fours`] need.
pub(super) fn vnni_available() -> bool {
    available() && is_x86_feature_detected!("avxvnni")
}

/// How products are summed up.
pub(super) trait Sums {
    /// Numbers whose products [`add_up`](Self::add_up) puts into one lane.
    const NUMBERS: usize;
    /// `sum + Σ numbers · x · scale`: each 16 numbers have a scale of 16 bits, as [`spread`](Self::spread) gives it.
    #[inline(always)]
    unsafe fn add(sum: __m256i, numbers: __m256i, x: __m256i, scales: __m256i) -> __m256i {
        Self::scale(sum, Self::add_up(_mm256_setzero_si256(), numbers, x), scales)
    }
    /// Adds products to lanes of at most 16 bits.
    unsafe fn add_up(lanes: __m256i, numbers: __m256i, x: __m256i) -> __m256i;
    /// `sum + Σ lanes · scale`.
    unsafe fn scale(sum: __m256i, lanes: __m256i, scales: __m256i) -> __m256i;
    /// Sixteen scales as `add` wants them, four bytes each.
    unsafe fn spread(scales: __m256i) -> [__m256i; 2];
}

/// Products in pairs, times their scale in pairs.
pub(super) struct Pairs;

impl Sums for Pairs {
    const NUMBERS: usize = 2;

    #[inline(always)]
    unsafe fn add_up(lanes: __m256i, numbers: __m256i, x: __m256i) -> __m256i {
        _mm256_add_epi16(lanes, _mm256_maddubs_epi16(numbers, x))
    }
    #[inline(always)]
    unsafe fn scale(sum: __m256i, lanes: __m256i, scales: __m256i) -> __m256i {
        _mm256_add_epi32(sum, _mm256_madd_epi16(lanes, scales))
    }
    #[inline(always)]
    unsafe fn spread(scales: __m256i) -> [__m256i; 2] {
        // Each twice.
        let wide = [_mm256_castsi256_si128(scales), _mm256_extracti128_si256::<1>(scales)];
        let mut out = [_mm256_setzero_si256(); 2];
        for (out, wide) in out.iter_mut().zip(wide) {
            let (low, high) = (_mm_unpacklo_epi16(wide, wide), _mm_unpackhi_epi16(wide, wide));
            *out = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high);
        }
        out
    }
}

/// Products by fours, whose sums fit in 16 bits, times their scale.
pub(super) struct Fours;

impl Sums for Fours {
    const NUMBERS: usize = 4;

    #[inline(always)]
    unsafe fn add_up(lanes: __m256i, numbers: __m256i, x: __m256i) -> __m256i {
        _mm256_dpbusd_avx_epi32(lanes, numbers, x)
    }
    #[inline(always)]
    unsafe fn scale(sum: __m256i, lanes: __m256i, scales: __m256i) -> __m256i {
        _mm256_dpwssd_avx_epi32(sum, lanes, scales)
    }
    #[inline(always)]
    unsafe fn spread(scales: __m256i) -> [__m256i; 2] {
        // With nothing in the upper half.
        let (a, b) = (_mm256_castsi256_si128(scales), _mm256_extracti128_si256::<1>(scales));
        [_mm256_cvtepu16_epi32(a), _mm256_cvtepu16_epi32(b)]
    }
}

/// A block of weights, unpacked.
pub(super) struct Unpacked {
    /// Without signs, of at most 6 bits.
    pub numbers: [__m256i; RUNS],
    /// Of 16 numbers each, and of the activations' sums of 16, to be taken off.
    pub scales: __m256i,
    pub offsets: __m256i,
    /// Of what `numbers` gives.
    pub scale: f32,
    /// Of what `offsets` gives.
    pub offset_scale: f32,
}

/// A type of weights.
pub(super) trait Block {
    /// Bytes of a block.
    const BYTES: usize;
    /// Products with numbers of 8 bits that can be added up in 16 bits.
    const FIT: usize;
    unsafe fn unpack(p: *const u8) -> Unpacked;
}

#[inline(always)]
unsafe fn load(p: *const u8) -> __m256i {
    _mm256_loadu_si256(p.cast())
}

/// The lower four bits of each byte.
#[inline(always)]
unsafe fn low(v: __m256i) -> __m256i {
    _mm256_and_si256(v, _mm256_set1_epi8(15))
}

/// The upper four bits of each byte.
#[inline(always)]
unsafe fn high(v: __m256i) -> __m256i {
    low(_mm256_srli_epi16::<4>(v))
}

/// Eight bytes, each twice, as 16 bits.
#[inline(always)]
unsafe fn twice(bytes: u64) -> __m256i {
    let bytes = _mm_cvtsi64_si128(bytes as i64);
    _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(bytes, bytes))
}

/// What Q4_K and Q5_K have in common.
#[inline(always)]
unsafe fn with_minima(p: *const u8, numbers: [__m256i; RUNS]) -> Unpacked {
    let (scales, minima) = scales_and_minima(p.add(4));
    Unpacked { numbers, scales: twice(scales), offsets: twice(minima), scale: half(p), offset_scale: half(p.add(2)) }
}

pub(super) struct Q4K;

impl Block for Q4K {
    const BYTES: usize = 144;
    const FIT: usize = 16;

    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        let mut numbers = [_mm256_setzero_si256(); RUNS];
        for i in 0..RUNS / 2 {
            let both = load(p.add(16 + 32 * i));
            numbers[2 * i] = low(both);
            numbers[2 * i + 1] = high(both);
        }
        with_minima(p, numbers)
    }
}

pub(super) struct Q5K;

impl Block for Q5K {
    const BYTES: usize = 176;
    const FIT: usize = 8;

    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        // Bit j belongs to run j.
        let fifth = load(p.add(16));
        let mut numbers = [_mm256_setzero_si256(); RUNS];
        for i in 0..RUNS / 2 {
            let both = load(p.add(48 + 32 * i));
            for (j, four) in [low(both), high(both)].into_iter().enumerate() {
                let run = 2 * i + j;
                let bit = _mm256_set1_epi8((1_u8 << run) as i8);
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(fifth, bit), bit);
                numbers[run] = _mm256_or_si256(four, _mm256_and_si256(set, _mm256_set1_epi8(16)));
            }
        }
        with_minima(p, numbers)
    }
}

pub(super) struct Q6K;

impl Block for Q6K {
    const BYTES: usize = 210;
    const FIT: usize = 4;

    #[inline(always)]
    unsafe fn unpack(p: *const u8) -> Unpacked {
        let upper = _mm256_set1_epi8(0x30);
        let mut numbers = [_mm256_setzero_si256(); RUNS];
        for i in 0..2 {
            let (a, b) = (load(p.add(64 * i)), load(p.add(64 * i + 32)));
            // The upper two bits of four runs share a byte.
            let two = load(p.add(128 + 32 * i));
            let twos = [_mm256_slli_epi16::<4>(two), _mm256_slli_epi16::<2>(two), two, _mm256_srli_epi16::<2>(two)];
            for (j, (four, two)) in [low(a), low(b), high(a), high(b)].into_iter().zip(twos).enumerate() {
                numbers[4 * i + j] = _mm256_or_si256(four, _mm256_and_si256(two, upper));
            }
        }
        let scales = _mm256_cvtepi8_epi16(_mm_loadu_si128(p.add(192).cast()));
        let scale = half(p.add(208));
        // Numbers are 32 too high.
        Unpacked { numbers, scales, offsets: scales, scale, offset_scale: 32.0 * scale }
    }
}

/// The sum of all lanes.
#[inline(always)]
unsafe fn sum_of(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// `R` rows, which are `apart` rows apart, times `N` columns.
#[inline(always)]
unsafe fn multiply<S: Sums, B: Block, const N: usize, const R: usize>(rows: &Rows, first: usize, apart: usize) {
    let halves = _mm256_set_epi32(1, 1, 1, 1, 0, 0, 0, 0);
    let mut sums = [[_mm256_setzero_ps(); N]; R];
    for block in 0..rows.blocks {
        for (r, sums) in sums.iter_mut().enumerate() {
            let p = rows.weights.add((first + r * apart) * rows.row_bytes + block * B::BYTES);
            let w = B::unpack(p);
            fetch_ahead(p, B::BYTES);
            let mut pairs = [0_i64; RUNS];
            for (i, four) in S::spread(w.scales).into_iter().enumerate() {
                _mm256_storeu_si256(pairs.as_mut_ptr().add(RUNS / 2 * i).cast(), four);
            }
            let mut scales = [_mm256_setzero_si256(); RUNS];
            for (scale, pair) in scales.iter_mut().zip(pairs) {
                *scale = _mm256_permutevar8x32_epi32(_mm256_set1_epi64x(pair), halves);
            }
            for (n, total) in sums.iter_mut().enumerate() {
                let x: &Activations = &*rows.activations.add(n * rows.blocks + block);
                let mut sum = _mm256_setzero_si256();
                for (run, (numbers, scale)) in w.numbers.into_iter().zip(scales).enumerate() {
                    sum = S::add(sum, numbers, load(x.numbers.as_ptr().add(32 * run).cast()), scale);
                }
                let scale = _mm256_set1_ps(w.scale * x.scale);
                *total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, *total);
                let offset = _mm256_madd_epi16(w.offsets, load(x.sums.as_ptr().cast()));
                let scale = _mm256_set1_ps(w.offset_scale * x.scale);
                *total = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(offset), scale, *total);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (n, sum) in sums.into_iter().enumerate() {
            *rows.out.add(n * rows.out_stride + first + r * apart) = sum_of(sum);
        }
    }
}

/// All rows times `N` columns, from `R` places at a time.
#[inline(always)]
unsafe fn multiply_all<S: Sums, B: Block, const N: usize, const R: usize>(rows: &Rows) {
    let apart = rows.rows / R;
    for row in 0..apart {
        multiply::<S, B, N, R>(rows, row, apart);
    }
    for row in apart * R..rows.rows {
        multiply::<S, B, N, 1>(rows, row, 0);
    }
}

/// The loops for one type.
struct Loops<S, B>(PhantomData<(S, B)>);

macro_rules! dots {
    ($sums:ty, $features:literal) => {
        // SAFETY of the unsafe call: `dots` hands these out where the processor has the features; what the pointers must satisfy
        // is passed on to the caller.
        impl<B: Block + Sync> Dots for Loops<$sums, B> {
            fn order(&self) -> &'static Order {
                &[0, 1, 2, 3, 4, 5, 6, 7]
            }
            unsafe fn multiply(&self, rows: &Rows) {
                #[target_feature(enable = $features)]
                unsafe fn f<B: Block, const N: usize, const R: usize>(rows: &Rows) {
                    multiply_all::<$sums, B, N, R>(rows)
                }
                match rows.columns {
                    1 => unsafe { f::<B, 1, PLACES>(rows) },
                    2 => unsafe { f::<B, 2, PLACES>(rows) },
                    3 => unsafe { f::<B, 3, PLACES>(rows) },
                    _ => unsafe { f::<B, COLUMNS, PLACES>(rows) },
                }
            }
        }
    };
}

dots!(Pairs, "avx2,fma,f16c");
dots!(Fours, "avxvnni,avx2,fma,f16c");

/// The kernel for a type; the processor has AVX2.
pub(super) fn dots(ty: llama::ggml_type, vnni: bool) -> Option<&'static dyn Dots> {
    match (ty, vnni) {
        (llama::GGML_TYPE_Q4_K, false) => Some(&Loops::<Pairs, Q4K>(PhantomData)),
        (llama::GGML_TYPE_Q5_K, false) => Some(&Loops::<Pairs, Q5K>(PhantomData)),
        (llama::GGML_TYPE_Q6_K, false) => Some(&Loops::<Pairs, Q6K>(PhantomData)),
        (llama::GGML_TYPE_Q4_K, true) => Some(&Loops::<Fours, Q4K>(PhantomData)),
        (llama::GGML_TYPE_Q5_K, true) => Some(&Loops::<Fours, Q5K>(PhantomData)),
        (llama::GGML_TYPE_Q6_K, true) => Some(&Loops::<Fours, Q6K>(PhantomData)),
        _ => None,
    }
}
