//! What was asked of the library, and whether this run shows it.

use serde::{Deserialize, Serialize};

use super::{digits, show, table, Report};
use crate::tasks::{Unit, ACCURACY, LLAMA, LLAMA_MAPPED, OURS, OURS_FAST, OURS_NATIVE};

/// One demand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// What it is about.
    pub what: String,
    /// The limit, in words.
    pub wanted: String,
    /// What was measured, in words; none where it could not be.
    pub measured: Option<String>,
    pub met: Option<bool>,
}

/// Which side of its limit a value belongs on.
#[derive(Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Limit::AtLeast(limit) => value >= limit,
            Limit::AtMost(limit) => value <= limit,
        }
    }

    fn words(self, show: &dyn Fn(f64) -> String) -> String {
        match self {
            Limit::AtLeast(limit) => format!("≥ {}", show(limit)),
            Limit::AtMost(limit) => format!("≤ {}", show(limit)),
        }
    }
}

const LARGE: &str = "encode_large";

/// Holds a report against all demands. They are for the full size with Q4_K_M and Q8_0 weights.
pub fn check(report: &Report) -> Vec<Target> {
    let times = |value: f64| format!("{}×", digits(value));
    let percent = |value: f64| format!("{:.1} %", value * 100.0);
    let seconds = |value: f64| show(value, Unit::Seconds);
    let bytes = |value: f64| show(value, Unit::Bytes);
    let one = |what: &str, value: Option<f64>, limit: Limit, words: &dyn Fn(f64) -> String| Target {
        what: what.to_owned(),
        wanted: limit.words(words),
        measured: value.map(words),
        met: value.map(|value| limit.holds(value)),
    };
    // How many times our time a peer needs; and of several, the fastest.
    let faster_than = |peer: &str| report.ratio(LARGE, peer, OURS);
    let fastest = |row: &str, prefix: &str| {
        let keys = report.contestants.iter().map(|c| c.key.as_str()).filter(|key| key.starts_with(prefix));
        keys.filter_map(|peer| report.ratio(row, peer, OURS)).min_by(f64::total_cmp)
    };
    // A rate's ratio: times are the other way round.
    let speed_of = |row: &str, peer: &str, own: &str| report.ratio(row, peer, own);
    let of_quiet =
        |busy: &str, quiet: &str, per: f64| Some(report.median(quiet, OURS)? / (report.median(busy, OURS)? * per));
    let part = |a: &str, b: &str| Some(report.median(a, OURS)? / report.median(b, OURS)?);
    // A busy decode generates a part of the tokens.
    let tokens = |key: &str| {
        let row = report.measured.rows.iter().find(|r| r.key == key)?;
        match row.unit {
            Unit::PerSecond(count) => Some(count),
            _ => None,
        }
    };
    let decode_per = tokens("decode").zip(tokens("busy_decode")).map_or(1.0, |(all, few)| all / few);
    let busy_encode = match report.measured.of(LARGE, OURS) {
        Some(_) => of_quiet("busy_encode", LARGE, 1.0),
        None => of_quiet("busy_encode", "encode_small", 1.0),
    };
    vec![
        one("large encode against ggml's best type", fastest(LARGE, "ggml-"), Limit::AtLeast(2.0), &times),
        one("large encode against ggml Q8_0", fastest(LARGE, "ggml-q8_0"), Limit::AtLeast(3.0), &times),
        one("large encode against PyTorch fp32", faster_than("pytorch-fp32"), Limit::AtLeast(4.0), &times),
        one("large encode against PyTorch int8", faster_than("pytorch-int8"), Limit::AtLeast(1.0), &times),
        one("large encode against PyTorch bf16", faster_than("pytorch-bf16"), Limit::AtLeast(1.0), &times),
        one("large encode against ONNX Runtime int8", faster_than("onnxruntime-int8"), Limit::AtLeast(1.0), &times),
        one(
            "small encode against the fastest of all",
            ["ggml-", "pytorch-", "onnxruntime-"]
                .into_iter()
                .filter_map(|peer| fastest("encode_small", peer))
                .reduce(f64::min),
            Limit::AtLeast(1.0),
            &times,
        ),
        one(
            "large encode, this build's time of the native build's",
            report.ratio(LARGE, OURS, OURS_NATIVE),
            Limit::AtMost(1.05),
            &times,
        ),
        one("decode against llama.cpp", speed_of("decode", LLAMA_MAPPED, OURS), Limit::AtLeast(0.97), &times),
        one("prefill against llama.cpp", speed_of("prefill", LLAMA_MAPPED, OURS), Limit::AtLeast(0.97), &times),
        one("decode, both at their fastest", speed_of("decode", LLAMA, OURS_FAST), Limit::AtLeast(0.97), &times),
        one("prefill, both at their fastest", speed_of("prefill", LLAMA, OURS_FAST), Limit::AtLeast(0.97), &times),
        one("encode beside two busy threads, of its quiet speed", busy_encode, Limit::AtLeast(0.4), &percent),
        one(
            "decode beside two busy threads, of its quiet speed",
            of_quiet("busy_decode", "decode", decode_per),
            Limit::AtLeast(0.4),
            &percent,
        ),
        one(
            "second question, of the first's time",
            part("second_question", "first_question"),
            Limit::AtMost(0.1),
            &percent,
        ),
        one(
            "same picture in a new session, of the first question's time",
            part("same_picture", "first_question"),
            Limit::AtMost(0.01),
            &percent,
        ),
        one(
            "embeddings with outliers planted: cosine with those of F32 weights",
            report.median("cosine", ACCURACY),
            Limit::AtLeast(0.9995),
            &|value| show(value, Unit::Likeness),
        ),
        one("load, until ready", report.median("load", OURS), Limit::AtMost(0.5), &seconds),
        one("memory of a whole answer", report.median("resident", OURS), Limit::AtMost(3.5e9), &bytes),
        one("of it private", report.median("private", OURS), Limit::AtMost(1.2e9), &bytes),
    ]
}

