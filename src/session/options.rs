//! How a session works.

use crate::decoder::{KvType, Sampling};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::prompt::{Template, Templates};

/// The reference chat's limit on new tokens (docs/model.md, section 8).
pub(super) const DEFAULT_MAX_NEW_TOKENS: usize = 300;

/// Longest context that nobody asked for: models trained for very long ones would take all memory.
const MAX_DEFAULT_CONTEXT: usize = 4096;
/// Below this many weights a decoder's layers take less time than waking and awaiting a second thread.
const PARALLEL_PARAMETERS: u64 = 50_000_000;

/// Threads of a decoder. ggml's threads spin while they wait for each other, so more than there are processors would
/// multiply the time.
pub(super) fn decoder_threads(wanted: usize, model: &Model) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    match wanted {
        0 if model.info().decoder_parameters < PARALLEL_PARAMETERS => 1,
        0 => model.info().threads.min(processors),
        n => n.min(processors),
    }
}

/// How a session works. `Default` is right for most uses.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Positions of the context; 0 takes what the model was trained for, 4096 at most.
    pub context: usize,
    /// Threads of the decoder, no more than processors are used; 0 takes the model's, or 1 for a very small decoder.
    pub threads: usize,
    /// Prompt template by name; `None` takes the model's default.
    pub template: Option<String>,
    /// A template of the caller's own in place of a named one: one turn with `{images}` and `{question}`.
    pub template_text: Option<String>,
    /// With `template_text`: one image within `{images}`, with `{image}`; `None` takes that of the named template.
    pub image_text: Option<String>,
    /// System text in front of the first turn; `None` takes the template's own, which a `template_text` has not.
    pub system: Option<String>,
    /// Texts that end an answer, besides the model's own.
    pub stops: Vec<String>,
    /// Most tokens of an answer; 0 takes 300.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Numbers of the KV cache.
    pub kv_type: KvType,
    /// What to do when a question and its answer do not fit into the context.
    pub when_full: WhenFull,
}

/// What a session does when its context is too full for the next question and an answer of full length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// `Error::ContextFull` when the question does not fit; an answer ends where the context does.
    #[default]
    Fail,
    /// The oldest questions and answers are forgotten, their images kept; when that is not enough, the oldest images too,
    /// but never the newest one.
    DropOldest,
}

impl SessionOptions {
    /// Positions of the context, for a model trained for `trained`.
    ///
    /// # Errors
    /// `InvalidArgument` for more than that.
    pub(crate) fn context(&self, trained: usize) -> Result<usize> {
        let context = if self.context == 0 { trained.min(MAX_DEFAULT_CONTEXT) } else { self.context };
        if context > trained {
            return Err(Error::InvalidArgument(format!(
                "a context of {context} is longer than the {trained} positions this model was trained for; ask for less, or \
                 0 for all"
            )));
        }
        Ok(context)
    }

    /// The template these options ask for.
    pub(super) fn template(&self, templates: &Templates) -> Result<Template> {
        let named = templates.get(self.template.as_deref())?;
        match (&self.template_text, &self.image_text) {
            (Some(turn), image) => Template::custom(turn, image.as_deref().unwrap_or(&named.image)),
            (None, Some(_)) => {
                Err(Error::InvalidArgument("there is an image text without a template text; pass both".into()))
            }
            (None, None) => Ok(named.clone()),
        }
    }
}
