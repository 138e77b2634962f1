//! Softmax attention over a half-precision KV cache, in f32.
//!
//! The online softmax of "Self-attention does not need O(n²) memory" (arXiv 2112.05682): a task takes a few heads and queries
//! over all keys, a chunk of keys at a time, which it turns into f32 once for its queries. A position's keys of all heads lie
//! side by side, and positions pages apart, so that a task with one head would read little of each page.
#![allow(unsafe_op_in_unsafe_fn)] // each function is one unsafe operation; its caller's contract is `Loops::attend`'s

use std::ops::Range;

use half::f16;
use llama_cpp_sys_2 as llama;

use super::best_simd::best_simd;
use super::{Failed, Memory, Tensor, WORK_FOR_THREADS};
use crate::prefetch::fetch;
use crate::threads::ThreadPool;
use crate::vision::kernels::body::exp_negative;
use crate::vision::kernels::Simd;

/// Keys at a time.
const KEYS: usize = 64;
/// Lanes of a vector at most.
const LANES: usize = 16;
/// Vectors of queries at a time at most: a number of a key is loaded once for all of them.
const VECTORS: usize = 2;
/// Queries at a time at most.
const SIDE_BY_SIDE: usize = VECTORS * LANES;
/// Heads of a task at most.
const HEADS: usize = 8;
/// Tasks for each thread, so that a slow one does not keep the others waiting.
const TASKS: usize = 3;

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
        let half = |t: &Tensor| t.type_ == llama::GGML_TYPE_F16 && t.nb[0] == 2 && t.nb[1].is_multiple_of(2);
        let single = |t: &Tensor| t.type_ == llama::GGML_TYPE_F32 && t.nb[0] == 4;
        let fits = half(k)
            && half(v)
            && single(q)
            && single(dst)
            && mask.is_none_or(|m| half(m) && m.ne[0] >= k.ne[1] && m.ne[1] >= q.ne[1] && m.ne[2] == 1 && m.ne[3] == 1)
            && q.ne[0] == k.ne[0]
            && v.ne[0] == k.ne[0]
            && (q.ne[0] as usize).is_multiple_of(LANES)
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
    let loops = Loops::best();
    let most = if attention.queries > loops[0].queries { loops[1].queries } else { loops[0].queries };
    let groups = attention.queries.div_ceil(most);
    let heads = (attention.heads * groups / (TASKS * pool.threads())).clamp(1, HEADS);
    let shares = attention.heads.div_ceil(heads);
    let floats = Scratch::floats(attention.width, heads);
    let work = attention.queries * attention.heads * attention.keys * attention.width;
    let memory = memory.of_tasks(floats * size_of::<f32>())?;
    let one = |task: usize, worker: usize| {
        let mut scratch = memory.of(worker);
        // SAFETY: the buffer was made that large, for numbers of any value.
        let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.start().cast::<f32>(), floats) };
        let first = task % groups * most;
        let left = attention.queries - first;
        let attend = if left > loops[0].queries { loops[1].attend } else { loops[0].attend };
        let head = task / groups * heads;
        let heads = head..(head + heads).min(attention.heads);
        // SAFETY: every task has its own heads and queries of the result.
        unsafe { attend(&attention, heads, first, Scratch::over(scratch, attention.width)) };
    };
    let count = groups * shares;
    if work < WORK_FOR_THREADS {
        (0..count).for_each(|task| one(task, 0));
    } else {
        pool.run(count, &one);
    }
    Ok(true)
}

/// A task's memory.
struct Scratch<'a> {
    /// Keys and values of a chunk.
    k: &'a mut [f32],
    v: &'a mut [f32],
    /// Scores, and what becomes of them: for each key those of all queries.
    scores: &'a mut [f32],
    /// The mask, in the order of the scores.
    mask: &'a mut [f32],
    /// One row of it.
    row: &'a mut [f32],
    /// What is kept of each head.
    heads: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    fn floats(width: usize, heads: usize) -> usize {
        2 * KEYS * width + KEYS * (2 * SIDE_BY_SIDE + 1) + heads * Head::floats(width)
    }

    fn over(memory: &'a mut [f32], width: usize) -> Scratch<'a> {
        let (k, rest) = memory.split_at_mut(KEYS * width);
        let (v, rest) = rest.split_at_mut(KEYS * width);
        let (scores, rest) = rest.split_at_mut(KEYS * SIDE_BY_SIDE);
        let (mask, rest) = rest.split_at_mut(KEYS * SIDE_BY_SIDE);
        let (row, heads) = rest.split_at_mut(KEYS);
        Scratch { k, v, scores, mask, row, heads }
    }
}

/// A head's queries, and what they have seen so far.
struct Head<'a> {
    /// For each feature those of all queries; or one query.
    q: &'a mut [f32],
    /// The result, in the same order.
    out: &'a mut [f32],
    /// Of each query.
    highest: &'a mut [f32],
    totals: &'a mut [f32],
}

