#!/bin/bash
# Runs the tests of kernels, pictures and answers as 64-bit ARM code in an emulator, on processors with and without extensions.
set -euo pipefail
cd "$(dirname "$0")/.."
# make hands on what its command line sets.
unset TARGET
target=aarch64-unknown-linux-gnu
gnu=aarch64-linux-gnu

sh scripts/setup.sh $gnu-gcc "gcc-$gnu libc6-dev-arm64-cross" $gnu-g++ g++-$gnu qemu-aarch64 qemu-user
rustup target add $target >/dev/null

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$gnu-gcc
export CC_aarch64_unknown_linux_gnu=$gnu-gcc CXX_aarch64_unknown_linux_gnu=$gnu-g++
export BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu="--sysroot=/usr/$gnu -I/usr/$gnu/include"
export LLAMA_LIB_PROFILE=Release
# Left out: a test that starts itself and looks at how it is ended, which would need the emulator a second time.
test() {
    echo "== qemu's $1"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $1 -L /usr/$gnu" \
        cargo test --release --target $target --target-dir target/arm --package tinygptv "${@:2}" \
        -- --skip the_reason_of_an_abort_is_logged
}
# Products of 8-bit matrices; dot products; neither.
test max --lib --test parity --test pictures
test neoverse-n1 --lib
test cortex-a72 --lib
