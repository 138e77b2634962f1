//! The original `refs(….).p` of RefCOCO, RefCOCO+ and RefCOCOg: a pickled list of plain data. Nothing in it is run.

use std::path::Path;

use anyhow::{anyhow, Context, Result};
use tinygptv_convert::pickle::{Object, Pickle, Value};

use super::wrong;

const EXPECTED: &str =
    "a list of {\"ann_id\": …, \"image_id\": …, \"split\": \"…\", \"sentences\": [{\"sent_id\": …, \"sent\": \
                        \"…\", …}, …], …}";

/// The phrases for one object of one picture.
#[derive(Debug, PartialEq)]
pub(super) struct Ref {
    /// The object, in instances.json.
    pub ann_id: i64,
    /// The picture, in instances.json.
    pub image_id: i64,
    /// train, val, test, …
    pub split: String,
    /// Numbers and texts of the phrases.
    pub sentences: Vec<(i64, String)>,
}

pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Ref>> {
    let pickle = Pickle::load(bytes).with_context(|| format!("cannot read '{}'", path.display()))?;
    let refs = sequence(&pickle, pickle.root).map_err(|e| wrong(path, "", e, EXPECTED))?;
    let number = |(i, &value)| one(&pickle, value).map_err(|e| wrong(path, &format!("item {}", i + 1), e, EXPECTED));
    refs.iter().enumerate().map(number).collect()
}

fn one(pickle: &Pickle, value: Value) -> Result<Ref> {
    let sentences = sequence(pickle, field(pickle, value, "sentences")?)?;
    let sentence = |&s: &Value| Ok((integer(pickle, s, "sent_id")?, text(pickle, s, "sent")?));
    Ok(Ref {
        ann_id: integer(pickle, value, "ann_id")?,
        image_id: integer(pickle, value, "image_id")?,
        split: text(pickle, value, "split")?,
        sentences: sentences.iter().map(sentence).collect::<Result<_>>()?,
    })
}

fn sequence(pickle: &Pickle, value: Value) -> Result<&[Value]> {
    match pickle.object(value) {
        Some(Object::Sequence(items)) => Ok(items),
        _ => Err(anyhow!("there is no list")),
    }
}

fn field(pickle: &Pickle, value: Value, key: &str) -> Result<Value> {
    pickle.get(value, key).with_context(|| format!("there is no '{key}'"))
}

fn integer(pickle: &Pickle, value: Value, key: &str) -> Result<i64> {
    match field(pickle, value, key)? {
        Value::Int(n) => Ok(n),
        _ => Err(anyhow!("'{key}' is no integer")),
    }
}

fn text(pickle: &Pickle, value: Value, key: &str) -> Result<String> {
    let text = pickle.str(field(pickle, value, key)?).with_context(|| format!("'{key}' is no text"))?;
    Ok(text.to_owned())
}
