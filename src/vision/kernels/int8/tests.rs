//! Every quantised product that this processor can run, against plain arithmetic.

use super::super::portable::Arrays;
use super::super::tests::{check_attention, erfc, Noise};
use super::words::{word_attention, Paired, Words};
use super::*;
use half::f16;

/// A group's numbers in two parts, their scale, and whether the second part is used.
struct Group {
    parts: Vec<[f64; 2]>,
    scale: f64,
    split: bool,
}

/// What a kernel of so many lanes should make of a group of activations `[features, tokens]`.
fn quantized(x: &[f32], tokens: usize, token: usize, lanes: usize, group: std::ops::Range<usize>) -> Group {
    let values = |token: usize| group.clone().map(|f| x[f * tokens + token]).collect::<Vec<f32>>();
    let peak = |values: &[f32]| values.iter().fold(0f32, |m, v| m.max(v.abs()));
    let has_outlier =
        |values: &[f32]| peak(values) > 16.0 * values.iter().map(|v| v.abs()).sum::<f32>() / values.len() as f32;
    // Tokens of a vector are in two parts together.
    let first = token / lanes * lanes;
    let split = (first..first + lanes).any(|token| has_outlier(&values(token)));
    let values = values(token);
    let peak = peak(&values);
    let inverse = (127.0 / peak.max(1e-30)).min(1e32);
    let parts = values.iter().map(|v| {
        let v = v * inverse;
        let rest = if split { ((v - v.round_ties_even()) * 254.0).round_ties_even() } else { 0.0 };
        [f64::from(v.round_ties_even()), f64::from(rest) / 254.0]
    });
    Group { parts: parts.collect(), scale: f64::from(peak * (1.0 / 127.0)), split }
}

/// Rows of Q8_0, and what a group's weights should become.
struct Weights {
    bytes: Vec<u8>,
    inputs: usize,
}

impl Weights {
    fn new(rows: usize, inputs: usize, noise: &mut Noise, fill: Fill) -> Weights {
        let mut bytes = vec![0]; // shifts everything to an odd address
        for _ in 0..rows * inputs / 32 {
            let scale = match fill {
                Fill::Noise | Fill::Outliers => noise.next(),
                Fill::Extremes => 1.0,
                Fill::Zero => 0.0,
            };
            bytes.extend(f16::from_f32(scale).to_le_bytes());
            bytes.extend((0..32).map(|i| match fill {
                Fill::Noise | Fill::Zero | Fill::Outliers => (noise.next() * 127.0) as i8 as u8,
                Fill::Extremes => [-128i8, 127, -128, -128, 127, -127][i % 6] as u8,
            }));
        }
        Weights { bytes, inputs }
    }

