//! The linear layers of some ViT-g blocks as a ggml graph: what llama.cpp's own vision encoder spends nearly all its time on.

use std::collections::BTreeMap;
use std::ffi::{c_void, CStr};
use std::ptr::{self, NonNull};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use clap::{Args, ValueEnum};
use llama_cpp_sys_2 as llama;

use super::{seconds, unable};
use crate::protocol::{figures, Figures, Request};

/// The layers' sizes, and how they are stored.
#[derive(Args)]
pub struct Options {
    /// Type of the weights.
    #[arg(long = "type")]
    ty: Type,
    /// Width of the encoder.
    #[arg(long)]
    width: usize,
    /// Width of its feed-forward layers.
    #[arg(long)]
    mlp: usize,
    /// Side of a patch in pixels.
    #[arg(long)]
    patch: u32,
    /// Blocks to compute.
    #[arg(long)]
    blocks: usize,
    /// Blocks of the encoder: the time is scaled to them.
    #[arg(long)]
    of_blocks: usize,
    /// Threads.
    #[arg(long)]
    threads: usize,
}

/// Types of ggml worth comparing with.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Type {
    Bf16,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
}

impl Type {
    fn number(self) -> llama::ggml_type {
        match self {
            Type::Bf16 => llama::GGML_TYPE_BF16,
            Type::F16 => llama::GGML_TYPE_F16,
            Type::Q8_0 => llama::GGML_TYPE_Q8_0,
            Type::Q4_0 => llama::GGML_TYPE_Q4_0,
        }
    }
}

/// One allocation of ggml's, freed by its own function.
struct Owned<T> {
    pointer: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(pointer: *mut T, free: unsafe extern "C" fn(*mut T), what: &str) -> Result<Owned<T>> {
        let pointer = NonNull::new(pointer).with_context(|| format!("ggml cannot make {what}"))?;
        Ok(Owned { pointer, free })
    }

    fn get(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came with this function and is freed once.
        unsafe { (self.free)(self.pointer.as_ptr()) };
    }
}

pub struct Ggml<'a> {
    options: &'a Options,
    buffer_name: String,
    /// Graph by number of tokens. Dropped before what it points to.
    graph: Option<(usize, Graph)>,
    layers: Vec<*mut llama::ggml_tensor>,
    _weights: Owned<llama::ggml_backend_buffer>,
    _context: Owned<llama::ggml_context>,
    backend: Owned<llama::ggml_backend>,
    _pool: Owned<llama::ggml_threadpool>,
}

struct Graph {
    graph: *mut llama::ggml_cgraph,
    _allocator: Owned<llama::ggml_gallocr>,
    _context: Owned<llama::ggml_context>,
}

/// A context that holds the descriptions of `tensors` tensors and a graph.
fn new_context(tensors: usize) -> Result<Owned<llama::ggml_context>> {
    // SAFETY: plain data.
    let context = unsafe {
        llama::ggml_init(llama::ggml_init_params {
            mem_size: llama::ggml_tensor_overhead() * tensors + llama::ggml_graph_overhead(),
            mem_buffer: ptr::null_mut(),
            no_alloc: true,
        })
    };
    Owned::new(context, llama::ggml_free, "a context")
}

/// Inputs and outputs of a block's layers: q, k and v in one; out; up; down.
fn shapes(options: &Options) -> [(usize, usize); 4] {
    let (width, mlp) = (options.width, options.mlp);
    [(width, 3 * width), (width, width), (width, mlp), (mlp, width)]
}

/// Numbers without a pattern, spread as of a layer that keeps its input's size.
fn weights(inputs: usize, outputs: usize) -> Vec<f32> {
    let mut state = 1u32;
    let scale = (3.0 / inputs as f32).sqrt();
    (0..inputs * outputs)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
        })
        .collect()
}

