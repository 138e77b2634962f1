//! Answers an app can rely on, through the safe Rust API: ranking, a list of allowed answers, and a batch of questions.
//!
//! `cargo run --release --example choose -- MODEL VISION PICTURE QUESTION ANSWER ANSWER…`

use std::path::Path;
use std::process::ExitCode;

use tinygptv::{Constraint, Image, Model, ModelOptions, RankOptions, Session, SessionOptions};

const USAGE: &str = "usage: choose MODEL VISION PICTURE QUESTION ANSWER ANSWER...";

fn run(files: [&str; 3], question: &str, answers: &[String]) -> tinygptv::Result<()> {
    let model = Model::load(Path::new(files[0]), Some(Path::new(files[1])), &ModelOptions::default())?;
    let mut session = Session::new(model, &SessionOptions::default())?;
    let picture = session.add_image(&Image::open(Path::new(files[2]))?, None)?;

    let candidates: Vec<&str> = answers.iter().map(String::as_str).collect();
    let losses = session.rank(question, &candidates, &RankOptions::default())?;
    for (loss, answer) in losses.iter().zip(answers) {
        println!("loss {loss:.3}  {answer}");
    }

    // The image still waits for a question.
    session.set_constraint(Some(&Constraint::Answers(answers.to_vec())))?;
    println!("chosen      {}", session.ask(question, &mut |_| true)?);

    session.reset();
    session.add_embedding(picture)?;
    session.set_constraint(None)?;
    let questions: Vec<String> = answers.iter().map(|a| format!("Is there a {a}?")).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    session.ask_each(&questions, &mut |i, answer, _| {
        println!("{}\n    {answer}", questions[i]);
        true
    })?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "-h" || a == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let [decoder, vision, picture, question, answers @ ..] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run([decoder, vision, picture], question, answers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("choose: {error}");
            ExitCode::FAILURE
        }
    }
}
