//! Hateful Memes: one JSON object a line.

use anyhow::{bail, Result};
use serde::Deserialize;
use serde_json::Value;

use super::{flag, Item, Location, Source};
use crate::scoring::{Task, Truth};

const EXPECTED: &str =
    "Hateful Memes' lines with labels (dev_seen.jsonl, say): {\"id\": 8291, \"img\": \"img/08291.png\", \
                        \"label\": 0 or 1, \"text\": \"…\"}";

#[derive(Deserialize)]
struct Entry {
    id: Value,
    img: String,
    label: u64,
    text: String,
}

pub(super) fn read(source: &mut Source, at: &Location) -> Result<Vec<Item>> {
    source.lines(&at.annotations, EXPECTED, |source, _, entry: Entry| {
        let hateful = flag(entry.label)?;
        // Numbers in some editions ("id": 8291), texts with leading zeros in others.
        let id = match entry.id {
            Value::String(id) => id,
            Value::Number(id) => id.to_string(),
            other => bail!("the id {other}"),
        };
        Ok(source.item(id, at.images.join(&entry.img), &entry.text, Task::Answer(Truth::YesNo(hateful))))
    })
}
