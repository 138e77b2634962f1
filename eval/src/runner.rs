//! The loop over a dataset's items.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Instant;

use anyhow::{bail, Result};
use tinygptv_convert::output::{Progress, Unit};

use crate::answerer::{Answerer, Failure};
use crate::formats::Item;
use crate::results::{Record, Writer};
use crate::scoring::{best, right, Task};

/// Answers the items and appends them to the results. Items that `known` holds with a score are passed over; those with an
/// error are tried again. `strict` stops at the first item with an error.
///
/// # Errors
/// A model that fails, results that cannot be written, and with `strict` an item with an error.
pub fn run(
    items: &[Item],
    known: &[Record],
    answerer: &mut dyn Answerer,
    writer: &mut Writer,
    strict: bool,
    progress: &Progress,
) -> Result<()> {
    let done: HashSet<&str> = known.iter().filter(|r| r.score.is_some()).map(|r| r.id.as_str()).collect();
    let todo: Vec<&Item> = by_picture(items).into_iter().filter(|i| !done.contains(i.id.as_str())).collect();
    let label = format!("{} of {} items to answer", todo.len(), items.len());
    let bar = progress.step(&label, todo.len() as u64, Unit::Things("items"));
    for item in todo {
        let start = Instant::now();
        let mut record = Record {
            id: item.id.clone(),
            question: item.question.clone(),
            answer: None,
            label: item.task.label(),
            choices: None,
            losses: None,
            iou: None,
            score: None,
            error: None,
            ms: 0.0,
        };
        match attempt(item, answerer, &mut record) {
            Ok(()) => {}
            Err(Failure::Item(problem)) if strict => bail!("item '{}': {problem}", item.id),
            Err(Failure::Item(problem)) => record.error = Some(problem),
            Err(Failure::Run(error)) => return Err(error.context(format!("stopped at item '{}'", item.id))),
        }
        record.ms = (start.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        writer.append(&record)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

fn attempt(item: &Item, answerer: &mut dyn Answerer, record: &mut Record) -> Result<(), Failure> {
    match &item.task {
        Task::Answer(truth) => {
            let answer = answerer.answer(&item.picture, &item.question)?;
            record.score = Some(truth.score(&answer));
            record.iou = truth.iou(&answer);
            record.answer = Some(answer);
        }
        Task::Rank { choices, right: index } => {
            let losses = answerer.rank(&item.picture, &item.question, choices)?;
            let chosen = best(&losses);
            record.score = Some(right(chosen == Some(*index)));
            record.answer = chosen.map(|i| choices[i].clone());
            record.choices = Some(choices.clone());
            record.losses = Some(losses);
        }
    }
    Ok(())
}

/// Items of the same picture next to each other, pictures in the order of their first: each is encoded once.
fn by_picture(items: &[Item]) -> Vec<&Item> {
    let mut groups: Vec<Vec<&Item>> = Vec::new();
    let mut places: HashMap<&Path, usize> = HashMap::new();
    for item in items {
        let place = *places.entry(&item.picture).or_insert(groups.len());
        if place == groups.len() {
            groups.push(Vec::new());
        }
        groups[place].push(item);
    }
    groups.into_iter().flatten().collect()
}
