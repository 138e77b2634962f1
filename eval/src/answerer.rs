//! Picture and question → answer: what the runner needs of a model, and the model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{anyhow, Result};
use tinygptv::session::RankOptions;
use tinygptv::vision::Control;
use tinygptv::{Embedding, Error, Image, Model, ModelOptions, Session, SessionOptions};

/// The paper's scripts generate at most that many tokens.
pub const MAX_NEW_TOKENS: usize = 20;
/// Positions for a prompt and its answer. The longest texts, of memes, take a few hundred.
const CONTEXT: usize = 1024;

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// This item cannot be answered: its picture, or its text.
    Item(String),
    /// No item can.
    Run(anyhow::Error),
}

/// What answers questions.
pub trait Answerer {
    /// Generates an answer, trimmed and without what follows its end.
    fn answer(&mut self, picture: &Path, question: &str) -> Result<String, Failure>;

    /// The loss of each candidate as an answer; lower is likelier.
    fn rank(&mut self, picture: &Path, question: &str, candidates: &[String]) -> Result<Vec<f32>, Failure>;
}

/// A model with the paper's settings: greedy, at most [`MAX_NEW_TOKENS`].
pub struct ModelAnswerer {
    model: Arc<Model>,
    session: Session,
    /// The picture of the last question. Items come grouped by picture, so one is enough.
    picture: Option<(PathBuf, Arc<Embedding>)>,
}

impl ModelAnswerer {
    /// Loads a model; `threads` 0 takes what the system offers.
    ///
    /// # Errors
    /// Files that are no pair of a decoder and a vision file, or a vision file without the prompt template.
    pub fn load(decoder: &Path, vision: &Path, template: &str, threads: usize) -> Result<ModelAnswerer> {
        let model = Model::load(decoder, Some(vision), &ModelOptions { threads, ..ModelOptions::default() })?;
        let options = SessionOptions {
            context: CONTEXT.min(model.info().context_length),
            template: Some(template.to_owned()),
            max_new_tokens: MAX_NEW_TOKENS,
            ..SessionOptions::default()
        };
        let session = Session::new(model.clone(), &options)?;
        Ok(ModelAnswerer { model, session, picture: None })
    }

    /// Makes the session look at a picture and nothing else.
    fn look_at(&mut self, path: &Path) -> Result<(), Failure> {
        let embedding = match &self.picture {
            Some((known, embedding)) if known == path => embedding.clone(),
            _ => {
                let encoded = Image::open(path).and_then(|image| self.model.encode(&image, Control::default()));
                let embedding = encoded.map_err(failure)?;
                self.picture = Some((path.to_owned(), embedding.clone()));
                embedding
            }
        };
        self.session.reset();
        self.session.add_embedding(embedding).map_err(failure)
    }
}

impl Answerer for ModelAnswerer {
    fn answer(&mut self, picture: &Path, question: &str) -> Result<String, Failure> {
        self.look_at(picture)?;
        let answer = self.session.ask(question, &mut |_| true).map_err(failure)?;
        Ok(answer.trim().to_owned())
    }

    fn rank(&mut self, picture: &Path, question: &str, candidates: &[String]) -> Result<Vec<f32>, Failure> {
        self.look_at(picture)?;
        let candidates: Vec<&str> = candidates.iter().map(String::as_str).collect();
        let losses = self.session.rank(question, &candidates, &RankOptions::default()).map_err(failure)?;
        if losses.len() != candidates.len() || losses.iter().any(|l| !l.is_finite()) {
            return Err(Failure::Run(anyhow!("the model's losses {losses:?} are no ranking")));
        }
        Ok(losses)
    }
}

/// Tells what is wrong with an item from what is wrong with the model.
fn failure(error: Error) -> Failure {
    match error {
        Error::Io { .. } | Error::BadImage(_) | Error::ImageTooLarge(_) | Error::ContextFull { .. } => {
            Failure::Item(error.to_string())
        }
        other => Failure::Run(other.into()),
    }
}
