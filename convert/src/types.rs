//! The names that `--decoder-type` and `--vision-type` take.

use std::fmt;
use std::str::FromStr;

use crate::quantize::Type;

/// (name, number of llama.cpp's file type, bits a weight of a large matrix, type written without llama.cpp).
const DECODER_TYPES: &[(&str, u32, f64, Option<Type>)] = &[
    ("f32", 0, 32.0, Some(Type::F32)),
    ("f16", 1, 16.0, Some(Type::F16)),
    ("bf16", 32, 16.0, Some(Type::BF16)),
    ("q8_0", 7, 8.5, None),
    ("q6_k", 18, 6.56, None),
    ("q5_k_m", 17, 5.7, None),
    ("q5_k_s", 16, 5.5, None),
    ("q5_1", 9, 6.0, None),
    ("q5_0", 8, 5.5, None),
    ("q4_k_m", 15, 4.85, None),
    ("q4_k_s", 14, 4.58, None),
    ("q4_1", 3, 5.0, None),
    ("q4_0", 2, 4.55, None),
    ("iq4_nl", 25, 4.5, None),
    ("iq4_xs", 30, 4.25, None),
    ("q3_k_l", 13, 4.3, None),
    ("q3_k_m", 12, 3.9, None),
    ("q3_k_s", 11, 3.5, None),
    ("q2_k", 10, 3.0, None),
];

/// How the decoder's matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecoderType {
    /// Lower-case name, part of the file name.
    pub name: &'static str,
    /// Value of `general.file_type`.
    pub file_type: u32,
    /// About how many bits a weight takes.
    pub bits: f64,
    /// The one type of all matrices, when llama.cpp's quantiser is not needed.
    pub plain: Option<Type>,
}

/// How the vision file's matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VisionType {
    /// Lower-case name, part of the file name.
    pub name: &'static str,
    /// Value of `general.file_type`.
    pub file_type: u32,
    /// The type of the matrices.
    pub ty: Type,
}

impl FromStr for DecoderType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        match DECODER_TYPES.iter().find(|t| t.0 == lower) {
            Some(&(name, file_type, bits, plain)) => Ok(DecoderType { name, file_type, bits, plain }),
            None => {
                let known: Vec<&str> = DECODER_TYPES.iter().map(|t| t.0).collect();
                Err(format!("it is none of {}", known.join(", ")))
            }
        }
    }
}

impl FromStr for VisionType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, file_type, ty) = match text.to_ascii_lowercase().as_str() {
            "f32" => ("f32", 0, Type::F32),
            "f16" => ("f16", 1, Type::F16),
            "bf16" => ("bf16", 32, Type::BF16),
            "q8_0" => ("q8_0", 7, Type::Q8_0),
            _ => return Err("it is none of f32, f16, bf16, q8_0".into()),
        };
        Ok(VisionType { name, file_type, ty })
    }
}

impl fmt::Display for DecoderType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for VisionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
