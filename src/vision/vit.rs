//! EVA ViT-g, the image encoder of BLIP-2: patches in, one feature vector a token out.
//!
//! Pre-norm transformer blocks, no LayerScale, no relative positions, no final norm; the class token stays to the end
//! (EVA, arXiv 2211.07636, as BLIP-2, arXiv 2301.12597, uses it).

use super::linear::{Linear, Operand, Then};
use super::ops::{attention, attention_flops, Exec, Features, Norm};
use super::panels::{Buffer, PanelShape, Panels};
use super::weights::Weights;
use super::{Meter, VisionDims};
use crate::error::{Error, Result};
use crate::memory;

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
    pub h: &'a mut [f32],
    /// A branch's wide middle, at least `middle_rows` by tokens.
    pub wide: &'a mut [f32],
    /// `Exec::prepared_floats` for width by tokens.
    pub prepared: &'a mut [f32],
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
        let VitMemory { x, h, wide, prepared } = memory;
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
            self.patch_embedding.apply(exec, &Operand::Float(columns), x, Then::Add)?;
        }
        meter.advance(self.patch_embedding.flops(tokens))?;
        for block in &self.blocks {
            {
                let head = width / self.heads;
                let mut qkv = exec.attended(wide, 3 * width, tokens, head);
                {
                    let mut normed = exec.operand(h, width, tokens);
                    block.norm1.apply_to(exec, x, &mut normed)?;
                    block.qkv.apply_to(exec, &normed, &mut qkv)?;
                }
                let mut gathered = exec.attended(h, width, tokens, head);
                let part = |i: usize| Features { of: &qkv, row: i * width };
                attention(exec, part(0), part(1), part(2), self.heads, &mut gathered)?;
                block.out.apply(exec, &exec.prepared(gathered, prepared)?, x, Then::Add)?;
            }
            let mut normed = exec.operand(h, width, tokens);
            block.norm2.apply_to(exec, x, &mut normed)?;
            let mut middle = exec.operand(wide, block.up.outputs(), tokens);
            block.up.apply_gelu(exec, &normed, &mut middle)?;
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
    // Twice what resizing makes: the table, and all of it behind the class token's row.
    memory::check(4 * 2 * dims.tokens() * dims.width + memory::HEADROOM)?;
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
            &[2.0490577, 6.7170153, 11.384972, 4.3697925, 5.25, 6.1302085, 6.690527, 3.782987, 0.8754494],
        );
        close(
            &resize_grid(&grid(3), 3, 5, 1),
            &[
                2.424001, 6.1000013, 10.096002, 8.152, 5.712002, 2.0119998, 5.6879997, 9.683999, 7.7399983, 5.3,
                1.3280005, 5.0040007, 9.0, 7.0559998, 4.616001, 0.6440007, 4.3200016, 8.316002, 6.372, 3.9320016,
                0.23200053, 3.9080017, 7.904001, 5.959999, 3.5200016,
            ],
        );
        close(
            &resize_grid(&grid(5), 5, 3, 1),
            &[4.6618676, 6.5185204, 4.7198195, 5.351854, 10.0, 3.037035, 4.314129, 1.8703673, 7.1635795],
        );
        close(
            &resize_grid(&grid(4), 4, 7, 1),
            &[
                1.6019049,
                5.407779,
                10.217898,
                9.73197,
                6.020008,
                2.893566,
                0.8995531,
                5.029318,
                6.7475815,
                8.633734,
                6.530581,
                3.7355766,
                3.9196582,
                4.3940825,
                9.222088,
                8.016386,
                5.918129,
                2.3021047,
                1.1942648,
                5.266541,
                8.5701475,
                6.9991846,
                4.6299677,
                1.639693,
                2.1220708,
                4.2027493,
                5.1445503,
                5.648824,
                4.5092063,
                2.3263357,
                0.023459218,
                3.5403368,
                7.086888,
                4.857017,
                2.727504,
                8.044919,
                6.258962,
                3.8572984,
                3.2439377,
                4.2396703,
                5.796632,
                6.903567,
                10.992167,
                9.545436,
                7.0593424,
                2.9160407,
                1.7316954,
                6.5251045,
                10.398097,
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