impl<'a> Head<'a> {
    fn floats(width: usize) -> usize {
        2 * SIDE_BY_SIDE * (width + 1)
    }

    fn over(memory: &'a mut [f32], width: usize) -> Head<'a> {
        let (q, rest) = memory.split_at_mut(SIDE_BY_SIDE * width);
        let (out, rest) = rest.split_at_mut(SIDE_BY_SIDE * width);
        let (highest, totals) = rest.split_at_mut(SIDE_BY_SIDE);
        Head { q, out, highest, totals }
    }
}

/// The loops for one instruction set.
#[derive(Clone, Copy)]
struct Loops {
    /// Queries of a task at most.
    queries: usize,
    /// One task: heads, at most those that the scratch memory is for, and queries from this one on.
    ///
    /// # Safety
    /// The processor must have the instruction set; the heads and at least one query must exist; nobody else may use their
    /// part of the result.
    attend: unsafe fn(&Attention, Range<usize>, usize, Scratch),
}

impl Loops {
    /// Those of one vector of queries, and of two.
    fn best() -> [Loops; 2] {
        let one = best_simd!(attend(a: &Attention, heads: Range<usize>, first: usize, s: Scratch), One);
        let two = best_simd!(attend(a: &Attention, heads: Range<usize>, first: usize, s: Scratch), Two);
        [Loops { queries: one.1, attend: one.0 }, Loops { queries: 2 * two.1, attend: two.0 }]
    }
}

/// What a loop is compiled for.
trait Queries {
    /// Vectors of queries.
    const VECTORS: usize;
    /// Keys that are multiplied side by side, and features of the result: the sums of all vectors stay in registers.
    const GROUP: usize = GROUP / Self::VECTORS;
}

struct One;
struct Two;

impl Queries for One {
    const VECTORS: usize = 1;
}

impl Queries for Two {
    const VECTORS: usize = 2;
}

/// # Safety
/// As for [`Loops::attend`].
#[inline(always)]
unsafe fn attend<S: Simd, Q: Queries>(a: &Attention, heads: Range<usize>, first: usize, s: Scratch) {
    const { assert!(S::LANES <= LANES && LANES.is_multiple_of(S::LANES) && Q::VECTORS <= VECTORS) };
    let (width, queries) = (a.width, (Q::VECTORS * S::LANES).min(a.queries - first));
    let kv_head = |head: usize| head / (a.heads / a.k.ne[2] as usize);
    // Features of a query side by side, or queries side by side.
    let alone = queries == 1;
    let lanes = if alone { 1 } else { Q::VECTORS * S::LANES };
    let kept = Head::floats(width);
    for (head, memory) in heads.clone().zip(s.heads.chunks_exact_mut(kept)) {
        let h = Head::over(memory, width);
        for i in 0..queries {
            // SAFETY: a query of the head.
            let row = unsafe { Attention::row::<f32>(a.q, first + i, head, width) };
            h.q[i..].iter_mut().step_by(lanes).zip(row).for_each(|(q, x)| *q = x * a.scale);
        }
        h.out.fill(0.0);
        h.highest.fill(f32::MIN);
        h.totals.fill(0.0);
    }
    for key in (0..a.keys).step_by(KEYS) {
        let keys = KEYS.min(a.keys - key);
        let (seen, hidden) = mask::<S>(a, key..key + keys, first..first + queries, lanes, s.row, s.mask);
        if seen == 0 {
            continue;
        }
        let mut unpacked = None;
        for (head, memory) in heads.clone().zip(s.heads.chunks_exact_mut(kept)) {
            let h = Head::over(memory, width);
            if unpacked.replace(kv_head(head)) != Some(kv_head(head)) {
                for (i, (k, v)) in s.k.chunks_exact_mut(width).zip(s.v.chunks_exact_mut(width)).enumerate().take(seen) {
                    // SAFETY: a key and a value of the head.
                    let [key, value] =
                        [a.k, a.v].map(|t| unsafe { Attention::row::<f16>(t, key + i, kv_head(head), width) });
                    // The processor does not see what lies pages apart coming.
                    fetch(key.as_ptr().cast::<u8>().wrapping_add(KEYS * a.k.nb[1]), size_of_val(key));
                    fetch(value.as_ptr().cast::<u8>().wrapping_add(KEYS * a.v.nb[1]), size_of_val(value));
                    single::<S>(key, k);
                    single::<S>(value, v);
                }
            }
            let scores = &mut s.scores[..seen * lanes];
            if hidden {
                scores.copy_from_slice(&s.mask[..seen * lanes]);
            } else {
                scores.fill(0.0);
            }
            // SAFETY: the buffers are of these sizes.
            unsafe {
                if alone {
                    let keys = s.k.chunks_exact(width);
                    scores.iter_mut().zip(keys).for_each(|(score, k)| *score += dot(&h.q[..width], k));
                    let fade = softmax_alone::<S>(s.scores, seen, &mut h.highest[0], &mut h.totals[0]);
                    let scores = &s.scores[..seen];
                    add_values_alone::<S>(scores, s.v, fade, &mut h.out[..width]);
                } else {
                    add_scores::<S, Q>(h.q, s.k, width, scores);
                    let mut fade = [S::splat(0.0); VECTORS];
                    for (vector, fade) in fade.iter_mut().enumerate().take(Q::VECTORS) {
                        let lanes = vector * S::LANES..(vector + 1) * S::LANES;
                        let (highest, totals) = (&mut h.highest[lanes.clone()], &mut h.totals[lanes]);
                        *fade = softmax::<S, Q>(scores, vector, highest, totals);
                    }
                    add_values::<S, Q>(scores, s.v, width, fade, h.out);
                }
            }
        }
    }
    for (head, memory) in heads.zip(s.heads.chunks_exact_mut(kept)) {
        let h = Head::over(memory, width);
        let out = &mut h.out[..width * lanes];
        if alone {
            out.iter_mut().for_each(|x| *x /= h.totals[0]);
        } else {
            for out in out.chunks_exact_mut(lanes) {
                for (x, total) in out.chunks_exact_mut(S::LANES).zip(h.totals.chunks_exact(S::LANES)) {
                    // SAFETY: both are vectors; the caller has the instruction set.
                    unsafe { S::store(x.as_mut_ptr(), S::div(S::load(x.as_ptr()), S::load(total.as_ptr()))) };
                }
            }
        }
        for i in 0..queries {
            let at = a.dst.data.cast::<u8>().wrapping_add(head * a.dst.nb[1] + (first + i) * a.dst.nb[2]);
            // SAFETY: the row of the result of this head and query, which nobody else uses.
            let row = unsafe { std::slice::from_raw_parts_mut(at.cast::<f32>(), width) };
            row.iter_mut().zip(out[i..].iter().step_by(lanes)).for_each(|(y, x)| *y = *x);
        }
    }
}

/// How many of a chunk's keys need work: those up to the last that any query sees. Where some are hidden, the second result is
/// true and `out` has the mask, for each key those of `lanes` queries.
#[inline(always)]
fn mask<S: Simd>(
    a: &Attention,
    keys: Range<usize>,
    queries: Range<usize>,
    lanes: usize,
    row: &mut [f32],
    out: &mut [f32],
) -> (usize, bool) {
    let Some(mask) = a.mask else { return (keys.len(), false) };
    let (row, out) = (&mut row[..keys.len()], &mut out[..keys.len() * lanes]);
    // SAFETY: the mask has a row for every query, of all keys.
    let of = |query: usize| unsafe { &Attention::row::<f16>(mask, query, 0, keys.end)[keys.start..] };
    // Mostly it hides nothing.
    let open = |query: usize| of(query).iter().fold(0, |bits, m| bits | m.to_bits()) == 0;
    if queries.clone().all(open) {
        return (keys.len(), false);
    }
    let mut seen = 0;
    out.fill(0.0);
    for (i, query) in queries.enumerate() {
        single::<S>(of(query), row);
        out[i..].iter_mut().step_by(lanes).zip(&*row).for_each(|(to, &m)| *to = m);
        seen = seen.max(row.iter().rposition(|&m| m != f32::NEG_INFINITY).map_or(0, |i| i + 1));
    }
    (seen, true)
}

/// Half-precision numbers as f32.
#[inline(always)]
fn single<S: Simd>(from: &[f16], to: &mut [f32]) {
    let whole = from.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: both have that many numbers; the caller's caller has the instruction set.
        unsafe { S::store(to.as_mut_ptr().add(i), S::load_f16(from.as_ptr().add(i).cast())) };
    }
    from[whole..].iter().zip(&mut to[whole..]).for_each(|(from, to)| *to = from.to_f32());
}

