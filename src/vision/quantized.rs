//! Activations in 8 bits, and linear layers on them.
//!
//! A matrix of features by tokens is cut into panels of tokens as in [`super::panels`] and each panel into groups of features,
//! in the layout of [`super::kernels::int8`]. A layer's rows are shared out in blocks, one task each: a task packs its weights
//! so that they stay in the L2 cache, and takes them over all panels of tokens.

use super::kernels::int8::{Int8Kernel, Int8Tile, PackBlock, QuantizeGroup};
use super::linear::{block_rows, Linear, Then};
use super::ops::Exec;
use super::panels::{PanelShape, Panels, Reader, Writer};
use crate::error::Result;
use crate::gguf::TensorType;

/// Bytes of packed weights of a task; more only where a group of rows does not fit.
const PACKED_BYTES: usize = 768 << 10;

/// Bytes of a part of a result that is computed before it is rounded: it stays in the L1 cache, beside operands.
const PART_BYTES: usize = 12 << 10;

/// Rows of such a part: whole groups.
fn part_rows(kernel: &dyn Int8Kernel) -> usize {
    (PART_BYTES / size_of::<f32>() / kernel.panel() / kernel.group()).max(1) * kernel.group()
}

/// A quantised matrix over borrowed memory.
pub(super) struct Quantized<'a> {
    data: &'a mut [f32],
    kernel: &'static dyn Int8Kernel,
    pub rows: usize,
    pub tokens: usize,
    pub shape: PanelShape,
}

impl<'a> Quantized<'a> {
    /// Floats of memory that a quantised matrix takes, if the address space has as many.
    pub(super) fn floats(kernel: &dyn Int8Kernel, rows: usize, tokens: usize) -> Option<usize> {
        let token = rows.div_ceil(kernel.group()).checked_mul(kernel.token_bytes())?;
        // Token bytes are a multiple of four.
        tokens.checked_next_multiple_of(kernel.lanes())?.checked_mul(token / 4)
    }

    /// The first part of `memory` as a matrix; the values stay as they are.
    ///
    /// # Panics
    /// If `memory` is too short: its owner sized it for this matrix.
    pub(super) fn over(
        memory: &'a mut [f32],
        kernel: &'static dyn Int8Kernel,
        rows: usize,
        tokens: usize,
    ) -> Quantized<'a> {
        let floats = Self::floats(kernel, rows, tokens).expect("sizes were checked when loading");
        let shape = PanelShape { lanes: kernel.lanes(), panel: kernel.panel() };
        Quantized { data: &mut memory[..floats], kernel, rows, tokens, shape }
    }

    fn groups(&self) -> usize {
        self.rows.div_ceil(self.kernel.group())
    }

    /// Where group `g` of panel `p` starts, in floats.
    fn offset(&self, p: usize, g: usize) -> usize {
        let token = self.kernel.token_bytes() / 4;
        token * (p * self.shape.panel * self.groups() + g * self.shape.width(self.tokens, p))
    }

    /// Which groups are in two parts, in some panel.
    fn split(&self) -> Vec<bool> {
        let part = self.kernel.token_bytes() / 8;
        let values = self.kernel.group() * self.kernel.value_bytes() / 4;
        let in_panel = |p: usize, g: usize| {
            let width = self.shape.width(self.tokens, p);
            let scales = self.offset(p, g) + (part + values) * width;
            self.data[scales..scales + width].iter().any(|&s| s != 0.0)
        };
        let panels = self.shape.panels(self.tokens);
        (0..self.groups()).map(|g| (0..panels).any(|p| in_panel(p, g))).collect()
    }

    /// For tasks that write disjoint parts at the same time.
    pub(super) fn writer(&mut self) -> QuantizedWriter {
        QuantizedWriter(Writer::of(self.data))
    }

    /// Quantises a matrix of the same size.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::error::Error::Cancelled); then `self` is in part written.
    pub(super) fn fill(&mut self, exec: &Exec, x: &Panels) -> Result<()> {
        assert!(x.rows == self.rows && x.tokens == self.tokens && x.shape == self.shape);
        let (from, to, groups) = (Reader::of(x), self.writer(), self.groups());
        let this = &*self;
        exec.run(groups * x.panels(), 8.0 * (x.rows * x.tokens) as f64, &|task, _| {
            let (p, g) = (task / groups, task % groups);
            let (row, width) = (g * this.kernel.group(), x.width(p));
            // SAFETY: the group's features exist in `x`; every task has its own group of its own panel.
            unsafe { to.group(this, p, 0, g, from.at(x.offset(p, row)), width, width) };
        })
    }
}

