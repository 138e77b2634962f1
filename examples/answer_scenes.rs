//! Answers a file of questions about pictures, one conversation a question, greedily: the library's half of `make accuracy`.
//!
//! `cargo run --release --example answer_scenes -- DECODER VISION DIR OUT.jsonl`
//!
//! DIR is what `tests/reference/eval_scenes.py` wrote. OUT gets a line `{"answer": …}` for each line of DIR/questions.jsonl.

use std::error::Error;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tinygptv::vision::Control;
use tinygptv::{Embedding, Image, Model, ModelOptions, Session, SessionOptions};

const USAGE: &str = "usage: answer_scenes DECODER VISION DIR OUT.jsonl";

/// The reference's limit (tests/reference/answer.py).
const MAX_NEW_TOKENS: usize = 64;

/// A line that is written over again and again, on a terminal only.
struct Progress {
    total: usize,
    shown: bool,
}

impl Progress {
    fn show(&self, done: usize) {
        if self.shown {
            eprint!("\r{done} of {} questions", self.total);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            eprintln!();
        }
    }
}

fn run(decoder: &Path, vision: &Path, dir: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let list = dir.join("questions.jsonl");
    let lines = std::fs::read_to_string(&list).map_err(|e| format!("cannot read '{}': {e}", list.display()))?;
    // The demo model is too small to share among threads: on a busy machine they would mostly wait for each other.
    let model = Model::load(decoder, Some(vision), &ModelOptions { threads: 1, ..ModelOptions::default() })?;
    let options = SessionOptions { max_new_tokens: MAX_NEW_TOKENS, ..SessionOptions::default() };
    let mut session = Session::new(model.clone(), &options)?;
    let file = std::fs::File::create(out).map_err(|e| format!("cannot write '{}': {e}", out.display()))?;
    let mut file = BufWriter::new(file);

    let progress = Progress { total: lines.lines().count(), shown: std::io::stderr().is_terminal() };
    // Questions about one picture stand together.
    let mut picture: Option<(String, Arc<Embedding>)> = None;
    for (i, line) in lines.lines().enumerate() {
        let record: serde_json::Value = serde_json::from_str(line)?;
        let field = |key: &str| {
            record[key].as_str().ok_or_else(|| format!("'{}', line {}: no text \"{key}\"", list.display(), i + 1))
        };
        let (name, question) = (field("image")?, field("question")?);
        let embedding = match &picture {
            Some((known, embedding)) if known == name => embedding.clone(),
            _ => model.encode(&Image::open(&dir.join(name))?, Control::default())?,
        };
        picture = Some((name.to_owned(), embedding.clone()));
        session.reset();
        session.add_embedding(embedding)?;
        let answer = session.ask(question, &mut |_| true)?;
        writeln!(file, "{}", serde_json::json!({ "answer": answer }))?;
        progress.show(i + 1);
    }
    file.flush()?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "-h" || a == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let [decoder, vision, dir, out] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(Path::new(decoder), Path::new(vision), Path::new(dir), Path::new(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("answer_scenes: {error}");
            ExitCode::FAILURE
        }
    }
}