/// Vectors of sums: half of the registers that AVX2 has.
const GROUP: usize = 8;

/// Adds the products of all queries with each key.
#[inline(always)]
unsafe fn add_scores<S: Simd, Q: Queries>(q: &[f32], k: &[f32], width: usize, scores: &mut [f32]) {
    let lanes = Q::VECTORS * S::LANES;
    for (group, scores) in scores.chunks_mut(Q::GROUP * lanes).enumerate() {
        let k = k[group * Q::GROUP * width..][..Q::GROUP * width].as_ptr();
        let mut sums = [[S::splat(0.0); VECTORS]; GROUP];
        for feature in 0..width {
            let q = q.as_ptr().add(feature * lanes);
            for (i, sums) in sums.iter_mut().enumerate().take(Q::GROUP) {
                let k = S::splat(*k.add(i * width + feature));
                for (vector, sum) in sums.iter_mut().enumerate().take(Q::VECTORS) {
                    *sum = S::fma(S::load(q.add(vector * S::LANES)), k, *sum);
                }
            }
        }
        for (scores, sums) in scores.chunks_exact_mut(lanes).zip(sums) {
            for (score, sum) in scores.chunks_exact_mut(S::LANES).zip(sums) {
                S::store(score.as_mut_ptr(), S::add(S::load(score.as_ptr()), sum));
            }
        }
    }
}

