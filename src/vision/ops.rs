//! Operations between the linear layers, and what all operations need to run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::kernels::{AttentionTile, HeadTokens, Kernel, Kernels, NormColumn, Products};
use super::linear::{self, Operand};
use super::panels::{Buffer, PanelShape, Panels, Reader};
use super::quantized::{self, Quantized};
use super::rounded::{self, Rounded};
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
        let products = match kernels.products {
            Products::Float => 0,
            Products::Int8(k) => {
                let attention = k.words().map_or(0, |words| words.floats(most.head, most.tokens));
                quantized::scratch_floats(k, most.inputs).max(most.inputs * k.lanes()).max(attention)
            }
            Products::Bf16(k) => {
                rounded::scratch_floats(k, most.inputs).max(k.attention_floats(most.head, most.tokens))
            }
        };
        linear::scratch_floats(kernels.float).max(panel * panel).max(products)
    }

    pub(super) fn kernel(&self) -> &'static dyn Kernel {
        self.kernels.float
    }

    /// Room in `memory` for what a layer will be applied to.
    pub(super) fn operand<'m>(&self, memory: &'m mut [f32], rows: usize, tokens: usize) -> Operand<'m> {
        match self.kernels.products {
            Products::Float => Operand::Float(Panels::over(memory, rows, tokens, PanelShape::of(self.kernels.float))),
            Products::Int8(kernel) => Operand::Int8(Quantized::over(memory, kernel, rows, tokens)),
            Products::Bf16(kernel) => Operand::Bf16(Rounded::over(memory, kernel, rows, tokens)),
        }
    }

    /// Room in `memory` for what attention with such heads takes or gives.
    pub(super) fn attended<'m>(&self, memory: &'m mut [f32], rows: usize, tokens: usize, head: usize) -> Operand<'m> {
        match self.kernels.products {
            Products::Bf16(kernel) if kernel.attends(head) => {
                Operand::Bf16(Rounded::over(memory, kernel, rows, tokens))
            }
            _ => Operand::Float(Panels::over(memory, rows, tokens, PanelShape::of(self.kernels.float))),
        }
    }

    /// `x`, in f32 or from attention, as what a layer is applied to; `memory` as for [`operand`](Self::operand), and empty where
    /// that would be f32.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub(super) fn prepared<'m>(&self, x: Operand<'m>, memory: &'m mut [f32]) -> Result<Operand<'m>> {
        let panels = match &x {
            Operand::Float(panels) => panels,
            Operand::Borrowed(panels) => panels,
            Operand::Int8(_) | Operand::Bf16(_) => return Ok(x),
        };
        match self.kernels.products {
            Products::Float => Ok(x),
            Products::Int8(kernel) => {
                let mut out = Quantized::over(memory, kernel, panels.rows, panels.tokens);
                out.fill(self, panels)?;
                Ok(Operand::Int8(out))
            }
            Products::Bf16(kernel) => {
                let mut out = Rounded::over(memory, kernel, panels.rows, panels.tokens);
                out.fill(self, panels)?;
                Ok(Operand::Bf16(out))
            }
        }
    }

    /// Floats that [`prepared`](Self::prepared) needs, if the address space has as many.
    pub(super) fn prepared_floats(kernels: Kernels, rows: usize, tokens: usize) -> Option<usize> {
        match kernels.products {
            Products::Float => Some(0),
            Products::Int8(kernel) => Quantized::floats(kernel, rows, tokens),
            Products::Bf16(kernel) => Rounded::floats(kernel, rows, tokens),
        }
    }

    /// Floats of memory for a matrix, whatever it is made for.
    pub(super) fn room(kernels: Kernels, rows: usize, tokens: usize) -> Option<usize> {
        let panels = PanelShape::of(kernels.float).floats(rows, tokens)?;
        Some(panels.max(Self::prepared_floats(kernels, rows, tokens)?))
    }

    /// [`room`](Self::room) for sizes that were checked.
    pub(super) fn floats(&self, rows: usize, tokens: usize) -> usize {
        Self::room(self.kernels, rows, tokens).expect("sizes were checked when loading")
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
            Operand::Bf16(dst) => self.rounded_columns(exec, src, dst),
            Operand::Borrowed(_) => unreachable!("a norm's result has room of its own"),
        }
    }

    /// `src` has the layout of `dst`; without it `dst` is the source, too.
    fn columns(&self, exec: &Exec, src: Option<Reader>, dst: &mut Panels) -> Result<()> {
        let to = dst.writer();
        let src = src.unwrap_or(to.reader());
        self.each_column(exec, dst, &|p, lane, _| {
            let (at, stride) = (dst.offset(p, 0) + lane, dst.width(p));
            // SAFETY: `at` is the vector's first feature and the last one lies in the same panel; each task has its own
            // tokens.
            unsafe { exec.kernel().layer_norm(&self.column(src.at(at), stride), to.at(at), stride) };
        })
    }

    fn quantized_columns(&self, exec: &Exec, src: &Panels, dst: &mut Quantized) -> Result<()> {
        assert!(src.rows == dst.rows && src.tokens == dst.tokens && src.shape == dst.shape);
        let (from, to, lanes) = (Reader::of(src), dst.writer(), src.shape.lanes);
        let dst = &*dst;
        self.each_column(exec, src, &|p, lane, scratch| {
            assert!(scratch.len() >= src.rows * lanes);
            let column = self.column(from.at(src.offset(p, 0) + lane), src.width(p));
            // SAFETY: as in `columns`; `scratch` has room for the features of a vector of tokens.
            unsafe {
                exec.kernel().layer_norm(&column, scratch.as_mut_ptr(), lanes);
                to.column(dst, p, lane, scratch.as_ptr());
            }
        })
    }

    fn rounded_columns(&self, exec: &Exec, src: &Panels, dst: &mut Rounded) -> Result<()> {
        assert!(src.rows == dst.rows && src.tokens == dst.tokens && src.shape == dst.shape);
        let (from, to) = (Reader::of(src), dst.writer());
        self.each_column(exec, src, &|p, lane, _| {
            let column = self.column(from.at(src.offset(p, 0) + lane), src.width(p));
            // SAFETY: as in `columns`.
            unsafe { to.kernel.layer_norm(&column, to.vector((p * src.shape.panel + lane) / src.shape.lanes)) };
        })
    }

    /// Calls `task(panel, lane, scratch)` for each vector of tokens of `m`, with the lane of its first token.
    fn each_column(&self, exec: &Exec, m: &Panels, task: &(dyn Fn(usize, usize, &mut [f32]) + Sync)) -> Result<()> {
        assert!(m.rows == self.weight.len() && m.rows == self.bias.len());
        let lanes = m.shape.lanes;
        exec.run(m.tokens.div_ceil(lanes), 8.0 * (m.rows * m.tokens) as f64, &|vector, scratch| {
            let (p, lane) = m.shape.place(vector * lanes);
            task(p, lane, scratch);
        })
    }

    /// One vector of tokens, whose features are that many floats apart, to be normalised.
    fn column(&self, src: *const f32, stride: usize) -> NormColumn {
        NormColumn {
            src,
            stride,
            features: self.weight.len(),
            weight: self.weight.as_ptr(),
            bias: self.bias.as_ptr(),
            epsilon: self.epsilon,
        }
    }
}

