//! Every product in bfloat16 that this processor can run, against plain arithmetic on rounded numbers.

use super::super::super::panels::Buffer;
use super::super::tests::{erfc, Noise};
use super::*;
use half::{bf16, f16};

fn rounded(x: f32) -> f64 {
    bf16::from_f32(x).to_f64()
}

/// Rows of weights as a file has them, at an odd address, and their values.
struct Weights {
    ty: TensorType,
    bytes: Vec<u8>,
    row_bytes: usize,
    values: Vec<f32>,
}

impl Weights {
    fn new(ty: TensorType, rows: usize, inputs: usize, noise: &mut Noise) -> Weights {
        let (mut bytes, mut values) = (vec![0], Vec::new());
        for _ in 0..rows {
            if ty == TensorType::BF16 {
                for v in noise.vec(inputs) {
                    bytes.extend(bf16::from_f32(v).to_le_bytes());
                    values.push(bf16::from_f32(v).to_f32());
                }
            } else {
                for _ in 0..inputs / 32 {
                    let scale = f16::from_f32(noise.next() / 100.0);
                    bytes.extend(scale.to_le_bytes());
                    for _ in 0..32 {
                        let quant = (noise.next() * 127.0) as i8;
                        bytes.push(quant as u8);
                        values.push(scale.to_f32() * f32::from(quant));
                    }
                }
            }
        }
        Weights { ty, row_bytes: (bytes.len() - 1) / rows, bytes, values }
    }
}

/// `w · x` for the columns from `column` on, `x` being one panel after the other: packs, rounds, multiplies.
#[allow(clippy::too_many_arguments)]
fn product(
    kernel: &dyn Bf16Kernel,
    w: &Weights,
    rows: usize,
    column: usize,
    x: &[f32],
    (tokens, inputs): (usize, usize),
    bias: Option<&[f32]>,
    run: impl Fn(&Bf16Product),
) {
    let depth = inputs - column;
    // What is no row and no token must not matter.
    let mut left = vec![0x7fc0; kernel.left_len(rows, depth).unwrap()];
    let mut right = vec![0x7fc0; kernel.right_len(tokens, inputs).unwrap()];
    let (lanes, panel) = (kernel.lanes(), kernel.panel());
    let vectors = tokens.div_ceil(lanes);
    let share = right.len() / vectors;
    // SAFETY: the vectors have the documented lengths.
    unsafe {
        kernel.pack_weights(&PackWeights {
            ty: w.ty,
            data: w.bytes.as_ptr().add(1),
            row_bytes: w.row_bytes,
            rows,
            column,
            columns: depth,
            out: left.as_mut_ptr(),
        });
        for vector in 0..vectors {
            let p = vector * lanes / panel;
            let width = panel_width(kernel, tokens, p);
            kernel.round(&RoundColumn {
                src: x.as_ptr().add(p * panel * inputs + vector * lanes % panel),
                stride: width,
                features: inputs,
                out: right.as_mut_ptr().add(vector * share),
            });
        }
    }
    run(&Bf16Product {
        rows,
        depth,
        left: left.as_ptr(),
        vectors,
        right: right.as_ptr(),
        features: inputs,
        feature: column,
        bias: bias.map_or(std::ptr::null(), |b| b.as_ptr()),
    });
}

fn panel_width(kernel: &dyn Bf16Kernel, tokens: usize, p: usize) -> usize {
    (tokens - p * kernel.panel()).min(kernel.panel()).next_multiple_of(kernel.lanes())
}

/// Where a token's feature is in panels.
fn place(kernel: &dyn Bf16Kernel, tokens: usize, features: usize, feature: usize, token: usize) -> usize {
    let p = token / kernel.panel();
    p * kernel.panel() * features + feature * panel_width(kernel, tokens, p) + token % kernel.panel()
}

