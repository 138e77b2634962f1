//! The ways to multiply k-quants with many columns, each of which unpacks a weight once for all of them.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its contract is `Unpacker`'s

use llama_cpp_sys_2 as llama;

use super::dequantize::Rows;
use super::kquants_avx2::{self, Block, Fours, Pairs};
use super::kquants_columns;
use super::kquants_unpacking::{Kept, Type, Q4K, Q5K, Q6K};
use crate::kernels::bf16_tiles::TokenRows;
use crate::kernels::int8_unpacking::{tiles, vnni, Product};

/// How one type of weights is multiplied on this processor.
///
/// # Safety
/// Pointers that the functions are given must be valid for what they point to.
#[derive(Clone, Copy)]
pub(super) struct Unpacker {
    /// Columns from which it is faster than multiplying them by fours.
    pub columns_from: usize,
    /// Bytes of a vector of tokens with so many blocks, if the address space has as many.
    pub vector_bytes: fn(blocks: usize) -> Option<usize>,
    /// Writes a vector from tokens in rows, `stride` floats apart: `tokens` of them, at most [`int8_unpacking::TOKENS`].
    pub pack: unsafe fn(src: *const f32, stride: usize, tokens: usize, blocks: usize, out: *mut u8),
    /// Bytes of memory that a product of so many blocks a row needs, if the address space has as many.
    pub memory_bytes: fn(blocks: usize) -> Option<usize>,
    /// Multiplies rows: the product's rows and blocks are theirs.
    pub multiply: unsafe fn(rows: &Rows, product: &Product, out: &TokenRows),
}

impl Unpacker {
    fn with_tiles<T: Type>() -> Unpacker {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16,avx512vl,avx512vbmi,avx2,fma,f16c")]
        unsafe fn multiply<T: Type>(rows: &Rows, product: &Product, out: &TokenRows) {
            tiles::multiply(product, &Kept::<T>::new(rows), out);
        }
        Unpacker {
            columns_from: 6,
            vector_bytes: tiles::vector_bytes,
            pack: tiles::pack,
            memory_bytes: tiles::memory_bytes,
            multiply: multiply::<T>,
        }
    }

    fn with_vnni<T: Type>() -> Unpacker {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni,avx512vl,avx512vbmi,avx2,fma,f16c")]
        unsafe fn multiply<T: Type>(rows: &Rows, product: &Product, out: &TokenRows) {
            vnni::multiply(product, &Kept::<T>::new(rows), out);
        }
        Unpacker {
            columns_from: 8,
            vector_bytes: vnni::vector_bytes,
            pack: vnni::pack,
            memory_bytes: |_| Some(vnni::MEMORY_BYTES),
            multiply: multiply::<T>,
        }
    }

    fn with_avx_vnni<B: Block>() -> Unpacker {
        #[target_feature(enable = "avxvnni,avx2,fma,f16c")]
        unsafe fn multiply<B: Block>(rows: &Rows, product: &Product, out: &TokenRows) {
            kquants_columns::multiply::<Fours, B>(rows, product, out);
        }
        Unpacker { multiply: multiply::<B>, ..Unpacker::with_avx2::<B>() }
    }

    fn with_avx2<B: Block>() -> Unpacker {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn multiply<B: Block>(rows: &Rows, product: &Product, out: &TokenRows) {
            kquants_columns::multiply::<Pairs, B>(rows, product, out);
        }
        Unpacker {
            columns_from: 6,
            vector_bytes: kquants_columns::vector_bytes,
            pack: kquants_columns::pack,
            memory_bytes: |_| Some(kquants_columns::MEMORY_BYTES),
            multiply: multiply::<B>,
        }
    }
}

/// All unpackers for a type that this processor can run, fastest first.
pub(super) fn unpackers(ty: llama::ggml_type) -> impl Iterator<Item = Unpacker> {
    fn of<T: Type, B: Block>() -> [Option<Unpacker>; 4] {
        [
            tiles::available().then(Unpacker::with_tiles::<T>),
            vnni::available().then(Unpacker::with_vnni::<T>),
            kquants_avx2::vnni_available().then(Unpacker::with_avx_vnni::<B>),
            kquants_avx2::available().then(Unpacker::with_avx2::<B>),
        ]
    }
    let found = match ty {
        llama::GGML_TYPE_Q4_K => of::<Q4K, kquants_avx2::Q4K>(),
        llama::GGML_TYPE_Q5_K => of::<Q5K, kquants_avx2::Q5K>(),
        llama::GGML_TYPE_Q6_K => of::<Q6K, kquants_avx2::Q6K>(),
        _ => Default::default(),
    };
    found.into_iter().flatten()
}
