//! Which answer counts as right: the rules of `tests/reference/scoring.py`.

use serde_json::Value as Json;

use super::text;

/// `question` is a record with `task`, `expected` and, for a refer, `box`.
pub fn is_right(question: &Json, answer: &str) -> bool {
    let expected = text(question, "expected");
    match text(question, "task") {
        "caption" => caption_objects(answer) == caption_objects(expected),
        "refer" => {
            let corners = question["box"].as_array().expect("a refer has a box");
            let truth: Vec<f64> = corners.iter().map(|c| c.as_f64().expect("a number")).collect();
            parse_box(answer).is_some_and(|b| iou(&b, &truth) > 0.5)
        }
        _ => answer == expected,
    }
}

/// Colour and kind of every object, sorted: sizes and order do not count.
fn caption_objects(caption: &str) -> Vec<(&str, &str)> {
    let words: Vec<&str> = caption.split(' ').map(|w| w.trim_end_matches(['.', ','])).collect();
    let mut objects: Vec<(&str, &str)> = words
        .windows(3)
        .filter(|w| ["small", "large"].contains(&w[0]) && ["circle", "square", "triangle", "star"].contains(&w[2]))
        .map(|w| (w[1], w[2]))
        .collect();
    objects.sort_unstable();
    objects
}

/// `{<x0><y0><x1><y1>}` in percent, and nothing else.
fn parse_box(answer: &str) -> Option<Vec<f64>> {
    let inside = answer.strip_prefix("{<")?.strip_suffix(">}")?;
    let corners: Option<Vec<f64>> =
        inside.split("><").map(|n| n.parse::<u32>().ok().map(|n| f64::from(n) / 100.0)).collect();
    corners.filter(|c| c.len() == 4)
}

fn iou(a: &[f64], b: &[f64]) -> f64 {
    let (w, h) = (a[2].min(b[2]) - a[0].max(b[0]), a[3].min(b[3]) - a[1].max(b[1]));
    if w <= 0.0 || h <= 0.0 {
        return 0.0;
    }
    let area = |r: &[f64]| (r[2] - r[0]) * (r[3] - r[1]);
    w * h / (area(a) + area(b) - w * h)
}
