//! EVA ViT-g, the image encoder of BLIP-2: patches in, one feature vector a token out.
//!
//! Pre-norm transformer blocks, no LayerScale, no relative positions, no final norm; the class token stays to the end
//! (EVA, arXiv 2211.07636, as BLIP-2, arXiv 2301.12597, uses it).

use super::linear::{Linear, Then};
use super::ops::{attention, attention_flops, Exec, Features, Norm};
use super::panels::{Buffer, PanelShape, Panels};
use super::weights::Weights;
use super::{Meter, VisionDims};
use crate::error::{Error, Result};

/// The image encoder's weights.
pub(super) struct Vit {
    patch_embedding: Linear,
    /// What the tokens are before the patches' pixels are added: class and position embedding and the patch embedding's
    /// bias, `[width, tokens]` in panels.
    start: Buffer,
    blocks: Vec<Block>,
    heads: usize,
    patch: usize,
}

struct Block {
    norm1: Norm,
    /// Queries, keys and values, one behind the other.
    qkv: Linear,
    out: Linear,
    norm2: Norm,
    up: Linear,
    down: Linear,
}

/// Working memory: features by tokens.
pub(super) struct VitMemory<'a> {
    /// The residual stream, `[width, tokens]`; holds the result.
    pub x: Panels<'a>,
    /// A branch's input and output, `[width, tokens]`.
    pub h: Panels<'a>,
    /// A branch's wide middle, at least `middle_rows` by tokens.
    pub wide: &'a mut [f32],
}

