//! Every kernel that this processor can run, against plain arithmetic in f64.

use super::*;
use half::{bf16, f16};

/// Reproducible numbers in −1…1.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }

    pub(crate) fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

/// erfc for x ≥ 0 in f64: a Taylor series of erf, and far out the continued fraction.
pub(crate) fn erfc(x: f64) -> f64 {
    let pi = std::f64::consts::PI;
    if x < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        1.0 - 2.0 / pi.sqrt() * sum
    } else {
        let tail = (1..200).rev().fold(0.0, |f, n| n as f64 / 2.0 / (x + f));
        (-x * x).exp() / pi.sqrt() / (x + tail)
    }
}

fn assert_close(got: f32, expected: f64, tolerance: f64, what: &str) {
    assert!((got as f64 - expected).abs() <= tolerance, "{what}: {got} where {expected} is right");
}

#[test]
fn products_over_odd_shapes() {
    let mut noise = Noise::new(1);
    for kernel in available() {
        let (lanes, step) = (kernel.lanes(), kernel.depth());
        for vectors in 1..=kernel.panel() / lanes {
            let width = vectors * lanes;
            for rows in [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 21] {
                for depth in [1, 2, 3, 17, step - 1, step] {
                    let (w, x) = (noise.vec(rows * step), noise.vec(depth * width));
                    let (bias, before) = (noise.vec(rows), noise.vec(rows * width));
                    for (with_bias, accumulate) in [(false, false), (true, false), (false, true), (true, true)] {
                        let mut c = before.clone();
                        c.push(7.0);
                        let tile = GemmTile {
                            rows,
                            depth,
                            w: w.as_ptr(),
                            bias: if with_bias { bias.as_ptr() } else { std::ptr::null() },
                            x: x.as_ptr(),
                            vectors,
                            c: c.as_mut_ptr(),
                            accumulate,
                        };
                        // SAFETY: the vectors above have the documented lengths.
                        unsafe { kernel.gemm(&tile) };
                        assert_eq!(c.pop(), Some(7.0), "{} wrote beyond its rows", kernel.name());
                        for r in 0..rows {
                            for t in 0..width {
                                let sum: f64 =
                                    (0..depth).map(|k| w[r * step + k] as f64 * x[k * width + t] as f64).sum();
                                let expected = sum
                                    + if with_bias { bias[r] as f64 } else { 0.0 }
                                    + if accumulate { before[r * width + t] as f64 } else { 0.0 };
                                assert_close(c[r * width + t], expected, 1e-4, kernel.name());
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn weights_of_every_type_at_odd_addresses() {
    let mut noise = Noise::new(2);
    for kernel in available() {
        let step = kernel.depth();
        for (rows, inputs) in [(1, 1), (3, 7), (2, 33), (5, 96), (2, step + 32), (3, 2 * step)] {
            let values = noise.vec(rows * inputs);
            for ty in [TensorType::F32, TensorType::F16, TensorType::BF16, TensorType::Q8_0] {
                if ty == TensorType::Q8_0 && inputs % 32 != 0 {
                    continue;
                }
                let mut bytes = vec![0u8]; // shifts everything to an odd address
                let mut expected = Vec::new();
                match ty {
                    TensorType::Q8_0 => {
                        for block in values.chunks(32) {
                            let scale = f16::from_f32(block[0] * 1e-3);
                            bytes.extend(scale.to_le_bytes());
                            bytes.extend(block.iter().map(|v| (v * 127.0) as i8 as u8));
                            expected.extend(block.iter().map(|v| scale.to_f32() * (v * 127.0) as i8 as f32));
                        }
                    }
                    _ => {
                        for &v in &values {
                            match ty {
                                TensorType::F32 => bytes.extend(v.to_le_bytes()),
                                TensorType::F16 => bytes.extend(f16::from_f32(v).to_le_bytes()),
                                _ => bytes.extend(bf16::from_f32(v).to_le_bytes()),
                            }
                            expected.push(match ty {
                                TensorType::F32 => v,
                                TensorType::F16 => f16::from_f32(v).to_f32(),
                                _ => bf16::from_f32(v).to_f32(),
                            });
                        }
                    }
                }
                let row_bytes = (bytes.len() - 1) / rows;
                for column in (0..inputs).step_by(step) {
                    let columns = step.min(inputs - column);
                    let mut out = vec![9.0; rows * step];
                    // SAFETY: `bytes` holds the rows and `out` a packed block.
                    unsafe {
                        let data = bytes.as_ptr().add(1);
                        kernel.unpack(&WeightBlock {
                            ty,
                            data,
                            row_bytes,
                            rows,
                            column,
                            columns,
                            out: out.as_mut_ptr(),
                        });
                    }
                    for r in 0..rows {
                        let row = &expected[r * inputs + column..][..columns];
                        assert_eq!(&out[r * step..][..columns], row, "{} {ty:?}", kernel.name());
                        assert!(out[r * step + columns..(r + 1) * step].iter().all(|&v| v == 9.0));
                    }
                }
            }
        }
    }
}

#[test]
fn all_half_precision_numbers() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for kernel in available() {
        let step = kernel.depth();
        let mut out = vec![0.0; step];
        for column in (0..1 << 16).step_by(step) {
            let (ty, data, row_bytes) = (TensorType::F16, bytes.as_ptr(), bytes.len());
            let (columns, to) = (step.min((1 << 16) - column), out.as_mut_ptr());
            // SAFETY: one row of 65536 values, of which those from `column` on are wanted.
            unsafe { kernel.unpack(&WeightBlock { ty, data, row_bytes, rows: 1, column, columns, out: to }) };
            for (i, &got) in out[..columns].iter().enumerate() {
                let expected = f16::from_bits((column + i) as u16).to_f32();
                assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(), "{}", kernel.name());
            }
        }
    }
    for h in 0..=u16::MAX {
        let (got, expected) = (body::f16_to_f32(h), f16::from_bits(h).to_f32());
        assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(), "{h:#x}");
    }
}

#[test]
fn gelu_is_exact() {
    for kernel in available() {
        let mut x: Vec<f32> = (-24_000..24_000).map(|i| i as f32 / 2000.0).collect();
        x.extend([0.0, -0.0, 1e-30, -1e-30, 50.0, -50.0, 1e6, -1e6, 3e38, -3e38, 1e-3, -1e-3, 0.5, -0.5, 1.0, -1.0]);
        let mut y = x.clone();
        // SAFETY: the length is a multiple of every vector length.
        unsafe { kernel.gelu(y.as_mut_ptr(), y.len()) };
        for (&x, &y) in x.iter().zip(&y) {
            let half_erfc = erfc((x as f64).abs() / 2f64.sqrt()) / 2.0;
            let phi = if x > 0.0 { 1.0 - half_erfc } else { half_erfc };
            let error = y as f64 - x as f64 * phi;
            assert!(error.abs() <= 2e-7 * (x as f64).abs().max(0.1), "{}: gelu({x}) = {y}", kernel.name());
        }
    }
}

#[test]
fn layer_norm_over_odd_lengths() {
    let mut noise = Noise::new(3);
    for kernel in available() {
        let lanes = kernel.lanes();
        for (features, stride, offset) in
            [(1, lanes, 0.0), (3, 2 * lanes, 0.0), (88, lanes, 100.0), (1408, 3 * lanes, -3.0)]
        {
            let src: Vec<f32> = noise.vec(features * stride).iter().map(|v| v + offset).collect();
            let (weight, bias) = (noise.vec(features), noise.vec(features));
            for epsilon in [1e-6, 1e-5] {
                let mut dst = vec![9.0; features * stride];
                // SAFETY: the vectors above have the documented lengths.
                unsafe {
                    let column = NormColumn {
                        src: src.as_ptr(),
                        stride,
                        features,
                        weight: weight.as_ptr(),
                        bias: bias.as_ptr(),
                        epsilon,
                    };
                    kernel.layer_norm(&column, dst.as_mut_ptr(), stride);
                };
                for t in 0..stride {
                    if t >= lanes {
                        assert!((0..features).all(|f| dst[f * stride + t] == 9.0));
                        continue;
                    }
                    let x: Vec<f64> = (0..features).map(|f| src[f * stride + t] as f64).collect();
                    let mean = x.iter().sum::<f64>() / features as f64;
                    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / features as f64;
                    for f in 0..features {
                        let expected =
                            (x[f] - mean) / (variance + epsilon as f64).sqrt() * weight[f] as f64 + bias[f] as f64;
                        assert_close(dst[f * stride + t], expected, 1e-4, kernel.name());
                    }
                }
            }
        }
    }
}

/// Computes attention tiles of panels of some size and holds them against sums in f64. `attend` has `floats` floats of scratch memory.
pub(crate) fn check_attention(
    name: &str,
    (lanes, full): (usize, usize),
    tolerance: f64,
    floats: impl Fn(usize, usize) -> usize,
    attend: impl Fn(&AttentionTile),
) {
    let mut noise = Noise::new(4);
    for tokens in [1, 2, lanes, full - 1, full, full + 1, 2 * full + 5, 3 * full] {
        for (head, vectors, range) in [(1, 1, 1.0), (5, full / lanes, 30.0), (8, 1, 4.0), (88, full / lanes, 1.0)] {
            // A matrix with two more features than the head has, one before and one after.
            let rows = head + 2;
            let padded = tokens.next_multiple_of(lanes);
            let last_width = padded - (tokens - 1) / full * full;
            let at = |f: usize, t: usize| {
                let p = t / full;
                let width = if (p + 1) * full <= padded { full } else { last_width };
                p * full * rows + (f + 1) * width + t % full
            };
            let mut k = noise.vec(rows * padded);
            let v = noise.vec(rows * padded);
            k.iter_mut().for_each(|x| *x *= range);
            let width = vectors * lanes;
            let q = noise.vec(head * width);
            let mut out = vec![9.0; head * width + 1];
            let mut scratch = vec![0.0; floats(head, tokens)];
            let scale = 0.7 / (head as f32).sqrt();
            let tile = AttentionTile {
                head,
                q: q.as_ptr(),
                vectors,
                k: HeadTokens { matrix: k.as_ptr(), rows, row: 1 },
                v: HeadTokens { matrix: v.as_ptr(), rows, row: 1 },
                tokens,
                last_width,
                scale,
                out: out.as_mut_ptr(),
                scratch: scratch.as_mut_ptr(),
            };
            attend(&tile);
            assert_eq!(out.pop(), Some(9.0));
            for lane in 0..width {
                let score = |t: usize| {
                    (0..head).map(|f| q[f * width + lane] as f64 * k[at(f, t)] as f64).sum::<f64>() * scale as f64
                };
                let scores: Vec<f64> = (0..tokens).map(score).collect();
                let peak = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|s| (s - peak).exp()).sum();
                for f in 0..head {
                    let expected: f64 =
                        (0..tokens).map(|t| (scores[t] - peak).exp() / total * v[at(f, t)] as f64).sum();
                    assert_close(out[f * width + lane], expected, tolerance, name);
                }
            }
        }
    }
}

#[test]
fn attention_over_odd_token_counts() {
    for kernel in available() {
        let panels = (kernel.lanes(), kernel.panel());
        // SAFETY: the tiles are whole, with as much scratch memory as is asked for.
        let attend = |tile: &AttentionTile| unsafe { kernel.attention(tile) };
        check_attention(kernel.name(), panels, 2e-5, |_, _| panels.1 * panels.1, attend);
    }
}
