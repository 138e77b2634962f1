#!/bin/bash
# Runs a fuzz target with libFuzzer: fuzz.sh TARGET SECONDS [options of libFuzzer]
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?which target}
seconds=${2:?how many seconds}
shift 2

work=$PWD/target/fuzz
tools=$work/tools
export PATH="$tools/bin:$PATH"
if ! command -v cargo-fuzz >/dev/null; then
    cargo install cargo-fuzz --locked --root "$tools"
fi

mkdir -p "$work/corpus/$target" "$work/crashes/$target" "fuzz/corpus/$target" "fuzz/regressions/$target"
TGV_FUZZ_SEEDS=$work/seeds cargo test --release --test fuzzing seeds_are_written_where_asked_for

# Stable Rust hides the switches that instrumenting takes. C and C++ are instrumented the same way; clang's own name for it.
not=$PWD/fuzz/libfuzzer/not-instrumented.txt
flags="-g1 -fno-omit-frame-pointer -fsanitize=address,fuzzer-no-link -fsanitize-ignorelist=$not -fsanitize-coverage-ignorelist=$not"
export RUSTC_BOOTSTRAP=1 CC=clang CXX=clang++ CFLAGS=$flags CXXFLAGS=$flags LLAMA_LIB_PROFILE=Release
cargo fuzz build --fuzz-dir fuzz/libfuzzer "$target"

max_len=$(sed -n "s/.*name: \"$target\",.*max_len: 1 << \([0-9]*\).*/\1/p" fuzz/src/lib.rs)
binary=fuzz/libfuzzer/target/$(rustc -vV | sed -n 's/host: //p')/release/$target
exec "$binary" -dict="fuzz/dictionaries/$target" -max_total_time="$seconds" -max_len=$((1 << max_len)) -timeout=25 -rss_limit_mb=2048 -malloc_limit_mb=1024 \
    -print_final_stats=1 -artifact_prefix="$work/crashes/$target/" "$@" \
    "$work/corpus/$target" "fuzz/corpus/$target" "fuzz/regressions/$target" "$work/seeds/$target"