/// A pointer into a quantised matrix that several tasks write to, each its own part.
#[derive(Clone, Copy)]
pub(super) struct QuantizedWriter(Writer);

impl QuantizedWriter {
    /// Quantises group `g` of `tokens` tokens of panel `p` of `matrix`, `lane` being the first. `src` is the group's first
    /// feature; features are `stride` floats apart.
    ///
    /// # Safety
    /// The pointer must be of this matrix, and the features of the group must exist behind `src`. No other task may have
    /// the same group of the same tokens.
    #[allow(clippy::too_many_arguments)]
    unsafe fn group(
        self,
        matrix: &Quantized,
        p: usize,
        lane: usize,
        g: usize,
        src: *const f32,
        stride: usize,
        tokens: usize,
    ) {
        let kernel = matrix.kernel;
        let width = matrix.shape.width(matrix.tokens, p);
        let start = self.0.at(matrix.offset(p, g));
        let values = kernel.group() * kernel.value_bytes() / 4;
        let row = g * kernel.group();
        // SAFETY: the caller's; a group's values are followed by a scale for each token.
        unsafe {
            kernel.quantize(&QuantizeGroup {
                src,
                stride,
                features: (matrix.rows - row).min(kernel.group()),
                vectors: tokens / kernel.lanes(),
                width: width / kernel.lanes(),
                out: start.cast::<u8>().add(lane * kernel.token_step()),
                scales: start.add(values * width + lane),
            });
        }
    }

    /// Quantises all features of one vector of tokens of panel `p`, `lane` being the first. `src` has all features of one
    /// token vector, one behind the other.
    ///
    /// # Safety
    /// As for `group`.
    pub(super) unsafe fn column(self, matrix: &Quantized, p: usize, lane: usize, src: *const f32) {
        let lanes = matrix.shape.lanes;
        for g in 0..matrix.groups() {
            // SAFETY: the caller's.
            unsafe { self.group(matrix, p, lane, g, src.add(g * matrix.kernel.group() * lanes), lanes, lanes) };
        }
    }
}

/// Where a layer's result goes.
pub(super) enum Destination<'a, 'b> {
    /// There it stays f32.
    Float(&'b mut Panels<'a>, Then),
    /// Its GELU, quantised.
    QuantizedGelu(&'b mut Quantized<'a>),
}

/// How a task's scratch memory is used: packed weights, their scales, and a part of the result to be quantised.
struct Scratch {
    groups: usize,
    /// Rows that a group has room for.
    rows: usize,
    /// Floats of weights, and of scales; twice, for second parts.
    weights: usize,
    scales: usize,
}

impl Scratch {
    fn new(kernel: &dyn Int8Kernel, inputs: usize, rows: usize) -> Scratch {
        let groups = inputs.div_ceil(kernel.group());
        // An odd number, so that a row's groups do not share the few places that a cache has for addresses a power of two apart.
        let rows = rows | 1;
        let weights = groups * kernel.row_bytes() / 4 * rows;
        // Cache lines stay whole.
        Scratch { groups, rows, weights, scales: (groups * rows).next_multiple_of(16) }
    }

    fn floats(&self, kernel: &dyn Int8Kernel) -> usize {
        2 * (self.weights + self.scales) + part_rows(kernel) * kernel.panel()
    }
}

