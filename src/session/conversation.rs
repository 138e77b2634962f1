//! A conversation as turns, and the decoder positions it stands for.

use std::sync::Arc;

use crate::decoder::Slot;
use crate::embedding::Embedding;
use crate::error::Result;
use crate::prompt::{Segment, Template};
use crate::tokenizer::Tokenizer;

/// One question with its images and its answer.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub images: Vec<Arc<Embedding>>,
    pub question: String,
    /// Tokens of the answer before the stop text.
    pub answer: Vec<i32>,
    /// End of the answer that shares a token with the stop text: it goes in front of the next turn.
    pub carry: String,
}

/// Turns in order, written by one template.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    template: Template,
    system: String,
    turns: Vec<Turn>,
    /// What the turns stand for in the decoder.
    slots: Vec<Slot>,
}

impl Conversation {
    pub(super) fn new(template: Template, system: String) -> Conversation {
        Conversation { template, system, turns: Vec::new(), slots: Vec::new() }
    }

    pub(super) fn clear(&mut self) {
        self.turns.clear();
        self.slots.clear();
    }

    /// Positions of all turns.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// The conversation with a further question, up to where its answer starts.
    pub(super) fn prompt(&self, tokenizer: &Tokenizer, images: &[Arc<Embedding>], question: &str) -> Result<Vec<Slot>> {
        let mut slots = self.slots.clone();
        slots.extend(self.question_slots(tokenizer, self.turns.last(), images, question)?);
        Ok(slots)
    }

    /// Adds a turn whose prompt and answer stand for `slots`, the earlier turns included.
    pub(super) fn push(&mut self, turn: Turn, slots: Vec<Slot>) {
        self.turns.push(turn);
        self.slots = slots;
    }

    /// Forgets the oldest turn. Its images go to the turn after it, or are returned when there is none.
    pub(super) fn drop_oldest(&mut self, tokenizer: &Tokenizer) -> Result<Vec<Arc<Embedding>>> {
        let mut images = self.turns.remove(0).images;
        if let Some(next) = self.turns.first_mut() {
            images.append(&mut next.images);
            next.images = std::mem::take(&mut images);
        }
        let mut slots = Vec::new();
        for (i, turn) in self.turns.iter().enumerate() {
            let before = i.checked_sub(1).map(|i| &self.turns[i]);
            slots.extend(self.question_slots(tokenizer, before, &turn.images, &turn.question)?);
            slots.extend(turn.answer.iter().map(|&t| Slot::Token(t)));
        }
        self.slots = slots;
        Ok(images)
    }

    /// A question after the turn `before`. Texts around images are tokenised one by one, as the reference does.
    fn question_slots(
        &self,
        tokenizer: &Tokenizer,
        before: Option<&Turn>,
        images: &[Arc<Embedding>],
        question: &str,
    ) -> Result<Vec<Slot>> {
        let system = before.is_none().then_some(self.system.as_str());
        let mut segments = self.template.render(system, images.len(), question);
        let carry = before.map_or("", |turn| turn.carry.as_str());
        if !carry.is_empty() {
            match segments.first_mut() {
                Some(Segment::Text(text)) => text.insert_str(0, carry),
                _ => segments.insert(0, Segment::Text(carry.to_owned())),
            }
        }
        let mut slots = Vec::new();
        for segment in &segments {
            match segment {
                Segment::Text(text) => slots.extend(tokenizer.encode(text)?.into_iter().map(Slot::Token)),
                Segment::Image(i) => {
                    slots.extend((0..images[*i].rows()).map(|row| Slot::Image(images[*i].clone(), row)))
                }
            }
        }
        Ok(slots)
    }
}
