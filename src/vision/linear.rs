//! Linear layers, and their products in f32: blocking, unpacking of weights, and sharing the work among threads. Products in
//! 8 bits are in [`super::quantized`], in bfloat16 in [`super::rounded`].
//!
//! `y[N, tokens] = w[N, K] · x[K, tokens] + b` is cut into blocks of rows, one task each. A task turns its rows into f32, as
//! much depth of them as fits the L2 cache, and takes them over all panels of tokens; a kernel call covers a depth whose
//! activations fit the L1 cache. Each weight is thus read from the file once, and converted once, for all tokens.

use super::kernels::{GemmTile, Kernel, WeightBlock};
use super::ops::Exec;
use super::panels::{Panels, Reader, Writer};
use super::quantized::{self, Quantized};
use super::rounded::{self, Rounded};
use crate::error::Result;
use crate::gguf::{Tensor, TensorType};

/// Rows of a task at most; with [`BLOCK_DEPTH`] 288 KiB of f32.
const BLOCK_ROWS: usize = 48;
/// Columns unpacked at a time at most.
const BLOCK_DEPTH: usize = 1536;

/// Floats of scratch memory that a task needs.
pub(super) fn scratch_floats(kernel: &dyn Kernel) -> usize {
    BLOCK_ROWS * BLOCK_DEPTH.next_multiple_of(kernel.depth())
}

