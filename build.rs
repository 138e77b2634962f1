//! Compiles the C++ files of the decoder against the private headers of the llama.cpp that llama-cpp-sys-2 has built, gives
//! the shared library its versioned name, and puts the reserve behind its allocations.

use std::path::{Path, PathBuf};
use std::{env, fs};

const SOURCES: [&str; 7] = [
    "compute.cpp",
    "context.cpp",
    "grammar.cpp",
    "grammar_check.cpp",
    "guard.cpp",
    "phi2_extra_norms.cpp",
    "sampler.cpp",
];
const HEADERS: [&str; 3] = ["grammar_check.h", "guard.h", "tgvi.h"];

/// llama.cpp's source folder, as the CMake cache of the sys crate's build names it.
fn llama_source(cmake_dir: &Path) -> PathBuf {
    let out_dir = cmake_dir.ancestors().nth(2).expect("DEP_LLAMA_GGML_CMAKE_DIR is OUT_DIR/lib/cmake");
    let cache = out_dir.join("build").join("CMakeCache.txt");
    let text = fs::read_to_string(&cache).unwrap_or_else(|e| panic!("cannot read {}: {e}", cache.display()));
    let home = text
        .lines()
        .find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="))
        .expect("CMakeCache.txt names its source folder");
    PathBuf::from(home)
}

/// The name that programs look for at run time carries the major version, on Linux libtinygptv.so.0. So that they also find it
/// in cargo's own folder, a link of that name stands there.
fn name_shared_library() {
    let target = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    // Android's loader wants plain names; Windows and Apple's systems have other ways.
    if target("FAMILY") != "unix" || ["android", "macos", "ios"].contains(&target("OS").as_str()) {
        return;
    }
    let major = env::var("CARGO_PKG_VERSION_MAJOR").expect("cargo tells the version");
    let name = format!("libtinygptv.so.{major}");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,{name}");

    // <profile>/build/<package>/out
    let out_dir = PathBuf::from(env::var("OUT_DIR").expect("cargo tells the output folder"));
    if let Some(profile) = out_dir.ancestors().nth(3) {
        let link = profile.join(&name);
        #[cfg(unix)]
        if fs::symlink_metadata(&link).is_err() {
            // Only a convenience: without it, a program built against this folder is told where to look.
            let _ = std::os::unix::fs::symlink("libtinygptv.so", link);
        }
    }
}

/// What src/reserve.c stands in front of; scripts/static-library.sh has the same list.
const ALLOCATOR: [&str; 6] = ["malloc", "calloc", "realloc", "free", "posix_memalign", "aligned_alloc"];
/// And with the GNU C library.
const THREAD_EXIT: &str = "__cxa_thread_atexit_impl";

/// A reserve for allocations that the system's allocator refuses, where linkers can put it between.
fn back_allocations() {
    println!("cargo:rerun-if-changed=src/reserve.c");
    let system = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if !["linux", "android"].contains(&system.as_str()) {
        return;
    }
    cc::Build::new().file("src/reserve.c").std("c11").flag_if_supported("-fvisibility=hidden").compile("tgvi_reserve");
    let gnu = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    for function in ALLOCATOR.into_iter().chain(gnu.then_some(THREAD_EXIT)) {
        println!("cargo:rustc-cdylib-link-arg=-Wl,--wrap={function}");
    }
}

fn main() {
    name_shared_library();
    back_allocations();
    for file in SOURCES.iter().chain(&HEADERS) {
        println!("cargo:rerun-if-changed=src/decoder/{file}");
    }
    println!("cargo:rerun-if-env-changed=DEP_LLAMA_GGML_CMAKE_DIR");

    let cmake_dir = env::var("DEP_LLAMA_GGML_CMAKE_DIR").expect("llama-cpp-sys-2 tells where its build is");
    let llama = llama_source(Path::new(&cmake_dir));
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .files(SOURCES.map(|file| format!("src/decoder/{file}")))
        .include("src/decoder")
        .include(llama.join("src"))
        .include(llama.join("include"))
        .include(llama.join("ggml/include"))
        .include(llama.join("ggml/src"))
        .flag_if_supported("-fvisibility=hidden")
        .warnings(false)
        .compile("tgvi_decoder");
}
