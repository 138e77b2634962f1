#!/bin/bash
# Runs the tests of kernels, pictures and answers as 64-bit ARM code in an emulator, on processors with and without extensions.
set -euo pipefail
cd "$(dirname "$0")/.."
# make hands on what its command line sets.
unset TARGET
target=aarch64-unknown-linux-gnu
gnu=aarch64-linux-gnu

missing=()
command -v $gnu-gcc >/dev/null || missing+=(gcc-$gnu libc6-dev-arm64-cross)
command -v $gnu-g++ >/dev/null || missing+=(g++-$gnu)
command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "test-arm: please install: ${missing[*]}" >&2
        exit 1
    fi
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "test-arm: installing ${missing[*]}"
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
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
