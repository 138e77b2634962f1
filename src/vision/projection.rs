//! From the Q-Former's width to the decoder's: one affine map, folded at conversion from the checkpoint's two.

use super::linear::{Linear, Operand, Then};
use super::ops::Exec;
use super::panels::Panels;
use super::weights::Weights;
use super::{Meter, VisionDims};
use crate::error::Result;

/// The projection's weights.
pub(super) struct Projection {
    linear: Linear,
}

impl Projection {
    /// Reads the `mm.` tensors.
    pub(super) fn load(weights: &mut Weights, dims: &VisionDims) -> Result<Projection> {
        Ok(Projection { linear: weights.linear("mm.0", dims.projection_dim, dims.qformer.width)? })
    }

    /// Floating point operations for all queries.
    pub(super) fn flops(&self, queries: usize) -> f64 {
        self.linear.flops(queries)
    }

    /// `x` `[Q-Former width, queries]` to `y` `[projection, queries]`.
    pub(super) fn forward(&self, exec: &Exec, meter: &mut Meter, x: &Panels, y: &mut Panels) -> Result<()> {
        self.linear.apply(exec, &Operand::Borrowed(x), y, Then::Store)?;
        meter.advance(self.flops(x.tokens))
    }
}
