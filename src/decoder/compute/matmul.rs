//! Matrix products: weights of any type that ggml can multiply, times columns of f32.

use std::ffi::c_void;
use std::ops::Range;

use half::f16;
use llama_cpp_sys_2 as llama;

#[cfg(target_arch = "x86_64")]
use super::dequantize::{self, Packer};
use super::floats;
use super::kquants::{self, Activations, Dots, Rows, Q8K};
#[cfg(target_arch = "x86_64")]
use super::unpackers::{unpackers, Unpacker};
use super::{Failed, Memory, Shared, Tensor, WORK_FOR_THREADS};
#[cfg(target_arch = "x86_64")]
use crate::kernels::bf16_tiles::{self, RightVector, TokenRows, ROWS, TOKENS};
#[cfg(target_arch = "x86_64")]
use crate::kernels::{bf16_unpacking, int8_unpacking};
use crate::threads::ThreadPool;

/// Tasks for each thread, so that a slow one does not keep the others waiting.
const TASKS: usize = 6;
/// The same where weights are unpacked, of which a task's first ones were not fetched ahead.
#[cfg(target_arch = "x86_64")]
const UNPACKING_TASKS: usize = 4;
/// Rows of a task are a multiple of this: a cache line of results.
const ROW_STEP: usize = 16;
/// Rows that are multiplied with some columns and then with others.
const ROWS_KEPT: usize = 64;

/// Columns from which unpacking weights for all of them may be faster than multiplying each column. Below, decoding asks no
/// processor what it has.
#[cfg(target_arch = "x86_64")]
const UNPACKED_FROM: usize = 6;

/// Whether matrices of this type are multiplied faster here, in the file's layout, than by ggml in any.
pub(super) fn outruns_ggml(ty: llama::ggml_type) -> bool {
    kquants::dots(ty).is_some() || floats::multiply_best(ty).is_some()
}

/// A product as ggml describes it: `dst[n, m] = Σ weights[k, n] · x[k, m]`, for each of some slices.
struct Product<'a> {
    weights: &'a Tensor,
    x: &'a Tensor,
    dst: &'a Tensor,
    /// Numbers in a row of the weights, and in a column of x.
    depth: usize,
    rows: usize,
    columns: usize,
    /// The two outer sizes of x; the weights' divide them.
    slices: [usize; 2],
}

// SAFETY: nothing in it changes while it lives; what its tensors point to is used by unsafe code that says why.
unsafe impl Sync for Product<'_> {}

