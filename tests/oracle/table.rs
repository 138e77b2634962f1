//! The measured figures as tables in docs/accuracy.md.

use std::fmt::Write;
use std::path::PathBuf;

use crate::common::{read_text, root};
use crate::measure::{measured, Gap, Measurement, MODELS};

const BEGIN: &str = "<!-- made by `make parity-table`: begin -->\n";
const END: &str = "<!-- made by `make parity-table`: end -->\n";
/// Set by `make parity-table` to write the tables instead of comparing them.
const UPDATE: &str = "TGV_UPDATE_ACCURACY";

const STAGES: [(&str, &str); 9] = [
    ("pixels", "pixels"),
    ("vit", "ViT"),
    ("ln_vision", "ln_vision"),
    ("qformer", "Q-Former"),
    ("projected", "projected"),
    ("layer0", "layer 0"),
    ("layer1", "layer 1"),
    ("layer2", "layer 2"),
    ("logits", "logits"),
];

fn file() -> PathBuf {
    root().join("docs/accuracy.md")
}

/// Sums of squares in another order are no difference.
fn figure(x: f64) -> String {
    if x < 1e-12 {
        return "0".into();
    }
    format!("{x:.1e}")
}

fn table(out: &mut String, title: &str, value: fn(Gap) -> f64, more: &[&str], rest: fn(&Measurement) -> Vec<String>) {
    let heads: Vec<&str> = STAGES.iter().map(|s| s.1).chain(more.iter().copied()).collect();
    let _ = write!(out, "\n{title}\n\n| model | type | {} |\n{}|\n", heads.join(" | "), "|---".repeat(2 + heads.len()));
    for m in MODELS.iter().flat_map(|name| measured(name)) {
        let stages = STAGES.iter().map(|(key, _)| m.find(key).map_or("–".into(), |gap| figure(value(gap))));
        let cells: Vec<String> = stages.chain(rest(m)).collect();
        let _ = writeln!(out, "| {} | {} | {} |", m.model, m.types.name, cells.join(" | "));
    }
}

fn tables() -> String {
    let mut out = String::new();
    table(
        &mut out,
        "Largest error, relative to the expected tensor's largest value:",
        |gap| gap.largest,
        &["losses", "greedy tokens"],
        |m| vec![figure(m.losses), format!("{}/32", m.greedy)],
    );
    table(&mut out, "Norm of the error, relative to the expected tensor's norm:", |gap| gap.norm, &[], |_| Vec::new());
    out.push('\n');
    out
}

/// The rows of all tables, each a list of cells.
fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().filter(|l| l.starts_with('|')).map(|l| l.split('|').map(str::trim).collect()).collect()
}

/// Another processor's kernels sum in another order: what is documented holds if it is not exceeded by much.
fn holds(documented: &str, measured: &str) -> bool {
    match (documented.parse::<f64>(), measured.parse::<f64>()) {
        (Ok(documented), Ok(measured)) => measured <= 3.0 * documented + 1e-5,
        _ => documented.ends_with("/32") && measured.ends_with("/32") || documented == measured,
    }
}

#[test]
fn the_documented_figures_hold() {
    let path = file();
    let text = read_text(&path);
    let (before, rest) = text.split_once(BEGIN).expect("where the tables begin");
    let (committed, after) = rest.split_once(END).expect("where the tables end");
    let current = tables();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, [before, BEGIN, &current, END, after].concat()).expect("docs/ is writable");
        return;
    }
    let (committed, current) = (rows(committed), rows(&current));
    assert_eq!(committed.len(), current.len(), "{} lacks rows: run `make parity-table`", path.display());
    for (documented, measured) in committed.iter().zip(&current) {
        let same = documented.len() == measured.len() && documented.iter().zip(measured).all(|(d, m)| holds(d, m));
        assert!(same, "{} says {documented:?}, measured is {measured:?}: run `make parity-table`", path.display());
    }
}
