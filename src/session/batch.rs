//! A batch of questions about the same images: their common beginning is evaluated once, and the answers are generated
//! side by side, which costs little more than one, because a decoder spends its time on reading its weights.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::answer::{Answer, Answering, Step};
use super::statistics::{milliseconds, Finish, Statistics};
use super::Session;
use crate::decoder::{BranchSlot, Slot};
use crate::error::{Error, Result};
use crate::model::Model;

/// A question that waits for a free branch.
struct Waiting<'m> {
    index: usize,
    /// Its prompt behind the common beginning.
    slots: Vec<Slot>,
    answering: Answering<'m>,
}

/// A question that is being answered in a branch.
struct Active<'m> {
    index: usize,
    answering: Answering<'m>,
    /// Positions that the question and the longest answer need together.
    reserved: usize,
    step: Step,
}

impl Session {
    /// Answers each question as if it alone were asked next, about the images waiting and the conversation so far, which
    /// both stay as they are. `on_answer` gets each answer when it is complete, with the question's index and why it ended,
    /// and returns whether to go on; the others are then not answered and their texts in the result are empty.
    ///
    /// # Errors
    /// As `ask`, for the first question that fails; answers delivered before stay valid.
    pub fn ask_each(
        &mut self,
        questions: &[&str],
        on_answer: &mut dyn FnMut(usize, &str, Finish) -> bool,
    ) -> Result<Vec<String>> {
        self.cancel.store(false, Ordering::Relaxed);
        let mut prompts = Vec::with_capacity(questions.len());
        for question in questions {
            let prompt = self.prompt(question)?;
            self.fits(prompt.len())?;
            prompts.push(prompt);
        }
        let mut texts = vec![String::new(); questions.len()];
        if questions.is_empty() {
            return Ok(texts);
        }
        let mut statistics = self.new_statistics(prompts.iter().map(Vec::len).sum());
        let mut deliver = |index: usize, answer: Answer, statistics: &mut Statistics| {
            statistics.generated_tokens += answer.generated;
            statistics.finish = answer.finish;
            let go_on = on_answer(index, &answer.text, answer.finish);
            texts[index] = answer.text;
            go_on
        };
        if self.decoder.max_branches() == 0 {
            self.one_by_one(&prompts, &mut statistics, &mut deliver)?;
        } else {
            self.side_by_side(prompts, &mut statistics, &mut deliver)?;
        }
        statistics.context_used = self.conversation.len();
        self.statistics = statistics;
        Ok(texts)
    }

    /// For architectures that cannot share a beginning.
    fn one_by_one(
        &mut self,
        prompts: &[Vec<Slot>],
        statistics: &mut Statistics,
        deliver: &mut dyn FnMut(usize, Answer, &mut Statistics) -> bool,
    ) -> Result<()> {
        let model = self.model.clone();
        for (index, prompt) in prompts.iter().enumerate() {
            let answering = self.answering(&model)?;
            let start = Instant::now();
            statistics.reused_tokens += self.evaluate(prompt)?;
            statistics.prefill_ms += milliseconds(start);
            let start = Instant::now();
            let answer = self.generate(answering, &mut |_| true)?;
            statistics.decode_ms += milliseconds(start);
            if !deliver(index, answer, statistics) {
                break;
            }
        }
        Ok(())
    }

