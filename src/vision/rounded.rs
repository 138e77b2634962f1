//! Activations in bfloat16, and linear layers and attention on them.
//!
//! A layer's rows are shared out in blocks, one task each. A task packs its weights, as much depth of them as keeps the block in
//! the L2 cache, and takes them over all tokens. Parts of the depth are summed in the result, in f32.

use super::kernels::bf16::{
    AttentionHead, Bf16Kernel, Bf16Product, HeadFeatures, PackWeights, RoundColumn, ToOperand, ToPanels,
};
use super::linear::{block_rows, Linear, Then};
use super::ops::{attention_flops, Exec};
use super::panels::{PanelShape, Panels, Reader, Writer};
use crate::error::Result;

/// Bytes of packed weights of a task; more only where a group of rows does not fit.
const PACKED_BYTES: usize = 1152 << 10;
/// Columns packed at a time at most, where parts of a sum may be stored.
const MOST_DEPTH: usize = 1536;

/// A matrix in bfloat16 over borrowed memory, as a layer is applied to it.
pub(super) struct Rounded<'a> {
    data: &'a mut [f32],
    kernel: &'static dyn Bf16Kernel,
    pub rows: usize,
    pub tokens: usize,
    pub shape: PanelShape,
}

impl<'a> Rounded<'a> {
    /// Floats of memory that a matrix takes, if the address space has as many.
    pub(super) fn floats(kernel: &dyn Bf16Kernel, rows: usize, tokens: usize) -> Option<usize> {
        kernel.right_len(tokens, rows).map(|numbers| numbers.div_ceil(2))
    }

    /// The first part of `memory` as a matrix; the values stay as they are.
    ///
    /// # Panics
    /// If `memory` is too short: its owner sized it for this matrix.
    pub(super) fn over(
        memory: &'a mut [f32],
        kernel: &'static dyn Bf16Kernel,
        rows: usize,
        tokens: usize,
    ) -> Rounded<'a> {
        let floats = Self::floats(kernel, rows, tokens).expect("sizes were checked when loading");
        let shape = PanelShape { lanes: kernel.lanes(), panel: kernel.panel() };
        Rounded { data: &mut memory[..floats], kernel, rows, tokens, shape }
    }

    fn vectors(&self) -> usize {
        self.tokens.div_ceil(self.shape.lanes)
    }

    /// For tasks that write disjoint parts at the same time.
    pub(super) fn writer(&mut self) -> RoundedWriter {
        let vector = self.data.len() / self.vectors();
        RoundedWriter { kernel: self.kernel, to: Writer::of(self.data), vector }
    }

    /// Rounds a matrix of the same size.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::error::Error::Cancelled); then `self` is in part written.
    pub(super) fn fill(&mut self, exec: &Exec, x: &Panels) -> Result<()> {
        assert!(x.rows == self.rows && x.tokens == self.tokens && x.shape == self.shape);
        let (from, to, lanes) = (Reader::of(x), self.writer(), self.shape.lanes);
        exec.run(self.vectors(), 2.0 * (x.rows * x.tokens) as f64, &|vector, _| {
            let (p, lane) = x.shape.place(vector * lanes);
            let (src, out) = (from.at(x.offset(p, 0) + lane), to.vector(vector));
            // SAFETY: the vector's features exist in `x`; every task has its own vector.
            unsafe { to.kernel.round(&RoundColumn { src, stride: x.width(p), features: x.rows, out }) };
        })
    }
}

/// A pointer into a matrix that several tasks write to, each its own vectors.
#[derive(Clone, Copy)]
pub(super) struct RoundedWriter {
    pub kernel: &'static dyn Bf16Kernel,
    to: Writer,
    /// Floats of a vector of tokens.
    vector: usize,
}

impl RoundedWriter {
    /// Where a vector of tokens is.
    pub(super) fn vector(self, vector: usize) -> *mut u16 {
        self.to.at(vector * self.vector).cast()
    }
}

/// Where a layer's result goes.
pub(super) enum Destination<'a, 'b> {
    /// There it stays f32.
    Float(&'b mut Panels<'a>, Then),
    /// There it is rounded.
    Sums(&'b mut Rounded<'a>),
    /// Its GELU, rounded.
    Gelu(&'b mut Rounded<'a>),
}

/// Rows of a task at most.
fn most_rows(kernel: &dyn Bf16Kernel, depth: usize) -> usize {
    let row = 2 * depth.next_multiple_of(32);
    (PACKED_BYTES / row / kernel.row_group()).max(1) * kernel.row_group()
}

/// Floats of scratch memory that a task needs for layers with up to `inputs` inputs.
pub(super) fn scratch_floats(kernel: &dyn Bf16Kernel, inputs: usize) -> usize {
    let group = kernel.left_len(kernel.row_group(), inputs).expect("sizes were checked when loading");
    (PACKED_BYTES / 2).max(group).div_ceil(2)
}

/// How a task reaches its destination.
#[derive(Clone, Copy)]
enum Target {
    Float { to: Writer, rows: usize, then: Then },
    Rounded { to: RoundedWriter, features: usize, gelu: bool },
}

