//! Number types of the result, and the conversions that are done here rather than by llama.cpp.

use std::fmt;

use anyhow::{bail, ensure, Result};
use half::{bf16, f16};

/// Values of one Q8_0 block.
pub const Q8_0_BLOCK: usize = 32;
const Q8_0_BYTES: usize = 2 + Q8_0_BLOCK;

/// Storage types that this program writes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    F32,
    F16,
    BF16,
    Q8_0,
}

impl Type {
    /// ggml's number of the type.
    pub fn number(self) -> u32 {
        match self {
            Type::F32 => 0,
            Type::F16 => 1,
            Type::Q8_0 => 8,
            Type::BF16 => 30,
        }
    }

    /// Bytes that a tensor of the given shape takes.
    pub fn bytes(self, shape: &[usize]) -> u64 {
        let elements = shape.iter().product::<usize>() as u64;
        match self {
            Type::F32 => elements * 4,
            Type::F16 | Type::BF16 => elements * 2,
            Type::Q8_0 => elements / Q8_0_BLOCK as u64 * Q8_0_BYTES as u64,
        }
    }

    /// Appends `values` to `out`. For Q8_0 they are whole blocks.
    pub fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
        if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
            bail!("it holds {bad}: the checkpoint is damaged");
        }
        match self {
            Type::F32 => values.iter().for_each(|v| out.extend(v.to_le_bytes())),
            Type::F16 => {
                for &v in values {
                    let x = f16::from_f32(v);
                    ensure!(x.is_finite(), "it holds {v}, which is beyond F16; choose f32 or bf16");
                    out.extend(x.to_le_bytes());
                }
            }
            Type::BF16 => values.iter().for_each(|&v| out.extend(bf16::from_f32(v).to_le_bytes())),
            Type::Q8_0 => {
                assert_eq!(values.len() % Q8_0_BLOCK, 0, "rows are whole blocks");
                for block in values.chunks_exact(Q8_0_BLOCK) {
                    q8_0_block(block, out)?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// As ggml's reference quantiser does it: scale = largest magnitude / 127, halves rounded away from zero.
fn q8_0_block(block: &[f32], out: &mut Vec<u8>) -> Result<()> {
    let largest = block.iter().fold(0f32, |m, v| m.max(v.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let stored = f16::from_f32(scale);
    ensure!(stored.is_finite() && inverse.is_finite(), "it holds {largest}, which is beyond Q8_0; choose f32 or bf16");
    out.extend(stored.to_le_bytes());
    out.extend(block.iter().map(|v| (v * inverse).round() as i8 as u8));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(ty: Type, values: &[f32]) -> Vec<u8> {
        let mut out = Vec::new();
        ty.encode(values, &mut out).unwrap();
        out
    }

    #[test]
    fn q8_0_matches_the_reference() {
        let mut block = [0f32; 32];
        block[0] = 127.0;
        block[1] = -127.0;
        block[2] = 2.5;
        block[3] = -2.5;
        block[4] = 0.49;
        let raw = encode(Type::Q8_0, &block);
        assert_eq!(raw.len(), 34);
        assert_eq!(&raw[..2], f16::from_f32(1.0).to_le_bytes());
        // 2.5 rounds away from zero, as C's roundf does.
        assert_eq!(raw[2..7].iter().map(|&b| b as i8).collect::<Vec<_>>(), [127, -127, 3, -3, 0]);
        assert_eq!(encode(Type::Q8_0, &[0.0; 32]), [0; 34]);
        // A scale that F16 rounds: the quants use the exact one.
        let small: Vec<f32> = (0..32).map(|i| i as f32 * 0.01).collect();
        let raw = encode(Type::Q8_0, &small);
        assert_eq!(&raw[..2], f16::from_f32(0.31 / 127.0).to_le_bytes());
        assert_eq!(raw[2 + 31], 127);
        assert_eq!(raw[2 + 16], (0.16f32 * (1.0 / (0.31f32 / 127.0))).round() as u8);
    }

    #[test]
    fn floats_round_to_nearest_even() {
        assert_eq!(encode(Type::F16, &[1.0 + 1.0 / 2048.0]), f16::from_f32(1.0).to_le_bytes());
        assert_eq!(encode(Type::BF16, &[1.0 + 1.0 / 256.0]), bf16::from_f32(1.0).to_le_bytes());
        assert_eq!(encode(Type::F32, &[-2.5]), (-2.5f32).to_le_bytes());
    }

    #[test]
    fn refuses_what_cannot_be_stored() {
        let fails = |ty: Type, v: f32| ty.encode(&[v; 32], &mut Vec::new()).unwrap_err().to_string();
        assert!(fails(Type::F16, 70000.0).contains("beyond F16"));
        assert!(fails(Type::F32, f32::NAN).contains("damaged"));
        assert!(fails(Type::Q8_0, f32::INFINITY).contains("damaged"));
        assert!(fails(Type::Q8_0, 1e10).contains("beyond Q8_0"));
        assert!(Type::BF16.encode(&[1e10], &mut Vec::new()).is_ok());
    }
}
