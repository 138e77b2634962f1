#!/bin/bash
# Speed and memory beside the peers: prints the tables, writes target/bench/report.json and report.svg. Arguments go to
# tinygptv-bench; see its --help.
#
# TGV_BENCH_NATIVE=0: without a second build for this very processor, which takes minutes once.
# TGV_PYTHON: see scripts/reference-python.sh. Without a network the peers in Python are told as missing.
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/bench
mkdir -p "$out"

options=(--json "$out/report.json" --svg "$out/report.svg")
if [ "${TGV_BENCH_NATIVE:-1}" != 0 ]; then
    echo "bench: building for this processor" >&2
    RUSTFLAGS="-C target-cpu=native" cargo build --release --quiet --target-dir target/native
    options+=(--native target/native/release/tinygptv-bench)
fi
if python=$(bash scripts/reference-python.sh bench/requirements.txt target/bench-venv); then
    options+=(--python "$python")
fi
target/release/tinygptv-bench "${options[@]}" "$@"
