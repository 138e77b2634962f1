//! `tinygptv-convert inspect`: what a GGUF file holds, as text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use tinygptv::gguf::{Gguf, Value};

use crate::output::human;

/// Metadata and tensors of a file.
pub fn describe(path: &Path) -> Result<String> {
    let file = Gguf::open(path)?;
    let mut out = String::new();
    writeln!(out, "{}  {}", path.display(), human(file.file_size()))?;
    writeln!(out, "\nmetadata")?;
    let width = file.metadata().map(|(k, _)| k.len()).max().unwrap_or(0);
    for (key, value) in file.metadata() {
        match value {
            // What belongs to this project is shown whole; a vocabulary is not.
            Value::StringArray(texts) if key.starts_with("tinygptv.") => {
                for (i, text) in texts.iter().enumerate() {
                    writeln!(out, "  {:width$}  {text:?}", if i == 0 { key } else { "" })?;
                }
            }
            _ => writeln!(out, "  {key:width$}  {value}")?,
        }
    }
    writeln!(out, "\ntensors")?;
    let width = file.tensors().iter().map(|t| t.name.len()).max().unwrap_or(0);
    for t in file.tensors() {
        let shape = format!("{:?}", t.shape);
        writeln!(out, "  {:width$}  {:<6}  {shape:<20}  {:>10}", t.name, t.ty.to_string(), human(t.size_bytes as u64))?;
    }
    writeln!(out)?;
    out.push_str(&summary(&file));
    Ok(out)
}

/// A table of the file's tensors by type.
pub fn summary(file: &Gguf) -> String {
    let mut types: BTreeMap<String, (usize, usize, u64)> = BTreeMap::new();
    for t in file.tensors() {
        let entry = types.entry(t.ty.to_string()).or_default();
        entry.0 += 1;
        entry.1 += t.shape.iter().product::<usize>();
        entry.2 += t.size_bytes as u64;
    }
    let total = types.values().fold((0, 0, 0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2));
    let mut out = format!("  {:<8} {:>8} {:>14} {:>12}\n", "type", "tensors", "values", "size");
    let all = [("total".to_owned(), total)];
    for (name, (count, values, bytes)) in types.into_iter().chain(all) {
        out += &format!("  {name:<8} {count:>8} {values:>14} {:>12}\n", human(bytes));
    }
    out
}
