//! One answer as it comes into being: logits in, tokens and text out.

use super::statistics::Finish;
use crate::decoder::{Grammar, Sampler};
use crate::error::Result;
use crate::model::Model;
use crate::stream::AnswerStream;

/// An answer that is being generated.
pub(super) struct Answering<'m> {
    model: &'m Model,
    sampler: Sampler,
    grammar: Option<Grammar>,
    stream: AnswerStream,
    max_new_tokens: usize,
    /// Each token, and the bytes of text seen after it.
    tokens: Vec<(i32, usize)>,
    text: String,
    generated: usize,
}

/// What to do after a token was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    /// Evaluate this token, then step again with the logits after it.
    Next(i32),
    /// The answer is over.
    Done(Finish),
}

/// A finished answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub text: String,
    /// Tokens that stay in the conversation: those before the stop text.
    pub kept: Vec<i32>,
    /// End of the answer that shares a token with the stop text.
    pub carry: String,
    pub generated: usize,
    pub finish: Finish,
}

impl<'m> Answering<'m> {
    pub(super) fn new(
        model: &'m Model,
        sampler: Sampler,
        grammar: Option<Grammar>,
        stops: &[String],
        max_new_tokens: usize,
    ) -> Answering<'m> {
        Answering {
            model,
            sampler,
            grammar,
            stream: AnswerStream::new(stops),
            max_new_tokens,
            tokens: Vec::new(),
            text: String::new(),
            generated: 0,
        }
    }

    /// Chooses the next token. `on_text` gets the text that became certain with it and returns whether to go on.
    pub(super) fn step(&mut self, logits: &[f32], on_text: &mut dyn FnMut(&str) -> bool) -> Result<Step> {
        let Some(token) = self.sampler.sample(logits, self.grammar.as_ref())? else {
            // A whole text of the grammar, and a vocabulary without a token that ends an answer; or one that cannot write it.
            return match &self.grammar {
                Some(grammar) if grammar.is_complete() => Ok(Step::Done(Finish::Stop)),
                _ => Err(crate::error::Error::InvalidArgument(
                    "the grammar asks for a text that this model's vocabulary cannot write".into(),
                )),
            };
        };
        self.generated += 1;
        if self.model.decoder().is_end_of_generation(token) {
            return Ok(Step::Done(Finish::Stop));
        }
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token)?;
        }
        let piece = self.stream.push(&self.model.tokenizer().token_bytes(token));
        self.tokens.push((token, self.stream.seen().len()));
        if !self.deliver(&piece.text, on_text) {
            return Ok(Step::Done(Finish::Callback));
        }
        if piece.stopped {
            return Ok(Step::Done(Finish::Stop));
        }
        if self.generated >= self.max_new_tokens {
            return Ok(Step::Done(Finish::Length));
        }
        Ok(Step::Next(token))
    }

    /// Tokens generated so far.
    pub(super) fn generated(&self) -> usize {
        self.generated
    }

    /// Ends the answer for this reason.
    pub(super) fn finish(mut self, finish: Finish, on_text: &mut dyn FnMut(&str) -> bool) -> Answer {
        if finish != Finish::Callback {
            let rest = self.stream.finish();
            self.deliver(&rest, on_text);
        }
        let end = self.stream.stopped_at().unwrap_or(usize::MAX);
        let kept: Vec<i32> = self.tokens.iter().take_while(|t| t.1 <= end).map(|t| t.0).collect();
        let carry = match self.stream.stopped_at() {
            Some(end) => {
                let kept_text = kept.len().checked_sub(1).map_or(0, |i| self.tokens[i].1);
                self.stream.seen()[kept_text..end].to_owned()
            }
            None => String::new(),
        };
        Answer { text: self.text, kept, carry, generated: self.generated, finish }
    }

    fn deliver(&mut self, text: &str, on_text: &mut dyn FnMut(&str) -> bool) -> bool {
        if text.is_empty() {
            return true;
        }
        self.text.push_str(text);
        on_text(text)
    }
}
