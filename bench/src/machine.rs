//! What is measured on: processor, memory, system, how busy it is.

use std::fs;

use serde::{Deserialize, Serialize};

/// A description of this machine, now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// Instruction sets that matter here.
    pub features: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Operating system and architecture.
    pub system: String,
    /// Processes that wanted to run in the minute before.
    pub load_average: Option<f64>,
}

impl Machine {
    pub fn here() -> Machine {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel = kernel.trim().split('-').next().unwrap_or_default();
        Machine {
            processor: line(&cpu, "model name").unwrap_or_else(|| "unknown processor".to_owned()),
            features: features(&line(&cpu, "flags").or_else(|| line(&cpu, "Features")).unwrap_or_default()),
            processors: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory: line(&memory, "MemTotal").and_then(|m| Some(m.split(' ').next()?.parse::<u64>().ok()? * 1024)),
            system: format!("{} {kernel} {}", std::env::consts::OS, std::env::consts::ARCH),
            load_average: load_average(),
        }
    }
}

/// Processes that wanted to run in the last minute, where the system tells.
pub fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// The value of the first `name : value`.
fn line(text: &str, name: &str) -> Option<String> {
    let found = text.lines().filter_map(|l| l.split_once(':')).find(|(key, _)| key.trim() == name)?;
    Some(found.1.trim().to_owned())
}

/// Of all the processor's features, those that kernels are written for.
fn features(all: &str) -> String {
    const WANTED: [&str; 16] = [
        "avx2",
        "fma",
        "f16c",
        "avx_vnni",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_int8",
        "amx_bf16",
        "asimd",
        "asimddp",
        "i8mm",
        "bf16",
        "sve",
        "sve2",
    ];
    let has: Vec<&str> = all.split(' ').collect();
    WANTED.into_iter().filter(|w| has.contains(w)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_features_are_found() {
        let text = "processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu avx2 avx512f fma\n\nmodel name\t: B\n";
        assert_eq!(line(text, "model name").as_deref(), Some("A Processor"));
        assert_eq!(features(&line(text, "flags").unwrap()), "avx2 fma avx512f");
        assert_eq!(line(text, "model"), None);
    }

    #[test]
    fn a_machine_survives_json() {
        let here = Machine::here();
        let text = serde_json::to_string(&here).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), here);
        assert!(here.processors >= 1);
    }
}
