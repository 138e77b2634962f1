//! A Phi-2 without TinyGPT-V's norms, made by other people's code: this library, llama.cpp by itself and transformers agree
//! on its logits.

mod common;

use std::ffi::CString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};

use common::{difference, golden, ids, read_f32, read_json, text, TempDir};
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use tinygptv::decoder::{Decoder, DecoderModel, DecoderOptions, Kernels, KvType, LoadOptions, Slot};
use tinygptv::gguf::Gguf;
use tinygptv::{Model, ModelOptions};

static BACKEND: LazyLock<LlamaBackend> = LazyLock::new(|| {
    let mut backend = LlamaBackend::init().expect("nobody else in this program");
    backend.void_logs();
    backend
});
const CONTEXT: usize = 128;
/// llama.cpp's own threads would spin beside whatever else runs.
const THREADS: usize = 1;

/// ggml's file types.
const F32: u32 = 0;
const F16: u32 = 1;
const Q4_0: u32 = 2;
const Q8_0: u32 = 7;

fn stock() -> PathBuf {
    golden("stock_phi2/stock.gguf")
}

fn prompt() -> Vec<i32> {
    ids(&read_json(&golden("stock_phi2/logits.json"))["ids"])
}

/// The committed file, whose Q8_0 holds every weight exactly, in another type by llama.cpp's own quantiser.
fn requantized(dir: &TempDir, file_type: u32) -> PathBuf {
    let path = dir.join(&format!("stock-{file_type}.gguf"));
    quantize(&stock(), &path, file_type);
    path
}

fn quantize(from: &Path, to: &Path, file_type: u32) {
    LazyLock::force(&BACKEND);
    let c = |path: &Path| CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: plain data, and texts that live during the call.
    let failed = unsafe {
        let mut params = llama_cpp_sys_2::llama_model_quantize_default_params();
        params.ftype = file_type;
        params.allow_requantize = true;
        params.nthread = 1;
        llama_cpp_sys_2::llama_model_quantize(c(from).as_ptr(), c(to).as_ptr(), &params)
    };
    assert_eq!(failed, 0, "{}", to.display());
}

/// The logits after each beginning of the prompt, each evaluated in one batch of its own, and then after each token that is
/// appended.
struct Logits {
    beginnings: Vec<Vec<f32>>,
    appended: Vec<Vec<f32>>,
}

fn ours(path: &Path, kv_type: KvType) -> Logits {
    let gguf = Gguf::open(path).expect("a GGUF file");
    let model = Arc::new(DecoderModel::load(&gguf, &LoadOptions::default(), &mut |_| true).expect("a model"));
    assert!(!model.info().extra_norms);
    let options = DecoderOptions { capacity: CONTEXT, threads: THREADS, kv_type, kernels: Kernels::Ggml };
    let mut decoder = Decoder::new(model, &options, Arc::new(AtomicBool::new(false))).expect("a context");
    let slots: Vec<Slot> = prompt().into_iter().map(Slot::Token).collect();
    let beginnings = (1..=slots.len()).map(|n| {
        decoder.truncate(0);
        decoder.evaluate(&slots[..n]).expect("logits");
        decoder.logits().to_vec()
    });
    let beginnings = beginnings.collect();
    decoder.truncate(0);
    let appended = slots.iter().map(|slot| {
        let Slot::Token(token) = slot else { unreachable!("a prompt of tokens") };
        decoder.append(*token).expect("logits");
        decoder.logits().to_vec()
    });
    Logits { appended: appended.collect(), beginnings }
}

/// llama.cpp's own model, by llama-cpp-2's defaults: weights of some types are repacked, and summed up in another order.
fn plain(path: &Path) -> LlamaModel {
    LlamaModel::load_from_file(&BACKEND, path, &LlamaModelParams::default()).expect("a model")
}

/// The same without repacking, as this library loads models; llama-cpp-2 has no switch for that.
fn in_place(path: &Path) -> LlamaModel {
    LazyLock::force(&BACKEND);
    let path = CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: plain data, and a text that lives during the call.
    let model = unsafe {
        let mut params = llama_cpp_sys_2::llama_model_default_params();
        params.use_extra_bufts = false;
        llama_cpp_sys_2::llama_model_load_from_file(path.as_ptr(), params)
    };
    let model = NonNull::new(model).expect("a model");
    // SAFETY: LlamaModel is a transparent wrapper of this pointer (its crate is pinned exactly) and frees it on drop.
    unsafe { std::mem::transmute::<NonNull<llama_cpp_sys_2::llama_model>, LlamaModel>(model) }
}

