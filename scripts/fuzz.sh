#!/bin/bash
# Runs a fuzz target with libFuzzer, or packs what libFuzzer found: fuzz.sh run TARGET SECONDS, fuzz.sh pack TARGET
set -euo pipefail
cd "$(dirname "$0")/.."
job=${1:?run or pack}
target=${2:?which target}
sh scripts/setup.sh clang++ "clang libclang-rt-dev"
# make hands on what its command line sets, and bindgen has build scripts run again, llama.cpp's too, whenever TARGET changes.
unset TARGET

work=$PWD/target/fuzz
tools=$work/tools
export PATH="$tools/bin:$PATH"
if ! command -v cargo-fuzz >/dev/null; then
    cargo install cargo-fuzz --locked --root "$tools"
fi

mkdir -p "$work/corpus/$target" "$work/crashes/$target" "fuzz/regressions/$target"
TGV_FUZZ_INPUTS=$work/inputs cargo test --release --test fuzzing inputs_are_written_where_asked_for

# Stable Rust hides the switches that instrumenting takes. C and C++ are instrumented too, libFuzzer itself is not.
(
    not=$PWD/fuzz/libfuzzer/not-instrumented.txt
    flags="-g1 -fno-omit-frame-pointer -fsanitize=address,fuzzer-no-link"
    flags="$flags -fsanitize-ignorelist=$not -fsanitize-coverage-ignorelist=$not"
    export RUSTC_BOOTSTRAP=1 CC=clang CXX=clang++ CFLAGS=$flags CXXFLAGS=$flags LLAMA_LIB_PROFILE=Release
    cargo fuzz build --fuzz-dir fuzz/libfuzzer "$target"
)
program=fuzz/libfuzzer/target/$(rustc -vV | sed -n 's/host: //p')/release/$target
max_len=$(sed -n "s/.*name: \"$target\",.*max_len: 1 << \([0-9]*\).*/\1/p" fuzz/src/lib.rs)
options=(-max_len=$((1 << max_len)) -rss_limit_mb=2048 -malloc_limit_mb=4096)
inputs=("fuzz/regressions/$target" "$work/inputs/$target")

case $job in
run)
    exec "$program" "${options[@]}" -dict="fuzz/dictionaries/$target" -max_total_time="${3:?how many seconds}" -timeout=25 \
        -print_final_stats=1 -artifact_prefix="$work/crashes/$target/" "$work/corpus/$target" "${inputs[@]}"
    ;;
pack)
    rm -rf "$work/merged"
    mkdir -p "$work/merged/$target"
    "$program" "${options[@]}" -set_cover_merge=1 "$work/merged/$target" "${inputs[@]}" "$work/corpus/$target"
    TGV_FUZZ_PACK=$work/merged cargo test --release --test fuzzing inputs_are_packed_where_asked_for
    ;;
*)
    echo "fuzz.sh: $job is neither run nor pack" >&2
    exit 2
    ;;
esac
