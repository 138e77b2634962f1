//! GELU in its tanh form, as Phi-2 has it (arXiv 1606.08415), in f32.
//!
//! `½x(1 + tanh(√(2/π)(x + 0.044715x³)))` is `x·σ(z)` with `z = 2√(2/π)(x + 0.044715x³)`. ggml's own looks the result up in a table
//! of half-precision numbers, which costs more and is off by up to 2e-4.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `gelu`'s

use llama_cpp_sys_2 as llama;

use super::best_simd::best_simd;
use super::{Shared, Tensor};
use crate::threads::ThreadPool;
use crate::vision::kernels::body::exp_negative;
use crate::vision::kernels::Simd;

/// Numbers of a task at most.
const PART: usize = 16 << 10;

/// Computes the node if it is one.
pub(super) fn compute(pool: &ThreadPool, dst: &Tensor) -> bool {
    // SAFETY: ggml's nodes have their operands as long as they live.
    let Some(x) = (unsafe { dst.src[0].as_ref() }) else { return false };
    let whole = |t: &Tensor| {
        let mut bytes = size_of::<f32>();
        t.type_ == llama::GGML_TYPE_F32
            && t.ne.iter().zip(t.nb).all(|(&n, nb)| {
                let fits = nb == bytes;
                bytes *= n.max(0) as usize;
                fits
            })
    };
    if dst.op_params[0] != llama::GGML_UNARY_OP_GELU as i32 || !whole(x) || !whole(dst) || x.ne != dst.ne {
        return false;
    }
    let len = x.ne.iter().product::<i64>() as usize;
    let (x, y, gelu) = (
        Shared(x.data.cast::<f32>()),
        Shared(dst.data.cast::<f32>()),
        best_simd!(gelu(x: *const f32, y: *mut f32, len: usize)).0,
    );
    pool.parallel_for(len.div_ceil(PART), &|task| {
        let first = task * PART;
        // SAFETY: a part of both, which no other task has.
        unsafe { gelu(x.get().add(first), y.get().add(first), PART.min(len - first)) };
    });
    true
}

#[inline(always)]
unsafe fn vector<S: Simd>(x: S::V) -> S::V {
    const SCALE: f32 = 1.595_769; // 2√(2/π)
    let square = S::mul(x, x);
    let z = S::mul(x, S::fma(square, S::splat(0.044_715 * SCALE), S::splat(SCALE)));
    let zero = S::splat(0.0);
    // e^−|z|: σ is 1 / (1 + e^−|z|) above zero, where x is, and e^−|z| times that below.
    let e = exp_negative::<S>(S::min(z, S::sub(zero, z)));
    // Of two numbers the second is given where either is none, so that what is not a number stays so.
    let product = S::fma(S::min(zero, x), e, S::max(zero, x));
    S::div(product, S::add(e, S::splat(1.0)))
}

/// Computes `len` numbers.
///
/// # Safety
/// Both pointers must be valid for that many, and the processor have the instruction set.
#[inline(always)]
unsafe fn gelu<S: Simd>(x: *const f32, y: *mut f32, len: usize) {
    let whole = len / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        S::store(y.add(i), vector::<S>(S::load(x.add(i))));
    }
    if whole < len {
        let mut rest = [0.0; 16];
        const { assert!(S::LANES <= 16) };
        std::ptr::copy_nonoverlapping(x.add(whole), rest.as_mut_ptr(), len - whole);
        S::store(rest.as_mut_ptr(), vector::<S>(S::load(rest.as_ptr())));
        std::ptr::copy_nonoverlapping(rest.as_ptr(), y.add(whole), len - whole);
    }
}
