//! The functions of tgvi.h.

use std::ffi::{c_char, c_void};

use llama_cpp_sys_2 as llama;

/// `struct tgvi_context`.
#[repr(C)]
pub struct Context {
    _private: [u8; 0],
    _not_send: std::marker::PhantomData<*mut c_void>,
}

/// `struct tgvi_grammar`.
#[repr(C)]
pub struct Grammar {
    _private: [u8; 0],
    _not_send: std::marker::PhantomData<*mut c_void>,
}

/// `tgvi_sampling`.
#[repr(C)]
pub struct Sampling {
    pub greedy: bool,
    pub penalty: f32,
    pub penalty_window: i32,
    pub temperature: f32,
    pub top_k: i32,
    pub top_p: f32,
    pub min_p: f32,
    pub seed: u32,
}

/// `tgvi_compute_op`.
pub type ComputeOp = unsafe extern "C" fn(computer: *mut c_void, op: *const llama::ggml_tensor) -> i32;

extern "C" {
    pub fn tgvi_init(log_abort: unsafe extern "C" fn(*const c_char)) -> bool;
    pub fn tgvi_context_init() -> bool;
    pub fn tgvi_compute_init(op: ComputeOp) -> bool;
    pub fn tgvi_compute_part(
        op: *const llama::ggml_tensor,
        part: i32,
        parts: i32,
        memory: *mut c_void,
        size: usize,
    ) -> bool;
    pub fn tgvi_tokenize(
        model: *const llama::llama_model,
        text: *const c_char,
        length: usize,
        tokens: *mut i32,
        capacity: usize,
        error: *mut c_char,
        error_size: usize,
    ) -> i32;
    pub fn tgvi_model_load(
        path: *const c_char,
        params: *const llama::llama_model_params,
        extra_norms: bool,
        post_norm_eps: f32,
        cancelled: *mut bool,
        error: *mut c_char,
        error_size: usize,
    ) -> *mut llama::llama_model;
    pub fn tgvi_context_new(
        old: *mut Context,
        model: *mut llama::llama_model,
        params: *const llama::llama_context_params,
        error: *mut c_char,
        error_size: usize,
    ) -> *mut Context;
    pub fn tgvi_context_free(context: *mut Context);
    pub fn tgvi_context_llama(context: *mut Context) -> *mut llama::llama_context;
    pub fn tgvi_context_nodes(context: *mut Context) -> u32;
    pub fn tgvi_memory_remove(context: *mut Context, sequence: i32, from: i32) -> i32;
    pub fn tgvi_memory_copy(context: *mut Context, from: i32, to: i32) -> bool;
    pub fn tgvi_memory_clear(context: *mut Context) -> bool;
    pub fn tgvi_batch_clear(context: *mut Context);
    pub fn tgvi_batch_add_token(
        context: *mut Context,
        sequence: i32,
        token: i32,
        position: i32,
        wants_logits: bool,
    ) -> bool;
    pub fn tgvi_batch_add_embedding(
        context: *mut Context,
        sequence: i32,
        values: *const f32,
        width: usize,
        position: i32,
        wants_logits: bool,
    ) -> bool;
    pub fn tgvi_batch_process(
        context: *mut Context,
        computer: *mut c_void,
        error: *mut c_char,
        error_size: usize,
    ) -> i32;
    pub fn tgvi_sampler_new(
        with: *const Sampling,
        vocabulary: i32,
        error: *mut c_char,
        error_size: usize,
    ) -> *mut llama::llama_sampler;
    pub fn tgvi_sampler_free(sampler: *mut llama::llama_sampler);
    pub fn tgvi_sampler_choose(
        sampler: *mut llama::llama_sampler,
        candidates: *mut llama::llama_token_data,
        count: usize,
        error: *mut c_char,
        error_size: usize,
    ) -> i32;
    pub fn tgvi_sampler_accept(
        sampler: *mut llama::llama_sampler,
        token: i32,
        error: *mut c_char,
        error_size: usize,
    ) -> bool;
    pub fn tgvi_grammar_new(
        model: *const llama::llama_model,
        text: *const c_char,
        root: *const c_char,
        error: *mut c_char,
        error_size: usize,
    ) -> *mut Grammar;
    pub fn tgvi_grammar_free(grammar: *mut Grammar);
    pub fn tgvi_grammar_filter(
        grammar: *const Grammar,
        candidates: *mut llama::llama_token_data,
        count: usize,
        error: *mut c_char,
        error_size: usize,
    ) -> bool;
    pub fn tgvi_grammar_accept(grammar: *mut Grammar, token: i32, error: *mut c_char, error_size: usize) -> bool;
    pub fn tgvi_grammar_complete(grammar: *const Grammar) -> bool;
}