/// The same by llama.cpp's own graph, through nobody's code but llama-cpp-2's.
fn llama_cpp(model: &LlamaModel, kv_type: KvType) -> Logits {
    let mut params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(CONTEXT as u32))
        .with_n_batch(CONTEXT as u32)
        .with_n_ubatch(CONTEXT as u32)
        .with_n_threads(THREADS as i32)
        .with_n_threads_batch(THREADS as i32);
    if kv_type == KvType::F32 {
        params = params
            .with_type_k(KvCacheType::F32)
            .with_type_v(KvCacheType::F32)
            .with_flash_attention_policy(llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED);
    }
    let mut context = model.new_context(&BACKEND, params).expect("a context");
    let tokens: Vec<LlamaToken> = prompt().into_iter().map(LlamaToken).collect();
    let mut batch = LlamaBatch::new(CONTEXT, 1);
    let mut evaluate = |first: usize, tokens: &[LlamaToken]| {
        if first == 0 {
            context.clear_kv_cache();
        }
        batch.clear();
        for (i, token) in tokens.iter().enumerate() {
            let last = i + 1 == tokens.len();
            batch.add(*token, (first + i) as i32, &[0], last).expect("room");
        }
        context.decode(&mut batch).expect("logits");
        context.get_logits_ith(tokens.len() as i32 - 1).to_vec()
    };
    let beginnings = (1..=tokens.len()).map(|n| evaluate(0, &tokens[..n])).collect();
    let appended = (0..tokens.len()).map(|i| evaluate(i, &tokens[i..=i])).collect();
    Logits { beginnings, appended }
}

fn assert_same(what: &str, path: &Path, model: &LlamaModel) {
    for kv_type in [KvType::F16, KvType::F32] {
        let (a, b) = (ours(path, kv_type), llama_cpp(model, kv_type));
        for (how, a, b) in [("whole", a.beginnings, b.beginnings), ("one by one", a.appended, b.appended)] {
            assert_eq!(a.len(), prompt().len());
            for (i, (a, b)) in a.iter().zip(&b).enumerate() {
                assert!(a.iter().all(|l| l.is_finite()));
                assert!(a == b, "{what}, {kv_type:?}, {how}, position {i}: {:?}", difference(a, b));
            }
        }
    }
}

#[test]
fn logits_are_llama_cpp_s_bit_for_bit() {
    let dir = TempDir::new("stock-phi2-types");
    assert_same("as converted", &stock(), &in_place(&stock()));
    for file_type in [F32, F16, Q8_0, Q4_0] {
        let path = requantized(&dir, file_type);
        assert_same(&format!("quantised to {file_type}"), &path, &in_place(&path));
    }
}

#[test]
fn logits_are_those_of_llama_cpp_s_defaults() {
    let dir = TempDir::new("stock-phi2-defaults");
    for file_type in [F32, F16] {
        let path = requantized(&dir, file_type);
        assert_same(&format!("type {file_type}"), &path, &plain(&path));
    }
}

#[test]
fn the_quantiser_s_q8_0_is_the_converter_s() {
    // Both are exact, so going through F32 and back changes nothing.
    let dir = TempDir::new("stock-phi2-q8_0");
    let again = dir.join("again.gguf");
    quantize(&requantized(&dir, F32), &again, Q8_0);
    let (first, again) = (Gguf::open(&stock()).expect("a file"), Gguf::open(&again).expect("a file"));
    assert_eq!(first.tensors().len(), 33);
    for t in first.tensors() {
        let bytes = |file: &Gguf| file.tensor(&t.name, &t.shape).expect("the same tensor").bytes().to_vec();
        assert!(bytes(&first) == bytes(&again), "{}", t.name);
    }
}

/// Worst relative difference (of norms) from transformers' logits over all positions.
fn worst(logits: &[Vec<f32>]) -> f64 {
    let json = read_json(&golden("stock_phi2/logits.json"));
    let (positions, vocabulary) = (prompt().len(), json["shape"][1].as_u64().expect("a size") as usize);
    let golden = read_f32(&golden("stock_phi2/logits.f32"));
    assert_eq!((golden.len(), logits.len()), (positions * vocabulary, positions));
    logits.iter().zip(golden.chunks(vocabulary)).map(|(a, b)| difference(a, b).relative).fold(0.0, f64::max)
}

#[test]
fn logits_are_those_of_transformers() {
    let dir = TempDir::new("stock-phi2-transformers");
    let check = |path: &Path, kv_type: KvType, limit: f64| {
        let logits = ours(path, kv_type);
        for (how, worst) in [("whole", worst(&logits.beginnings)), ("one by one", worst(&logits.appended))] {
            assert!(worst < limit, "{}, {kv_type:?}, {how}: {worst:.2e}", path.display());
        }
    };
    // ggml looks GELU up in a table of half precision.
    check(&requantized(&dir, F32), KvType::F32, 1e-3);
    check(&requantized(&dir, F16), KvType::F16, 2e-3);
    check(&stock(), KvType::F16, 3e-2);
}

#[test]
fn the_tokenizer_is_the_one_it_was_made_with() {
    let json = read_json(&golden("stock_phi2/logits.json"));
    let options = ModelOptions { threads: 1, ..ModelOptions::default() };
    let model = Model::load(&stock(), None, &options).expect("a model");
    assert!(!model.tokenizer().is_fallback());
    assert_eq!(model.tokenizer().encode(text(&json, "text")).expect("ids"), prompt());
}

#[test]
fn a_decoder_with_the_extra_norms_is_never_taken_for_a_stock_one() {
    let path = common::decoder_file("f16");
    let gguf = Gguf::open(&path).expect("the demo decoder");
    let model = DecoderModel::load(&gguf, &LoadOptions::default(), &mut |_| true).expect("a model");
    assert!(model.info().extra_norms);
    // llama.cpp's own graph has no place for them, and says so rather than leaving them out.
    let refused = LlamaModel::load_from_file(&BACKEND, &path, &LlamaModelParams::default());
    assert!(refused.is_err(), "the demo decoder is a stock Phi-2 to llama.cpp");
}
