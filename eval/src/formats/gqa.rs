//! GQA: one JSON object, question id → question; or the list of the MiniGPT-4 scripts.

use anyhow::Result;
use serde::Deserialize;
use serde_json::Value;

use super::{typed, wrong, Item, Location, Source};
use crate::scoring::{Task, Truth};

const EXPECTED: &str = "GQA's questions with answers: {\"201307251\": {\"imageId\": \"n161313\", \"question\": \"…\", \
                        \"answer\": \"…\", …}, …}, or a list of {\"image\": \"n161313.jpg\", \"question\": \"…\", \
                        \"answer\": \"…\"}";

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "imageId")]
    image_id: String,
    question: String,
    answer: String,
}

#[derive(Deserialize)]
struct ListEntry {
    image: String,
    question: String,
    answer: String,
}

pub(super) fn read(source: &mut Source, at: &Location) -> Result<Vec<Item>> {
    let path = &at.annotations;
    let task = |answer| Task::Answer(Truth::Contained(answer));
    match source.json(path, EXPECTED)? {
        Value::Object(questions) => questions
            .into_iter()
            .map(|(id, entry)| {
                let entry: Entry = typed(entry, path, &format!("question '{id}'"), EXPECTED)?;
                let picture = at.images.join(format!("{}.jpg", entry.image_id));
                Ok(source.item(id, picture, &entry.question, task(entry.answer)))
            })
            .collect(),
        Value::Array(questions) => questions
            .into_iter()
            .enumerate()
            .map(|(i, entry)| {
                let entry: ListEntry = typed(entry, path, &format!("item {}", i + 1), EXPECTED)?;
                let id = format!("{} {}", i + 1, entry.image);
                Ok(source.item(id, at.images.join(&entry.image), &entry.question, task(entry.answer)))
            })
            .collect(),
        _ => Err(wrong(path, "", "neither an object nor a list at its top", EXPECTED)),
    }
}
