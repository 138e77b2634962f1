//! What `cargo package` would publish: all that a user needs, nothing else, and small. And: nothing reaches for a network.

mod common;

use std::collections::BTreeSet;
use std::process::{Command, Output};

use common::{read_text, root};

/// What registries take at most is 10 MB.
const MAX_BYTES: u64 = 9 << 20;

/// cargo, without a network. It is told by cargo itself where it is.
fn cargo(arguments: &[&str]) -> Output {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Command::new(cargo).args(arguments).arg("--offline").current_dir(root()).output().expect("cargo starts")
}

fn listed() -> BTreeSet<String> {
    let output = cargo(&["package", "--list", "--allow-dirty", "-p", "tinygptv"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn all_files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(folder)];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").map(|e| e.expect("an entry").path()) {
            if entry.is_dir() {
                waiting.push(entry);
            } else {
                let path = entry.strip_prefix(root()).expect("a file of ours");
                found.push(path.to_str().expect("a plain name").replace('\\', "/"));
            }
        }
    }
    found
}

#[test]
fn the_package_holds_what_a_user_needs_and_no_more() {
    let listed = listed();
    for folder in ["src", "include", "examples", "docs", "cmake"] {
        for file in all_files(folder) {
            assert!(listed.contains(&file), "{file} is missing");
        }
    }
    for file in ["build.rs", "README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "Cargo.lock", "Makefile"] {
        assert!(listed.contains(file), "{file} is missing");
    }
    // What `make install` and `make demo` run and read.
    for script in ["setup", "install", "static-library", "demo"] {
        let text = read_text(&root().join(format!("scripts/{script}.sh")));
        for word in text.split(|c: char| c.is_whitespace() || "\"'".contains(c)) {
            let is_file = word.starts_with("scripts/") || word.starts_with("assets/");
            assert!(!is_file || root().join(word).is_dir() || listed.contains(word), "{script}.sh uses {word}");
        }
    }

    let strangers = ["tests/", "target/", "fuzz/", "convert/", "eval/", "bench/", "abi/", "assets/demo/checkpoint/"];
    let mut bytes = 0;
    for file in &listed {
        assert!(!strangers.iter().any(|s| file.starts_with(s)), "{file} is nothing for a user");
        // cargo writes some itself.
        bytes += std::fs::metadata(root().join(file)).map_or(0, |m| m.len());
    }
    assert!(bytes < MAX_BYTES, "{bytes} bytes");
    println!("{} files, {bytes} bytes", listed.len());
}

#[test]
fn the_manifest_is_complete() {
    let manifest = read_text(&root().join("Cargo.toml"));
    let package = manifest.split("[package]").nth(1).and_then(|p| p.split("\n[").next()).expect("a package");
    for key in
        ["name", "version", "edition", "rust-version", "license", "description", "readme", "keywords", "categories"]
    {
        assert!(package.lines().any(|l| l.starts_with(&format!("{key} = "))), "no {key}");
    }
    let changes = read_text(&root().join("CHANGELOG.md"));
    let version = env!("CARGO_PKG_VERSION");
    assert!(changes.contains(&format!("## {version}")), "CHANGELOG.md does not know {version}");
}

#[test]
fn everything_there_no_network_is_needed() {
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc");
    let version = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let host = version.lines().find_map(|l| l.strip_prefix("host: ")).expect("a host");
    // What other systems need was never fetched where only this one was built for.
    let output = cargo(&["metadata", "--locked", "--format-version", "1", "--filter-platform", host]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
