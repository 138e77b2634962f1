//! Linear layers: blocking, unpacking of weights, and sharing the work among threads.
//!
//! `y[N, tokens] = w[N, K] · x[K, tokens] + b` is cut into blocks of rows, one task each. A task turns its rows into f32, as
//! much depth of them as fits the L2 cache, and takes them over all panels of tokens; a kernel call covers a depth whose
//! activations fit the L1 cache. Each weight is thus read from the file once, and converted once, for all tokens.

use super::kernels::{GemmTile, Kernel, WeightBlock};
use super::ops::Exec;
use super::panels::{Panels, Reader, Writer};
use crate::error::Result;
use crate::gguf::Tensor;

/// Rows of a task at most; with [`BLOCK_DEPTH`] 288 KiB of f32.
const BLOCK_ROWS: usize = 48;
/// Columns unpacked at a time at most.
const BLOCK_DEPTH: usize = 1536;

/// Floats of scratch memory that a task needs.
pub(super) fn scratch_floats(kernel: &dyn Kernel) -> usize {
    BLOCK_ROWS * BLOCK_DEPTH.next_multiple_of(kernel.depth())
}

/// What happens to a layer's result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It is stored.
    Store,
    /// Its GELU is stored.
    Gelu,
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

    /// Rows of the result.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Floating point operations for `tokens`.
    pub(super) fn flops(&self, tokens: usize) -> f64 {
        2.0 * self.inputs as f64 * self.outputs as f64 * tokens as f64
    }

    /// `y (+)= w · x + b`.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::error::Error::Cancelled); then `y` is in part written.
    pub(super) fn apply(&self, exec: &Exec, x: &Panels, y: &mut Panels, then: Then) -> Result<()> {
        assert!(x.rows == self.inputs && y.rows == self.outputs && x.tokens == y.tokens && x.shape == y.shape);
        let work = self.flops(x.tokens);
        let rows = block_rows(self.outputs, exec.threads_for(work), exec.kernel().row_group());
        let (input, output) = (Reader::of(x), y.writer());
        let y = &*y;
        exec.run(self.outputs.div_ceil(rows), work, &|task, scratch| {
            let first = task * rows;
            let count = rows.min(self.outputs - first);
            self.block(exec.kernel(), (x, input), (y, output), then, first, count, scratch);
        })
    }

    /// Rows `first..first + rows` of the result, for all tokens.
    #[allow(clippy::too_many_arguments)]
    fn block(
        &self,
        kernel: &dyn Kernel,
        (x, input): (&Panels, Reader),
        (y, output): (&Panels, Writer),
        then: Then,
        first: usize,
        rows: usize,
        scratch: &mut [f32],
    ) {
        let step = kernel.depth();
        let bytes = self.weight.bytes();
        let row_bytes = bytes.len() / self.outputs;
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
                    let bias = if column == 0 && !self.bias.is_empty() {
                        self.bias[first..first + rows].as_ptr()
                    } else {
                        std::ptr::null()
                    };
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
                if then == Then::Gelu && end == self.inputs {
                    // SAFETY: the same rows of `y`, which lie one behind the other.
                    unsafe { kernel.gelu(c, rows * width) };
                }
            }
        }
    }
}

/// Rows of a task: what keeps all threads busy to the end, yet uses the activations that a task reads often enough.
fn block_rows(outputs: usize, threads: usize, group: usize) -> usize {
    // Reading the activations costs a task about as much as this many rows of products.
    const OVERHEAD: usize = 4;
    (1..=BLOCK_ROWS / group)
        .map(|n| n * group)
        .min_by_key(|&rows| (outputs.div_ceil(rows).div_ceil(threads) * (rows + OVERHEAD), usize::MAX - rows))
        .unwrap_or(BLOCK_ROWS)
}
