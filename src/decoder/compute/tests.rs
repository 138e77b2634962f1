//! Nodes made by hand, against ggml's own loops and plain sums.

use half::f16;
use llama_cpp_sys_2 as llama;

use super::*;
use crate::vision::speed::now;

/// Numbers in −1…1 that look random.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vector(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

/// A tensor over borrowed memory, its rows one behind the other.
fn tensor<T>(ty: llama::ggml_type, ne: [i64; 4], data: &mut [T]) -> Tensor {
    // SAFETY: zeros and null pointers are a tensor of nothing.
    let mut t: Tensor = unsafe { std::mem::zeroed() };
    let row = row_bytes(ty, ne[0] as usize);
    // SAFETY: every type has traits.
    let number = unsafe { (*llama::ggml_get_type_traits(ty)).type_size };
    t.type_ = ty;
    t.ne = ne;
    t.nb = [number, row, row * ne[1] as usize, row * (ne[1] * ne[2]) as usize];
    t.data = data.as_mut_ptr().cast();
    assert!(size_of_val(data) >= t.nb[3] * ne[3] as usize);
    t
}

fn row_bytes(ty: llama::ggml_type, len: usize) -> usize {
    // SAFETY: plain arithmetic on the type's sizes.
    unsafe { llama::ggml_row_size(ty, len as i64) }
}

fn node(op: llama::ggml_op, mut dst: Tensor, src: &mut [Tensor]) -> Tensor {
    dst.op = op;
    for (to, from) in dst.src.iter_mut().zip(src) {
        *to = from;
    }
    dst
}

fn computer(threads: usize) -> Computer {
    // SAFETY: may be called again and again, and makes the tables that ggml's loops use.
    unsafe { llama::ggml_cpu_init() };
    Computer::new(threads, ProcessorMask::default()).expect("threads")
}

/// Rows quantised to a type by ggml, and what they stand for.
fn quantized(ty: llama::ggml_type, rows: usize, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let depth = values.len() / rows;
    let mut bytes = vec![0; row_bytes(ty, depth) * rows];
    let mut exact = vec![0.0; values.len()];
    // SAFETY: both buffers have room for all rows, one behind the other.
    unsafe {
        let done = llama::ggml_quantize_chunk(
            ty,
            values.as_ptr(),
            bytes.as_mut_ptr().cast(),
            0,
            rows as i64,
            depth as i64,
            std::ptr::null(),
        );
        assert_eq!(done, bytes.len());
        match (*llama::ggml_get_type_traits(ty)).to_float {
            Some(to_float) => to_float(bytes.as_ptr().cast(), exact.as_mut_ptr(), values.len() as i64),
            None => exact.copy_from_slice(values),
        }
    }
    (bytes, exact)
}

/// The norm of the differences.
fn difference(got: &[f32], wanted: &[f64]) -> f64 {
    assert_eq!(got.len(), wanted.len());
    got.iter().zip(wanted).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum::<f64>().sqrt()
}