impl<'a> Product<'a> {
    /// The node's, if it is one that this file computes.
    fn of(dst: &'a Tensor) -> Option<Product<'a>> {
        // SAFETY: ggml's nodes have their operands as long as they live.
        let (weights, x) = unsafe { (dst.src[0].as_ref()?, dst.src[1].as_ref()?) };
        let size = |n: i64| usize::try_from(n).ok().filter(|&n| n > 0);
        // A hint that x is to be transformed otherwise.
        let plain = dst.op_params[1] == 0;
        // SAFETY: a type that ggml computes with has traits.
        let number = unsafe { (*llama::ggml_get_type_traits(weights.type_)).type_size };
        let fits = weights.ne[0] == x.ne[0]
            && dst.ne == [weights.ne[1], x.ne[1], x.ne[2], x.ne[3]]
            && weights.nb[0] == number
            && x.nb[0] == size_of::<f32>()
            && dst.nb[0] == size_of::<f32>()
            && x.ne[2] % weights.ne[2].max(1) == 0
            && x.ne[3] % weights.ne[3].max(1) == 0;
        if !plain || !fits || x.type_ != llama::GGML_TYPE_F32 || dst.type_ != llama::GGML_TYPE_F32 {
            return None;
        }
        Some(Product {
            weights,
            x,
            dst,
            depth: size(x.ne[0])?,
            rows: size(weights.ne[1])?,
            columns: size(x.ne[1])?,
            slices: [size(x.ne[2])?, size(x.ne[3])?],
        })
    }

    /// Slices in all.
    fn slice_count(&self) -> usize {
        self.slices[0] * self.slices[1]
    }

    /// Calls `task` with parts of every slice's rows, until each row had its turn.
    fn share_rows(&self, pool: &ThreadPool, task: &(dyn Fn(usize, Range<usize>) + Sync)) {
        let slices = self.slice_count();
        let rows = if self.depth * self.rows * self.columns * slices < WORK_FOR_THREADS {
            self.rows
        } else {
            let tasks = (TASKS * pool.threads()).div_ceil(slices);
            self.rows.div_ceil(tasks).next_multiple_of(ROW_STEP)
        };
        let tasks = self.rows.div_ceil(rows);
        pool.parallel_for(slices * tasks, &|i| {
            let first = i % tasks * rows;
            task(i / tasks, first..(first + rows).min(self.rows));
        });
    }

    /// Where the rows, columns and results of a slice start.
    fn slice(&self, index: usize) -> (*const u8, *const u8, *mut u8) {
        let at = [index % self.slices[0], index / self.slices[0]];
        let offset = |t: &Tensor, at: [usize; 2]| at[0] * t.nb[2] + at[1] * t.nb[3];
        let shared = [2, 3].map(|d| (self.x.ne[d] / self.weights.ne[d]) as usize);
        let weights = offset(self.weights, [at[0] / shared[0], at[1] / shared[1]]);
        (
            self.weights.data.cast::<u8>().wrapping_add(weights),
            self.x.data.cast::<u8>().wrapping_add(offset(self.x, at)),
            self.dst.data.cast::<u8>().wrapping_add(offset(self.dst, at)),
        )
    }
}

/// Computes the node if it is a product.
///
/// `unpacking` says which way of those to unpack weights for many columns to take, fastest first, if any.
pub(super) fn compute(
    pool: &ThreadPool,
    memory: &mut Memory,
    dst: &Tensor,
    unpacking: Option<usize>,
) -> Result<bool, Failed> {
    let Some(product) = Product::of(dst) else { return Ok(false) };
    #[cfg(target_arch = "x86_64")]
    if let Some(way) = unpacking.filter(|_| product.columns >= UNPACKED_FROM && product.slices == [1, 1]) {
        let unpacker = unpackers(product.weights.type_).nth(way);
        let unpacker = unpacker.filter(|u| product.columns >= u.columns_from);
        if let Some(unpacker) = unpacker.filter(|_| product.depth.is_multiple_of(kquants::BLOCK)) {
            by_unpacked_blocks(pool, memory, &product, &unpacker)?;
            return Ok(true);
        }
        let packer = dequantize::packer(product.weights.type_).filter(|p| product.depth.is_multiple_of(p.block));
        // The system is asked for the tiles only where they are of use.
        if let Some(packer) = packer.filter(|_| bf16_tiles::available()) {
            by_tiles(pool, memory, &product, packer)?;
            return Ok(true);
        }
    }
    if let Some(multiply) = floats::multiply_best(product.weights.type_) {
        by_floats(pool, &product, multiply);
        return Ok(true);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = unpacking;
    match kquants::dots(product.weights.type_) {
        Some(dots) if product.slices == [1, 1] => by_blocks(pool, memory, &product, dots)?,
        _ => return by_rows(pool, memory, &product),
    }
    Ok(true)
}

/// `columns` columns of x in the type that ggml multiplies weights with; columns are `stride` bytes apart in both.
struct Quantize {
    from_float: unsafe extern "C" fn(*const f32, *mut c_void, i64),
    ty: llama::ggml_type,
    depth: usize,
    x_stride: usize,
    stride: usize,
}

impl Quantize {
    /// Makes the scales of blocks NaN where numbers are not finite: ggml's quantising would hide that.
    ///
    /// # Safety
    /// `to` must be what a column was just quantised to.
    unsafe fn keep_what_is_not_finite(&self, column: &[f32], to: *mut u8) {
        // Each block of these types starts with its scale.
        let (block, nan): (usize, &[u8]) = match self.ty {
            llama::GGML_TYPE_Q8_K => (256, &f32::NAN.to_le_bytes()),
            llama::GGML_TYPE_Q8_0 | llama::GGML_TYPE_Q8_1 => (32, &f16::NAN.to_le_bytes()),
            _ => return,
        };
        for (i, x) in column.chunks(block).enumerate() {
            if !x.iter().fold(true, |finite, x| finite & x.is_finite()) {
                // SAFETY: the caller's; a block is longer than its scale.
                unsafe {
                    let at = llama::ggml_row_size(self.ty, (i * block) as i64);
                    to.add(at).copy_from_nonoverlapping(nan.as_ptr(), nan.len());
                }
            }
        }
    }

    fn columns(&self, pool: &ThreadPool, columns: usize, x: *const u8, out: *mut u8) {
        let (x, out) = (Shared(x.cast_mut()), Shared(out));
        let one = |column: usize| {
            // SAFETY: every column is read and written once, inside of the two matrices.
            unsafe {
                let from = x.get().add(column * self.x_stride).cast::<f32>();
                let to = out.get().add(column * self.stride);
                (self.from_float)(from, to.cast(), self.depth as i64);
                self.keep_what_is_not_finite(std::slice::from_raw_parts(from, self.depth), to);
            }
        };
        if columns * self.depth < WORK_FOR_THREADS / 4 {
            (0..columns).for_each(one);
        } else {
            pool.parallel_for(columns, &one);
        }
    }
}

/// With our own kernels for k-quants.
fn by_blocks(pool: &ThreadPool, memory: &mut Memory, product: &Product, dots: &dyn Dots) -> Result<(), Failed> {
    let blocks = product.depth / kquants::BLOCK;
    let all = product.columns * blocks;
    let quantized = memory.rows.bytes(all * size_of::<Q8K>())?;
    let operand = memory.operand.bytes(all * size_of::<Activations>())?.cast::<Activations>();
    let (weights, x, dst) = product.slice(0);
    // SAFETY: every type has traits, and ggml quantises to Q8_K.
    let from_float = unsafe { (*llama::ggml_get_type_traits_cpu(llama::GGML_TYPE_Q8_K)).from_float }.ok_or(Failed)?;
    let stride = blocks * size_of::<Q8K>();
    let ty = llama::GGML_TYPE_Q8_K;
    let quantize = Quantize { from_float, ty, depth: product.depth, x_stride: product.x.nb[1], stride };
    quantize.columns(pool, product.columns, x, quantized);
    // SAFETY: both have room for `all` blocks, those of `quantized` were just written, and `Activations` may be anything.
    let (from, to) = unsafe {
        (std::slice::from_raw_parts(quantized.cast::<Q8K>(), all), std::slice::from_raw_parts_mut(operand, all))
    };
    kquants::reorder(from, dots.order(), to);

    let (weights, operand, dst) = (Shared(weights.cast_mut()), Shared(operand), Shared(dst));
    product.share_rows(pool, &|_, rows| {
        // Rows are read once, or as long as a second-level cache has them.
        let step = if product.columns <= kquants::COLUMNS { rows.len().max(1) } else { ROWS_KEPT };
        for first in rows.clone().step_by(step) {
            for column in (0..product.columns).step_by(kquants::COLUMNS) {
                // SAFETY: rows and columns of the product; every task has its own rows of the result.
                unsafe {
                    dots.multiply(&Rows {
                        weights: weights.get().add(first * product.weights.nb[1]),
                        row_bytes: product.weights.nb[1],
                        rows: step.min(rows.end - first),
                        blocks,
                        activations: operand.get().add(column * blocks),
                        columns: kquants::COLUMNS.min(product.columns - column),
                        out: dst.get().add(column * product.dst.nb[1]).cast::<f32>().add(first),
                        out_stride: product.dst.nb[1] / size_of::<f32>(),
                    });
                }
            }
        }
    });
    Ok(())
}

/// With k-quants as 8-bit integers.
#[cfg(target_arch = "x86_64")]
fn by_unpacked_blocks(
    pool: &ThreadPool,
    memory: &mut Memory,
    product: &Product,
    unpacker: &Unpacker,
) -> Result<(), Failed> {
    let blocks = product.depth / kquants::BLOCK;
    let vectors = product.columns.div_ceil(int8_unpacking::TOKENS);
    let vector_bytes = (unpacker.vector_bytes)(blocks).ok_or(Failed)?;
    let tokens = memory.operand.bytes(vectors.checked_mul(vector_bytes).ok_or(Failed)?)?;
    let tasks = memory.of_tasks((unpacker.memory_bytes)(blocks).ok_or(Failed)?)?;
    let (weights, x, dst) = product.slice(0);
    let (weights, x, tokens, dst) = (Shared(weights.cast_mut()), Shared(x.cast_mut()), Shared(tokens), Shared(dst));
    pool.parallel_for(vectors, &|vector| {
        let first = vector * int8_unpacking::TOKENS;
        let count = int8_unpacking::TOKENS.min(product.columns - first);
        // SAFETY: the processor has what the unpacker needs; every vector has its own columns of x, and its own part of the operand.
        unsafe {
            let from = x.get().add(first * product.x.nb[1]).cast();
            let to = tokens.get().add(vector * vector_bytes);
            (unpacker.pack)(from, product.x.nb[1] / size_of::<f32>(), count, blocks, to);
        }
    });
    let parts = vectors.div_ceil(int8_unpacking::MOST_VECTORS);
    let rows = product.rows.div_ceil(UNPACKING_TASKS * pool.threads()).next_multiple_of(2 * ROW_STEP);
    pool.run(product.rows.div_ceil(rows), &|task, worker| {
        let mut own = tasks.of(worker);
        let first = task * rows;
        let count = rows.min(product.rows - first);
        let stride = product.dst.nb[1] / size_of::<f32>();
        for part in 0..parts {
            let (start, end) = (vectors * part / parts, vectors * (part + 1) / parts);
            let column = start * int8_unpacking::TOKENS;
            // SAFETY: as above; every task has its own rows of the weights and of the result, and every thread its own memory.
            unsafe {
                let out = dst.get().cast::<f32>().add(column * stride + first);
                let first = weights.get().add(first * product.weights.nb[1]);
                let weights = dequantize::Rows { first, stride: product.weights.nb[1], count, depth: product.depth };
                let tokens = tokens.get().add(start * vector_bytes);
                let int8 =
                    int8_unpacking::Product { rows: count, blocks, vectors: end - start, tokens, memory: own.start() };
                (unpacker.multiply)(&weights, &int8, &TokenRows { out, stride, tokens: product.columns - column });
            }
        }
    });
    Ok(())
}

/// With AMX's tiles: both sides in bfloat16.
#[cfg(target_arch = "x86_64")]
fn by_tiles(pool: &ThreadPool, memory: &mut Memory, product: &Product, packer: Packer) -> Result<(), Failed> {
    let steps = product.depth.div_ceil(bf16_tiles::STEP);
    let vectors = product.columns.div_ceil(TOKENS);
    let few = vectors <= bf16_unpacking::MOST_VECTORS;
    let bytes = |numbers: Option<usize>| numbers.and_then(|n| n.checked_mul(2)).ok_or(Failed);
    let right = memory.operand.bytes(bytes(bf16_tiles::right_len(product.columns, product.depth))?)?;
    let own = if few { Some(bf16_unpacking::MEMORY) } else { bf16_tiles::left_len(ROWS, product.depth) };
    let tasks = memory.of_tasks(bytes(own)?)?;
    let (weights, x, dst) = product.slice(0);
    let (weights, x, right, dst) =
        (Shared(weights.cast_mut()), Shared(x.cast_mut()), Shared(right.cast::<u16>()), Shared(dst));
    pool.parallel_for(vectors, &|vector| {
        let first = vector * TOKENS;
        // SAFETY: the processor has the tiles; every vector has its own columns of x, and its own part of the operand.
        unsafe {
            bf16_tiles::pack_tokens(
                x.get().add(first * product.x.nb[1]).cast(),
                product.x.nb[1] / size_of::<f32>(),
                TOKENS.min(product.columns - first),
                product.depth,
                RightVector::new(right.get(), steps, vector),
            );
        }
    });
    // Weights for few tokens are fetched ahead to the end of a task, so that it has more than one group of rows.
    let rows = if few { product.rows.div_ceil(TASKS * pool.threads()).next_multiple_of(ROWS) } else { ROWS };
    pool.run(product.rows.div_ceil(rows), &|task, worker| {
        let mut own = tasks.of(worker);
        let own = own.start().cast::<u16>();
        let first = task * rows;
        let count = rows.min(product.rows - first);
        let stride = product.dst.nb[1] / size_of::<f32>();
        // SAFETY: as above; every task has its own rows of the weights and of the result, and every thread its own memory.
        unsafe {
            let (right, out) = (right.get(), dst.get().cast::<f32>().add(first));
            let first = weights.get().add(first * product.weights.nb[1]);
            let weights = dequantize::Rows { first, stride: product.weights.nb[1], count, depth: product.depth };
            let out = TokenRows { out, stride, tokens: product.columns };
            if few {
                let product = bf16_unpacking::Product { rows: count, steps, vectors, right, memory: own };
                (packer.multiply)(&weights, &product, &out);
            } else {
                (packer.pack)(&weights, own);
                let product = bf16_tiles::Product { rows: count, left: own, vectors, right, right_steps: steps, steps };
                bf16_tiles::multiply_to_token_rows(&product, &out);
            }
        }
    });
    Ok(())
}

/// With weights in floating point.
fn by_floats(pool: &ThreadPool, product: &Product, multiply: floats::Multiply) {
    product.share_rows(pool, &|slice, rows| {
        let (weights, x, dst) = product.slice(slice);
        // SAFETY: rows and columns of the product; every task has its own rows of the result.
        unsafe {
            multiply(&floats::Block {
                weights: weights.add(rows.start * product.weights.nb[1]),
                row_bytes: product.weights.nb[1],
                rows: rows.len(),
                x,
                column_bytes: product.x.nb[1],
                columns: product.columns,
                depth: product.depth,
                out: dst.cast::<f32>().add(rows.start),
                out_stride: product.dst.nb[1] / size_of::<f32>(),
            });
        }
    });
}

/// With ggml's product of a row and a column.
fn by_rows(pool: &ThreadPool, memory: &mut Memory, product: &Product) -> Result<bool, Failed> {
    // SAFETY: every type has traits; the row's size is plain arithmetic on the type's.
    let (ty, vec_dot, from_float, stride) = unsafe {
        let traits = &*llama::ggml_get_type_traits_cpu(product.weights.type_);
        let from_float = (*llama::ggml_get_type_traits_cpu(traits.vec_dot_type)).from_float;
        (
            traits.vec_dot_type,
            traits.vec_dot,
            from_float,
            llama::ggml_row_size(traits.vec_dot_type, product.depth as i64),
        )
    };
    let (Some(vec_dot), Some(from_float)) = (vec_dot, from_float) else { return Ok(false) };
    let slices = product.slice_count();
    let operand = memory.operand.bytes(stride * product.columns * slices)?;
    let quantize = Quantize { from_float, ty, depth: product.depth, x_stride: product.x.nb[1], stride };
    for slice in 0..slices {
        let out = operand.wrapping_add(slice * product.columns * stride);
        quantize.columns(pool, product.columns, product.slice(slice).1, out);
    }
    let operand = Shared(operand);
    product.share_rows(pool, &|slice, rows| {
        let (weights, _, dst) = product.slice(slice);
        for block in rows.clone().step_by(ROW_STEP) {
            for column in 0..product.columns {
                // SAFETY: rows and columns of the product; every task has its own rows of the result.
                unsafe {
                    let column_at = operand.get().add((slice * product.columns + column) * stride);
                    let out = dst.add(column * product.dst.nb[1]).cast::<f32>();
                    for row in block..(block + ROW_STEP).min(rows.end) {
                        let row_at = weights.add(row * product.weights.nb[1]);
                        if column == 0 {
                            kquants::fetch_ahead(row_at, product.weights.nb[1]);
                        }
                        vec_dot(product.depth as i32, out.add(row), 0, row_at.cast(), 0, column_at.cast(), 0, 1);
                    }
                }
            }
        }
    });
    Ok(true)
}
