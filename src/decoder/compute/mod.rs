//! Computes what is worth it in llama.cpp's graphs on our own threads, with our own loops.
//!
//! llama.cpp walks its graph on the calling thread alone. Matrix products and attention are taken from it here, and large
//! element-wise operations are cut into parts that ggml's own code computes. All of it runs on a [`ThreadPool`], whose threads
//! take small tasks one by one and sleep when there are none, where ggml's spin at a barrier after every node: a neighbour
//! that takes a processor away costs its share and not a multiple of it.

mod attention;
mod best_simd;
#[cfg(target_arch = "x86_64")]
mod dequantize;
mod floats;
mod gelu;
mod kquants;
#[cfg(target_arch = "x86_64")]
mod kquants_avx2;
#[cfg(target_arch = "x86_64")]
mod kquants_avx512;
#[cfg(target_arch = "x86_64")]
mod kquants_columns;
#[cfg(target_arch = "x86_64")]
mod kquants_unpacking;
mod matmul;
#[cfg(target_arch = "x86_64")]
mod unpackers;

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use llama_cpp_sys_2 as llama;
use llama_cpp_sys_2::ggml_tensor as Tensor;

use super::bindings;
use crate::gguf::Gguf;
use crate::panics;
use crate::processors::ProcessorMask;
use crate::threads::ThreadPool;

/// Less work than this (products) is not worth a second thread.
const WORK_FOR_THREADS: usize = 1 << 17;
/// Numbers of a node from which its rows are shared out.
const SHARED_FROM: i64 = 64 << 10;
/// What ggml's code keeps between the rows of two parts, in floats.
const CACHE_LINE: usize = 16;

/// The threads and memory that a context's passes are computed with.
pub(super) struct Computer {
    pool: ThreadPool,
    /// Which way of those to unpack weights for many columns is taken, fastest first, if any.
    unpacking: Option<usize>,
    memory: UnsafeCell<Memory>,
}

/// Memory that operations use again and again.
#[derive(Default)]
struct Memory {
    /// The right-hand side of a product as its kernel wants it.
    operand: Buffer,
    /// Rows that ggml's code computes with.
    rows: Buffer,
    /// A task's own.
    tasks: TaskMemory,
}

impl Memory {
    /// At least that many bytes for each task that runs.
    fn of_tasks(&mut self, bytes: usize) -> Result<&TaskMemory, Failed> {
        for buffer in &mut self.tasks.0 {
            buffer.get_mut().unwrap_or_else(PoisonError::into_inner).bytes(bytes)?;
        }
        Ok(&self.tasks)
    }
}

/// A buffer for each thread.
#[derive(Default)]
struct TaskMemory(Vec<Mutex<Buffer>>);

