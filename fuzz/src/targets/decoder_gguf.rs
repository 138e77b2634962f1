//! Decoder files: validating, planning, loading through llama.cpp, answering.

use tinygptv::{Error, Model, Session, SessionOptions};

use crate::model;

/// Weights are zeros behind the input: nothing but the header is fuzzed.
const WEIGHTS: u64 = 1 << 23;

/// Loads the input as a decoder file and, if it loads, asks it something.
pub fn run(input: &[u8]) {
    let file = model::file_with_hole(input, WEIGHTS);
    let options = SessionOptions { context: 64, max_new_tokens: 2, ..SessionOptions::default() };
    let _ = tinygptv::plan::plan(file.path(), None, &model::options(), &options);
    let model = match Model::load(file.path(), None, &model::options()) {
        Ok(model) => model,
        Err(Error::Internal(text)) => panic!("a decoder file shows a defect: {text}"),
        Err(_) => return,
    };
    let Ok(mut session) = Session::new(model, &options) else { return };
    if let Err(Error::Internal(text)) = session.ask("a the ### 🔴\n", &mut |_| true) {
        panic!("an answer shows a defect: {text}");
    }
}