/// `out = out · fade + Σ p · v`.
#[inline(always)]
unsafe fn add_values<S: Simd, Q: Queries>(p: &[f32], v: &[f32], width: usize, fade: [S::V; VECTORS], out: &mut [f32]) {
    let lanes = Q::VECTORS * S::LANES;
    for (block, out) in out[..width * lanes].chunks_exact_mut(Q::GROUP * lanes).enumerate() {
        let mut sums = [fade; GROUP];
        for (sums, out) in sums.iter_mut().zip(out.chunks_exact(lanes)) {
            for (sum, out) in sums.iter_mut().zip(out.chunks_exact(S::LANES)) {
                *sum = S::mul(S::load(out.as_ptr()), *sum);
            }
        }
        for (p, v) in p.chunks_exact(lanes).zip(v.chunks_exact(width)) {
            let v = v.as_ptr().add(block * Q::GROUP);
            for (i, sums) in sums.iter_mut().enumerate().take(Q::GROUP) {
                let v = S::splat(*v.add(i));
                for (vector, sum) in sums.iter_mut().enumerate().take(Q::VECTORS) {
                    *sum = S::fma(S::load(p.as_ptr().add(vector * S::LANES)), v, *sum);
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(out.chunks_exact_mut(lanes)) {
            for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(S::LANES)) {
                S::store(out.as_mut_ptr(), sum);
            }
        }
    }
}

/// One vector's scores of a chunk to probabilities without their common factor; returns what sums so far are to be multiplied
/// with.
#[inline(always)]
unsafe fn softmax<S: Simd, Q: Queries>(
    scores: &mut [f32],
    vector: usize,
    highest: &mut [f32],
    totals: &mut [f32],
) -> S::V {
    let (lanes, first) = (Q::VECTORS * S::LANES, vector * S::LANES);
    let before = S::load(highest.as_ptr());
    let mut peak = before;
    for x in scores.chunks_exact(lanes) {
        peak = S::max(S::load(x[first..].as_ptr()), peak);
    }
    let fade = exp_negative::<S>(S::sub(before, peak));
    let mut total = S::mul(S::load(totals.as_ptr()), fade);
    for x in scores.chunks_exact_mut(lanes) {
        let x = x[first..].as_mut_ptr();
        let p = exp_negative::<S>(S::sub(S::load(x), peak));
        total = S::add(total, p);
        S::store(x, p);
    }
    S::store(highest.as_mut_ptr(), peak);
    S::store(totals.as_mut_ptr(), total);
    fade
}

/// [`softmax`] of one query, which has `seen` scores.
#[inline(always)]
unsafe fn softmax_alone<S: Simd>(scores: &mut [f32], seen: usize, highest: &mut f32, total: &mut f32) -> f32 {
    let peak = scores[..seen].iter().fold(*highest, |m, &x| m.max(x));
    let fade = (*highest - peak).exp();
    let whole = seen.next_multiple_of(S::LANES);
    scores[seen..whole].fill(f32::NEG_INFINITY);
    let mut sums = S::splat(0.0);
    for x in scores[..whole].chunks_exact_mut(S::LANES) {
        let p = exp_negative::<S>(S::sub(S::load(x.as_ptr()), S::splat(peak)));
        sums = S::add(sums, p);
        S::store(x.as_mut_ptr(), p);
    }
    let mut lanes = [0.0; LANES];
    S::store(lanes.as_mut_ptr(), sums);
    *total = *total * fade + lanes[..S::LANES].iter().sum::<f32>();
    *highest = peak;
    fade
}

/// [`add_values`] for one query.
#[inline(always)]
unsafe fn add_values_alone<S: Simd>(p: &[f32], v: &[f32], fade: f32, out: &mut [f32]) {
    let width = out.len();
    for x in out.chunks_exact_mut(S::LANES) {
        S::store(x.as_mut_ptr(), S::mul(S::load(x.as_ptr()), S::splat(fade)));
    }
    for (&p, v) in p.iter().zip(v.chunks_exact(width)) {
        for i in (0..width).step_by(S::LANES) {
            let x = out.as_mut_ptr().add(i);
            S::store(x, S::fma(S::load(v.as_ptr().add(i)), S::splat(p), S::load(x)));
        }
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
