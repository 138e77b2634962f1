//! Results → a table beside the paper's figures.

use crate::results::Results;

const COLUMNS: [&str; 8] = ["benchmark", "score", "paper", "answered", "of", "errors", "mean time", "decoder"];

/// The table, one line a file of results, and what must be known to read it.
pub fn table(all: &[Results]) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    let mut notes = Vec::new();
    for Results { header, records, .. } in all {
        let scores: Vec<f64> = records.iter().filter_map(|r| r.score).collect();
        let errors = records.len() - scores.len();
        let name = header.benchmark.name();
        let mean = |values: &[f64]| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let times: Vec<f64> = records.iter().filter(|r| r.score.is_some()).map(|r| r.ms).collect();
        rows.push([
            name.to_owned(),
            mean(&scores).map_or("-".to_owned(), |s| format!("{:.1} %", 100.0 * s)),
            header.benchmark.paper().map_or("not reported".to_owned(), |p| format!("{p:.1} %")),
            scores.len().to_string(),
            header.items.to_string(),
            errors.to_string(),
            mean(&times).map_or("-".to_owned(), |ms| format!("{:.2} s", ms / 1e3)),
            header.decoder.name.clone(),
        ]);
        if scores.len() < header.items {
            let paper = if header.benchmark.paper().is_some() { "; the paper's figure is of all" } else { "" };
            notes.push(format!("{name}: the score is of {} of {} items{paper}.", scores.len(), header.items));
        }
        if errors > 0 {
            notes
                .push(format!("{name}: items with errors are not in the score; see \"error\" in the file of results."));
        }
    }
    let mut text = aligned(&rows);
    if !notes.is_empty() {
        text += &format!("\n{}\n", notes.join("\n"));
    }
    text
}

/// Columns as wide as their widest cell; numbers to the right, the first and last column to the left.
fn aligned(rows: &[[String; COLUMNS.len()]]) -> String {
    let last = COLUMNS.len() - 1;
    let widths: Vec<usize> = (0..=last).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(c, (cell, &width))| match c {
            0 => format!("{cell:<width$}"),
            c if c == last => cell.clone(),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}
