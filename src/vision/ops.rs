//! Operations between the linear layers, and what all operations need to run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::kernels::{AttentionTile, HeadTokens, Kernel, Kernels, NormColumn, PackedAttention};
use super::linear::{self, Operand};
use super::panels::{Buffer, PanelShape, Panels, Reader};
use super::quantized::{self, Quantized};
use crate::error::{Error, Result};
use crate::threads::ThreadPool;

/// Less work than this (floating point operations) is not worth waking a thread for.
const WORK_FOR_THREADS: f64 = 1e6;

/// What scratch memory must suffice for.
#[derive(Clone, Copy)]
pub(super) struct Most {
    /// Inputs of a layer.
    pub inputs: usize,
    /// Features of an attention head.
    pub head: usize,
    /// Keys of an attention.
    pub tokens: usize,
}

/// What operations run with: threads, kernels, scratch memory, and the caller's wish to stop.
pub(super) struct Exec<'a> {
    pool: &'a ThreadPool,
    kernels: Kernels,
    /// One a thread.
    scratch: Vec<Mutex<Buffer>>,
    cancel: Option<&'a AtomicBool>,
}

impl<'a> Exec<'a> {
    pub(super) fn new(
        pool: &'a ThreadPool,
        kernels: Kernels,
        most: Most,
        cancel: Option<&'a AtomicBool>,
    ) -> Result<Exec<'a>> {
        let floats = Self::scratch_floats(kernels, most);
        let scratch = (0..pool.threads()).map(|_| Ok(Mutex::new(Buffer::zeroed(floats)?))).collect::<Result<_>>()?;
        Ok(Exec { pool, kernels, scratch, cancel })
    }

    /// Floats of scratch memory that a thread needs.
    pub(super) fn scratch_floats(kernels: Kernels, most: Most) -> usize {
        let panel = kernels.float.panel();
        let int8 = kernels.int8.map_or(0, |k| quantized::scratch_floats(k, most.inputs).max(most.inputs * k.lanes()));
        let attention = Self::attention_for(kernels, most.head).map_or(0, |k| k.scratch_floats(most.head, most.tokens));
        linear::scratch_floats(kernels.float).max(panel * panel).max(int8).max(attention)
    }

    /// The packed attention for heads of this width, if there is one.
    fn attention_for(kernels: Kernels, head: usize) -> Option<&'static dyn PackedAttention> {
        kernels.attention.filter(|k| head <= k.most_features())
    }

    pub(super) fn kernel(&self) -> &'static dyn Kernel {
        self.kernels.float
    }

    /// Room in `memory` for what a layer will be applied to.
    pub(super) fn operand<'m>(&self, memory: &'m mut [f32], rows: usize, tokens: usize) -> Operand<'m> {
        match self.kernels.int8 {
            None => Operand::Float(Panels::over(memory, rows, tokens, PanelShape::of(self.kernels.float))),
            Some(kernel) => Operand::Int8(Quantized::over(memory, kernel, rows, tokens)),
        }
    }

    /// `x` as what a layer is applied to; `memory` as for [`operand`](Self::operand), and empty where that would be f32.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub(super) fn prepared<'m>(&self, x: &'m Panels<'m>, memory: &'m mut [f32]) -> Result<Operand<'m>> {
        match self.kernels.int8 {
            None => Ok(Operand::Borrowed(x)),
            Some(kernel) => {
                let mut out = Quantized::over(memory, kernel, x.rows, x.tokens);
                out.fill(self, x)?;
                Ok(Operand::Int8(out))
            }
        }
    }

    /// Floats that [`prepared`](Self::prepared) needs, if the address space has as many.
    pub(super) fn prepared_floats(kernels: Kernels, rows: usize, tokens: usize) -> Option<usize> {
        kernels.int8.map_or(Some(0), |kernel| Quantized::floats(kernel, rows, tokens))
    }

    /// Threads that will share work of `work` floating point operations.
    pub(super) fn threads_for(&self, work: f64) -> usize {
        if work < WORK_FOR_THREADS {
            1
        } else {
            self.pool.threads()
        }
    }

    /// Calls `task(i, scratch)` for every `i` below `count`.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; then some tasks did not run.
    pub(super) fn run(&self, count: usize, work: f64, task: &(dyn Fn(usize, &mut [f32]) + Sync)) -> Result<()> {
        let one = |i: usize, worker: usize| {
            if !self.cancelled() {
                task(i, &mut self.scratch[worker].lock().unwrap_or_else(PoisonError::into_inner));
            }
        };
        if self.threads_for(work) == 1 {
            (0..count).for_each(|i| one(i, 0));
        } else {
            self.pool.run(count, &one);
        }
        if self.cancelled() {
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    fn cancelled(&self) -> bool {
        self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// LayerNorm over the features, with a weight and a bias (Ba et al., arXiv 1607.06450; biased variance).
pub(super) struct Norm {
    /// One a feature.
    pub weight: Vec<f32>,
    /// One a feature.
    pub bias: Vec<f32>,
    /// Added to the variance.
    pub epsilon: f32,
}

impl Norm {
    /// `dst = norm(src)`.
    pub(super) fn apply(&self, exec: &Exec, src: &Panels, dst: &mut Panels) -> Result<()> {
        assert!(src.rows == dst.rows && src.tokens == dst.tokens && src.shape == dst.shape);
        self.columns(exec, Some(Reader::of(src)), dst)
    }

    /// `x = norm(x)`.
    pub(super) fn apply_in_place(&self, exec: &Exec, x: &mut Panels) -> Result<()> {
        self.columns(exec, None, x)
    }

    /// `dst = norm(src)`, to be a layer's operand.
    pub(super) fn apply_to(&self, exec: &Exec, src: &Panels, dst: &mut Operand) -> Result<()> {
        match dst {
            Operand::Float(dst) => self.apply(exec, src, dst),
            Operand::Int8(dst) => self.quantized_columns(exec, src, dst),
            Operand::Borrowed(_) => unreachable!("a norm's result has room of its own"),
        }
    }

    /// `src` has the layout of `dst`; without it `dst` is the source, too.
    fn columns(&self, exec: &Exec, src: Option<Reader>, dst: &mut Panels) -> Result<()> {
        let to = dst.writer();
        let src = src.unwrap_or(to.reader());
        self.each_column(exec, dst, &|p, at, _| {
            let stride = dst.width(p);
            // SAFETY: `at` is the vector's first feature and the last one lies in the same panel; each task has its own
            // tokens.
            unsafe { self.column(exec, (src.at(at), stride), (to.at(at), stride)) };
        })
    }

    fn quantized_columns(&self, exec: &Exec, src: &Panels, dst: &mut Quantized) -> Result<()> {
        assert!(src.rows == dst.rows && src.tokens == dst.tokens && src.shape == dst.shape);
        let (from, to, lanes) = (Reader::of(src), dst.writer(), src.shape.lanes);
        let dst = &*dst;
        self.each_column(exec, src, &|p, at, scratch| {
            assert!(scratch.len() >= src.rows * lanes);
            // SAFETY: as in `columns`; `scratch` has room for the features of a vector of tokens.
            unsafe {
                self.column(exec, (from.at(at), src.width(p)), (scratch.as_mut_ptr(), lanes));
                to.column(dst, p, at - src.offset(p, 0), scratch.as_ptr());
            }
        })
    }

    /// Calls `task(panel, offset, scratch)` for each vector of tokens of `m`, with the offset of its first feature.
    fn each_column(&self, exec: &Exec, m: &Panels, task: &(dyn Fn(usize, usize, &mut [f32]) + Sync)) -> Result<()> {
        assert!(m.rows == self.weight.len() && m.rows == self.bias.len());
        let PanelShape { lanes, panel } = m.shape;
        exec.run(m.tokens.div_ceil(lanes), 8.0 * (m.rows * m.tokens) as f64, &|vector, scratch| {
            let (p, lane) = (vector * lanes / panel, vector * lanes % panel);
            task(p, m.offset(p, 0) + lane, scratch);
        })
    }

    /// Normalises one vector of tokens, from and to features that many floats apart.
    ///
    /// # Safety
    /// All features must exist at these places, and nobody else may use the destination.
    unsafe fn column(&self, exec: &Exec, (src, src_stride): (*const f32, usize), (dst, dst_stride): (*mut f32, usize)) {
        // SAFETY: the caller's; weight and bias have one value a feature.
        unsafe {
            exec.kernel().layer_norm(&NormColumn {
                src,
                src_stride,
                dst,
                dst_stride,
                features: self.weight.len(),
                weight: self.weight.as_ptr(),
                bias: self.bias.as_ptr(),
                epsilon: self.epsilon,
            });
        }
    }
}

/// Some features of a matrix, from `row` on.
#[derive(Clone, Copy)]
pub(super) struct Features<'a> {
    /// The matrix.
    pub of: &'a Panels<'a>,
    /// Its first feature that is meant.
    pub row: usize,
}

/// Floating point operations of [`attention`] for `width` features in all.
pub(super) fn attention_flops(width: usize, queries: usize, keys: usize) -> f64 {
    4.0 * width as f64 * queries as f64 * keys as f64
}

/// `out = softmax(qᵀ·k / √head) · v` for every head; head `h` has the features from `h · head` on (Vaswani et al., arXiv
/// 1706.03762). `k` and `v` have the same tokens.
pub(super) fn attention(
    exec: &Exec,
    q: Features,
    k: Features,
    v: Features,
    heads: usize,
    out: &mut Panels,
) -> Result<()> {
    let head = out.rows / heads;
    let shape = out.shape;
    assert!(out.rows == heads * head && q.of.tokens == out.tokens && k.of.tokens == v.of.tokens);
    assert!([q, k, v].iter().all(|m| m.of.rows >= m.row + out.rows && m.of.shape == shape));
    let tokens = k.of.tokens;
    let (to, queries, keys, values) = (out.writer(), Reader::of(q.of), Reader::of(k.of), Reader::of(v.of));
    let out = &*out;
    let panels = out.panels();
    let last_width = k.of.width(k.of.panels() - 1);
    let work = attention_flops(out.rows, out.tokens, tokens);
    let tile = |h: usize, p: usize, scratch: &mut [f32]| {
        let head_of =
            |m: Features, matrix: Reader| HeadTokens { matrix: matrix.at(0), rows: m.of.rows, row: m.row + h * head };
        AttentionTile {
            head,
            q: queries.at(q.of.offset(p, q.row + h * head)),
            vectors: out.width(p) / shape.lanes,
            k: head_of(k, keys),
            v: head_of(v, values),
            tokens,
            last_width,
            scale: 1.0 / (head as f32).sqrt(),
            out: to.at(out.offset(p, h * head)),
            scratch: scratch.as_mut_ptr(),
        }
    };
    // SAFETY of the calls below: all features and tokens named exist, as asserted above; each task writes its own head's
    // features of its own panels of `out`, which is another matrix than the three it reads; scratch has room for a head, or for
    // panel² floats.
    let Some(packed) = Exec::attention_for(exec.kernels, head) else {
        return exec.run(heads * panels, work, &|task, scratch| unsafe {
            exec.kernel().attention(&tile(task / panels, task % panels, scratch));
        });
    };
    // Packing costs as much as a few panels: a head is one task, unless threads would be left without.
    let shares = (2 * exec.threads_for(work)).div_ceil(heads).min(panels);
    exec.run(heads * shares, work, &|task, scratch| {
        let (h, share) = (task / shares, task % shares);
        assert!(scratch.len() >= packed.scratch_floats(head, tokens));
        let memory = scratch.as_mut_ptr();
        unsafe { packed.pack(&tile(h, 0, scratch), memory) };
        for p in share * panels / shares..(share + 1) * panels / shares {
            unsafe { packed.attend(&tile(h, p, scratch), memory) };
        }
    })
}