/// Where llama.cpp would put such weights: the first of the processor's special buffers (which rearrange them) that can
/// multiply them, otherwise plain memory.
fn buffer_type(device: llama::ggml_backend_dev_t, options: &Options) -> Result<llama::ggml_backend_buffer_type_t> {
    // SAFETY: the device is ggml's own, the name terminated, and the function has this type by ggml's contract.
    let special = unsafe {
        let registry = llama::ggml_backend_dev_backend_reg(device);
        let found = llama::ggml_backend_reg_get_proc_address(registry, c"ggml_backend_dev_get_extra_bufts".as_ptr());
        let get: llama::ggml_backend_dev_get_extra_bufts_t =
            std::mem::transmute::<*mut c_void, llama::ggml_backend_dev_get_extra_bufts_t>(found);
        get.map_or(ptr::null_mut(), |get| get(device))
    };
    let mut at = special;
    // SAFETY: a list that ends with null.
    while !at.is_null() && unsafe { !(*at).is_null() } {
        // SAFETY: as above.
        let buffer_type = unsafe { *at };
        let mut usable = true;
        for (inputs, outputs) in shapes(options) {
            let context = new_context(4)?;
            // SAFETY: the context has room for these descriptions; an empty buffer is enough to ask with, as llama.cpp does.
            usable &= unsafe {
                let w = llama::ggml_new_tensor_2d(context.get(), options.ty.number(), inputs as i64, outputs as i64);
                let x = llama::ggml_new_tensor_2d(context.get(), llama::GGML_TYPE_F32, inputs as i64, 512);
                let y = llama::ggml_mul_mat(context.get(), w, x);
                let buffer = Owned::new(
                    llama::ggml_backend_buft_alloc_buffer(buffer_type, 0),
                    llama::ggml_backend_buffer_free,
                    "an empty buffer",
                )?;
                (*w).buffer = buffer.get();
                llama::ggml_backend_dev_supports_op(device, y)
            };
        }
        if usable {
            return Ok(buffer_type);
        }
        // SAFETY: the list's end was not reached.
        at = unsafe { at.add(1) };
    }
    // SAFETY: the device is ggml's own.
    Ok(unsafe { llama::ggml_backend_dev_buffer_type(device) })
}

