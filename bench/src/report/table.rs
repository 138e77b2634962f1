//! The report as Markdown, which reads as well in a terminal.

use std::fmt::Write;

use super::{digits, limits, show, Report};
use crate::tasks::OURS;

/// Everything, to print.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    machine(report, &mut out);
    measurements(report, &mut out);
    missing(report, &mut out);
    limits::text(report, &mut out);
    super::targets::text(&report.targets, &mut out);
    out
}

/// What was measured on, and with what.
fn machine(report: &Report, out: &mut String) {
    let m = &report.machine;
    let memory = m.memory.map_or(String::new(), |bytes| format!(", {:.0} GiB", bytes as f64 / f64::from(1 << 30)));
    let load = |l: Option<f64>| l.map_or("unknown".to_owned(), |l| format!("{l:.2}"));
    let _ = writeln!(out, "{}, {} processors{memory}, {} ({})", m.processor, m.processors, m.system, m.features);
    let _ =
        writeln!(out, "Load average {} before and {} after.\n", load(m.load_average), load(report.load_average_after));
    let settings: Vec<String> = report.settings.iter().map(|(k, v)| format!("{k}: {v}")).collect();
    let _ = writeln!(out, "{}\n", settings.join("; "));
    let rows = report.contestants.iter().filter(|c| !c.about.is_empty()).map(|c| {
        let about: Vec<String> = c.about.iter().map(|(k, v)| format!("{k} {v}")).collect();
        let peak = c.peak_resident.map_or(String::new(), |b| show(b as f64, crate::tasks::Unit::Bytes));
        [c.label.clone(), about.join(", "), peak]
    });
    write(out, ["program", "versions and settings", "its memory at most"], rows);
}

/// The one table.
fn measurements(report: &Report, out: &mut String) {
    let mut last = String::new();
    let lines = report.lines();
    let has_peers = |key: &str| lines.iter().filter(|l| l.row.key == key).count() > 1;
    let rows = lines.iter().map(|line| {
        let new = line.row.title != last;
        last.clone_from(&line.row.title);
        // The least time is the best, and what is no time has no best.
        let best = match line.row.unit {
            crate::tasks::Unit::Seconds | crate::tasks::Unit::PerSecond(_) => show(line.least, line.row.unit),
            _ => String::new(),
        };
        [
            if new { line.row.title.clone() } else { String::new() },
            line.contestant.label.clone(),
            show(line.median, line.row.unit),
            best,
            line.rounds.to_string(),
            match line.ratio {
                Some(ratio) => digits(ratio),
                None if line.contestant.key == OURS && has_peers(&line.row.key) => "1".to_owned(),
                None => String::new(),
            },
        ]
    });
    write(out, ["what", "program", "median", "best", "rounds", "time, ours = 1"], rows);
}

fn missing(report: &Report, out: &mut String) {
    if report.measured.failures.is_empty() {
        return;
    }
    let label = |key: &str| report.contestants.iter().find(|c| c.key == key).map_or(key, |c| &c.label).to_owned();
    let title = |key: &str| {
        report.measured.rows.iter().find(|r| r.key == key).map_or_else(|| key.to_owned(), |r| r.title.clone())
    };
    let rows = report.measured.failures.iter().map(|f| [title(&f.row), label(&f.contestant), f.reason.clone()]);
    write(out, ["missing", "program", "why"], rows);
}

/// A table with columns of equal width, and an empty line.
pub fn write<const N: usize>(out: &mut String, header: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let clean = |cell: String| cell.replace('|', "\\|").replace(['\n', '\r'], " ");
    let rows: Vec<[String; N]> = rows.map(|row| row.map(clean)).collect();
    let mut widths = header.map(|h| h.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut line = |cells: &[String]| {
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(out, "| {cell:width$} ");
        }
        out.push_str("|\n");
    };
    line(&header.map(str::to_owned));
    line(&widths.map(|width| "-".repeat(width)));
    rows.iter().for_each(|row| line(row));
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn columns_are_aligned_and_bars_escaped() {
        let mut out = String::new();
        write(&mut out, ["a", "long"], [["×y".to_owned(), "1|2".to_owned()]].into_iter());
        assert_eq!(out, "| a  | long |\n| -- | ---- |\n| ×y | 1\\|2 |\n\n");
    }

    #[test]
    fn everything_is_told() {
        let text = text(&example());
        let has = |parts: &[&str]| {
            let found = text.lines().any(|line| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                parts.iter().all(|part| cells.contains(part))
            });
            assert!(found, "{parts:?} in\n{text}");
        };
        has(&["the encode_large", "tinygptv!", "3.00 s", "2.00 s", "2", "1"]);
        has(&["", "ggml-q8_0!", "12.0 s", "8.00 s", "4.00"]);
        has(&["the decode", "tinygptv!", "10.0/s"]);
        has(&["", "llama.cpp-mapped!", "16.0/s", "0.625"]);
        has(&["pytorch-fp32!", "No module named 'torch'"]);
        assert!(
            text.contains("A Processor, 2 processors, 8 GiB") && text.contains("Load average 0.25 before and 1.50")
        );
    }
}
