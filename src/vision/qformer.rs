//! The Q-Former of BLIP-2 (arXiv 2301.12597): learned queries that gather what the decoder needs from the image's features.
//!
//! BERT's post-norm layers over the queries, every few of them with cross-attention to the image, and the feed-forward
//! of the query branch. The text branch is not part of this model.

use super::linear::{Linear, Then};
use super::ops::{attention, attention_flops, Exec, Features, Norm};
use super::panels::{PanelShape, Panels};
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
    /// Attention's result, `[width, queries]`.
    pub h: Panels<'a>,
    /// At least `middle_rows` by queries.
    pub wide: &'a mut [f32],
    /// At least 2·width by image tokens.
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

    /// Rows of [`QFormerMemory::wide`].
    pub(super) fn middle_rows(dims: &QFormerDims) -> usize {
        (3 * dims.width).max(dims.feed_forward)
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
        let (queries, width, shape) = (x.tokens, x.rows, x.shape);
        x.fill(|row, token| self.queries[token * width + row]);
        self.norm.apply_in_place(exec, x)?;
        let prepared_image = exec.prepared(image, prepared_image)?;
        for layer in &self.layers {
            {
                let [mut q, mut k, mut v] = split(wide, width, queries, shape);
                {
                    let own = exec.prepared(x, prepared)?;
                    layer.own.k.apply(exec, &own, &mut k, Then::Store)?;
                    layer.own.v.apply(exec, &own, &mut v, Then::Store)?;
                    layer.own.q.apply(exec, &own, &mut q, Then::Store)?;
                }
                layer.own.gather(exec, self.heads, x, [&q, &k, &v], h, prepared)?;
            }
            if let Some(cross) = &layer.cross {
                let [mut k, mut v] = split(image_memory, width, image.tokens, shape);
                let mut q = Panels::over(wide, width, queries, shape);
                cross.k.apply(exec, &prepared_image, &mut k, Then::Store)?;
                cross.v.apply(exec, &prepared_image, &mut v, Then::Store)?;
                cross.q.apply(exec, &exec.prepared(x, prepared)?, &mut q, Then::Store)?;
                cross.gather(exec, self.heads, x, [&q, &k, &v], h, prepared)?;
            }
            let mut middle = exec.operand(wide, layer.up.outputs(), queries);
            layer.up.apply_gelu(exec, &exec.prepared(x, prepared)?, &mut middle)?;
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
        [q, k, v]: [&Panels; 3],
        h: &mut Panels,
        prepared: &mut [f32],
    ) -> Result<()> {
        let all = |of| Features { of, row: 0 };
        attention(exec, all(q), all(k), all(v), heads, h)?;
        self.out.apply(exec, &exec.prepared(h, prepared)?, x, Then::Add)?;
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

/// `N` matrices of the same size in `memory`.
fn split<const N: usize>(memory: &mut [f32], rows: usize, tokens: usize, shape: PanelShape) -> [Panels<'_>; N] {
    let mut parts = memory.chunks_exact_mut(shape.floats(rows, tokens).expect("sizes were checked when loading"));
    std::array::from_fn(|_| {
        Panels::over(parts.next().expect("the workspace was sized for these matrices"), rows, tokens, shape)
    })
}