/// Rows of a task at most: a multiple of `step`, at least one of it.
fn most_rows(kernel: &dyn Int8Kernel, inputs: usize, step: usize) -> usize {
    let row = inputs.div_ceil(kernel.group()) * kernel.row_bytes();
    (PACKED_BYTES / row / step).max(1) * step
}

/// Floats of scratch memory that a task needs for layers with up to `inputs` inputs.
pub(super) fn scratch_floats(kernel: &dyn Int8Kernel, inputs: usize) -> usize {
    // Fewer inputs allow more rows of the same bytes, but those need more scales, and rounding differs.
    let of = |inputs: usize, step: usize| Scratch::new(kernel, inputs, most_rows(kernel, inputs, step)).floats(kernel);
    (1..=inputs.div_ceil(kernel.group()))
        .map(|groups| groups * kernel.group())
        .map(|inputs| of(inputs, kernel.row_group()).max(of(inputs, kernel.group())))
        .max()
        .unwrap_or(0)
}

/// `y (+)= w · x + b` with Q8_0 weights.
///
/// # Errors
/// [`Error::Cancelled`](crate::error::Error::Cancelled); then the destination is in part written.
pub(super) fn apply(layer: &Linear, exec: &Exec, x: &Quantized, mut y: Destination) -> Result<()> {
    let kernel = x.kernel;
    let outputs = layer.outputs();
    let (rows, tokens, shape) = match &y {
        Destination::Float(y, _) => (y.rows, y.tokens, y.shape),
        Destination::QuantizedGelu(y) => (y.rows, y.tokens, y.shape),
    };
    assert!(x.rows == layer.inputs() && rows == outputs && x.tokens == tokens && x.shape == shape);
    let step = if matches!(y, Destination::Float(..)) { kernel.row_group() } else { kernel.group() };
    let work = layer.flops(tokens);
    let rows = block_rows(outputs, exec.threads_for(work), step, most_rows(kernel, x.rows, step));
    let (input, split) = (Reader::of_slice(x.data), x.split());
    let to = match &mut y {
        Destination::Float(y, _) => Target::Float(y.writer()),
        Destination::QuantizedGelu(y) => Target::Quantized(y.writer()),
    };
    let y = &y;
    exec.run(outputs.div_ceil(rows), work, &|task, scratch| {
        let first = task * rows;
        let count = rows.min(outputs - first);
        let block = Block { layer, kernel, x, input, split: &split, first, rows: count };
        let packed = block.pack(scratch);
        match (y, to) {
            (Destination::Float(y, then), Target::Float(to)) => block.to_float(&packed, y, to, *then),
            (Destination::QuantizedGelu(y), Target::Quantized(to)) => block.to_quantized(&packed, y, to),
            _ => unreachable!("the target was made for this destination"),
        }
    })
}

/// How a task reaches its destination.
#[derive(Clone, Copy)]
enum Target {
    Float(Writer),
    Quantized(QuantizedWriter),
}

/// Some rows of a layer.
struct Block<'a> {
    layer: &'a Linear,
    kernel: &'static dyn Int8Kernel,
    x: &'a Quantized<'a>,
    input: Reader,
    /// Which groups of `x` are in two parts.
    split: &'a [bool],
    first: usize,
    rows: usize,
}

/// Weights of a block, packed.
struct Packed<'a> {
    groups: usize,
    /// Rows that a group has room for.
    rows: usize,
    weights: &'a [f32],
    scales: &'a [f32],
    rest: &'a [f32],
    rest_scales: &'a [f32],
    /// Room for [`part_rows`] of one panel of the result.
    part: *mut f32,
}

