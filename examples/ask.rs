//! Asks questions about a picture through the safe Rust API and streams the answers.
//!
//! `cargo run --release --example ask -- MODEL VISION PICTURE "question" ["next question" …]`

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use tinygptv::{Image, Model, ModelOptions, Session, SessionOptions};

const USAGE: &str = "usage: ask MODEL VISION PICTURE QUESTION...";

fn run(model: &Path, vision: &Path, picture: &Path, questions: &[String]) -> tinygptv::Result<()> {
    let model = Model::load(model, Some(vision), &ModelOptions::default())?;
    let mut session = Session::new(model, &SessionOptions::default())?;
    let embedding = session.add_image(&Image::open(picture)?, None)?;
    for (i, question) in questions.iter().enumerate() {
        if i > 0 {
            // A new conversation about the same picture, which needs no second encoding.
            session.reset();
            session.add_embedding(embedding.clone())?;
        }
        println!("> {question}");
        session.ask(question, &mut |piece| {
            print!("{piece}");
            std::io::stdout().flush().is_ok()
        })?;
        println!();
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "-h" || a == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let [model, vision, picture, questions @ ..] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if questions.is_empty() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    match run(Path::new(model), Path::new(vision), Path::new(picture), questions) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ask: {error}");
            ExitCode::FAILURE
        }
    }
}