/// The same, of the norm of what is wanted.
fn error(got: &[f32], wanted: &[f64]) -> f64 {
    difference(got, wanted) / difference(&vec![0.0; wanted.len()], wanted)
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Ways to multiply k-quants with many columns: none, and up to as many as there are on any processor.
const WAYS: [Option<usize>; 5] = [None, Some(0), Some(1), Some(2), Some(3)];

const TYPES: [(llama::ggml_type, f64); 9] = [
    (llama::GGML_TYPE_F32, 1e-6),
    (llama::GGML_TYPE_F16, 1e-6),
    (llama::GGML_TYPE_BF16, 1e-6),
    (llama::GGML_TYPE_Q4_0, 2e-2),
    (llama::GGML_TYPE_Q8_0, 2e-2),
    (llama::GGML_TYPE_Q3_K, 2e-2),
    (llama::GGML_TYPE_Q4_K, 2e-2),
    (llama::GGML_TYPE_Q5_K, 2e-2),
    (llama::GGML_TYPE_Q6_K, 2e-2),
];

#[test]
fn products_are_those_of_the_weights() {
    let mut random = Random(1);
    for (threads, unpacking) in [(1, Some(0)), (3, Some(0)), (2, Some(1)), (2, Some(2)), (2, Some(3)), (3, None)] {
        let mut computer = computer(threads);
        computer.unpacking = unpacking;
        for (ty, limit) in TYPES {
            for (depth, rows, columns) in [
                (256, 1, 1),
                (256, 3, 6),
                (512, 37, 2),
                (768, 50, 7),
                (768, 50, 31),
                (1024, 130, 33),
                (512, 90, 50),
                (1280, 33, 80),
                (256, 250, 96),
                (256, 300, 100),
                // Not a whole number of k-quants' blocks.
                (288, 40, 20),
                (544, 40, 90),
            ] {
                // SAFETY: a number of the type's.
                if depth as i64 % unsafe { llama::ggml_blck_size(ty) } != 0 {
                    continue;
                }
                let mut values = random.vector(depth * rows);
                // Rows of different sizes, some of them far from zero.
                values.chunks_mut(depth).enumerate().for_each(|(i, row)| {
                    row.iter_mut().for_each(|x| *x = *x * (1.0 + i as f32 % 3.0) + (i % 5) as f32 * 0.1);
                });
                let (mut weights, exact) = quantized(ty, rows, &values);
                let mut x = random.vector(depth * columns);
                let (dst, wanted) = product(&computer, ty, &mut weights, &exact, &mut x, depth);
                // Of what products of numbers of this size would have if signs were random: some of ours cancel out.
                let e = difference(&dst, &wanted) / (norm(&exact) * norm(&x) / (depth as f64).sqrt());
                assert!(e < limit, "type {ty}, {depth}×{rows}×{columns}: {e:.1e}");
            }
        }
    }
}

/// `dst = weights · x` as a node that the computer multiplies, and the same in f64 from what the weights stand for.
fn product(
    computer: &Computer,
    ty: llama::ggml_type,
    weights: &mut [u8],
    exact: &[f32],
    x: &mut [f32],
    depth: usize,
) -> (Vec<f32>, Vec<f64>) {
    let (rows, columns) = (exact.len() / depth, x.len() / depth);
    let mut dst = vec![f32::NAN; rows * columns];
    let wanted = x
        .chunks(depth)
        .flat_map(|x| {
            exact.chunks(depth).map(move |w| w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum())
        })
        .collect();
    let shape = |a: usize, b: usize| [a as i64, b as i64, 1, 1];
    let mut src = [tensor(ty, shape(depth, rows), weights), tensor(llama::GGML_TYPE_F32, shape(depth, columns), x)];
    let to = tensor(llama::GGML_TYPE_F32, shape(rows, columns), &mut dst);
    let op = node(llama::GGML_OP_MUL_MAT, to, &mut src);
    assert!(computer.compute(&op).is_ok_and(|done| done), "type {ty}");
    (dst, wanted)
}

/// Unpacked weights are rounded to 8 bits once more, and that must not show.
#[test]
fn unpacked_k_quants_are_nearly_as_exact_as_beside_8_bit_activations() {
    let mut random = Random(8);
    let (depth, rows, columns) = (2560, 48, 40);
    for ty in [llama::GGML_TYPE_Q4_K, llama::GGML_TYPE_Q5_K, llama::GGML_TYPE_Q6_K] {
        let (mut weights, exact) = quantized(ty, rows, &random.vector(depth * rows));
        let mut x = random.vector(depth * columns);
        // A few activations a hundred times larger than others.
        x.iter_mut().step_by(331).for_each(|x| *x *= 100.0);
        let mut computer = computer(2);
        let [without, errors @ ..] = WAYS.map(|unpacking| {
            computer.unpacking = unpacking;
            let (dst, wanted) = product(&computer, ty, &mut weights, &exact, &mut x, depth);
            error(&dst, &wanted)
        });
        println!("{ty}: {without:.2e} without, {}", errors.map(|e| format!("{e:.2e}")).join(", "));
        assert!(errors.iter().all(|e| *e < 1.2 * without), "type {ty}: {errors:?}, {without} without");
    }
}

/// The largest numbers and scales there are, and blocks of nothing.
#[test]
fn k_quants_may_have_any_bytes() {
    let depth = 512;
    let columns = 20;
    let mut random = Random(9);
    for (ty, halves) in
        [(llama::GGML_TYPE_Q4_K, 0..4), (llama::GGML_TYPE_Q5_K, 0..4), (llama::GGML_TYPE_Q6_K, 208..210)]
    {
        let block = row_bytes(ty, kquants::BLOCK);
        let mut weights: Vec<u8> =
            [0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0].iter().flat_map(|&b| vec![b; 2 * block]).collect();
        for block in weights.chunks_mut(block) {
            block[halves.clone()]
                .chunks_mut(2)
                .for_each(|half| half.copy_from_slice(&f16::from_f32(0.01).to_le_bytes()));
        }
        let mut exact = vec![0.0; weights.len() / block * kquants::BLOCK];
        // SAFETY: as many numbers as the blocks have.
        unsafe {
            let to_float = (*llama::ggml_get_type_traits(ty)).to_float.expect("a quantised type");
            to_float(weights.as_ptr().cast(), exact.as_mut_ptr(), exact.len() as i64);
        }
        let mut x = random.vector(depth * columns);
        x[..depth].fill(0.0);
        let largest = exact.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
        for unpacking in WAYS {
            let mut computer = computer(1);
            computer.unpacking = unpacking;
            let (dst, wanted) = product(&computer, ty, &mut weights, &exact, &mut x, depth);
            for (got, wanted) in dst.iter().zip(wanted) {
                let e = (f64::from(*got) - wanted).abs() / f64::from(largest) / (depth as f64).sqrt();
                assert!(e < 2e-2, "type {ty}, {unpacking:?}: {got}, not {wanted}");
            }
        }
    }
}

/// Beside 8-bit activations, our kernels have no error that ggml's have not: the same integers, added up in another order.
#[test]
fn k_quants_give_what_ggml_gives() {
    let mut random = Random(2);
    let (depth, rows, columns) = (2560, 9, 4);
    let types = [llama::GGML_TYPE_Q4_K, llama::GGML_TYPE_Q5_K, llama::GGML_TYPE_Q6_K];
    for (ty, dots) in types.into_iter().flat_map(|ty| kquants::all_dots(ty).map(move |dots| (ty, dots))) {
        let (weights, _) = quantized(ty, rows, &random.vector(depth * rows));
        let x = random.vector(depth * columns);
        let blocks = depth / kquants::BLOCK;
        let mut q8 = vec![0_u8; columns * blocks * size_of::<kquants::Q8K>()];
        let mut own: Vec<kquants::Activations> = Vec::with_capacity(columns * blocks);
        let mut wanted = vec![0.0_f32; rows * columns];
        let mut got = wanted.clone();
        // SAFETY: buffers of the sizes that the functions ask for; an `Activations` may be zeros.
        unsafe {
            llama::ggml_cpu_init();
            let from_float = (*llama::ggml_get_type_traits_cpu(llama::GGML_TYPE_Q8_K)).from_float.expect("Q8_K");
            from_float(x.as_ptr(), q8.as_mut_ptr().cast(), x.len() as i64);
            own.resize(columns * blocks, std::mem::zeroed());
            let from = std::slice::from_raw_parts(q8.as_ptr().cast::<kquants::Q8K>(), columns * blocks);
            kquants::reorder(from, dots.order(), &mut own);
            let vec_dot = (*llama::ggml_get_type_traits_cpu(ty)).vec_dot.expect("a product");
            let row = row_bytes(ty, depth);
            for c in 0..columns {
                for r in 0..rows {
                    let column = q8.as_ptr().add(c * blocks * size_of::<kquants::Q8K>());
                    let out = &mut wanted[c * rows + r];
                    vec_dot(depth as i32, out, 0, weights.as_ptr().add(r * row).cast(), 0, column.cast(), 0, 1);
                }
            }
            for columns in 1..=kquants::COLUMNS {
                got.fill(0.0);
                dots.multiply(&kquants::Rows {
                    weights: weights.as_ptr(),
                    row_bytes: row,
                    rows,
                    blocks,
                    activations: own.as_ptr(),
                    columns,
                    out: got.as_mut_ptr(),
                    out_stride: rows,
                });
                let wanted: Vec<f64> = wanted[..rows * columns].iter().map(|&x| f64::from(x)).collect();
                let e = error(&got[..rows * columns], &wanted);
                assert!(e < 1e-6, "type {ty}, {columns} columns: {e:.1e}");
            }
        }
    }
}

/// Damaged weights must be noticed at the end, and not be taken for zeros on the way.
#[test]
fn numbers_that_are_not_finite_reach_the_result() {
    let mut random = Random(10);
    let (depth, rows) = (512, 40);
    for (ty, _) in TYPES {
        let (mut weights, exact) = quantized(ty, rows, &random.vector(depth * rows));
        let ways = WAYS.map(|way| (20, way));
        for (columns, unpacking) in [(1, Some(0)), (4, Some(0)), (110, Some(0))].into_iter().chain(ways) {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut computer = computer(2);
                computer.unpacking = unpacking;
                let mut x = random.vector(depth * columns);
                let first = columns / 2 * depth;
                (x[first + 3], x[first + 300]) = (bad, bad);
                let (dst, _) = product(&computer, ty, &mut weights, &exact, &mut x, depth);
                for (column, results) in dst.chunks(rows).enumerate() {
                    let finite = results.iter().all(|x| x.is_finite());
                    assert_eq!(
                        finite,
                        column != columns / 2,
                        "type {ty}, {bad}, column {column} of {columns}, {unpacking:?}"
                    );
                }
            }
        }
    }
}