impl Block<'_> {
    fn pack<'s>(&self, scratch: &'s mut [f32]) -> Packed<'s> {
        let layout = Scratch::new(self.kernel, self.x.rows, self.rows);
        let (weights, scratch) = scratch.split_at_mut(layout.weights);
        let (scales, scratch) = scratch.split_at_mut(layout.scales);
        let (rest_scales, scratch) = scratch.split_at_mut(layout.scales);
        let (rest, part) = scratch.split_at_mut(layout.weights);
        assert!(part.len() >= part_rows(self.kernel) * self.kernel.panel());
        let (bytes, row_bytes) = self.layer.weight_rows();
        assert!(self.layer.weight_type() == TensorType::Q8_0);
        assert!((self.first + self.rows) * row_bytes <= bytes.len() && self.split.len() == layout.groups);
        // SAFETY: the rows lie inside `bytes`, as just asserted; the packed ones and their scales have the sizes that
        // `Scratch` computes from the same numbers.
        unsafe {
            self.kernel.pack(&PackBlock {
                data: bytes.as_ptr().add(self.first * row_bytes),
                row_bytes,
                rows: self.rows,
                packed_rows: layout.rows,
                columns: self.x.rows,
                out: weights.as_mut_ptr().cast(),
                scales: scales.as_mut_ptr(),
                split: self.split.as_ptr(),
                rest: rest.as_mut_ptr().cast(),
                rest_scales: rest_scales.as_mut_ptr(),
            });
        }
        Packed { groups: layout.groups, rows: layout.rows, weights, scales, rest, rest_scales, part: part.as_mut_ptr() }
    }

    /// Rows `row..row + rows` of the block, for panel `p`.
    ///
    /// # Safety
    /// `c` must be valid for these rows of a panel, and no other task may have them.
    unsafe fn multiply(&self, packed: &Packed, p: usize, row: usize, rows: usize, c: *mut f32, accumulate: bool) {
        let row_floats = self.kernel.row_bytes() / 4;
        // SAFETY: the packed block has these rows, the layer a bias for each (or none), `x` this panel; `c` is the caller's.
        unsafe {
            self.kernel.multiply(&Int8Tile {
                rows,
                packed_rows: packed.rows,
                groups: packed.groups,
                w: packed.weights.as_ptr().add(row * row_floats).cast(),
                w_scales: packed.scales.as_ptr().add(row),
                rest: packed.rest.as_ptr().add(row * row_floats).cast(),
                rest_scales: packed.rest_scales.as_ptr().add(row),
                bias: self.layer.bias_from(self.first + row),
                x: self.input.at(self.x.offset(p, 0)).cast(),
                vectors: self.x.shape.width(self.x.tokens, p) / self.x.shape.lanes,
                tokens: self.x.shape.panel.min(self.x.tokens - p * self.x.shape.panel),
                c,
                accumulate,
            });
        }
    }

    fn to_float(&self, packed: &Packed, y: &Panels, to: Writer, then: Then) {
        for p in 0..y.panels() {
            for row in (0..self.rows).step_by(self.kernel.row_block()) {
                let rows = self.kernel.row_block().min(self.rows - row);
                let c = to.at(y.offset(p, self.first + row));
                // SAFETY: these rows of `y` exist and are this task's.
                unsafe { self.multiply(packed, p, row, rows, c, then == Then::Add) };
            }
        }
    }

    fn to_quantized(&self, packed: &Packed, y: &Quantized, to: QuantizedWriter) {
        let (group, block) = (self.kernel.group(), self.kernel.row_block());
        for p in 0..y.shape.panels(y.tokens) {
            let width = y.shape.width(y.tokens, p);
            for row in (0..self.rows).step_by(part_rows(self.kernel)) {
                let rows = part_rows(self.kernel).min(self.rows - row);
                // SAFETY: `part` has room for these rows of a panel and is this task's; blocks begin and end with groups, so that
                // the groups of `y` are this task's, too.
                unsafe {
                    for start in (0..rows).step_by(block) {
                        let count = block.min(rows - start);
                        self.multiply(packed, p, row + start, count, packed.part.add(start * width), false);
                    }
                    self.kernel.gelu(packed.part, rows * width);
                    for start in (0..rows).step_by(group) {
                        let g = (self.first + row + start) / group;
                        to.group(y, p, 0, g, packed.part.add(start * width), width, width);
                    }
                }
            }
        }
    }
}
