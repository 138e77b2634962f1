//! Inner loops of the vision encoder, one implementation an instruction set, chosen once at run time.
//!
//! Activations are kept in *token panels*: a panel holds a few vectors' worth of tokens, and for each feature the values of
//! all its tokens lie side by side. A vector register is therefore always "one feature, many tokens". That makes the
//! weights the broadcast operand, so they are used in the order the file has them (no transposition, whatever their type);
//! the result of a linear layer is at once the input of the next; and norms and softmax need no horizontal sums.
//!
//! [`Simd`] is what an instruction set provides, [`body`] holds the algorithms written over it, and `kernel!` compiles them
//! for an instruction set behind [`Kernel`].

pub(super) mod bf16;
pub(crate) mod body;
pub(super) mod int8;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod portable;
#[cfg(test)]
pub(crate) mod tests;

use crate::gguf::TensorType;
use bf16::Bf16Kernel;
use int8::Int8Kernel;

/// Vector operations of an instruction set on `LANES` f32 values.
///
/// # Safety
/// Every method may only be called where the processor has the instruction set, and best from a function compiled for it,
/// into which the methods are inlined. Pointers need no alignment; they must be valid for `LANES` values.
pub(crate) trait Simd: Copy + 'static {
    /// A vector register.
    type V: Copy;
    /// f32 values in a register.
    const LANES: usize;
    /// Vectors in a full panel: columns of a register tile.
    const VECTORS: usize;
    /// Weight rows in a register tile. Its `ROWS · VECTORS` sums must fit the register file: 8, 6 or 4.
    const ROWS: usize;
    /// Depth of a packed block: `DEPTH · VECTORS · LANES` f32 of activations should fit the L1 cache. A multiple of 32.
    const DEPTH: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`, rounded once where the instruction set can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `b` where either is not a number; or NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `b` where either is not a number; or NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// To the nearest integer; |a| < 2^22.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `2^n` for integral n in −126…127.
    unsafe fn exp2_int(n: Self::V) -> Self::V;
    /// `LANES` half-precision values, little-endian.
    unsafe fn load_f16(p: *const u8) -> Self::V;
    /// `LANES` bfloat16 values, little-endian.
    unsafe fn load_bf16(p: *const u8) -> Self::V;
    /// `LANES` signed bytes.
    unsafe fn load_i8(p: *const u8) -> Self::V;
}

/// Rows of a weight matrix as they lie in the file, of which a range of columns is wanted as f32.
pub(crate) struct WeightBlock {
    /// F32, F16, BF16 or Q8_0.
    pub ty: TensorType,
    /// First row.
    pub data: *const u8,
    /// Bytes from a row to the next.
    pub row_bytes: usize,
    /// Rows wanted.
    pub rows: usize,
    /// First column wanted; a multiple of the type's block length.
    pub column: usize,
    /// Columns wanted, at most [`Kernel::depth`]; a multiple of the type's block length.
    pub columns: usize,
    /// `rows` rows of [`Kernel::depth`] values, of which the first `columns` are written.
    pub out: *mut f32,
}

/// `c[rows, tokens] = w[rows, depth] · x[depth, tokens] (+ c) (+ bias)` on one panel.
pub(crate) struct GemmTile {
    /// Weight rows.
    pub rows: usize,
    /// Products a sum has, at most [`Kernel::depth`].
    pub depth: usize,
    /// Rows [`Kernel::depth`] values apart, as [`Kernel::unpack`] writes them.
    pub w: *const f32,
    /// One value a row, or null.
    pub bias: *const f32,
    /// `depth` rows of the panel.
    pub x: *const f32,
    /// Vectors in a row of the panel.
    pub vectors: usize,
    /// `rows` rows of a panel of the same width.
    pub c: *mut f32,
    /// Whether to add to what `c` holds.
    pub accumulate: bool,
}

/// LayerNorm over the features of one vector of tokens.
pub(crate) struct NormColumn {
    /// First feature of the tokens.
    pub src: *const f32,
    /// Floats from a feature to the next.
    pub stride: usize,
    /// Features.
    pub features: usize,
    /// One a feature.
    pub weight: *const f32,
    /// One a feature.
    pub bias: *const f32,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Keys or values of one head, over all panels.
#[derive(Clone, Copy)]
pub(crate) struct HeadTokens {
    /// The matrix in panels that holds them.
    pub matrix: *const f32,
    /// Features of that matrix.
    pub rows: usize,
    /// The head's first feature.
    pub row: usize,
}

/// Softmax attention of one head for one panel of queries.
pub(crate) struct AttentionTile {
    /// Width of the head.
    pub head: usize,
    /// The head's first feature of the queries' panel.
    pub q: *const f32,
    /// Vectors in a row of the queries' panel, and of the result's.
    pub vectors: usize,
    /// Keys.
    pub k: HeadTokens,
    /// Values.
    pub v: HeadTokens,
    /// Keys there are.
    pub tokens: usize,
    /// Width of the last panel of keys and values; the others are full.
    pub last_width: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// The head's first feature of the result's panel.
    pub out: *mut f32,
    /// [`Kernel::panel`]² floats.
    pub scratch: *mut f32,
}

/// The inner loops for one instruction set.
///
/// # Safety
/// The methods trust their arguments: pointers valid for what the argument's type documents, no overlap between what is
/// read and what is written unless stated.
pub(crate) trait Kernel: Sync {
    /// Name of the instruction set.
    fn name(&self) -> &'static str;
    /// Tokens in a vector.
    fn lanes(&self) -> usize;
    /// Tokens in a full panel.
    fn panel(&self) -> usize;
    /// Weight rows in a register tile: row counts that are a multiple of it are fastest.
    fn row_group(&self) -> usize;
    /// Columns in a packed block of weights.
    fn depth(&self) -> usize;
    /// Weights to f32.
    unsafe fn unpack(&self, block: &WeightBlock);
    /// A product on one panel.
    unsafe fn gemm(&self, tile: &GemmTile);
    /// Exact GELU in place on `len` values, a multiple of [`Kernel::lanes`].
    unsafe fn gelu(&self, data: *mut f32, len: usize);
    /// LayerNorm of one vector of tokens, to features that lie `stride` floats apart from `dst` on: the same place, or another.
    unsafe fn layer_norm(&self, column: &NormColumn, dst: *mut f32, stride: usize);
    /// Attention of one head for one panel of queries.
    unsafe fn attention(&self, tile: &AttentionTile);
}

/// Compiles [`body`] for the instruction set `$simd` with the given target features as `$kernel`.
macro_rules! kernel {
    ($kernel:ident, $simd:ty, $name:literal $(, $features:literal)?) => {
        /// The kernels of this instruction set.
        pub(super) struct $kernel;

        const _: () = assert!(<$simd as Simd>::DEPTH % 32 == 0 && matches!(<$simd as Simd>::ROWS, 8 | 6 | 4));

        // SAFETY of the unsafe calls below: the functions are only reached through a `$kernel`, which `available` hands out
        // after it found the features; what the pointers must satisfy is passed on to the caller.
        impl Kernel for $kernel {
            fn name(&self) -> &'static str {
                $name
            }
            fn lanes(&self) -> usize {
                <$simd>::LANES
            }
            fn panel(&self) -> usize {
                <$simd>::LANES * <$simd>::VECTORS
            }
            fn row_group(&self) -> usize {
                <$simd>::ROWS
            }
            fn depth(&self) -> usize {
                <$simd>::DEPTH
            }
            unsafe fn unpack(&self, block: &WeightBlock) {
                $(#[target_feature(enable = $features)])?
                unsafe fn f(block: &WeightBlock) {
                    unsafe { body::unpack::<$simd>(block) }
                }
                unsafe { f(block) }
            }
            unsafe fn gemm(&self, tile: &GemmTile) {
                $(#[target_feature(enable = $features)])?
                unsafe fn f(tile: &GemmTile) {
                    unsafe { body::gemm::<$simd>(tile) }
                }
                unsafe { f(tile) }
            }
            unsafe fn gelu(&self, data: *mut f32, len: usize) {
                $(#[target_feature(enable = $features)])?
                unsafe fn f(data: *mut f32, len: usize) {
                    unsafe { body::gelu::<$simd>(data, len) }
                }
                unsafe { f(data, len) }
            }
            unsafe fn layer_norm(&self, column: &NormColumn, dst: *mut f32, stride: usize) {
                $(#[target_feature(enable = $features)])?
                unsafe fn f(column: &NormColumn, dst: *mut f32, stride: usize) {
                    unsafe { body::layer_norm::<$simd>(column, dst, stride) }
                }
                unsafe { f(column, dst, stride) }
            }
            unsafe fn attention(&self, tile: &AttentionTile) {
                $(#[target_feature(enable = $features)])?
                unsafe fn f(tile: &AttentionTile) {
                    unsafe { body::attention::<$simd>(tile) }
                }
                unsafe { f(tile) }
            }
        }
    };
}
use kernel;

/// The kernels that this processor can run, fastest first. Never empty.
pub(crate) fn available() -> Vec<&'static dyn Kernel> {
    let mut found: Vec<&'static dyn Kernel> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            found.push(&avx512::Avx512Kernel);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            found.push(&avx2::Avx2Kernel);
        }
    }
    #[cfg(target_arch = "aarch64")]
    found.push(&neon::NeonKernel);
    found.push(&portable::PortableKernel);
    found
}

/// How the layers' products are computed.
#[derive(Clone, Copy)]
pub(crate) enum Products {
    /// In f32.
    Float,
    /// With activations in 8 bits.
    Int8(&'static dyn Int8Kernel),
    /// With weights and activations in bfloat16.
    Bf16(&'static dyn Bf16Kernel),
}

impl Products {
    /// Whether layers with such weights are computed so: in full, or as exactly as their weights deserve.
    fn take(self, ty: TensorType) -> bool {
        match self {
            Products::Float => true,
            Products::Int8(_) => ty == TensorType::Q8_0,
            Products::Bf16(_) => matches!(ty, TensorType::Q8_0 | TensorType::BF16),
        }
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Products::Float => None,
            Products::Int8(kernel) => Some(kernel.name()),
            Products::Bf16(kernel) => Some(kernel.name()),
        }
    }
}

/// What computes a model.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    /// For everything that is in f32.
    pub float: &'static dyn Kernel,
    /// For the layers of image encoder and Q-Former, on the same panels.
    pub products: Products,
}

impl Kernels {
    /// The fastest that this processor can run for layers with weights of these types; `exact` means in f32 only.
    pub(crate) fn best(exact: bool, types: &[TensorType]) -> Kernels {
        let float = available()[0];
        let fits = |products: &Products| types.iter().all(|&ty| products.take(ty));
        let products = if exact { None } else { products_for(float).into_iter().find(fits) };
        Kernels { float, products: products.unwrap_or(Products::Float) }
    }

    /// These, or those in f32 where weights of such types ask for it.
    pub(crate) fn suited(self, types: &[TensorType]) -> Kernels {
        if types.iter().all(|&ty| self.products.take(ty)) {
            self
        } else {
            Kernels { products: Products::Float, ..self }
        }
    }

    /// Everything that this processor can run.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Kernels> {
        let with = |float| products_for(float).into_iter().map(move |products| Kernels { float, products });
        available().into_iter().flat_map(with).collect()
    }

    /// Whether nothing is rounded below f32.
    #[cfg(test)]
    pub(crate) fn is_exact(&self) -> bool {
        matches!(self.products, Products::Float)
    }

    /// The instruction sets' names.
    pub(crate) fn name(&self) -> String {
        match self.products.name() {
            None => self.float.name().into(),
            Some(name) => format!("{} and {name}", self.float.name()),
        }
    }
}

/// The products that work on the panels of `float`, fastest first; the last is in f32.
fn products_for(float: &dyn Kernel) -> Vec<Products> {
    let fits = |lanes: usize, panel: usize| lanes == float.lanes() && panel == float.panel();
    let bf16 = bf16::available().into_iter().filter(|k| fits(k.lanes(), k.panel())).map(Products::Bf16);
    let int8 = int8::available().into_iter().filter(|k| fits(k.lanes(), k.panel())).map(Products::Int8);
    bf16.chain(int8).chain([Products::Float]).collect()
}