#[test]
fn products_over_odd_shapes() {
    let mut noise = Noise::new(21);
    for kernel in available() {
        for (rows, inputs, column, tokens) in [
            (1usize, 32usize, 0, 1usize),
            (15, 64, 32, 17),
            (33, 96, 0, 31),
            (32, 160, 64, 47),
            (70, 320, 0, 65),
            (100, 64, 0, 130),
            (5, 51, 32, 200),
            (16, 7, 0, 70),
        ] {
            for ty in [TensorType::Q8_0, TensorType::BF16] {
                if ty == TensorType::Q8_0 && inputs % 32 != 0 {
                    continue;
                }
                let w = Weights::new(ty, rows, inputs, &mut noise);
                let padded = tokens.next_multiple_of(kernel.lanes());
                let x = noise.vec(inputs * padded);
                let bias = noise.vec(rows);
                // The result are rows of a larger matrix.
                let (all_rows, row) = (rows + 3, 2);
                let before = noise.vec(all_rows * padded);
                for (with_bias, accumulate) in [(false, false), (true, false), (false, true), (true, true)] {
                    let mut c = before.clone();
                    let matrix = c.as_mut_ptr();
                    let bias = Some(&bias[..]).filter(|_| with_bias);
                    product(kernel, &w, rows, column, &x, (tokens, inputs), bias, |p| {
                        // SAFETY: `c` is such a matrix.
                        unsafe { kernel.multiply(p, &ToPanels { matrix, rows: all_rows, row, accumulate }) };
                    });
                    for token in 0..padded {
                        for r in 0..all_rows {
                            let at = place(kernel, tokens, all_rows, r, token);
                            if r < row || r >= row + rows {
                                assert_eq!(c[at], before[at], "row {r} was touched");
                                continue;
                            }
                            let r = r - row;
                            let mut expected = if accumulate { f64::from(before[at]) } else { 0.0 };
                            expected += bias.map_or(0.0, |b| f64::from(b[r]));
                            for f in column..inputs {
                                let x = rounded(x[place(kernel, tokens, inputs, f, token)]);
                                expected += rounded(w.values[r * inputs + f]) * x;
                            }
                            let got = f64::from(c[at]);
                            assert!((got - expected).abs() < 1e-4, "{}, {ty:?}, {rows} rows of {inputs} inputs, {tokens} tokens, {r}, {token}: {got}, not {expected}", kernel.name());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn gelu_and_norm_of_the_next_operand() {
    let mut noise = Noise::new(22);
    for kernel in available() {
        for (rows, inputs, tokens) in
            [(1usize, 32usize, 1usize), (33, 32, 33), (64, 64, 70), (47, 32, 20), (50, 96, 16)]
        {
            let w = Weights::new(TensorType::Q8_0, rows, inputs, &mut noise);
            let padded = tokens.next_multiple_of(kernel.lanes());
            let x: Vec<f32> = noise.vec(inputs * padded).iter().map(|v| v * 5.0).collect();
            let bias = noise.vec(rows);
            let mut right = vec![0x7fc0; kernel.right_len(tokens, rows).unwrap()];
            let to = ToOperand { right: right.as_mut_ptr(), features: rows, feature: 0, gelu: true };
            product(kernel, &w, rows, 0, &x, (tokens, inputs), Some(&bias), |p| {
                // SAFETY: `right` is such an operand.
                unsafe { kernel.multiply_to_operand(p, &to) };
            });
            let gelu = values(kernel, &right, tokens, rows);
            for token in 0..tokens {
                for r in 0..rows {
                    let sum: f64 = (0..inputs)
                        .map(|f| {
                            rounded(w.values[r * inputs + f]) * rounded(x[place(kernel, tokens, inputs, f, token)])
                        })
                        .sum::<f64>()
                        + f64::from(bias[r]);
                    let tail = erfc(sum.abs() / 2f64.sqrt()) / 2.0;
                    let expected = sum * if sum > 0.0 { 1.0 - tail } else { tail };
                    let got = f64::from(gelu[token * rows + r]);
                    let limit = 4.5e-3 * expected.abs() + 5e-7 * sum.abs();
                    assert!((got - expected).abs() < limit, "{}: gelu({sum}) = {got}", kernel.name());
                }
            }

            let (weight, mut right) = (noise.vec(inputs), vec![0x7fc0; kernel.right_len(1, inputs).unwrap()]);
            let shift = noise.vec(inputs);
            let stride = panel_width(kernel, tokens, 0);
            let (bias, epsilon) = (shift.as_ptr(), 1e-5);
            let column =
                NormColumn { src: x.as_ptr(), stride, features: inputs, weight: weight.as_ptr(), bias, epsilon };
            // SAFETY: a vector of tokens of `x`, and of `right`.
            unsafe { kernel.layer_norm(&column, right.as_mut_ptr()) };
            let normed = values(kernel, &right, 1, inputs);
            let x: Vec<f64> = (0..inputs).map(|f| f64::from(x[f * stride])).collect();
            let mean = x.iter().sum::<f64>() / inputs as f64;
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / inputs as f64;
            for f in 0..inputs {
                let expected =
                    (x[f] - mean) / (variance + f64::from(epsilon)).sqrt() * f64::from(weight[f]) + f64::from(shift[f]);
                assert!((f64::from(normed[f]) - expected).abs() < 4e-3 * expected.abs() + 1e-5);
            }
        }
    }
}

/// What an operand holds, token by token: its product with the unit matrix.
fn values(kernel: &dyn Bf16Kernel, right: &[u16], tokens: usize, features: usize) -> Vec<f32> {
    let mut left = vec![0; kernel.left_len(features, features).unwrap()];
    let unit: Vec<u8> = (0..features * features)
        .flat_map(|i| bf16::from_f32(if i / features == i % features { 1.0 } else { 0.0 }).to_le_bytes())
        .collect();
    let mut c = vec![0.0; features * tokens.next_multiple_of(kernel.lanes())];
    // SAFETY: the vectors have the documented lengths.
    unsafe {
        kernel.pack_weights(&PackWeights {
            ty: TensorType::BF16,
            data: unit.as_ptr(),
            row_bytes: 2 * features,
            rows: features,
            column: 0,
            columns: features,
            out: left.as_mut_ptr(),
        });
        kernel.multiply(
            &Bf16Product {
                rows: features,
                depth: features,
                left: left.as_ptr(),
                vectors: tokens.div_ceil(kernel.lanes()),
                right: right.as_ptr(),
                features,
                feature: 0,
                bias: std::ptr::null(),
            },
            &ToPanels { matrix: c.as_mut_ptr(), rows: features, row: 0, accumulate: false },
        );
    }
    (0..tokens)
        .flat_map(|t| (0..features).map(move |f| (t, f)))
        .map(|(t, f)| c[place(kernel, tokens, features, f, t)])
        .collect()
}

#[test]
fn numbers_that_are_not_finite_reach_the_result() {
    let mut noise = Noise::new(23);
    for kernel in available() {
        let (tokens, inputs, rows) = (kernel.lanes(), 64, 20);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for in_weights in [false, true] {
                let mut w = Weights::new(TensorType::Q8_0, rows, inputs, &mut noise);
                let mut x = noise.vec(inputs * tokens);
                if in_weights {
                    w.bytes[1 + 3 * w.row_bytes + 34..][..2].copy_from_slice(&f16::from_f32(bad).to_le_bytes());
                } else {
                    x[40 * tokens + 3] = bad;
                }
                let mut c = vec![0.0; rows * tokens];
                let to = ToPanels { matrix: c.as_mut_ptr(), rows, row: 0, accumulate: false };
                let mut right = vec![0; kernel.right_len(tokens, rows).unwrap()];
                let operand = ToOperand { right: right.as_mut_ptr(), features: rows, feature: 0, gelu: true };
                product(kernel, &w, rows, 0, &x, (tokens, inputs), None, |p| {
                    // SAFETY: `c` is such a matrix, and `right` such an operand.
                    unsafe { kernel.multiply(p, &to) };
                    unsafe { kernel.multiply_to_operand(p, &operand) };
                });
                for (i, c) in c.iter().enumerate() {
                    let spoilt = if in_weights { i / tokens == 3 } else { i % tokens == 3 };
                    assert_eq!(c.is_finite(), !spoilt, "{}, {bad}: {c}", kernel.name());
                }
                // Of −∞ the GELU is 0.
                let gelu = right.iter().any(|&v| !bf16::from_bits(v).is_finite());
                assert!(gelu, "{}: {bad} was lost", kernel.name());
            }
        }
    }
}

#[test]
fn attention_over_odd_token_counts() {
    let mut noise = Noise::new(24);
    for kernel in available() {
        for keys in [1usize, 15, 16, 17, 127, 128, 129, 161, 300] {
            for (head, queries, range) in
                [(2usize, 1usize, 1.0), (6, 40, 30.0), (32, 33, 4.0), (88, 70, 1.0), (128, 16, 1.0)]
            {
                if !kernel.attends(head) {
                    continue;
                }
                // Two more features before the head and after it.
                let features = head + 4;
                let share =
                    |tokens: usize| kernel.right_len(tokens, features).unwrap() / tokens.div_ceil(kernel.lanes());
                // What is no token may be anything.
                let operand = |values: &[f32], tokens: usize| {
                    let mut right = vec![0x7fc0u16; kernel.right_len(tokens, features).unwrap()];
                    let lanes = kernel.lanes();
                    for vector in 0..tokens.div_ceil(lanes) {
                        let mut column = vec![f32::NAN; features * lanes];
                        for token in (vector * lanes..tokens).take(lanes) {
                            for f in 0..features {
                                column[f * lanes + token % lanes] = values[token * features + f];
                            }
                        }
                        let out = right[vector * share(tokens)..].as_mut_ptr();
                        // SAFETY: a vector of tokens of `right`.
                        unsafe { kernel.round(&RoundColumn { src: column.as_ptr(), stride: lanes, features, out }) };
                    }
                    right
                };
                let q = noise.vec(queries * features);
                let k: Vec<f32> = noise.vec(keys * features).iter().map(|v| v * range).collect();
                let v = noise.vec(keys * features);
                let operands = [operand(&q, queries), operand(&k, keys), operand(&v, keys)];
                let of = |i: usize| HeadFeatures { operand: operands[i].as_ptr(), features, feature: 2 };
                let mut out = vec![0x7fc0; kernel.right_len(queries, features).unwrap()];
                let scale = 0.7 / (head as f32).sqrt();
                let attention = AttentionHead {
                    head,
                    q: of(0),
                    k: of(1),
                    v: of(2),
                    keys,
                    scale,
                    out: out.as_mut_ptr(),
                    out_features: features,
                    out_feature: 2,
                };
                let mut memory = Buffer::zeroed(kernel.attention_floats(head, keys)).unwrap();
                memory.fill(f32::NAN);
                let vectors = queries.div_ceil(kernel.lanes());
                // SAFETY: the operands are such matrices, and the memory has its length.
                unsafe {
                    kernel.pack_head(&attention, memory.as_mut_ptr());
                    kernel.attend(&attention, 0..vectors / 2, memory.as_mut_ptr());
                    kernel.attend(&attention, vectors / 2..vectors, memory.as_mut_ptr());
                }
                // bfloat16 has 8 bits of mantissa; what it does to a score grows with the score.
                let limit = 5e-3 + 2e-3 * range;
                for query in 0..queries {
                    let score = |t: usize| {
                        let dot = |f: usize| f64::from(q[query * features + f]) * f64::from(k[t * features + f]);
                        (2..head + 2).map(dot).sum::<f64>() * f64::from(scale)
                    };
                    let scores: Vec<f64> = (0..keys).map(score).collect();
                    let peak = scores.iter().copied().fold(f64::MIN, f64::max);
                    let total: f64 = scores.iter().map(|s| (s - peak).exp()).sum();
                    for f in 2..head + 2 {
                        let expected: f64 =
                            (0..keys).map(|t| (scores[t] - peak).exp() / total * f64::from(v[t * features + f])).sum();
                        let lanes = kernel.lanes();
                        let at = query / lanes * share(queries) + f / 2 * 2 * lanes + query % lanes * 2 + f % 2;
                        let got = bf16::from_bits(out[at]).to_f64();
                        assert!(
                            (got - expected).abs() < f64::from(limit),
                            "{}: head {head}, {keys} keys, query {query}, feature {f}: {got}, not {expected}",
                            kernel.name()
                        );
                    }
                }
            }
        }
    }
}
