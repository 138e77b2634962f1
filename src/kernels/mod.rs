//! Inner loops of products of matrices: on AMX's tile registers, which both halves of the model use, and of prompts on VNNI.
//!
//! What only the vision encoder needs is in its own `kernels`.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its contract is in its comment or its module's

pub(crate) mod bf16;
pub(crate) mod bf16_tiles;
pub(crate) mod bf16_unpacking;
pub(crate) mod int8_unpacking;
pub(crate) mod tile_products;
pub(crate) mod tiles;