/// Keys and values of fewer heads than there are queries, weights shared by slices: as ggml broadcasts them.
#[test]
fn slices_share_weights() {
    let (depth, rows, columns, slices) = (64, 5, 3, 6);
    let mut random = Random(3);
    let mut weights = random.vector(depth * rows * slices / 2);
    let mut x = random.vector(depth * columns * slices);
    let mut dst = vec![0.0; rows * columns * slices];
    let wanted: Vec<f64> = (0..rows * columns * slices)
        .map(|i| {
            let (r, c, s) = (i % rows, i / rows % columns, i / rows / columns);
            let (w, x) = (&weights[(s / 2 * rows + r) * depth..], &x[(s * columns + c) * depth..]);
            (0..depth).map(|k| f64::from(w[k]) * f64::from(x[k])).sum()
        })
        .collect();
    let ty = llama::GGML_TYPE_F32;
    let mut src = [
        tensor(ty, [depth as i64, rows as i64, slices as i64 / 2, 1], &mut weights),
        tensor(ty, [depth as i64, columns as i64, slices as i64, 1], &mut x),
    ];
    let to = tensor(ty, [rows as i64, columns as i64, slices as i64, 1], &mut dst);
    let op = node(llama::GGML_OP_MUL_MAT, to, &mut src);
    assert!(computer(2).compute(&op).is_ok_and(|done| done));
    assert!(error(&dst, &wanted) < 1e-6);
}

