//! RefCOCO, RefCOCO+ and RefCOCOg: the list of the MiniGPT-4 scripts, one entry a phrase; or the original `refs(….).p`
//! with instances.json.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use serde::Deserialize;

use super::refs_pickle::{self, Ref};
use super::{wrong, Item, Location, Source};
use crate::scoring::{Task, Truth};

const EXPECTED: &str = "the MiniGPT-4 scripts' list: [{\"img_id\": \"COCO_train2014_000000581563_3\", \"sents\": \"a phrase\", \
                        \"bbox\": [left, top, width, height], \"height\": …, \"width\": …}, …], or the original refs(….).p";
const INSTANCES: &str =
    "COCO's instances: {\"images\": [{\"id\": …, \"file_name\": …, \"width\": …, \"height\": …}, …], \
                         \"annotations\": [{\"id\": …, \"image_id\": …, \"bbox\": […], …}, …], …}";

#[derive(Deserialize)]
struct Entry {
    img_id: String,
    sents: String,
    bbox: [f64; 4],
    height: u32,
    width: u32,
}

#[derive(Deserialize)]
struct Instances {
    images: Vec<Picture>,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Picture {
    id: i64,
    file_name: String,
    width: u32,
    height: u32,
}

#[derive(Deserialize)]
struct Annotation {
    id: i64,
    bbox: [f64; 4],
}

/// Whether a file is one of the original ones, which hold all splits.
pub(super) fn is_pickle(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "p" || e == "pkl" || e == "pickle")
}

pub(super) fn read(source: &mut Source, at: &Location) -> Result<Vec<Item>> {
    if is_pickle(&at.annotations) {
        return read_original(source, at);
    }
    source.list(&at.annotations, EXPECTED, |source, number, entry: Entry| {
        // An object's number follows the picture's name.
        let (name, _) = entry.img_id.rsplit_once('_').context("\"img_id\" has no object's number at its end")?;
        let picture = at.images.join(format!("{name}.jpg"));
        let task = region(entry.bbox, [entry.width, entry.height])?;
        Ok(source.item(format!("{number} {}", entry.img_id), picture, &entry.sents, task))
    })
}

fn read_original(source: &mut Source, at: &Location) -> Result<Vec<Item>> {
    let bytes = source.bytes(&at.annotations)?;
    let refs = refs_pickle::parse(&bytes, &at.annotations)?;
    let refs = of_split(refs, at)?;
    let path = at.annotations.with_file_name("instances.json");
    let bytes = source.bytes(&path).context("a refs(….).p file needs its instances.json beside it")?;
    let instances: Instances = serde_json::from_slice(&bytes).map_err(|e| wrong(&path, "", e, INSTANCES))?;
    let pictures: HashMap<i64, &Picture> = instances.images.iter().map(|p| (p.id, p)).collect();
    let boxes: HashMap<i64, [f64; 4]> = instances.annotations.iter().map(|a| (a.id, a.bbox)).collect();
    let mut items = Vec::new();
    for r in refs {
        let missing = |what: &str, id: i64| wrong(&path, "", format!("there is no {what} {id}"), INSTANCES);
        let picture = pictures.get(&r.image_id).ok_or_else(|| missing("image", r.image_id))?;
        let bbox = boxes.get(&r.ann_id).ok_or_else(|| missing("annotation", r.ann_id))?;
        let task = region(*bbox, [picture.width, picture.height])
            .map_err(|e| wrong(&path, &format!("annotation {}", r.ann_id), e, INSTANCES))?;
        for (id, phrase) in r.sentences {
            items.push(source.item(id.to_string(), at.images.join(&picture.file_name), &phrase, task.clone()));
        }
    }
    Ok(items)
}

fn of_split(refs: Vec<Ref>, at: &Location) -> Result<Vec<Ref>> {
    let mut splits: Vec<&str> = Vec::new();
    for r in &refs {
        if !splits.contains(&r.split.as_str()) {
            splits.push(&r.split);
        }
    }
    let (path, there_are) = (at.annotations.display(), splits.join(", "));
    let wanted =
        at.split.as_deref().with_context(|| format!("'{path}' holds several splits; pass --split: {there_are}"))?;
    ensure!(splits.contains(&wanted), "'{path}' holds no split '{wanted}'; there are {there_are}");
    Ok(refs.into_iter().filter(|r| r.split == wanted).collect())
}

/// COCO's left, top, width and height → edges.
fn region([x, y, w, h]: [f64; 4], size: [u32; 2]) -> Result<Task> {
    ensure!(w >= 0.0 && h >= 0.0, "a box of negative size");
    ensure!(size[0] > 0 && size[1] > 0, "a picture without pixels");
    Ok(Task::Answer(Truth::Region { corners: [x, y, x + w, y + h], size }))
}