/// `y (+)= w · x + b` with Q8_0 or BF16 weights.
///
/// # Errors
/// [`Error::Cancelled`](crate::error::Error::Cancelled); then the destination is in part written.
pub(super) fn apply(layer: &Linear, exec: &Exec, x: &Rounded, y: Destination) -> Result<()> {
    let (kernel, inputs, outputs) = (x.kernel, x.rows, layer.outputs());
    let (size, target) = match y {
        Destination::Float(y, then) => {
            ((y.rows, y.tokens, y.shape), Target::Float { to: y.writer(), rows: outputs, then })
        }
        Destination::Sums(y) => {
            ((y.rows, y.tokens, y.shape), Target::Rounded { to: y.writer(), features: outputs, gelu: false })
        }
        Destination::Gelu(y) => {
            ((y.rows, y.tokens, y.shape), Target::Rounded { to: y.writer(), features: outputs, gelu: true })
        }
    };
    assert!(inputs == layer.inputs() && size == (outputs, x.tokens, x.shape));
    let depth = match target {
        Target::Float { .. } => inputs.div_ceil(inputs.div_ceil(MOST_DEPTH)).next_multiple_of(32),
        // All of it: only whole sums are rounded.
        Target::Rounded { .. } => inputs,
    };
    let work = layer.flops(x.tokens);
    let rows = block_rows(outputs, exec.threads_for(work), kernel.row_group(), most_rows(kernel, depth));
    let (input, vectors) = (Reader::of_slice(x.data), x.vectors());
    exec.run(outputs.div_ceil(rows), work, &|task, scratch| {
        let first = task * rows;
        let count = rows.min(outputs - first);
        let (bytes, row_bytes) = layer.weight_rows();
        assert!((first + count) * row_bytes <= bytes.len());
        for column in (0..inputs).step_by(depth) {
            let columns = depth.min(inputs - column);
            assert!(kernel.left_len(count, columns).is_some_and(|numbers| numbers <= 2 * scratch.len()));
            let packed: *mut u16 = scratch.as_mut_ptr().cast();
            let product = Bf16Product {
                rows: count,
                depth: columns,
                left: packed,
                vectors,
                right: input.at(0).cast(),
                features: inputs,
                feature: column,
                bias: if column == 0 { layer.bias_from(first) } else { std::ptr::null() },
            };
            // SAFETY: the rows lie inside `bytes` and the packed ones in `scratch`, as just asserted; `x` has these features
            // and the destination these rows, which are this task's alone.
            unsafe {
                kernel.pack_weights(&PackWeights {
                    ty: layer.weight_type(),
                    data: bytes.as_ptr().add(first * row_bytes),
                    row_bytes,
                    rows: count,
                    column,
                    columns,
                    out: packed,
                });
                match target {
                    Target::Float { to, rows, then } => {
                        let accumulate = column > 0 || then == Then::Add;
                        kernel.multiply(&product, &ToPanels { matrix: to.at(0), rows, row: first, accumulate });
                    }
                    Target::Rounded { to, features, gelu } => {
                        let right = to.vector(0);
                        kernel.multiply_to_operand(&product, &ToOperand { right, features, feature: first, gelu });
                    }
                }
            }
        }
    })
}

/// Attention as [`super::ops::attention`] has it. Queries, keys and values are matrices with the feature they begin at.
///
/// # Errors
/// [`Error::Cancelled`](crate::error::Error::Cancelled); then `out` is in part written.
pub(super) fn attention(exec: &Exec, parts: [(&Rounded, usize); 3], heads: usize, out: &mut Rounded) -> Result<()> {
    let (kernel, head) = (out.kernel, out.rows / heads);
    let [(q, _), (k, _), (v, _)] = parts;
    assert!(out.rows == heads * head && q.tokens == out.tokens && k.tokens == v.tokens);
    assert!(kernel.attends(head) && parts.iter().all(|(m, row)| m.rows >= row + out.rows && row % 2 == 0));
    let inputs = parts.map(|(m, _)| Reader::of_slice(m.data));
    let (to, work, vectors) = (out.writer(), attention_flops(out.rows, q.tokens, k.tokens), out.vectors());
    // Packing costs as much as a few vectors: a head is one task, unless threads would be left without.
    let (blocks, block) = (out.shape.panels(out.tokens), out.shape.panel / out.shape.lanes);
    let shares = (2 * exec.threads_for(work)).div_ceil(heads).min(blocks);
    exec.run(heads * shares, work, &|task, scratch| {
        let (h, share) = (task / shares, task % shares);
        assert!(scratch.len() >= kernel.attention_floats(head, k.tokens));
        let features = |i: usize| HeadFeatures {
            operand: inputs[i].at(0).cast(),
            features: parts[i].0.rows,
            feature: parts[i].1 + h * head,
        };
        let tile = AttentionHead {
            head,
            q: features(0),
            k: features(1),
            v: features(2),
            keys: k.tokens,
            scale: 1.0 / (head as f32).sqrt(),
            out: to.vector(0),
            out_features: heads * head,
            out_feature: h * head,
        };
        let first = |share: usize| (share * blocks / shares * block).min(vectors);
        // SAFETY: all features and tokens named exist, as asserted above; each task writes its own head's features of its own
        // vectors of `out`, which is another matrix than the three it reads; scratch has room for a head.
        unsafe {
            kernel.pack_head(&tile, scratch.as_mut_ptr());
            kernel.attend(&tile, first(share)..first(share + 1), scratch.as_mut_ptr());
        }
    })
}