#[test]
fn attention_is_softmax_of_scores_times_values() {
    let mut random = Random(4);
    let computer = computer(3);
    for (width, queries, heads, kv_heads, keys) in
        [(80, 1, 32, 32, 300), (16, 5, 4, 2, 64), (64, 40, 2, 2, 130), (80, 33, 8, 8, 96)]
    {
        let mut q = random.vector(width * queries * heads);
        let halves = |random: &mut Random| -> Vec<f16> {
            random.vector(width * keys * kv_heads).into_iter().map(f16::from_f32).collect()
        };
        let (mut k, mut v) = (halves(&mut random), halves(&mut random));
        // Causal, as if the queries were the last positions; and a key that nobody sees.
        let hidden = |query: usize, key: usize| key > keys - queries + query || key == 3;
        let mut mask: Vec<f16> = (0..keys * queries)
            .map(|i| if hidden(i / keys, i % keys) { f16::NEG_INFINITY } else { f16::ZERO })
            .collect();
        let scale = 0.3_f32;
        let mut wanted = vec![0.0; width * queries * heads];
        for head in 0..heads {
            for query in 0..queries {
                let q = &q[(head * queries + query) * width..][..width];
                let slot = |key: usize| ((head * kv_heads / heads) * keys + key) * width;
                let weights: Vec<f64> = (0..keys)
                    .map(|key| {
                        let dot: f64 = (0..width).map(|i| f64::from(q[i]) * f64::from(k[slot(key) + i].to_f32())).sum();
                        if hidden(query, key) {
                            0.0
                        } else {
                            (dot * f64::from(scale)).exp()
                        }
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                for i in 0..width {
                    let sum: f64 = (0..keys).map(|key| weights[key] * f64::from(v[slot(key) + i].to_f32())).sum();
                    wanted[(query * heads + head) * width + i] = sum / total;
                }
            }
        }
        let mut dst = vec![f32::NAN; wanted.len()];
        let size = |sizes: [usize; 3]| [sizes[0] as i64, sizes[1] as i64, sizes[2] as i64, 1];
        let mut src = [
            tensor(llama::GGML_TYPE_F32, size([width, queries, heads]), &mut q),
            tensor(llama::GGML_TYPE_F16, size([width, keys, kv_heads]), &mut k),
            tensor(llama::GGML_TYPE_F16, size([width, keys, kv_heads]), &mut v),
            tensor(llama::GGML_TYPE_F16, size([keys, queries, 1]), &mut mask),
        ];
        let to = tensor(llama::GGML_TYPE_F32, size([width, heads, queries]), &mut dst);
        let mut op = node(llama::GGML_OP_FLASH_ATTN_EXT, to, &mut src);
        op.op_params[0] = scale.to_bits() as i32;
        assert!(computer.compute(&op).is_ok_and(|done| done));
        let e = error(&dst, &wanted);
        assert!(e < 1e-6, "{width} {queries} {heads} {keys}: {e:.1e}");
        // ALiBi and soft caps are left to ggml.
        op.op_params[1] = 1.0_f32.to_bits() as i32;
        assert!(computer.compute(&op).is_ok_and(|done| !done));
    }
}

#[test]
fn gelu_is_the_one_with_tanh() {
    let mut random = Random(6);
    for len in [1, 7, 64, 20_001] {
        let mut x: Vec<f32> = random.vector(len).into_iter().map(|x| 12.0 * x).collect();
        x[len / 2] = f32::NAN;
        let wanted: Vec<f64> = x
            .iter()
            .map(|&x| f64::from(x))
            .map(|x| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh()))
            .collect();
        let mut dst = vec![f32::NAN; len];
        let ty = llama::GGML_TYPE_F32;
        let mut src = [tensor(ty, [len as i64, 1, 1, 1], &mut x)];
        let mut op = node(llama::GGML_OP_UNARY, tensor(ty, [len as i64, 1, 1, 1], &mut dst), &mut src);
        op.op_params[0] = llama::GGML_UNARY_OP_GELU as i32;
        assert!(computer(2).compute(&op).is_ok_and(|done| done));
        for ((got, wanted), x) in dst.iter().zip(wanted).zip(&x) {
            let near = (f64::from(*got) - wanted).abs() < 1e-6 * wanted.abs().max(1.0);
            assert!(near || x.is_nan() && got.is_nan(), "{x}: {got}, not {wanted}");
        }
    }
}

#[test]
fn large_nodes_are_shared_out_and_others_left_alone() {
    let mut random = Random(5);
    let (columns, rows) = (512, 200);
    let mut a = random.vector(columns * rows);
    let mut b = random.vector(columns);
    let wanted: Vec<f32> = a.iter().enumerate().map(|(i, x)| x + b[i % columns]).collect();
    let mut dst = vec![0.0; a.len()];
    let ty = llama::GGML_TYPE_F32;
    let mut src =
        [tensor(ty, [columns as i64, rows as i64, 1, 1], &mut a), tensor(ty, [columns as i64, 1, 1, 1], &mut b)];
    let to = tensor(ty, [columns as i64, rows as i64, 1, 1], &mut dst);
    let mut op = node(llama::GGML_OP_ADD, to, &mut src);
    assert!(computer(3).compute(&op).is_ok_and(|done| done));
    assert_eq!(dst, wanted);
    op.op = llama::GGML_OP_CONCAT;
    assert!(computer(3).compute(&op).is_ok_and(|done| !done));
}

/// Not a test: `cargo test --release --lib -- --ignored --nocapture speed_of_products` prints how fast k-quants of a full-size
/// layer are multiplied, in each way there is.
#[test]
#[ignore = "prints speeds"]
fn speed_of_products() {
    let mut random = Random(11);
    let (depth, rows) = (2560, 10_240);
    for ty in [llama::GGML_TYPE_Q4_K, llama::GGML_TYPE_Q5_K, llama::GGML_TYPE_Q6_K] {
        let (weights, _) = quantized(ty, 256, &random.vector(depth * 256));
        let mut weights = weights.repeat(rows / 256);
        for columns in [1, 4, 6, 8, 16, 31, 48, 96] {
            let mut x = random.vector(depth * columns);
            let mut dst = vec![0.0; rows * columns];
            let shape = |a: usize, b: usize| [a as i64, b as i64, 1, 1];
            let mut src = [
                tensor(ty, shape(depth, rows), &mut weights),
                tensor(llama::GGML_TYPE_F32, shape(depth, columns), &mut x),
            ];
            let to = tensor(llama::GGML_TYPE_F32, shape(rows, columns), &mut dst);
            let op = node(llama::GGML_OP_MUL_MAT, to, &mut src);
            let speeds: Vec<String> = WAYS
                .into_iter()
                .map(|unpacking| {
                    let mut computer = computer(1);
                    computer.unpacking = unpacking;
                    let best = (0..7).fold(f64::MAX, |best, _| {
                        let start = now();
                        assert!(computer.compute(&op).is_ok_and(|done| done));
                        best.min(now() - start)
                    });
                    format!("{:.2} ms ({:.0} GFLOP/s)", best * 1e3, 2e-9 * (depth * rows * columns) as f64 / best)
                })
                .collect();
            println!("type {ty}, {columns} columns: {}", speeds.join(", "));
        }
    }
}
