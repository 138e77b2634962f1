#!/bin/sh
# Builds each picture format alone, and none: without a warning, and golden pictures of formats that were left out are refused
# with the name of the feature to build with.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

for features in "" bmp gif jpeg png pnm tiff webp; do
    echo "== features: ${features:-none}"
    "$cargo" clippy --release -p tinygptv --lib --tests --no-default-features --features "$features" -- -D warnings
    "$cargo" test --release -p tinygptv --no-default-features --features "$features" --test pictures
done
