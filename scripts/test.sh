#!/bin/bash
# Runs every test and ends with one line that tells how many ran.
set -uo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT

cargo test --release --workspace --no-fail-fast "$@" 2>&1 | tee "$log"
code=${PIPESTATUS[0]}

awk '
    /^test result: / { for (i = 1; i < NF; i++) { if ($(i + 1) ~ /^passed/) p += $i; if ($(i + 1) ~ /^failed/) f += $i; if ($(i + 1) ~ /^ignored/) s += $i } }
    END { printf "\n%d passed, %d failed, %d skipped\n", p, f, s }
' "$log"
exit "$code"
