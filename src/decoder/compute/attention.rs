//! Softmax attention over a half-precision KV cache, in f32.
//!
//! The online softmax of "Self-attention does not need O(n²) memory" (arXiv 2112.05682): a task takes one head and a few
//! queries over all keys, a chunk of keys at a time, which it turns into f32 once for its queries.

use half::f16;
use half::slice::HalfFloatSliceExt;
use llama_cpp_sys_2 as llama;

use super::{Failed, Memory, Tensor};
use crate::threads::ThreadPool;

/// Keys at a time.
const KEYS: usize = 64;
/// Queries of a task at most.
const QUERIES: usize = 16;
/// Numbers that are worked on side by side.
const LANES: usize = 16;
/// Less work than this (products) is not worth a second thread.
const WORK_FOR_THREADS: usize = 1 << 17;

/// An attention as ggml describes it: q `[width, queries, heads, streams]`, k and v `[width, keys, kv heads, streams]`,
/// a mask `[keys, queries]` to be added to the scores, and the result `[width, heads, queries, streams]`.
struct Attention<'a> {
    q: &'a Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    mask: Option<&'a Tensor>,
    dst: &'a Tensor,
    scale: f32,
    /// Features of a key, and of a value.
    width: usize,
    queries: usize,
    heads: usize,
    keys: usize,
}

// SAFETY: nothing in it changes while it lives; what its tensors point to is used by unsafe code that says why.
unsafe impl Sync for Attention<'_> {}

impl<'a> Attention<'a> {
    /// The node's, if it is one that this file computes.
    fn of(dst: &'a Tensor) -> Option<Attention<'a>> {
        // SAFETY: ggml's nodes have their operands as long as they live.
        let [q, k, v, mask, sinks] = std::array::from_fn(|i| unsafe { dst.src[i].as_ref() });
        let (q, k, v) = (q?, k?, v?);
        let float = |i: usize| f32::from_bits(dst.op_params[i] as u32);
        let plain = float(1) == 0.0 && float(2) == 0.0 && sinks.is_none();
        let half = |t: &Tensor| t.type_ == llama::GGML_TYPE_F16 && t.nb[0] == 2 && t.nb[1] % 2 == 0;
        let single = |t: &Tensor| t.type_ == llama::GGML_TYPE_F32 && t.nb[0] == 4;
        let fits = half(k)
            && half(v)
            && single(q)
            && single(dst)
            && mask.is_none_or(|m| half(m) && m.ne[0] >= k.ne[1] && m.ne[1] >= q.ne[1] && m.ne[2] == 1 && m.ne[3] == 1)
            && q.ne[0] == k.ne[0]
            && v.ne[0] == k.ne[0]
            && q.ne[0] as usize % LANES == 0
            && k.ne[1] == v.ne[1]
            && k.ne[2] == v.ne[2]
            && q.ne[2] % k.ne[2].max(1) == 0
            && q.ne[3] == 1
            && k.ne[3] == 1
            && dst.ne == [v.ne[0], q.ne[2], q.ne[1], 1]
            && dst.nb[1] == 4 * dst.ne[0] as usize
            && dst.nb[2] == dst.nb[1] * dst.ne[1] as usize;
        if !plain || !fits {
            return None;
        }
        Some(Attention {
            q,
            k,
            v,
            mask,
            dst,
            scale: float(0),
            width: q.ne[0] as usize,
            queries: q.ne[1] as usize,
            heads: q.ne[2] as usize,
            keys: k.ne[1] as usize,
        })
    }

    /// Row of a tensor with this type of numbers.
    ///
    /// # Safety
    /// The tensor must have these indices and `len` such numbers in a row.
    unsafe fn row<T>(tensor: &Tensor, row: usize, slice: usize, len: usize) -> &[T] {
        let at = tensor.data.cast::<u8>().wrapping_add(row * tensor.nb[1] + slice * tensor.nb[2]);
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts(at.cast(), len) }
    }
}

/// Computes the node if it is an attention that this file knows.
pub(super) fn compute(pool: &ThreadPool, memory: &mut Memory, dst: &Tensor) -> Result<bool, Failed> {
    let Some(attention) = Attention::of(dst) else { return Ok(false) };
    let floats = Scratch::floats(attention.width);
    for task in &memory.tasks {
        task.lock().map_err(|_| Failed)?.bytes(floats * size_of::<f32>())?;
    }
    let groups = attention.queries.div_ceil(QUERIES);
    let work = attention.queries * attention.heads * attention.keys * attention.width;
    let tasks = &memory.tasks;
    let one = |task: usize, worker: usize| {
        let mut scratch = tasks[worker].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: the buffer was made that large, for numbers of any value.
        let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.0.as_mut_ptr().cast::<f32>(), floats) };
        // SAFETY: every task has its own head and queries of the result.
        unsafe { attend(&attention, task / groups, task % groups * QUERIES, Scratch::over(scratch, attention.width)) };
    };
    let count = groups * attention.heads;
    if work < WORK_FOR_THREADS {
        (0..count).for_each(|task| one(task, 0));
    } else {
        pool.run(count, &one);
    }
    Ok(true)
}

/// A task's memory.
struct Scratch<'a> {
    q: &'a mut [f32],
    k: &'a mut [f32],
    v: &'a mut [f32],
    scores: &'a mut [f32],
    mask: &'a mut [f32],
    out: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    fn floats(width: usize) -> usize {
        2 * width * (QUERIES + KEYS) + KEYS * (QUERIES + 1)
    }

    fn over(memory: &'a mut [f32], width: usize) -> Scratch<'a> {
        let (q, rest) = memory.split_at_mut(QUERIES * width);
        let (out, rest) = rest.split_at_mut(QUERIES * width);
        let (k, rest) = rest.split_at_mut(KEYS * width);
        let (v, rest) = rest.split_at_mut(KEYS * width);
        let (scores, rest) = rest.split_at_mut(KEYS * QUERIES);
        Scratch { q, k, v, scores, mask: &mut rest[..KEYS], out }
    }
}