/// Appends the table.
pub fn text(targets: &[Target], out: &mut String) {
    if targets.is_empty() {
        return;
    }
    let verdict = |t: &Target| match t.met {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    };
    let rows = targets.iter().map(|t| {
        let measured = t.measured.clone().unwrap_or_else(|| "not measured".to_owned());
        [t.what.clone(), t.wanted.clone(), measured, verdict(t).to_owned()]
    });
    table::write(out, ["target", "wanted", "measured", "met"], rows);
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn ratios_are_held_against_their_limits() {
        let targets = check(&example());
        let of = |what: &str| {
            let t = targets.iter().find(|t| t.what == what).unwrap();
            (t.measured.as_deref(), t.met)
        };
        // BF16 is ggml's best there: 2.5 times ours.
        assert_eq!(of("large encode against ggml's best type"), (Some("2.50×"), Some(true)));
        assert_eq!(of("large encode against ggml Q8_0"), (Some("4.00×"), Some(true)));
        assert_eq!(of("large encode against PyTorch fp32"), (None, None));
        // llama.cpp needs 2 s where we need 3.2.
        assert_eq!(of("decode against llama.cpp"), (Some("0.625×"), Some(false)));
        assert_eq!(of("load, until ready"), (None, None));
        let mut out = String::new();
        text(&targets, &mut out);
        assert_eq!(out.matches("not measured").count(), targets.iter().filter(|t| t.met.is_none()).count());
    }

    #[test]
    fn a_busy_decode_counts_by_token() {
        let mut report = example();
        let mut row = report.measured.rows[3].clone();
        (row.key, row.unit) = ("busy_decode".into(), Unit::PerSecond(8.0));
        report.measured.rows.push(row);
        let mut series = report.measured.of("decode", OURS).unwrap().clone();
        (series.row, series.values) = ("busy_decode".into(), vec![Some(1.6)]);
        report.measured.series.push(series);
        // 10 tokens a second when quiet, 5 when busy.
        let target = check(&report).into_iter().find(|t| t.what.starts_with("decode beside")).unwrap();
        assert_eq!((target.measured.as_deref(), target.met), (Some("50.0 %"), Some(true)));
    }
}
