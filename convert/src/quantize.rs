//! Number types of the result, and rounding to them.

use std::ffi::CStr;
use std::fmt;

use anyhow::{bail, ensure, Result};
use half::{bf16, f16};
use llama_cpp_sys_2 as llama;

use crate::parallel;

/// Values of one Q8_0 block.
pub const Q8_0_BLOCK: usize = 32;
const Q8_0_BYTES: usize = 2 + Q8_0_BLOCK;

/// Longest block of any type.
const LONGEST_BLOCK: usize = 256;

/// Storage types of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    F32,
    F16,
    BF16,
    Q8_0,
    /// Another one, which ggml rounds to.
    Block(BlockType),
}

/// A type of ggml whose values share scales, block by block, and that needs no statistics of activations.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlockType(llama::ggml_type);

impl BlockType {
    /// Values of a block and its bytes.
    fn block(self) -> (usize, usize) {
        // SAFETY: `Type::from_number` saw that the number is one of ggml's types.
        unsafe { (llama::ggml_blck_size(self.0) as usize, llama::ggml_type_size(self.0)) }
    }

    /// Appends whole blocks to `out`.
    fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        let (block, bytes) = self.block();
        assert_eq!(values.len() % block, 0, "rows are whole blocks");
        let start = out.len();
        out.resize(start + values.len() / block * bytes, 0);
        let n = values.len() as i64;
        // SAFETY: the room behind `start` is what so many whole blocks take. One long row stands for all: without statistics
        // of activations ggml rounds every block for itself.
        unsafe {
            let to = out.as_mut_ptr().add(start).cast();
            llama::ggml_quantize_chunk(self.0, values.as_ptr(), to, 0, 1, n, std::ptr::null());
        }
    }
}

impl fmt::Debug for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: ggml's names are constants.
        let name = unsafe { CStr::from_ptr(llama::ggml_type_name(self.0)) };
        f.write_str(&name.to_string_lossy().to_uppercase())
    }
}

impl Type {
    /// The type of ggml's number.
    pub fn from_number(number: u32) -> Result<Type> {
        if let Some(own) = [Type::F32, Type::F16, Type::BF16, Type::Q8_0].into_iter().find(|t| t.number() == number) {
            return Ok(own);
        }
        ensure!(number < llama::GGML_TYPE_COUNT, "ggml has no type {number}");
        // SAFETY: the number is one of ggml's types.
        let usable = unsafe { llama::ggml_is_quantized(number) && !llama::ggml_quantize_requires_imatrix(number) };
        ensure!(usable, "ggml's type {number} cannot be rounded to");
        Ok(Type::Block(BlockType(number)))
    }

    /// ggml's number of the type.
    pub fn number(self) -> u32 {
        match self {
            Type::F32 => 0,
            Type::F16 => 1,
            Type::Q8_0 => 8,
            Type::BF16 => 30,
            Type::Block(ty) => ty.0,
        }
    }

    /// Values that are stored together; rows are whole blocks.
    pub fn block(self) -> usize {
        match self {
            Type::F32 | Type::F16 | Type::BF16 => 1,
            Type::Q8_0 => Q8_0_BLOCK,
            Type::Block(ty) => ty.block().0,
        }
    }

    /// Bytes that a tensor of the given shape takes.
    pub fn bytes(self, shape: &[usize]) -> u64 {
        let elements = shape.iter().product::<usize>() as u64;
        match self {
            Type::F32 => elements * 4,
            Type::F16 | Type::BF16 => elements * 2,
            Type::Q8_0 => elements / Q8_0_BLOCK as u64 * Q8_0_BYTES as u64,
            Type::Block(ty) => elements / ty.block().0 as u64 * ty.block().1 as u64,
        }
    }

    /// Rounds `values`, which are whole blocks, on several threads. The bytes come in pieces.
    pub fn encode_all(self, values: &[f32], threads: usize) -> Result<Vec<Vec<u8>>> {
        let piece = |values: &[f32]| {
            let mut bytes = Vec::new();
            self.encode(values, &mut bytes).map(|()| bytes)
        };
        parallel::map(values, LONGEST_BLOCK, threads, piece).into_iter().collect()
    }

    /// Appends `values`, which are whole blocks, to `out`.
    fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
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
            Type::Block(ty) => ty.encode(values, out),
        }
        Ok(())
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Block(ty) => write!(f, "{ty:?}"),
            own => write!(f, "{own:?}"),
        }
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

/// What is left of a block's values when those that Q8_0 makes of them are taken away.
pub fn q8_0_rest(block: &[f32]) -> Result<Vec<f32>> {
    let mut raw = Vec::with_capacity(Q8_0_BYTES);
    Type::Q8_0.encode(block, &mut raw)?;
    let scale = f16::from_le_bytes([raw[0], raw[1]]).to_f32();
    Ok(block.iter().zip(&raw[2..]).map(|(v, &q)| v - scale * f32::from(q as i8)).collect())
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
    fn ggml_rounds_q8_0_the_same_way() {
        let values: Vec<f32> = (0..96).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013).collect();
        let mut ggml = Vec::new();
        BlockType(Type::Q8_0.number()).encode(&values, &mut ggml);
        assert_eq!(ggml, encode(Type::Q8_0, &values));
    }

    #[test]
    fn pieces_make_up_the_whole() {
        let values: Vec<f32> = (0..(1 << 17)).map(|i| (i * 7919 % 251) as f32 / 512.0 - 0.25).collect();
        const Q4_K: u32 = 12;
        for ty in [Type::F16, Type::Q8_0, Type::from_number(Q4_K).unwrap()] {
            let whole = encode(ty, &values);
            assert_eq!(whole.len() as u64, ty.bytes(&[values.len()]));
            for threads in [1, 2, 3] {
                assert_eq!(ty.encode_all(&values, threads).unwrap().concat(), whole, "{ty}");
            }
        }
    }

    #[test]
    fn numbers_that_are_no_types_are_refused() {
        const IQ1_S: u32 = 19; // needs statistics of activations
        const I32: u32 = 26;
        for number in [IQ1_S, I32, 1000] {
            assert!(Type::from_number(number).is_err(), "{number}");
        }
        assert_eq!(Type::from_number(8).unwrap(), Type::Q8_0);
        assert_eq!(Type::from_number(14).unwrap().to_string(), "Q6_K");
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