impl Vit {
    /// Reads the `v.` tensors.
    pub(super) fn load(weights: &mut Weights, dims: &VisionDims, epsilon: f32, shape: PanelShape) -> Result<Vit> {
        let (width, mlp) = (dims.width, dims.feed_forward);
        let (patch_embedding, patch_bias) = weights.patch_embedding("v.patch_embd", width, dims.patch_size)?;
        let class = weights.values("v.class_embd", &[width])?;
        let positions = positions(weights, dims)?;
        let mut start = Buffer::zeroed(dims.floats(shape, width, dims.tokens())?)?;
        Panels::over(&mut start, width, dims.tokens(), shape)
            .fill(|row, token| positions[token * width + row] + if token == 0 { class[row] } else { patch_bias[row] });
        let blocks = (0..dims.layers)
            .map(|n| {
                Ok(Block {
                    norm1: weights.norm(&format!("v.blk.{n}.ln1"), width, epsilon)?,
                    qkv: weights.linear(&format!("v.blk.{n}.attn_qkv"), 3 * width, width)?,
                    out: weights.linear(&format!("v.blk.{n}.attn_out"), width, width)?,
                    norm2: weights.norm(&format!("v.blk.{n}.ln2"), width, epsilon)?,
                    up: weights.linear(&format!("v.blk.{n}.ffn_up"), mlp, width)?,
                    down: weights.linear(&format!("v.blk.{n}.ffn_down"), width, mlp)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Vit { patch_embedding, start, blocks, heads: dims.heads, patch: dims.patch_size })
    }

    /// Rows of [`VitMemory::wide`].
    pub(super) fn middle_rows(dims: &VisionDims) -> usize {
        (3 * dims.width).max(dims.feed_forward).max(3 * dims.patch_size * dims.patch_size)
    }

    /// Floating point operations of an image.
    pub(super) fn flops(&self, tokens: usize) -> f64 {
        self.patch_embedding.flops(tokens) + self.blocks.iter().map(|b| b.flops(tokens)).sum::<f64>()
    }

    /// Pixels `[3, size, size]` to features in `memory.x`.
    pub(super) fn forward(
        &self,
        exec: &Exec,
        meter: &mut Meter,
        pixels: &[f32],
        size: usize,
        memory: &mut VitMemory,
    ) -> Result<()> {
        let VitMemory { x, h, wide } = memory;
        let (tokens, shape, width) = (x.tokens, x.shape, x.rows);
        {
            // The convolution as a product: a token is the column of its patch's pixels; the class token has none.
            let (patch, grid) = (self.patch, size / self.patch);
            let mut columns = Panels::over(wide, 3 * patch * patch, tokens, shape);
            columns.fill(|row, token| match token.checked_sub(1) {
                None => 0.0,
                Some(cell) => {
                    let (channel, within) = (row / (patch * patch), row % (patch * patch));
                    let y = cell / grid * patch + within / patch;
                    let x = cell % grid * patch + within % patch;
                    pixels[(channel * size + y) * size + x]
                }
            });
            x.copy_from(&self.start);
            self.patch_embedding.apply(exec, &columns, x, Then::Add)?;
        }
        meter.advance(self.patch_embedding.flops(tokens))?;
        for block in &self.blocks {
            block.norm1.apply(exec, x, h)?;
            {
                let mut qkv = Panels::over(wide, 3 * width, tokens, shape);
                block.qkv.apply(exec, h, &mut qkv, Then::Store)?;
                let part = |i: usize| Features { of: &qkv, row: i * width };
                attention(exec, part(0), part(1), part(2), self.heads, h)?;
            }
            block.out.apply(exec, h, x, Then::Add)?;
            block.norm2.apply(exec, x, h)?;
            let mut middle = Panels::over(wide, block.up.outputs(), tokens, shape);
            block.up.apply(exec, h, &mut middle, Then::Gelu)?;
            block.down.apply(exec, &middle, x, Then::Add)?;
            meter.advance(block.flops(tokens))?;
        }
        Ok(())
    }
}

impl Block {
    fn flops(&self, tokens: usize) -> f64 {
        [&self.qkv, &self.out, &self.up, &self.down].iter().map(|l| l.flops(tokens)).sum::<f64>()
            + attention_flops(self.out.outputs(), tokens, tokens)
    }
}

/// The position embeddings `[tokens, width]`, resized when the file has them for another image size.
fn positions(weights: &mut Weights, dims: &VisionDims) -> Result<Vec<f32>> {
    const NAME: &str = "v.position_embd.weight";
    let stored = weights.file().find_tensor(NAME).and_then(|t| t.shape.first().copied()).unwrap_or(dims.tokens());
    if stored == dims.tokens() {
        return weights.values(NAME, &[stored, dims.width]);
    }
    let grid = stored.saturating_sub(1).isqrt();
    if grid == 0 || grid > VisionDims::MAX_GRID || grid * grid + 1 != stored {
        return Err(Error::unsupported(
            weights.file().path(),
            format!(
                "its tensor '{NAME}' has {stored} rows, which is not 1 + a square of at most {}²; only square images are supported",
                VisionDims::MAX_GRID
            ),
        ));
    }
    let table = weights.values(NAME, &[stored, dims.width])?;
    let (class, patches) = table.split_at(dims.width);
    let mut out = class.to_vec();
    out.extend(resize_grid(patches, grid, dims.grid(), dims.width));
    Ok(out)
}

/// `[from², width]` to `[to², width]` by bicubic interpolation as in `torch.nn.functional.interpolate(mode="bicubic",
/// align_corners=False)`: a = −0.75, edges repeated, no antialiasing.
fn resize_grid(table: &[f32], from: usize, to: usize, width: usize) -> Vec<f32> {
    /// For each output position the four input positions and their weights.
    fn taps(from: usize, to: usize) -> Vec<[(usize, f64); 4]> {
        const A: f64 = -0.75;
        // Keys' cubic convolution: distances up to 1, and from 1 to 2.
        let near = |d: f64| ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0;
        let far = |d: f64| ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A;
        let scale = from as f64 / to as f64;
        (0..to)
            .map(|i| {
                let centre = (i as f64 + 0.5) * scale - 0.5;
                let (first, t) = (centre.floor() as isize - 1, centre - centre.floor());
                let at = |i: isize| (first + i).clamp(0, from as isize - 1) as usize;
                [(at(0), far(t + 1.0)), (at(1), near(t)), (at(2), near(1.0 - t)), (at(3), far(2.0 - t))]
            })
            .collect()
    }
    let taps = taps(from, to);
    let mut out = Vec::with_capacity(to * to * width);
    for ys in &taps {
        for xs in &taps {
            out.extend((0..width).map(|c| {
                let row = |y: usize| xs.iter().map(|&(x, w)| w * table[(y * from + x) * width + c] as f64).sum::<f64>();
                ys.iter().map(|&(y, w)| w * row(y)).sum::<f64>() as f32
            }));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::resize_grid;

    /// Numbers from torch 2.15, `interpolate(mode="bicubic", align_corners=False)`.
    #[test]
    fn position_grids_resize_as_in_torch() {
        let close = |got: &[f32], expected: &[f32]| {
            assert_eq!(got.len(), expected.len());
            assert!(got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-5), "{got:?}\n{expected:?}");
        };
        let grid = |n: usize| (0..n * n).map(|i| ((i * 7 + 3) % 11) as f32).collect::<Vec<_>>();
        close(
            &resize_grid(&grid(2), 2, 3, 1),
            &[2.04905, 6.71701, 11.38497, 4.36979, 5.25000, 6.13020, 6.69052, 3.78298, 0.87544],
        );
        close(
            &resize_grid(&grid(3), 3, 5, 1),
            &[
                2.42400, 6.10000, 10.09600, 8.15200, 5.71200, 2.01200, 5.68800, 9.68399, 7.73999, 5.30000,
                1.32800, 5.00400, 9.00000, 7.05600, 4.61600, 0.64400, 4.32000, 8.31600, 6.37200, 3.93200,
                0.23200, 3.90800, 7.90400, 5.95999, 3.52000,
            ],
        );
        close(
            &resize_grid(&grid(5), 5, 3, 1),
            &[4.66186, 6.51852, 4.71982, 5.35185, 10.00000, 3.03703, 4.31412, 1.87036, 7.16357],
        );
        close(
            &resize_grid(&grid(4), 4, 7, 1),
            &[
                1.60190, 5.40777, 10.21789, 9.73197, 6.02000, 2.89356, 0.89955, 5.02931, 6.74758, 8.63373,
                6.53058, 3.73557, 3.91965, 4.39408, 9.22208, 8.01638, 5.91812, 2.30210, 1.19426, 5.26654,
                8.57014, 6.99918, 4.62996, 1.63969, 2.12207, 4.20274, 5.14455, 5.64882, 4.50920, 2.32633,
                0.02345, 3.54033, 7.08688, 4.85701, 2.72750, 8.04491, 6.25896, 3.85729, 3.24393, 4.23967,
                5.79663, 6.90356, 10.99216, 9.54543, 7.05934, 2.91604, 1.73169, 6.52510, 10.39809,
            ],
        );
        close(&resize_grid(&grid(4), 4, 4, 1), &grid(4));
        assert_eq!(resize_grid(&[2.5, -1.0], 1, 3, 2), [2.5, -1.0].repeat(9));
        // Two features at a time are two grids.
        let pairs: Vec<f32> = grid(3).iter().flat_map(|&v| [v, -v]).collect();
        let expected: Vec<f32> = resize_grid(&grid(3), 3, 5, 1).iter().flat_map(|&v| [v, -v]).collect();
        close(&resize_grid(&pairs, 3, 5, 2), &expected);
    }
}