/// # Safety
/// The head and at least one query must exist; nobody else may use their part of the result.
unsafe fn attend(a: &Attention, head: usize, first: usize, scratch: Scratch) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,fma,f16c")]
        unsafe fn avx512(a: &Attention, head: usize, first: usize, scratch: Scratch) {
            unsafe { attend_with(a, head, first, scratch) }
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2(a: &Attention, head: usize, first: usize, scratch: Scratch) {
            unsafe { attend_with(a, head, first, scratch) }
        }
        let widest = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        // SAFETY: the caller's; ggml runs on processors with AVX2 alone.
        unsafe {
            match widest {
                true => avx512(a, head, first, scratch),
                false => avx2(a, head, first, scratch),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's.
    unsafe {
        attend_with(a, head, first, scratch);
    }
}

#[inline(always)]
unsafe fn attend_with(a: &Attention, head: usize, first: usize, s: Scratch) {
    let (width, queries) = (a.width, QUERIES.min(a.queries - first));
    let kv_head = head / (a.heads / a.k.ne[2] as usize);
    for (i, q) in s.q.chunks_exact_mut(width).enumerate().take(queries) {
        // SAFETY: a query of the head.
        let row = unsafe { Attention::row::<f32>(a.q, first + i, head, width) };
        // Scores come out as exponents of 2.
        q.iter_mut().zip(row).for_each(|(q, x)| *q = x * (a.scale * std::f32::consts::LOG2_E));
    }
    s.out.fill(0.0);
    let mut highest = [f32::NEG_INFINITY; QUERIES];
    let mut totals = [0.0; QUERIES];
    for key in (0..a.keys).step_by(KEYS) {
        let keys = KEYS.min(a.keys - key);
        let mut seen = 0;
        for i in 0..queries {
            let scores = &mut s.scores[i * KEYS..][..keys];
            match a.mask {
                // SAFETY: the mask has a row for every query, of all keys.
                Some(mask) => unsafe {
                    Attention::row::<f16>(mask, first + i, 0, key + keys)[key..].convert_to_f32_slice(scores)
                },
                None => scores.fill(0.0),
            }
            // Keys behind the last that any query sees need no work.
            let last = scores.iter().rposition(|&m| m != f32::NEG_INFINITY).map_or(0, |i| i + 1);
            seen = seen.max(last);
        }
        if seen == 0 {
            continue;
        }
        for (i, (k, v)) in s.k.chunks_exact_mut(width).zip(s.v.chunks_exact_mut(width)).enumerate().take(seen) {
            // SAFETY: a key and a value of the head.
            unsafe {
                Attention::row::<f16>(a.k, key + i, kv_head, width).convert_to_f32_slice(k);
                Attention::row::<f16>(a.v, key + i, kv_head, width).convert_to_f32_slice(v);
            }
        }
        for i in 0..queries {
            let scores = &mut s.scores[i * KEYS..][..seen];
            let q = &s.q[i * width..][..width];
            for (score, k) in scores.iter_mut().zip(s.k.chunks_exact(width)) {
                *score = score.mul_add(std::f32::consts::LOG2_E, dot(q, k));
            }
            let peak = scores.iter().fold(highest[i], |m, &x| m.max(x));
            if peak == f32::NEG_INFINITY {
                scores.fill(0.0);
                continue;
            }
            let fade = exp2(highest[i] - peak);
            highest[i] = peak;
            let mask = &mut s.mask[..seen];
            for (p, &x) in mask.iter_mut().zip(scores.iter()) {
                *p = exp2(x - peak);
            }
            totals[i] = totals[i] * fade + mask.iter().sum::<f32>();
            let out = &mut s.out[i * width..][..width];
            if fade != 1.0 {
                out.iter_mut().for_each(|x| *x *= fade);
            }
            for (&p, v) in mask.iter().zip(s.v.chunks_exact(width)) {
                for (x, &v) in out.iter_mut().zip(v) {
                    *x = v.mul_add(p, *x);
                }
            }
        }
    }
    for i in 0..queries {
        let out = &s.out[i * width..][..width];
        let inverse = if totals[i] > 0.0 { 1.0 / totals[i] } else { 0.0 };
        let at = a.dst.data.cast::<u8>().wrapping_add(head * a.dst.nb[1] + (first + i) * a.dst.nb[2]);
        // SAFETY: the row of the result of this head and query, which nobody else uses.
        let row = unsafe { std::slice::from_raw_parts_mut(at.cast::<f32>(), width) };
        row.iter_mut().zip(out).for_each(|(y, x)| *y = x * inverse);
    }
}

/// The widths are a multiple of [`LANES`].
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for i in 0..LANES {
            sums[i] = a[i].mul_add(b[i], sums[i]);
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

/// 2^x for x ≤ 0 to a relative error of 2e-7: the Taylor polynomial of 2^r, |r| ≤ ½, times a power of two.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    let x = x.max(-126.0);
    let n = x.round_ties_even();
    let r = x - n;
    let mut p = 1.540_353e-4_f32;
    for c in [1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 0.240_226_51, 0.693_147_2, 1.0] {
        p = p.mul_add(r, c);
    }
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}