impl TaskMemory {
    fn of(&self, worker: usize) -> MutexGuard<'_, Buffer> {
        self.0[worker].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory of any kind, aligned to cache lines; it only grows.
#[derive(Default)]
struct Buffer(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Buffer {
    /// At least that many bytes.
    fn bytes(&mut self, bytes: usize) -> Result<*mut u8, Failed> {
        let lines = bytes.div_ceil(64);
        if self.0.len() < lines {
            self.0.try_reserve_exact(lines - self.0.len()).map_err(|_| Failed)?;
            self.0.resize(lines, Line([0; 64]));
        }
        Ok(self.start())
    }

    fn start(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
}

/// An operation that could not be computed, for lack of memory.
struct Failed;

/// Numbers in a tensor.
fn numbers(t: &Tensor) -> i64 {
    t.ne.iter().product()
}

/// A pointer that tasks on several threads use, each its own part of what it points to.
struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: only says that the pointer may go to another thread; what is done with it there is unsafe and justified there.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// A method, so that closures capture the whole and not the pointer in it.
    fn get(self) -> *mut T {
        self.0
    }
}

/// Whether a file's matrices are multiplied faster here, as they are, than by ggml in another layout.
pub(super) fn outruns_repacking(file: &Gguf) -> bool {
    file.tensors().iter().filter(|t| t.shape.len() > 1).all(|t| matmul::outruns_ggml(t.ty.number()))
}

/// Makes llama.cpp ask for computers; once in a process. False without memory.
pub(super) fn init() -> bool {
    // SAFETY: the function has the signature of tgvi_compute_op and lives as long as the library.
    unsafe { bindings::tgvi_compute_init(compute) }
}

/// What llama.cpp calls for every node of a pass that has a computer.
unsafe extern "C" fn compute(computer: *mut c_void, op: *const Tensor) -> i32 {
    // SAFETY: the Decoder handed its computer to the pass, which is on this thread; ggml's node lives during the call.
    let (computer, op) = unsafe { (&*computer.cast::<Computer>(), &*op) };
    match panics::quietly(|| computer.compute(op)) {
        Ok(Ok(done)) => i32::from(done),
        Ok(Err(Failed)) => -1,
        Err(_) => -2,
    }
}

impl Computer {
    /// For passes on `threads` threads, bound to `processors`.
    pub(super) fn new(threads: usize, processors: ProcessorMask) -> crate::error::Result<Computer> {
        let pool = processors.run(move || ThreadPool::new(threads))?;
        let tasks = TaskMemory((0..pool.threads()).map(|_| Default::default()).collect());
        Ok(Computer { pool, unpacking: Some(0), memory: UnsafeCell::new(Memory { tasks, ..Memory::default() }) })
    }

    /// Runs a pass, which gets the pointer for `tgvi_batch_process`.
    pub(super) fn during<T>(&mut self, pass: impl FnOnce(*mut c_void) -> T) -> T {
        let _series = self.pool.series();
        pass((&raw const *self).cast_mut().cast())
    }

    /// Whether the node was computed; if not, ggml is to do it.
    fn compute(&self, op: &Tensor) -> Result<bool, Failed> {
        // SAFETY: a pass calls this from one thread, node by node, and `during` borrows the computer exclusively for it.
        let memory = unsafe { &mut *self.memory.get() };
        match op.op {
            llama::GGML_OP_MUL_MAT => matmul::compute(&self.pool, memory, op, self.unpacking),
            llama::GGML_OP_FLASH_ATTN_EXT => attention::compute(&self.pool, memory, op),
            llama::GGML_OP_UNARY if gelu::compute(&self.pool, op) => Ok(true),
            // What is written, not the whole cache, tells how large it is; memory that was not used yet takes longest.
            // SAFETY: the node has its operands.
            llama::GGML_OP_SET_ROWS if unsafe { numbers(&*op.src[0]) } < SHARED_FROM => Ok(false),
            llama::GGML_OP_ADD
            | llama::GGML_OP_MUL
            | llama::GGML_OP_NORM
            | llama::GGML_OP_RMS_NORM
            | llama::GGML_OP_SET_ROWS
            | llama::GGML_OP_UNARY => self.share_rows(op, std::ptr::null_mut(), 0),
            llama::GGML_OP_ROPE | llama::GGML_OP_SOFT_MAX => {
                let row = op.ne[0].max(0) as usize + CACHE_LINE;
                let bytes = row * self.pool.threads() * size_of::<f32>();
                let rows = memory.rows.bytes(bytes)?;
                self.share_rows(op, rows, bytes)
            }
            _ => Ok(false),
        }
    }

    fn share_rows(&self, op: &Tensor, memory: *mut u8, size: usize) -> Result<bool, Failed> {
        let parts = self.pool.threads();
        if parts == 1 || numbers(op) < SHARED_FROM {
            return Ok(false);
        }
        let (op, memory) = (Shared((&raw const *op).cast_mut()), Shared(memory));
        let failed = AtomicBool::new(false);
        self.pool.parallel_for(parts, &|part| {
            // SAFETY: the node lives; every part of it is computed once, and the memory suffices for all of them.
            let done =
                unsafe { bindings::tgvi_compute_part(op.get(), part as i32, parts as i32, memory.get().cast(), size) };
            if !done {
                failed.store(true, Ordering::Relaxed);
            }
        });
        if failed.into_inner() {
            return Err(Failed);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
