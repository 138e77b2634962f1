//! Visual Spatial Reasoning: one JSON object a line.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;

use super::{flag, Item, Location, Source};
use crate::scoring::{Task, Truth};

const EXPECTED: &str = "VSR's lines: {\"image\": \"000000050403.jpg\", \"caption\": \"…\", \"label\": 0 or 1, …}";
/// COCO's folders, in the order in which the paper's script looks into them.
const COCO_FOLDERS: [&str; 3] = ["", "train2017", "val2017"];

#[derive(Deserialize)]
struct Entry {
    image: String,
    caption: String,
    label: u64,
}

pub(super) fn read(source: &mut Source, at: &Location) -> Result<Vec<Item>> {
    source.lines(&at.annotations, EXPECTED, |source, line, entry: Entry| {
        let truth = if flag(entry.label)? { "true" } else { "false" };
        let task = Task::Answer(Truth::Contained(truth.into()));
        Ok(source.item(format!("{line} {}", entry.image), picture(&at.images, &entry.image), &entry.caption, task))
    })
}

fn picture(images: &Path, name: &str) -> PathBuf {
    let mut paths = COCO_FOLDERS.iter().map(|folder| images.join(folder).join(name));
    paths.find(|path| path.exists()).unwrap_or_else(|| images.join(name))
}