/// What a layer is applied to.
pub(super) enum Operand<'a> {
    /// In f32.
    Float(Panels<'a>),
    /// In f32, where it is.
    Borrowed(&'a Panels<'a>),
    /// In 8 bits, for layers with Q8_0 weights.
    Int8(Quantized<'a>),
    /// In bfloat16, for layers with Q8_0 or BF16 weights.
    Bf16(Rounded<'a>),
}

/// What happens to a layer's result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It is stored.
    Store,
    /// It is added to what the destination holds: a residual connection.
    Add,
}

/// A weight matrix in the model file, used where it is mapped, and its bias.
pub(super) struct Linear {
    /// `[outputs, inputs]`, F32, F16, BF16 or Q8_0.
    weight: Tensor,
    /// One an output, or empty.
    bias: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// `weight` has `outputs` rows of `inputs` values and a supported type.
    pub(super) fn new(weight: Tensor, bias: Vec<f32>, outputs: usize, inputs: usize) -> Self {
        debug_assert!(bias.is_empty() || bias.len() == outputs);
        Linear { weight, bias, inputs, outputs }
    }

    /// Rows of what it is applied to.
    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Rows of the result.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Floating point operations for `tokens`.
    pub(super) fn flops(&self, tokens: usize) -> f64 {
        2.0 * self.inputs as f64 * self.outputs as f64 * tokens as f64
    }

    /// How the weights are stored.
    pub(super) fn weight_type(&self) -> TensorType {
        self.weight.ty()
    }

    /// The weights' bytes, and how many a row has.
    pub(super) fn weight_rows(&self) -> (&[u8], usize) {
        let bytes = self.weight.bytes();
        (bytes, bytes.len() / self.outputs)
    }

    /// One value an output, or none.
    #[cfg(test)]
    pub(super) fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// The bias from row `first` on, or null.
    pub(super) fn bias_from(&self, first: usize) -> *const f32 {
        if self.bias.is_empty() {
            std::ptr::null()
        } else {
            self.bias[first..].as_ptr()
        }
    }

    /// `y (+)= w · x + b`.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::error::Error::Cancelled); then `y` is in part written.
    pub(super) fn apply(&self, exec: &Exec, x: &Operand, y: &mut Panels, then: Then) -> Result<()> {
        match x {
            Operand::Float(x) => self.apply_float(exec, x, y, then, false),
            Operand::Borrowed(x) => self.apply_float(exec, x, y, then, false),
            Operand::Int8(x) => quantized::apply(self, exec, x, quantized::Destination::Float(y, then)),
            Operand::Bf16(x) => rounded::apply(self, exec, x, rounded::Destination::Float(y, then)),
        }
    }

    /// `y = w · x + b`, to be what attention takes.
    ///
    /// # Errors
    /// As `apply`.
    pub(super) fn apply_to(&self, exec: &Exec, x: &Operand, y: &mut Operand) -> Result<()> {
        match (x, y) {
            (x, Operand::Float(y)) => self.apply(exec, x, y, Then::Store),
            (Operand::Bf16(x), Operand::Bf16(y)) => rounded::apply(self, exec, x, rounded::Destination::Sums(y)),
            _ => unreachable!("operands come from `Exec`, which makes all of a kind"),
        }
    }

    /// `y = gelu(w · x + b)`, to be the next layer's operand.
    ///
    /// # Errors
    /// As `apply`.
    pub(super) fn apply_gelu<'a>(&self, exec: &Exec, x: &Operand, y: &mut Operand<'a>) -> Result<()> {
        match (x, y) {
            (Operand::Int8(x), Operand::Int8(y)) => {
                quantized::apply(self, exec, x, quantized::Destination::QuantizedGelu(y))
            }
            (Operand::Bf16(x), Operand::Bf16(y)) => rounded::apply(self, exec, x, rounded::Destination::Gelu(y)),
            (Operand::Float(x), Operand::Float(y)) => self.apply_float(exec, x, y, Then::Store, true),
            (Operand::Borrowed(x), Operand::Float(y)) => self.apply_float(exec, x, y, Then::Store, true),
            _ => unreachable!("operands come from `Exec`, which makes all of a kind"),
        }
    }

    /// With `gelu` the GELU of the sums is stored.
    fn apply_float(&self, exec: &Exec, x: &Panels, y: &mut Panels, then: Then, gelu: bool) -> Result<()> {
        assert!(x.rows == self.inputs && y.rows == self.outputs && x.tokens == y.tokens && x.shape == y.shape);
        let work = self.flops(x.tokens);
        let rows = block_rows(self.outputs, exec.threads_for(work), exec.kernel().row_group(), BLOCK_ROWS);
        let (input, output) = (Reader::of(x), y.writer());
        let y = &*y;
        exec.run(self.outputs.div_ceil(rows), work, &|task, scratch| {
            let first = task * rows;
            let count = rows.min(self.outputs - first);
            self.block(exec.kernel(), (x, input), (y, output), (then, gelu), first, count, scratch);
        })
    }

    /// Rows `first..first + rows` of the result, for all tokens.
    #[allow(clippy::too_many_arguments)]
    fn block(
        &self,
        kernel: &dyn Kernel,
        (x, input): (&Panels, Reader),
        (y, output): (&Panels, Writer),
        (then, gelu): (Then, bool),
        first: usize,
        rows: usize,
        scratch: &mut [f32],
    ) {
        let step = kernel.depth();
        let (bytes, row_bytes) = self.weight_rows();
        let parts = self.inputs.div_ceil(BLOCK_DEPTH);
        let part = self.inputs.div_ceil(parts).next_multiple_of(step);
        assert!(rows * part <= scratch.len() && (first + rows) * row_bytes <= bytes.len());
        for start in (0..self.inputs).step_by(part) {
            let end = self.inputs.min(start + part);
            for (i, column) in (start..end).step_by(step).enumerate() {
                // SAFETY: the rows lie inside `bytes` and the packed block inside `scratch`, both just asserted; a row has
                // `inputs` values, which for Q8_0 is a multiple of its block length, as is `step`.
                unsafe {
                    kernel.unpack(&WeightBlock {
                        ty: self.weight.ty(),
                        data: bytes.as_ptr().add(first * row_bytes),
                        row_bytes,
                        rows,
                        column,
                        columns: step.min(end - column),
                        out: scratch.as_mut_ptr().add(i * rows * step),
                    });
                }
            }
            for p in 0..x.panels() {
                let width = x.width(p);
                let c = output.at(y.offset(p, first));
                for (i, column) in (start..end).step_by(step).enumerate() {
                    let bias = if column == 0 { self.bias_from(first) } else { std::ptr::null() };
                    // SAFETY: `scratch` holds this packed block; the rows of `x` and `y` exist, as `apply` asserted; no
                    // other task has these rows of `y`, and `x` is another matrix.
                    unsafe {
                        kernel.gemm(&GemmTile {
                            rows,
                            depth: step.min(end - column),
                            w: scratch.as_ptr().add(i * rows * step),
                            bias,
                            x: input.at(x.offset(p, column)),
                            vectors: width / x.shape.lanes,
                            c,
                            accumulate: column > 0 || then == Then::Add,
                        });
                    }
                }
                if gelu && end == self.inputs {
                    // SAFETY: the same rows of `y`, which lie one behind the other.
                    unsafe { kernel.gelu(c, rows * width) };
                }
            }
        }
    }
}

