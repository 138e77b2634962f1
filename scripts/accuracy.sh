#!/bin/bash
# Accuracy per task on fresh scenes, beside the PyTorch reference: prints the table and fails when a task is further off
# than 1 point (F16) or 2 points (Q4_K_M decoder, Q8_0 vision).
#
# TGV_PYTHON: see scripts/reference-python.sh.
# TGV_SCENES is the number of scenes, 200 if not set.
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/accuracy
reference=tests/reference
demo=assets/demo

python=$(bash scripts/reference-python.sh)

# PyTorch's threads would spin beside whatever else runs.
export OMP_WAIT_POLICY=PASSIVE
rm -rf "$out"
echo "accuracy: drawing scenes, asking the reference"
"$python" "$reference/eval_scenes.py" "$out" --scenes "${TGV_SCENES:-200}" --reference

cargo build --release --quiet --example answer_scenes
answer() {
    echo "accuracy: asking tinygptv, decoder $1, vision $2"
    target/release/examples/answer_scenes "$demo/tinygptv-demo-$1.gguf" "$demo/tinygptv-demo-vision-$2.gguf" \
        "$out" "$out/$1.jsonl"
}
answer f16 f16
answer q4_k_m q8_0

echo
"$python" "$reference/score_scenes.py" "$out" "f16:1=$out/f16.jsonl" "q4_k_m:2=$out/q4_k_m.jsonl"
