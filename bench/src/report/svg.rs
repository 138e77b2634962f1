//! The measurements as bars: a panel a row of the table, a bar a contestant, ours darker.

use std::fmt::Write;

use super::{show, Line, Report};
use crate::tasks::{Unit, OURS};

const WIDTH: f64 = 860.0;
const LABELS: f64 = 300.0;
const VALUES: f64 = 90.0;
const BAR: f64 = 15.0;
const GAP: f64 = 5.0;
const TITLE: f64 = 26.0;
const MARGIN: f64 = 16.0;

/// A picture of all rows with more than one contestant.
pub fn draw(report: &Report) -> String {
    let lines = report.lines();
    let mut panels: Vec<Vec<&Line>> = Vec::new();
    for line in &lines {
        match panels.last_mut() {
            Some(panel) if panel[0].row.key == line.row.key => panel.push(line),
            _ => panels.push(vec![line]),
        }
    }
    panels.retain(|panel| panel.len() > 1);

    let mut body = String::new();
    let mut y = MARGIN;
    for panel in &panels {
        y = draw_panel(panel, y, &mut body);
    }
    let height = y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

/// How long a bar is: times and bytes as they are, rates as rates.
fn length(line: &Line) -> f64 {
    match line.row.unit {
        Unit::PerSecond(count) => count / line.median,
        _ => line.median,
    }
}

/// Draws a panel from `y` down; returns where it ends.
fn draw_panel(panel: &[&Line], mut y: f64, out: &mut String) -> f64 {
    let better = match panel[0].row.unit {
        Unit::PerSecond(_) => "more is better",
        _ => "less is better",
    };
    let title = escape(&panel[0].row.title);
    let _ = writeln!(
        out,
        "<text x=\"{MARGIN}\" y=\"{:.1}\" font-weight=\"bold\">{title} <tspan font-weight=\"normal\" \
         fill=\"#666666\">({better})</tspan></text>",
        y + 13.0
    );
    y += TITLE;
    let longest = panel.iter().map(|line| length(line)).fold(f64::MIN_POSITIVE, f64::max);
    let room = WIDTH - 2.0 * MARGIN - LABELS - VALUES;
    for line in panel {
        let ours = line.contestant.key.starts_with(OURS);
        let (fill, weight) = if ours { ("#1f5fa8", "bold") } else { ("#b9c4cf", "normal") };
        let (left, bar) = (MARGIN + LABELS, length(line) / longest * room);
        let base = y + BAR - 3.5;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\" font-weight=\"{weight}\">{}</text>",
            left - 8.0,
            escape(&line.contestant.label)
        );
        let _ =
            writeln!(out, "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{bar:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>");
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{base:.1}\">{}</text>",
            left + bar + 6.0,
            escape(&show(line.median, line.row.unit))
        );
        y += BAR + GAP;
    }
    y + MARGIN
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn bars_are_as_long_as_what_they_stand_for() {
        let mut report = example();
        report.contestants[2].label = "a<b".into();
        let svg = draw(&report);
        let widths: Vec<f64> = svg
            .lines()
            .filter(|l| l.starts_with("<rect x="))
            .map(|l| l.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(widths.len(), 5, "the peaks have one contestant each and no panel");
        // Encode: 3, 12 and 7.5 s; decode: 10 and 16 tokens a second.
        let near = |a: f64, b: f64| (a - b).abs() < 0.2;
        assert!(near(widths[0] * 4.0, widths[1]), "{widths:?}");
        assert!(near(widths[3] * 1.6, widths[4]) && near(widths[1], widths[4]), "{widths:?}");
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"));
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    }
}