impl<'a> Ggml<'a> {
    pub fn new(options: &'a Options) -> Result<Ggml<'a>> {
        let threads = i32::try_from(options.threads)?;
        ensure!(options.blocks >= 1 && options.blocks <= options.of_blocks, "--blocks must be 1 to --of-blocks");
        // SAFETY: plain calls; every result is checked and owned.
        let (device, backend, pool) = unsafe {
            let device = llama::ggml_backend_dev_by_type(llama::GGML_BACKEND_DEVICE_TYPE_CPU);
            ensure!(!device.is_null(), "ggml has no CPU backend");
            let backend = llama::ggml_backend_dev_init(device, ptr::null());
            let backend = Owned::new(backend, llama::ggml_backend_free, "its CPU backend")?;
            let mut params = llama::ggml_threadpool_params_default(threads);
            let pool = llama::ggml_threadpool_new(&mut params);
            let pool = Owned::new(pool, llama::ggml_threadpool_free, "its threads")?;
            llama::ggml_backend_cpu_set_n_threads(backend.get(), threads);
            llama::ggml_backend_cpu_set_threadpool(backend.get(), pool.get());
            (device, backend, pool)
        };
        let buffer_type = buffer_type(device, options)?;
        // SAFETY: a static text of ggml's.
        let buffer_name = unsafe { CStr::from_ptr(llama::ggml_backend_buft_name(buffer_type)) };
        let context = new_context(4 * options.blocks)?;
        let shapes = shapes(options);
        // SAFETY: the context has room for these descriptions.
        let layers: Vec<_> = (0..4 * options.blocks)
            .map(|i| unsafe {
                let (inputs, outputs) = shapes[i % 4];
                llama::ggml_new_tensor_2d(context.get(), options.ty.number(), inputs as i64, outputs as i64)
            })
            .collect();
        // SAFETY: the context and the buffer type are alive.
        let buffer = unsafe { llama::ggml_backend_alloc_ctx_tensors_from_buft(context.get(), buffer_type) };
        let buffer = Owned::new(buffer, llama::ggml_backend_buffer_free, "room for the weights")?;
        for (i, (inputs, outputs)) in shapes.into_iter().enumerate() {
            let values = weights(inputs, outputs);
            // SAFETY: the destination has room for whole rows of the type; the tensors have these sizes.
            unsafe {
                let mut stored = vec![0u8; llama::ggml_row_size(options.ty.number(), inputs as i64) * outputs];
                llama::ggml_quantize_chunk(
                    options.ty.number(),
                    values.as_ptr(),
                    stored.as_mut_ptr().cast(),
                    0,
                    outputs as i64,
                    inputs as i64,
                    ptr::null(),
                );
                for layer in layers.iter().skip(i).step_by(4) {
                    llama::ggml_backend_tensor_set(*layer, stored.as_ptr().cast(), 0, stored.len());
                }
            }
        }
        Ok(Ggml {
            options,
            buffer_name: buffer_name.to_string_lossy().into_owned(),
            graph: None,
            layers,
            _weights: buffer,
            _context: context,
            backend,
            _pool: pool,
        })
    }

    pub fn about(&self) -> BTreeMap<String, String> {
        let mut about = super::llama::about();
        about.insert("buffer".to_owned(), self.buffer_name.clone());
        about.insert("blocks".to_owned(), format!("{} of {}", self.options.blocks, self.options.of_blocks));
        about
    }

    /// The graph for so many tokens. What comes out of q, k and v is computed and not used: attention is no linear layer.
    fn build(&self, tokens: usize) -> Result<Graph> {
        let context = new_context(4 * self.options.blocks + 1)?;
        // SAFETY: the context has room for these descriptions, the tensors and the backend are alive.
        unsafe {
            let graph = llama::ggml_new_graph(context.get());
            let width = self.options.width as i64;
            let input = llama::ggml_new_tensor_2d(context.get(), llama::GGML_TYPE_F32, width, tokens as i64);
            llama::ggml_set_input(input);
            // Or its memory would be used again, and the next run would start from something else.
            llama::ggml_set_output(input);
            let mut x = input;
            for block in self.layers.chunks_exact(4) {
                let qkv = llama::ggml_mul_mat(context.get(), block[0], x);
                llama::ggml_build_forward_expand(graph, qkv);
                for layer in &block[1..] {
                    x = llama::ggml_mul_mat(context.get(), *layer, x);
                    llama::ggml_build_forward_expand(graph, x);
                }
            }
            let buffer_type = llama::ggml_backend_get_default_buffer_type(self.backend.get());
            let allocator = llama::ggml_gallocr_new(buffer_type);
            let allocator = Owned::new(allocator, llama::ggml_gallocr_free, "an allocator")?;
            ensure!(llama::ggml_gallocr_alloc_graph(allocator.get(), graph), "ggml has no memory for the graph");
            let values: Vec<f32> = weights(self.options.width, tokens).iter().map(|w| w * 20.0).collect();
            llama::ggml_backend_tensor_set(input, values.as_ptr().cast(), 0, values.len() * 4);
            Ok(Graph { graph, _allocator: allocator, _context: context })
        }
    }

    pub fn perform(&mut self, request: &Request) -> Result<Figures> {
        let Request::Encode { side } = *request else { return unable(request) };
        let grid = (side / self.options.patch) as usize;
        let tokens = 1 + grid * grid;
        if self.graph.as_ref().is_none_or(|(known, _)| *known != tokens) {
            self.graph = None;
            self.graph = Some((tokens, self.build(tokens)?));
        }
        let (_, graph) = self.graph.as_ref().context("the graph was just made")?;
        let start = Instant::now();
        // SAFETY: the graph and all it points to are alive.
        let status = unsafe { llama::ggml_backend_graph_compute(self.backend.get(), graph.graph) };
        let taken = seconds(start);
        ensure!(status == llama::GGML_STATUS_SUCCESS, "ggml returned {status}");
        Ok(figures([("seconds", taken * self.options.of_blocks as f64 / self.options.blocks as f64)]))
    }
}
