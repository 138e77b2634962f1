//! include/tinygptv.h is what cbindgen makes of src/ffi, and its version is the crate's.

use std::path::{Path, PathBuf};

/// The nouns in the order of the header.
const SOURCES: [&str; 13] = [
    "version",
    "error",
    "log",
    "boundary",
    "model",
    "image",
    "embedding",
    "session",
    "constraint",
    "rank",
    "batch",
    "plan",
    "grounding",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn generate() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for name in SOURCES {
        builder = builder.with_src(root().join("src/ffi").join(format!("{name}.rs")));
    }
    let mut text = Vec::new();
    builder.generate().expect("the header can be generated").write(&mut text);
    String::from_utf8(text).expect("the header is UTF-8")
}

/// Set by `make header` to write the file instead of comparing it.
const UPDATE: &str = "TGV_UPDATE_HEADER";

#[test]
fn the_committed_header_is_current() {
    let path = root().join("include/tinygptv.h");
    let generated = generate();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &generated).expect("include/ is writable");
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == generated, "{} is out of date: run `make header`", path.display());
}

#[test]
fn the_header_names_the_crate_version() {
    let header = std::fs::read_to_string(root().join("include/tinygptv.h")).expect("the header");
    assert!(header.contains(&format!("#define TGV_VERSION \"{}\"", env!("CARGO_PKG_VERSION"))));
    for (part, value) in [
        ("MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("PATCH", env!("CARGO_PKG_VERSION_PATCH")),
    ] {
        assert!(header.contains(&format!("#define TGV_VERSION_{part} {value}\n")), "{part}");
    }
}

#[test]
fn the_header_is_all_there_is() {
    let header = std::fs::read_to_string(root().join("include/tinygptv.h")).expect("the header");
    let mut exported = 0;
    for entry in std::fs::read_dir(root().join("src/ffi")).expect("src/ffi") {
        let path = entry.expect("an entry").path();
        let source = std::fs::read_to_string(&path).expect("a source file");
        let stem = path.file_stem().and_then(|s| s.to_str()).expect("a name");
        for line in source.lines().filter(|l| l.contains("extern \"C\" fn tgv_")) {
            let name = line.split("fn ").nth(1).and_then(|l| l.split('(').next()).expect("a function name");
            assert!(header.contains(&format!("{name}(")), "{name} of {stem}.rs is missing");
            exported += 1;
        }
    }
    assert!(exported > 25, "only {exported} functions found: this test no longer sees the source");
    assert!(Path::new(&root().join("include/tinygptv.h")).exists());
}