    fn side_by_side(
        &mut self,
        prompts: Vec<Vec<Slot>>,
        statistics: &mut Statistics,
        deliver: &mut dyn FnMut(usize, Answer, &mut Statistics) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        let shared = shared_beginning(&prompts);
        let reused = if shared > 0 { self.evaluate(&prompts[0][..shared])? } else { 0 };
        self.decoder.truncate(shared);
        let total: usize = prompts.iter().map(Vec::len).sum();
        let evaluated = total - shared * prompts.len() + shared - reused;
        statistics.reused_tokens = total - evaluated;
        statistics.prefill_ms = milliseconds(start);

        let start = Instant::now();
        // The branches borrow the decoder, so what they need of the session is taken before.
        let model: &Model = &self.model.clone();
        let mut waiting = VecDeque::with_capacity(prompts.len());
        for (index, prompt) in prompts.into_iter().enumerate() {
            let answering = self.answering(model)?;
            waiting.push_back(Waiting { index, slots: prompt[shared..].to_vec(), answering });
        }
        let (max_new_tokens, cancel) = (self.max_new_tokens, self.cancel.clone());
        let count = waiting.len().min(self.decoder.max_branches());
        let mut branches = self.decoder.branches(count)?;
        let active = (0..count).map(|_| None).collect();
        let mut run = Run { waiting, active, room: branches.free(), max_new_tokens };
        let mut go_on = true;
        while go_on {
            let (slots, owners) = run.next_pass();
            if slots.is_empty() {
                break;
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let mut owners = owners.into_iter();
            branches.evaluate(&slots, &mut |_, logits| {
                // Rows come in the order of their slots, one for each owner.
                if let Some(place) = owners.next().and_then(|branch| run.active[branch].as_mut()) {
                    place.step = place.answering.step(logits, &mut |_| true)?;
                }
                Ok(())
            })?;
            for (branch, index, answering, finish) in run.take_finished(branches.free() == 0) {
                branches.restart(branch);
                let answer = answering.finish(finish, &mut |_| true);
                go_on = go_on && deliver(index, answer, statistics);
            }
        }
        statistics.decode_ms = milliseconds(start);
        Ok(())
    }
}

/// The questions of a batch: those that wait, and those that have a branch.
struct Run<'m> {
    waiting: VecDeque<Waiting<'m>>,
    active: Vec<Option<Active<'m>>>,
    /// Positions for all branches together.
    room: usize,
    max_new_tokens: usize,
}

impl<'m> Run<'m> {
    /// What to evaluate next: a token of each answer under way, and the prompts of questions that find a place now. The
    /// second list names the branch of each slot that wants logits.
    fn next_pass(&mut self) -> (Vec<BranchSlot>, Vec<usize>) {
        let mut slots = Vec::new();
        let mut owners = Vec::new();
        for (branch, place) in self.active.iter().enumerate() {
            if let Some(Active { step: Step::Next(token), .. }) = place {
                slots.push(BranchSlot { branch, slot: Slot::Token(*token), wants_logits: true });
                owners.push(branch);
            }
        }
        let mut reserved: usize = self.active.iter().flatten().map(|a| a.reserved).sum();
        for (branch, place) in self.active.iter_mut().enumerate().filter(|(_, place)| place.is_none()) {
            let Some(next) = self.waiting.front() else { break };
            let needed = next.slots.len() + self.max_new_tokens;
            // One that is alone may use what there is, and ends with the context.
            if reserved > 0 && reserved + needed > self.room {
                break;
            }
            let Some(Waiting { index, slots: own, answering }) = self.waiting.pop_front() else { break };
            let last = own.len() - 1;
            let prompt = own.into_iter().enumerate();
            slots.extend(prompt.map(|(i, slot)| BranchSlot { branch, slot, wants_logits: i == last }));
            owners.push(branch);
            reserved += needed;
            *place = Some(Active { index, answering, reserved: needed, step: Step::Done(Finish::None) });
        }
        (slots, owners)
    }

    /// Takes out the answers that are over: branch, index of the question, answer, and why.
    fn take_finished(&mut self, context_is_full: bool) -> Vec<(usize, usize, Answering<'m>, Finish)> {
        let mut finished = Vec::new();
        for (branch, place) in self.active.iter_mut().enumerate() {
            let finish = match place {
                Some(Active { step: Step::Done(finish), .. }) => *finish,
                Some(_) if context_is_full => Finish::Context,
                _ => continue,
            };
            finished.extend(place.take().map(|a| (branch, a.index, a.answering, finish)));
        }
        finished
    }
}

/// How many positions all prompts begin with, leaving each at least one of its own.
fn shared_beginning(prompts: &[Vec<Slot>]) -> usize {
    let Some((first, others)) = prompts.split_first() else { return 0 };
    let common = |other: &Vec<Slot>| {
        let same = first.iter().zip(other).take_while(|(a, b)| a == b).count();
        same.min(other.len() - 1)
    };
    others.iter().map(common).min().unwrap_or(usize::MAX).min(first.len() - 1)
}
