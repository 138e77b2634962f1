//! VizWiz VQA: a list of questions with ten people's answers each.

use anyhow::{ensure, Result};
use serde::Deserialize;

use super::{Item, Location, Source};
use crate::scoring::{Task, Truth};

const EXPECTED: &str =
    "VizWiz's questions with answers (train or val): [{\"image\": \"VizWiz_val_00000000.jpg\", \"question\": \
                        \"…\", \"answers\": [{\"answer\": \"…\", …}, …], …}, …]";

#[derive(Deserialize)]
struct Entry {
    image: String,
    question: String,
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    answer: String,
}

pub(super) fn read(source: &mut Source, at: &Location) -> Result<Vec<Item>> {
    source.list(&at.annotations, EXPECTED, |source, number, entry: Entry| {
        ensure!(!entry.answers.is_empty(), "there are no answers");
        let people = entry.answers.into_iter().map(|a| a.answer).collect();
        let id = format!("{number} {}", entry.image);
        Ok(source.item(id, at.images.join(&entry.image), &entry.question, Task::Answer(Truth::People(people))))
    })
}
