//! What is told in the end: a table, JSON, a plot, a part of a document.

pub mod document;
pub mod limits;
pub mod svg;
pub mod table;
pub mod targets;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::rounds::{Measured, Series};
use crate::stats::{least, median, paired_ratio};
use crate::tasks::{Row, Unit, OURS};

/// Everything about a run of the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When the run began, seconds since 1970.
    pub time: u64,
    pub machine: Machine,
    /// Load average at the end.
    pub load_average_after: Option<f64>,
    /// How it was run, by name.
    pub settings: BTreeMap<String, String>,
    /// Who was measured.
    pub contestants: Vec<About>,
    pub measured: Measured,
    /// Whether what was asked for is reached.
    pub targets: Vec<targets::Target>,
}

/// A contestant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    pub key: String,
    pub label: String,
    /// Versions and settings by name.
    pub about: BTreeMap<String, String>,
    /// Why it could not be measured.
    pub missing: Option<String>,
    /// Most memory of its processes, bytes.
    pub peak_resident: Option<u64>,
}

/// One line of a table.
pub struct Line<'a> {
    pub row: &'a Row,
    pub contestant: &'a About,
    pub median: f64,
    pub least: f64,
    pub rounds: usize,
    /// Times of this library's, by time; above 1 is worse than ours. None for its own and where there is none of ours.
    pub ratio: Option<f64>,
}

impl Report {
    /// All lines that have a value, in the order of measuring.
    pub fn lines<'a>(&'a self) -> Vec<Line<'a>> {
        let line = |row: &'a Row, series: &'a Series| -> Option<Line<'a>> {
            let values = || series.values.iter().flatten().copied();
            let ours = self.measured.of(&series.row, OURS).filter(|_| series.contestant != OURS);
            Some(Line {
                row,
                contestant: self.contestants.iter().find(|c| c.key == series.contestant)?,
                median: median(values())?,
                least: least(values())?,
                rounds: values().count(),
                ratio: ours.and_then(|ours| paired_ratio(&series.values, &ours.values)),
            })
        };
        let rows = self.measured.rows.iter();
        let all = rows.flat_map(|row| self.measured.series.iter().filter(|s| s.row == row.key).map(move |s| (row, s)));
        all.filter_map(|(row, series)| line(row, series)).collect()
    }

    /// The median of a row, in seconds, bytes or whatever is measured.
    pub fn median(&self, row: &str, contestant: &str) -> Option<f64> {
        median(self.measured.of(row, contestant)?.values.iter().flatten().copied())
    }

    /// Median of the ratios of two contestants' values of a row, round by round.
    pub fn ratio(&self, row: &str, a: &str, b: &str) -> Option<f64> {
        paired_ratio(&self.measured.of(row, a)?.values, &self.measured.of(row, b)?.values)
    }
}

/// A number with its unit, three digits.
pub fn show(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Seconds if value < 0.1 => format!("{} ms", digits(value * 1e3)),
        Unit::Seconds => format!("{} s", digits(value)),
        Unit::PerSecond(count) => format!("{}/s", digits(count / value)),
        Unit::Bytes if value < 1e9 => format!("{} MB", digits(value / 1e6)),
        Unit::Bytes => format!("{} GB", digits(value / 1e9)),
        Unit::Count => format!("{value:.0}"),
        Unit::Likeness => format!("{value:.5}"),
        Unit::BytesPerSecond => format!("{} GB/s", digits(value / 1e9)),
        Unit::OperationsPerSecond if value < 1e12 => format!("{} Gop/s", digits(value / 1e9)),
        Unit::OperationsPerSecond => format!("{} Top/s", digits(value / 1e12)),
    }
}

/// Three digits, and no more than three after the point.
pub fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::rounds::Failure;

    /// Two rounds of three contestants, one of which is missing.
    pub fn example() -> Report {
        let row =
            |key: &str, unit| Row { key: key.into(), title: format!("the {key}"), figure: "seconds".into(), unit };
        let series = |row: &str, contestant: &str, values: &[f64], work: &[(&str, f64)]| Series {
            row: row.into(),
            contestant: contestant.into(),
            values: values.iter().copied().map(Some).collect(),
            work: work.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
        };
        let about = |key: &str, missing: Option<&str>| About {
            key: key.into(),
            label: format!("{key}!"),
            about: BTreeMap::from([("version".to_owned(), "1.2".to_owned())]),
            missing: missing.map(Into::into),
            peak_resident: Some(3_000_000_000),
        };
        Report {
            time: 1_700_000_000,
            machine: Machine {
                processor: "A Processor".into(),
                features: "avx2".into(),
                processors: 2,
                memory: Some(8 << 30),
                system: "linux".into(),
                load_average: Some(0.25),
            },
            load_average_after: Some(1.5),
            settings: BTreeMap::from([("size".to_owned(), "full".to_owned())]),
            contestants: vec![
                about("machine", None),
                about(OURS, None),
                about("llama.cpp-mapped", None),
                about("ggml-q8_0", None),
                about("ggml-bf16", None),
                about("pytorch-fp32", Some("No module named 'torch'")),
            ],
            measured: Measured {
                rows: vec![
                    row("peak_read", Unit::BytesPerSecond),
                    row("peak_int8", Unit::OperationsPerSecond),
                    row("encode_large", Unit::Seconds),
                    row("decode", Unit::PerSecond(32.0)),
                ],
                series: vec![
                    series("peak_read", "machine", &[20e9, 20e9], &[]),
                    series("peak_int8", "machine", &[2e12, 2e12], &[]),
                    series("encode_large", OURS, &[2.0, 4.0], &[("operations", 2.4e12)]),
                    series("encode_large", "ggml-q8_0", &[8.0, 16.0], &[]),
                    series("encode_large", "ggml-bf16", &[5.0, 10.0], &[]),
                    series("decode", OURS, &[3.2, 3.2], &[("bytes", 5.12e10)]),
                    series("decode", "llama.cpp-mapped", &[2.0, 2.0], &[]),
                ],
                failures: vec![Failure {
                    contestant: "pytorch-fp32".into(),
                    row: "encode_large".into(),
                    reason: "No module named 'torch'".into(),
                }],
            },
            targets: Vec::new(),
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(digits(123.456), "123");
        assert_eq!(digits(99.96), "100");
        assert_eq!(digits(12.345), "12.3");
        assert_eq!(digits(1.2345), "1.23");
        assert_eq!(digits(0.012_34), "0.012");
        assert_eq!(show(0.012_34, Unit::Seconds), "12.3 ms");
        assert_eq!(show(2.0, Unit::PerSecond(32.0)), "16.0/s");
        assert_eq!(show(1.5e9, Unit::Bytes), "1.50 GB");
        assert_eq!(show(0.999_876, Unit::Likeness), "0.99988");
        assert_eq!(show(2.5e12, Unit::OperationsPerSecond), "2.50 Top/s");
    }

    #[test]
    fn lines_have_medians_and_ratios_to_ours() {
        let report = example();
        let lines = report.lines();
        assert_eq!(lines.len(), 7);
        let (ours, q8_0) = (&lines[2], &lines[3]);
        assert_eq!((ours.median, ours.least, ours.rounds, ours.ratio), (3.0, 2.0, 2, None));
        assert_eq!((q8_0.contestant.key.as_str(), q8_0.ratio), ("ggml-q8_0", Some(4.0)));
    }
}
