//! The Q-Former of BLIP-2 (arXiv 2301.12597): learned queries that gather what the decoder needs from the image's features.
//!
//! BERT's post-norm layers over the queries, every few of them with cross-attention to the image, and the feed-forward
//! of the query branch. The text branch is not part of this model.

use super::linear::{Linear, Operand, Then};
use super::ops::{attention, attention_flops, Exec, Features, Norm};
use super::panels::Panels;
use super::weights::Weights;
use super::{Meter, QFormerDims, VisionDims};
use crate::error::Result;

/// The Q-Former's weights.
pub(super) struct QFormer {
    /// `[queries, width]`, row-major.
    queries: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
}

struct Layer {
    own: Attention,
    cross: Option<Attention>,
    up: Linear,
    down: Linear,
    norm: Norm,
}

struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm: Norm,
}

/// Working memory.
pub(super) struct QFormerMemory<'a> {
    /// The queries, `[width, queries]`; holds the result.
    pub x: Panels<'a>,
    /// Attention's result: `Exec::room` for width by queries.
    pub h: &'a mut [f32],
    /// Three times that, and for the feed-forward's middle.
    pub wide: &'a mut [f32],
    /// Two times `Exec::room` for width by image tokens.
    pub image: &'a mut [f32],
    /// `Exec::prepared_floats` for width by queries.
    pub prepared: &'a mut [f32],
    /// `Exec::prepared_floats` for the image's features.
    pub prepared_image: &'a mut [f32],
}

impl QFormer {
    /// Reads the `qf.` tensors.
    pub(super) fn load(weights: &mut Weights, dims: &VisionDims, epsilon: f32) -> Result<QFormer> {
        let QFormerDims { queries, width, feed_forward, layers, heads, cross_attention_interval } = dims.qformer;
        let attention = |weights: &mut Weights, name: String, keys: usize| {
            Ok(Attention {
                q: weights.linear(&format!("{name}_q"), width, width)?,
                k: weights.linear(&format!("{name}_k"), width, keys)?,
                v: weights.linear(&format!("{name}_v"), width, keys)?,
                out: weights.linear(&format!("{name}_out"), width, width)?,
                norm: weights.norm(&format!("{name}_norm"), width, epsilon)?,
            })
        };
        Ok(QFormer {
            queries: weights.values("qf.query_tokens", &[queries, width])?,
            norm: weights.norm("qf.embd_norm", width, epsilon)?,
            layers: (0..layers)
                .map(|n| {
                    let crosses = n % cross_attention_interval == 0;
                    Ok(Layer {
                        own: attention(weights, format!("qf.blk.{n}.attn"), width)?,
                        cross: if crosses {
                            Some(attention(weights, format!("qf.blk.{n}.cross"), dims.width)?)
                        } else {
                            None
                        },
                        up: weights.linear(&format!("qf.blk.{n}.ffn_up"), feed_forward, width)?,
                        down: weights.linear(&format!("qf.blk.{n}.ffn_down"), width, feed_forward)?,
                        norm: weights.norm(&format!("qf.blk.{n}.ffn_norm"), width, epsilon)?,
                    })
                })
                .collect::<Result<_>>()?,
            heads,
        })
    }

    /// Floating point operations with an image of `tokens`.
    pub(super) fn flops(&self, queries: usize, tokens: usize) -> f64 {
        self.layers.iter().map(|l| l.flops(queries, tokens)).sum()
    }

    /// `image` `[image width, tokens]` to `memory.x`.
    pub(super) fn forward(
        &self,
        exec: &Exec,
        meter: &mut Meter,
        image: &Panels,
        memory: &mut QFormerMemory,
    ) -> Result<()> {
        let QFormerMemory { x, h, wide, image: image_memory, prepared, prepared_image } = memory;
        let (queries, width) = (x.tokens, x.rows);
        let head = width / self.heads;
        x.fill(|row, token| self.queries[token * width + row]);
        self.norm.apply_in_place(exec, x)?;
        let prepared_image = exec.prepared(Operand::Borrowed(image), prepared_image)?;
        for layer in &self.layers {
            {
                let [mut q, mut k, mut v] = split(exec, wide, width, queries, head);
                {
                    let own = exec.prepared(Operand::Borrowed(x), prepared)?;
                    layer.own.k.apply_to(exec, &own, &mut k)?;
                    layer.own.v.apply_to(exec, &own, &mut v)?;
                    layer.own.q.apply_to(exec, &own, &mut q)?;
                }
                layer.own.gather(exec, self.heads, x, [&q, &k, &v], h, prepared)?;
            }
            if let Some(cross) = &layer.cross {
                let [mut k, mut v] = split(exec, image_memory, width, image.tokens, head);
                let mut q = exec.attended(wide, width, queries, head);
                cross.k.apply_to(exec, &prepared_image, &mut k)?;
                cross.v.apply_to(exec, &prepared_image, &mut v)?;
                cross.q.apply_to(exec, &exec.prepared(Operand::Borrowed(x), prepared)?, &mut q)?;
                cross.gather(exec, self.heads, x, [&q, &k, &v], h, prepared)?;
            }
            let mut middle = exec.operand(wide, layer.up.outputs(), queries);
            layer.up.apply_gelu(exec, &exec.prepared(Operand::Borrowed(x), prepared)?, &mut middle)?;
            layer.down.apply(exec, &middle, x, Then::Add)?;
            layer.norm.apply_in_place(exec, x)?;
            meter.advance(layer.flops(queries, image.tokens))?;
        }
        Ok(())
    }
}

impl Layer {
    fn flops(&self, queries: usize, tokens: usize) -> f64 {
        self.up.flops(queries)
            + self.down.flops(queries)
            + self.own.flops(queries, queries)
            + self.cross.as_ref().map_or(0.0, |cross| cross.flops(queries, tokens))
    }
}

impl Attention {
    /// `x = norm(x + out(attention(q, k, v)))`.
    fn gather(
        &self,
        exec: &Exec,
        heads: usize,
        x: &mut Panels,
        [q, k, v]: [&Operand; 3],
        h: &mut [f32],
        prepared: &mut [f32],
    ) -> Result<()> {
        let all = |of| Features { of, row: 0 };
        let mut gathered = exec.attended(h, x.rows, x.tokens, x.rows / heads);
        attention(exec, all(q), all(k), all(v), heads, &mut gathered)?;
        self.out.apply(exec, &exec.prepared(gathered, prepared)?, x, Then::Add)?;
        self.norm.apply_in_place(exec, x)
    }

    fn flops(&self, queries: usize, keys: usize) -> f64 {
        self.q.flops(queries)
            + self.k.flops(keys)
            + self.v.flops(keys)
            + self.out.flops(queries)
            + attention_flops(self.out.outputs(), queries, keys)
    }
}

/// `N` matrices for attention of the same size in `memory`.
fn split<'m, const N: usize>(
    exec: &Exec,
    memory: &'m mut [f32],
    rows: usize,
    tokens: usize,
    head: usize,
) -> [Operand<'m>; N] {
    let mut parts = memory.chunks_exact_mut(exec.floats(rows, tokens));
    std::array::from_fn(|_| {
        exec.attended(parts.next().expect("the workspace was sized for these matrices"), rows, tokens, head)
    })
}