/// Some features of a matrix from [`Exec::attended`], from `row` on.
#[derive(Clone, Copy)]
pub(super) struct Features<'a> {
    /// The matrix.
    pub of: &'a Operand<'a>,
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
    out: &mut Operand,
) -> Result<()> {
    match (q.of, k.of, v.of, out) {
        (Operand::Float(qs), Operand::Float(ks), Operand::Float(vs), Operand::Float(out)) => {
            float_attention(exec, [(qs, q.row), (ks, k.row), (vs, v.row)], heads, out)
        }
        (Operand::Bf16(qs), Operand::Bf16(ks), Operand::Bf16(vs), Operand::Bf16(out)) => {
            rounded::attention(exec, [(qs, q.row), (ks, k.row), (vs, v.row)], heads, out)
        }
        _ => unreachable!("operands come from `Exec`, which makes all of a kind"),
    }
}

fn float_attention(exec: &Exec, parts: [(&Panels, usize); 3], heads: usize, out: &mut Panels) -> Result<()> {
    let head = out.rows / heads;
    let shape = out.shape;
    let [(q, q_row), (k, k_row), (v, v_row)] = parts;
    assert!(out.rows == heads * head && q.tokens == out.tokens && k.tokens == v.tokens);
    assert!(parts.iter().all(|(m, row)| m.rows >= row + out.rows && m.shape == shape));
    let (to, queries, keys, values) = (out.writer(), Reader::of(q), Reader::of(k), Reader::of(v));
    let out = &*out;
    let (panels, work) = (out.panels(), attention_flops(out.rows, out.tokens, k.tokens));
    let words = match exec.kernels.products {
        Products::Int8(kernel) => kernel.words(),
        _ => None,
    };
    let shares = match words {
        None => panels,
        // Packing costs as much as a few panels: a head is one task, unless threads would be left without.
        Some(_) => (2 * exec.threads_for(work)).div_ceil(heads).min(panels),
    };
    exec.run(heads * shares, work, &|task, scratch| {
        let (h, share) = (task / shares, task % shares);
        let head_of =
            |matrix: Reader, rows: usize, row: usize| HeadTokens { matrix: matrix.at(0), rows, row: row + h * head };
        assert!(words.is_none_or(|words| scratch.len() >= words.floats(head, k.tokens)));
        let first = share * panels / shares;
        for p in first..(share + 1) * panels / shares {
            let tile = AttentionTile {
                head,
                q: queries.at(q.offset(p, q_row + h * head)),
                vectors: out.width(p) / shape.lanes,
                k: head_of(keys, k.rows, k_row),
                v: head_of(values, v.rows, v_row),
                tokens: k.tokens,
                last_width: k.width(k.panels() - 1),
                scale: 1.0 / (head as f32).sqrt(),
                out: to.at(out.offset(p, h * head)),
                scratch: scratch.as_mut_ptr(),
            };
            // SAFETY: all features and tokens named exist, as asserted above; each task writes its own head's features of its
            // own panels of `out`, which is another matrix than the three it reads; scratch has room for panel² floats, or for a
            // packed head.
            unsafe {
                match words {
                    None => exec.kernel().attention(&tile),
                    Some(words) => {
                        if p == first {
                            words.pack(&tile);
                        }
                        words.attend(&tile);
                    }
                }
            }
        }
    })
}