/// Rows of a task: what keeps all threads busy to the end, yet uses the activations that a task reads often enough.
pub(super) fn block_rows(outputs: usize, threads: usize, group: usize, most: usize) -> usize {
    // Reading the activations costs a task about as much as this many rows of products.
    const OVERHEAD: usize = 4;
    (1..=most / group)
        .map(|n| n * group)
        .min_by_key(|&rows| (outputs.div_ceil(rows).div_ceil(threads) * (rows + OVERHEAD), usize::MAX - rows))
        .unwrap_or(most)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::kernels::{tests::Noise, Kernels};
    use super::super::ops::Most;
    use super::super::panels::{Buffer, PanelShape};
    use super::super::testing::TestFile;
    use super::*;
    use crate::gguf::TensorType;
    use crate::threads::ThreadPool;

    /// One layer in a file, and its values as stored.
    pub(in super::super) fn layer(ty: TensorType, outputs: usize, inputs: usize) -> (Linear, Vec<f32>) {
        let mut noise = Noise::new((outputs * 7 + inputs) as u64);
        let mut file = TestFile::empty();
        file.tensors.push(("w".into(), vec![outputs, inputs], ty, noise.vec(outputs * inputs)));
        let stored = file.stored("w");
        // The mapping outlives the file's name.
        let weight = file.write().file.tensor("w", &[outputs, inputs]).unwrap();
        (Linear::new(weight, noise.vec(outputs), outputs, inputs), stored)
    }

    #[test]
    fn layers_over_odd_shapes_types_and_threads() {
        let shapes = [(1, 1, 1), (3, 5, 13), (49, 129, 50), (97, 300, 17), (8, 3200, 3), (200, 64, 121)];
        for kernels in Kernels::all() {
            let shape = PanelShape::of(kernels.float);
            for threads in [1, 3] {
                let pool = ThreadPool::new(threads);
                let exec = Exec::new(&pool, kernels, Most { inputs: 3200, head: 1, tokens: 1 }, None).unwrap();
                for (outputs, inputs, tokens) in shapes {
                    for ty in [TensorType::F32, TensorType::F16, TensorType::BF16, TensorType::Q8_0] {
                        if ty == TensorType::Q8_0 && inputs % 32 != 0 || kernels.suited(&[ty]).name() != kernels.name()
                        {
                            continue;
                        }
                        let (linear, w) = layer(ty, outputs, inputs);
                        let x = Noise::new(9).vec(tokens * inputs);
                        let before = Noise::new(8).vec(tokens * outputs);
                        let mut x_memory = Buffer::zeroed(shape.floats(inputs, tokens).unwrap()).unwrap();
                        let mut x_panels = Panels::over(&mut x_memory, inputs, tokens, shape);
                        x_panels.fill(|row, token| x[token * inputs + row]);
                        let floats = Exec::prepared_floats(kernels, inputs, tokens).unwrap();
                        let mut prepared = Buffer::zeroed(floats).unwrap();
                        let operand = exec.prepared(Operand::Borrowed(&x_panels), &mut prepared).unwrap();
                        // Rounding to 8 bits: half a step of 1/127 at most on either side, and most errors cancel.
                        let rounding = if kernels.is_exact() { 0.0 } else { 1e-2 * (inputs as f64).sqrt() };
                        for (then, gelu) in [(Then::Store, false), (Then::Add, false), (Then::Store, true)] {
                            // Other kernels' GELU is the next layer's operand; see `feed_forward_with_outlier_channels`.
                            if gelu && !kernels.is_exact() {
                                continue;
                            }
                            let mut y_memory = Buffer::zeroed(shape.floats(outputs, tokens).unwrap()).unwrap();
                            let mut y = Panels::over(&mut y_memory, outputs, tokens, shape);
                            y.fill(|row, token| before[token * outputs + row]);
                            let y = if gelu {
                                let mut y = Operand::Float(y);
                                linear.apply_gelu(&exec, &operand, &mut y).unwrap();
                                let Operand::Float(y) = y else { unreachable!() };
                                y.to_rows().unwrap()
                            } else {
                                linear.apply(&exec, &operand, &mut y, then).unwrap();
                                y.to_rows().unwrap()
                            };
                            for token in 0..tokens {
                                for row in 0..outputs {
                                    let i = token * outputs + row;
                                    let products =
                                        (0..inputs).map(|k| w[row * inputs + k] as f64 * x[token * inputs + k] as f64);
                                    let sum = products.sum::<f64>() + linear.bias[row] as f64;
                                    let tanh = (0.797_884_56 * (sum + 0.044_715 * sum.powi(3))).tanh();
                                    let (expected, tolerance) = match (then, gelu) {
                                        (Then::Store, false) => (sum, 2e-4),
                                        (Then::Add, _) => (sum + before[i] as f64, 2e-4),
                                        // The kernels' tests compare with the exact GELU; the approximation is close.
                                        (Then::Store, true) => (0.5 * sum * (1.0 + tanh), 2e-3),
                                    };
                                    let error = (y[i] as f64 - expected).abs();
                                    assert!(
                                        error < tolerance + rounding,
                                        "{} {ty:?} {outputs}×{inputs}×{tokens}: {error}",
                                        kernels.name()
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn cosine(a: &[f32], b: &[f64]) -> f64 {
        let dot: f64 = a.iter().zip(b).map(|(&a, b)| f64::from(a) * b).sum();
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
        dot / norm(&mut a.iter().map(|&a| f64::from(a))) / norm(&mut b.iter().copied())
    }

    /// A feed-forward: two layers, with what is between them never in f32 where it need not be. Its input has channels far above the others, which
    /// the weights take down again, as trained models do.
    #[test]
    fn feed_forward_with_outlier_channels() {
        let (width, middle) = (352, 600usize.next_multiple_of(32));
        for kernels in Kernels::all() {
            let pool = ThreadPool::new(2);
            let exec = Exec::new(&pool, kernels, Most { inputs: middle, head: 1, tokens: 1 }, None).unwrap();
            let ((up, w_up), (down, w_down)) =
                (layer(TensorType::Q8_0, middle, width), layer(TensorType::Q8_0, width, middle));
            for tokens in [5, 100] {
                let mut x = Noise::new(3).vec(tokens * width);
                let outlier = |f: usize| f % 120 == 7;
                // Small enough for the GELU to bend, and for the outliers not to be all there is.
                x.iter_mut().enumerate().for_each(|(i, v)| *v *= if outlier(i % width) { 10.0 } else { 0.1 });
                let shape = PanelShape::of(kernels.float);
                let mut memory =
                    [width, width].map(|rows| Buffer::zeroed(shape.floats(rows, tokens).unwrap()).unwrap());
                let [x_memory, y_memory] = &mut memory;
                let mut panels = Panels::over(x_memory, width, tokens, shape);
                panels.fill(|row, token| x[token * width + row]);
                let mut y = Panels::over(y_memory, width, tokens, shape);
                let mut rooms = [width, middle]
                    .map(|rows| {
                        Exec::prepared_floats(kernels, rows, tokens).unwrap().max(shape.floats(rows, tokens).unwrap())
                    })
                    .map(|floats| Buffer::zeroed(floats).unwrap());
                let [narrow, wide] = &mut rooms;
                // Whatever was there before must not matter.
                wide.fill(f32::NAN);
                let mut between = exec.operand(wide, middle, tokens);
                assert!(kernels.is_exact() == matches!(between, Operand::Float(_)));
                up.apply_gelu(&exec, &exec.prepared(Operand::Borrowed(&panels), narrow).unwrap(), &mut between)
                    .unwrap();
                down.apply(&exec, &between, &mut y, Then::Store).unwrap();
                let y = y.to_rows().unwrap();
                let row = |w: &[f32], bias: f64, x: &[f64]| {
                    w.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum::<f64>() + bias
                };
                for token in 0..tokens {
                    let x: Vec<f64> = x[token * width..][..width].iter().map(|&v| f64::from(v)).collect();
                    let bias = |layer: &Linear, r: usize| f64::from(layer.bias()[r]);
                    let hidden: Vec<f64> = (0..middle)
                        .map(|r| row(&w_up[r * width..][..width], bias(&up, r), &x))
                        .map(|h| 0.5 * h * (1.0 + (0.797_884_560_8 * (h + 0.044_715 * h.powi(3))).tanh()))
                        .collect();
                    let expected: Vec<f64> =
                        (0..width).map(|r| row(&w_down[r * middle..][..middle], bias(&down, r), &hidden)).collect();
                    let cosine = cosine(&y[token * width..][..width], &expected);
                    assert!(cosine > 0.9998, "{}, token {token} of {tokens}: {cosine}", kernels.name());
                }
            }
        }
    }

    #[test]
    fn blocks_keep_threads_busy() {
        for group in [4, 8] {
            for threads in [1, 2, 8, 64, 200] {
                for outputs in [1, 7, 192, 768, 1408, 6144] {
                    let rows = block_rows(outputs, threads, group, BLOCK_ROWS);
                    assert!(rows.is_multiple_of(group) && (group..=BLOCK_ROWS).contains(&rows));
                    let busy =
                        outputs as f64 / threads as f64 / (outputs.div_ceil(rows).div_ceil(threads) * rows) as f64;
                    assert!(outputs < 4 * group * threads || busy > 0.7, "{outputs} rows, {threads} threads: {busy}");
                }
            }
        }
    }
}
