//! IconQA, questions whose candidates are texts: a folder of problems, or the list of the MiniGPT-4 scripts.

use std::path::Path;

use anyhow::{ensure, Context, Result};
use serde::Deserialize;

use super::{typed, wrong, Item, Location, Source};
use crate::scoring::Task;

const EXPECTED: &str = "IconQA's problems with texts to choose from: a folder choose_txt with <id>/data.json and <id>/image.png, \
                        where data.json is {\"question\": \"…\", \"choices\": [\"…\", …], \"answer\": index from 0, …}; or a \
                        list of the same with \"image_id\"";

#[derive(Deserialize)]
struct Problem {
    question: String,
    choices: Vec<String>,
    answer: usize,
    /// Absent in the MiniGPT-4 scripts' list.
    ques_type: Option<String>,
}

#[derive(Deserialize)]
struct ListEntry {
    image_id: String,
    #[serde(flatten)]
    problem: Problem,
}

pub(super) fn read(source: &mut Source, at: &Location) -> Result<Vec<Item>> {
    if !at.annotations.is_dir() {
        return source.list(&at.annotations, EXPECTED, |source, _, entry: ListEntry| {
            item(source, &at.images, entry.image_id, entry.problem)
        });
    }
    ids(&at.annotations)?
        .into_iter()
        .map(|id| {
            let path = at.annotations.join(&id).join("data.json");
            ensure!(
                path.is_file(),
                wrong(&at.annotations, &format!("problem '{id}'"), "there is no data.json", EXPECTED)
            );
            let problem = typed(source.json(&path, EXPECTED)?, &path, "", EXPECTED)?;
            item(source, &at.images, id, problem).map_err(|e| wrong(&path, "", e, EXPECTED))
        })
        .collect()
}

/// The folder's problems, by number.
fn ids(folder: &Path) -> Result<Vec<String>> {
    let failed = || format!("cannot read the folder '{}'", folder.display());
    let mut ids = Vec::new();
    for entry in folder.read_dir().with_context(failed)? {
        let entry = entry.with_context(failed)?;
        if entry.path().is_dir() {
            ids.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    ids.sort_by_cached_key(|id| (id.parse::<u64>().unwrap_or(u64::MAX), id.clone()));
    Ok(ids)
}

fn item(source: &Source, images: &Path, id: String, problem: Problem) -> Result<Item> {
    let Problem { question, choices, answer: right, ques_type } = problem;
    let kind = ques_type.as_deref().unwrap_or("choose_txt");
    ensure!(kind == "choose_txt", "a question of the kind {kind}");
    ensure!(right < choices.len(), "the answer {right} is none of {} choices", choices.len());
    let picture = images.join(&id).join("image.png");
    Ok(source.item(id, picture, &question, Task::Rank { choices, right }))
}
