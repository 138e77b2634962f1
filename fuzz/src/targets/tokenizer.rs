//! Tokenizers: texts come back from their tokens.

use std::sync::{Arc, OnceLock};

use tinygptv::Model;

use crate::model;

/// The only token of the tiny vocabulary that stands for no bytes.
const END: &str = "<|endoftext|>";

/// The tiny decoder with a split pattern that our own tokenizer leaves to llama.cpp.
fn fallback() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| {
        let mut bytes = std::fs::read(&model::tiny().decoder).expect("the tiny decoder");
        let at = bytes.windows(5).position(|w| w == b"phi-2").expect("its split pattern");
        bytes[at..at + 5].copy_from_slice(b"qwen2");
        let file = model::file(&bytes);
        let model = Model::load(file.path(), None, &model::options()).expect("it loads");
        assert!(model.tokenizer().is_fallback());
        model
    })
}

/// Encodes the input's text with both tokenizers and decodes it again.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let wanted = text.replace(END, "");
    for model in [model::loaded(), fallback()] {
        let Ok(ids) = model.tokenizer().encode(&text) else {
            assert!(model.tokenizer().is_fallback(), "every text has tokens");
            continue;
        };
        assert!(ids.iter().all(|&id| (0..model.info().vocabulary as i32).contains(&id)), "{ids:?}");
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| model.tokenizer().token_bytes(id)).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), wanted);
    }
}
