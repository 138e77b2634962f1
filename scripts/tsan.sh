#!/bin/bash
# Runs tests/tsan under ThreadSanitizer, after a race on purpose has shown that it is on. The standard library is compiled with it
# too, for which its source is needed: rustup fetches it where it is missing.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root/tests/tsan"
[ -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library" ] || rustup component add rust-src

target=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=thread TSAN_OPTIONS=halt_on_error=1
run() {
    cargo test --release -Zbuild-std --target "$target" --target-dir "$root/target/tsan" "$@"
}
run --no-run
if told=$(run --test stress -- --ignored canary --nocapture 2>&1) || ! grep -q 'WARNING: ThreadSanitizer: data race' <<<"$told"; then
    echo "$told" >&2
    echo 'tsan.sh: a race on purpose was not noticed' >&2
    exit 1
fi
run
echo 'tsan.sh: the race on purpose was noticed, and no other'
