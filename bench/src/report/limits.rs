//! What limits each phase: its share of what the machine's multipliers and memory can do.

use super::{show, table, Report};
use crate::tasks::{Unit, OURS};

/// The peaks that a phase is held against, the fastest first.
const MULTIPLIERS: [(&str, &str); 3] =
    [("peak_bf16_tiles", "bfloat16 in tiles"), ("peak_int8", "int8"), ("peak_f32", "f32")];
const MEMORY: &str = "peak_read";

/// One phase's speed, and the part of a peak that it is.
struct Share {
    phase: String,
    speed: String,
    of: String,
    percent: f64,
}

fn shares(report: &Report) -> Vec<Share> {
    let mut all = Vec::new();
    let peak = |key: &str| report.median(key, "machine").filter(|p| *p > 0.0);
    for row in &report.measured.rows {
        let (Some(series), Some(seconds)) = (report.measured.of(&row.key, OURS), report.median(&row.key, OURS)) else {
            continue;
        };
        let mut share = |amount: Option<&f64>, unit, key: &str, what: &str| {
            if let (Some(amount), Some(peak)) = (amount, peak(key)) {
                let rate = amount / seconds;
                let of = format!("{what}, {}", show(peak, unit));
                let percent = rate / peak * 100.0;
                all.push(Share { phase: row.title.clone(), speed: show(rate, unit), of, percent });
            }
        };
        if row.key.starts_with("busy") {
            continue;
        }
        if let Some((key, what)) = MULTIPLIERS.iter().find(|(key, _)| peak(key).is_some()) {
            share(series.work.get("operations"), Unit::OperationsPerSecond, key, what);
        }
        share(series.work.get("bytes"), Unit::BytesPerSecond, MEMORY, "reading memory");
    }
    all
}

/// Appends the table, if there is something in it.
pub fn text(report: &Report, out: &mut String) {
    let shares = shares(report);
    if shares.is_empty() {
        return;
    }
    let rows = shares.into_iter().map(|s| [s.phase, s.speed, s.of, format!("{:.0} %", s.percent)]);
    table::write(out, ["phase", "speed", "of the machine's", "share"], rows);
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn shares_are_of_the_measured_peaks() {
        let shares: Vec<(String, String, i64)> =
            shares(&example()).into_iter().map(|s| (s.phase, s.of, s.percent.round() as i64)).collect();
        // 2.4e12 operations in 3 s of 2e12 a second; 5.12e10 bytes in 3.2 s of 2e10.
        let expected = [
            ("the encode_large".to_owned(), "int8, 2.00 Top/s".to_owned(), 40),
            ("the decode".to_owned(), "reading memory, 20.0 GB/s".to_owned(), 80),
        ];
        assert_eq!(shares, expected);
    }
}