    /// What a group's weights should become.
    fn group(&self, row: usize, group: std::ops::Range<usize>) -> Group {
        let block = |i: usize| &self.bytes[1 + (row * self.inputs / 32 + i) * 34..][..34];
        let blocks = group.start / 32..group.end.div_ceil(32);
        let scale = |i: usize| f16::from_le_bytes([block(i)[0], block(i)[1]]).to_f32();
        let largest = blocks.clone().fold(0f32, |m, i| m.max(scale(i).abs()));
        let parts = blocks.flat_map(|i| {
            let ratio = if largest > 0.0 { (scale(i) * (32767.0 / largest)).round_ties_even() as i32 } else { 0 };
            block(i)[2..].iter().map(move |&q| {
                let product = i32::from(q as i8) * ratio;
                let rounded = (product + (1 << 14)) >> 15;
                let rest = ((product - (rounded << 15)) * 254 + (1 << 14)) >> 15;
                [f64::from(rounded), f64::from(rest) / 254.0]
            })
        });
        Group { parts: parts.collect(), scale: f64::from(largest), split: true }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fill {
    Noise,
    /// Everything at the ends of its range.
    Extremes,
    Zero,
    /// Some activations are a hundred times the others.
    Outliers,
}

/// `w · x` by `kernel`: packs, quantises, multiplies. Of `tokens` tokens the first `used` are wanted.
#[allow(clippy::too_many_arguments)]
fn product(
    kernel: &dyn Int8Kernel,
    w: &Weights,
    rows: usize,
    x: &[f32],
    tokens: usize,
    used: usize,
    bias: Option<&[f32]>,
    accumulate: bool,
    c: &mut [f32],
) {
    let groups = w.inputs.div_ceil(kernel.group());
    let packed_rows = rows + 3;
    // Floats, for their alignment.
    let mut packed = vec![7f32; groups * packed_rows * kernel.row_bytes() / 4];
    let mut scales = vec![7f32; groups * packed_rows];
    let (mut rest, mut rest_scales, split) = (packed.clone(), scales.clone(), vec![true; groups]);
    let mut quantized = vec![7f32; groups * tokens * kernel.token_bytes() / 4];
    // SAFETY: the vectors have the documented lengths.
    unsafe {
        kernel.pack(&PackBlock {
            data: w.bytes.as_ptr().add(1),
            row_bytes: w.inputs / 32 * 34,
            rows,
            packed_rows,
            columns: w.inputs,
            out: packed.as_mut_ptr().cast(),
            scales: scales.as_mut_ptr(),
            split: split.as_ptr(),
            rest: rest.as_mut_ptr().cast(),
            rest_scales: rest_scales.as_mut_ptr(),
        });
        for g in 0..groups {
            // Vectors one by one, as norms do it.
            for lane in (0..tokens).step_by(kernel.lanes()) {
                let start = quantized.as_mut_ptr().add(g * tokens * kernel.token_bytes() / 4);
                kernel.quantize(&QuantizeGroup {
                    src: x.as_ptr().add(g * kernel.group() * tokens + lane),
                    stride: tokens,
                    features: kernel.group().min(w.inputs - g * kernel.group()),
                    vectors: 1,
                    width: tokens / kernel.lanes(),
                    out: start.cast::<u8>().add(lane * kernel.token_step()),
                    scales: start.add(kernel.group() * kernel.value_bytes() / 4 * tokens + lane),
                });
            }
        }
        kernel.multiply(&Int8Tile {
            rows,
            packed_rows,
            groups,
            w: packed.as_ptr().cast(),
            w_scales: scales.as_ptr(),
            rest: rest.as_ptr().cast(),
            rest_scales: rest_scales.as_ptr(),
            bias: bias.map_or(std::ptr::null(), |b| b.as_ptr()),
            x: quantized.as_ptr().cast(),
            vectors: tokens / kernel.lanes(),
            tokens: used,
            c: c.as_mut_ptr(),
            accumulate,
        });
    }
}

#[test]
fn products_over_odd_shapes() {
    let mut noise = Noise::new(11);
    for kernel in available() {
        for vectors in 1..=kernel.panel() / kernel.lanes() {
            let tokens = vectors * kernel.lanes();
            for rows in [1, 3, 6, 11, 31, 32, 33, 70] {
                for inputs in [32, 64, 96, 160, 384] {
                    for fill in [Fill::Noise, Fill::Extremes, Fill::Zero, Fill::Outliers] {
                        if fill != Fill::Noise && (rows, inputs) != (11, 160) {
                            continue;
                        }
                        let w = Weights::new(rows, inputs, &mut noise, fill);
                        let x = match fill {
                            Fill::Noise => noise.vec(inputs * tokens),
                            Fill::Extremes => {
                                (0..inputs * tokens).map(|i| if i % 3 > 0 { 9.0 } else { -9.0 }).collect()
                            }
                            Fill::Zero => vec![0.0; inputs * tokens],
                            // One feature for all tokens, and one token alone.
                            Fill::Outliers => (0..inputs * tokens)
                                .map(|i| noise.next() * if i / tokens == 40 || i == 99 * tokens { 100.0 } else { 1.0 })
                                .collect(),
                        };
                        let (bias, before) = (noise.vec(rows), noise.vec(rows * tokens));
                        let groups =
                            || (0..inputs).step_by(kernel.group()).map(|f| f..(f + kernel.group()).min(inputs));
                        let weights: Vec<Vec<Group>> =
                            (0..rows).map(|r| groups().map(|group| w.group(r, group)).collect()).collect();
                        let quantized = |group: std::ops::Range<usize>| {
                            (0..tokens).map(|t| quantized(&x, tokens, t, kernel.lanes(), group.clone())).collect()
                        };
                        let activations: Vec<Vec<Group>> = groups().map(quantized).collect();
                        let ways = [(false, false), (true, false), (false, true), (true, true)];
                        // A single token may have a way of its own.
                        let wanted = [tokens, 1].into_iter().take(if vectors == 1 { 2 } else { 1 });
                        for ((with_bias, accumulate), used) in wanted.flat_map(|used| ways.map(|way| (way, used))) {
                            let mut c = before.clone();
                            c.push(7.0);
                            let bias = Some(&bias[..]).filter(|_| with_bias);
                            product(kernel, &w, rows, &x, tokens, used, bias, accumulate, &mut c);
                            assert_eq!(c.pop(), Some(7.0), "{} wrote beyond its rows", kernel.name());
                            for r in 0..rows {
                                assert!(c[r * tokens..][..tokens].iter().all(|c| c.is_finite()));
                                for t in 0..used {
                                    let mut expected = if accumulate { f64::from(before[r * tokens + t]) } else { 0.0 };
                                    let mut size = 10f64;
                                    expected += bias.map_or(0.0, |b| f64::from(b[r]));
                                    for (w, xs) in weights[r].iter().zip(&activations) {
                                        // One token of a panel makes all its tokens have the weights' second part.
                                        let fine = if xs.iter().any(|x| x.split) { 1.0 } else { 0.0 };
                                        let product =
                                            |(w, x): (&[f64; 2], &[f64; 2])| w[0] * (x[0] + x[1]) + fine * w[1] * x[0];
                                        let sum: f64 = w.parts.iter().zip(&xs[t].parts).map(product).sum();
                                        expected += sum * w.scale * xs[t].scale;
                                        size += (sum * w.scale * xs[t].scale).abs();
                                    }
                                    let got = f64::from(c[r * tokens + t]);
                                    let limit = 1e-5 * size;
                                    assert!((got - expected).abs() < limit, "{}, {rows} rows, {inputs} inputs, {used} of {tokens} tokens, {fill:?}: {got}, not {expected}", kernel.name());
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn numbers_that_are_not_finite_reach_the_result() {
    let mut noise = Noise::new(12);
    for kernel in available() {
        let (tokens, inputs) = (kernel.lanes(), 192);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut w = Weights::new(2, inputs, &mut noise, Fill::Noise);
            let mut x = noise.vec(inputs * tokens);
            x[100 * tokens + 1] = bad;
            let mut c = vec![0.0; 2 * tokens];
            product(kernel, &w, 2, &x, tokens, tokens, None, false, &mut c);
            for (i, c) in c.iter().enumerate() {
                assert_eq!(c.is_finite(), i % tokens != 1, "{}, {bad} in the activations: {c}", kernel.name());
            }
            x[100 * tokens + 1] = 1.0;
            w.bytes[1 + 34 * 3..][..2].copy_from_slice(&f16::from_f32(bad).to_le_bytes());
            for used in [tokens, 1] {
                product(kernel, &w, 2, &x, tokens, used, None, false, &mut c);
                for (i, c) in c.iter().enumerate().filter(|(i, _)| i % tokens < used) {
                    assert_eq!(c.is_finite(), i >= tokens, "{}, {bad} in the weights: {c}", kernel.name());
                }
            }
            // Of a single token, too.
            x[100 * tokens] = bad;
            w.bytes[1 + 34 * 3..][..2].copy_from_slice(&f16::from_f32(1.0).to_le_bytes());
            product(kernel, &w, 2, &x, tokens, 1, None, false, &mut c);
            assert!(!c[0].is_finite() && !c[tokens].is_finite(), "{}, {bad} in the only token", kernel.name());
        }
    }
}

#[test]
fn gelu_for_eight_bits() {
    for kernel in available() {
        let mut x: Vec<f32> = (-24_000..24_000).map(|i| i as f32 / 2000.0).collect();
        x.extend([0.0, -0.0, 1e-30, -1e-30, 50.0, -50.0, 100.0, -100.0]);
        x.resize(x.len().next_multiple_of(16), 1.0);
        let mut y = x.clone();
        // SAFETY: the length is a multiple of every vector length.
        unsafe { kernel.gelu(y.as_mut_ptr(), y.len()) };
        for (&x, &y) in x.iter().zip(&y) {
            let half_erfc = erfc(f64::from(x).abs() / 2f64.sqrt()) / 2.0;
            let phi = if x > 0.0 { 1.0 - half_erfc } else { half_erfc };
            let error = f64::from(y) - f64::from(x) * phi;
            assert!(error.abs() <= 6e-6 * f64::from(x).abs().max(10.0), "{}: gelu({x}) = {y}", kernel.name());
        }
        let mut bad = vec![f32::NAN; kernel.lanes()];
        // SAFETY: as above.
        unsafe { kernel.gelu(bad.as_mut_ptr(), bad.len()) };
        assert!(bad.iter().all(|y| y.is_nan()), "{}", kernel.name());
    }
}

fn check_words(name: &str, panels: (usize, usize), words: &dyn WordAttention) {
    // SAFETY: the tiles are whole, with as much scratch memory as is asked for.
    let attend = |tile: &AttentionTile| unsafe {
        words.pack(tile);
        words.attend(tile);
    };
    check_attention(name, panels, 1e-3, |head, tokens| words.floats(head, tokens), attend);
}

#[test]
fn attention_with_words() {
    for kernel in available() {
        if let Some(words) = kernel.words() {
            check_words(kernel.name(), (kernel.lanes(), kernel.panel()), words);
        }
    }
}

/// Words in arrays, whatever the processor.
struct ArrayWords<const LANES: usize, const VECTORS: usize>;

impl<const LANES: usize, const VECTORS: usize> Integers for Arrays<LANES, VECTORS> {
    type I = [i32; LANES];

    unsafe fn store_i32(p: *mut i32, v: [f32; LANES]) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[i32; LANES]>().write_unaligned(v.map(|x| x.round_ties_even() as i32)) }
    }
    unsafe fn load_i32(p: *const i32) -> [i32; LANES] {
        // SAFETY: the caller's.
        unsafe { p.cast::<[i32; LANES]>().read_unaligned() }
    }
    unsafe fn to_f32(sums: [i32; LANES]) -> [f32; LANES] {
        sums.map(|sum| sum as f32)
    }
}

impl<const LANES: usize, const VECTORS: usize> Paired for Arrays<LANES, VECTORS> {
    unsafe fn store_pairs(p: *mut i32, a: [f32; LANES], b: [f32; LANES]) {
        let word = |x: f32| i32::from(x.round_ties_even() as i16);
        for i in 0..LANES {
            // SAFETY: the caller's.
            unsafe { p.add(i).write_unaligned(word(a[i]) & 0xffff | word(b[i]) << 16) };
        }
    }
    unsafe fn exp2(x: [f32; LANES]) -> [f32; LANES] {
        x.map(f32::exp2)
    }
}

impl<const LANES: usize, const VECTORS: usize> Words for ArrayWords<LANES, VECTORS> {
    type S = Arrays<LANES, VECTORS>;

    unsafe fn dot(sums: [i32; LANES], x: [i32; LANES], pair: i32) -> [i32; LANES] {
        let product = |x: i32| (x as i16 as i32) * (pair as i16 as i32) + (x >> 16) * (pair >> 16);
        std::array::from_fn(|i| sums[i].checked_add(product(x[i])).expect("sums fit"))
    }
}

#[test]
fn attention_with_words_in_all_kinds_of_panels() {
    word_attention!(Two, ArrayWords<8, 2>);
    word_attention!(Four, ArrayWords<16, 4>);
    check_words("8 lanes", (8, 16), &Two);
    check_words("16 lanes", (16, 64), &Four);
}
