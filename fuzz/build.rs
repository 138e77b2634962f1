//! The C ABI as a C program sees it: declarations generated from include/tinygptv.h.

use std::env;
use std::path::PathBuf;

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo tells the folder"));
    let header = root.join("../include/tinygptv.h");
    println!("cargo:rerun-if-changed={}", header.display());
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo tells the output folder")).join("header.rs");
    bindgen::Builder::default()
        .header(header.to_str().expect("a path of plain text"))
        .allowlist_item("(tgv|TGV)_.*")
        .default_macro_constant_type(bindgen::MacroTypeVariation::Signed)
        .derive_default(true)
        .generate_comments(false)
        .generate()
        .expect("the header can be read")
        .write_to_file(out)
        .expect("the output folder can be written");
}
