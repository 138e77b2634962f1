#!/bin/bash
# Accuracy per task on fresh scenes, beside the PyTorch reference: prints the table and fails when a task is further off
# than 1 point (F16) or 2 points (Q4_K_M decoder, Q8_0 vision).
#
# TGV_PYTHON names a Python that has tests/reference/requirements.txt; without it one is set up under target/.
# TGV_SCENES is the number of scenes, 200 if not set.
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/accuracy
reference=tests/reference
demo=assets/demo

python=${TGV_PYTHON:-}
if [ -z "$python" ]; then
    venv=target/venv
    python=$venv/bin/python
    # transformers and gguf are needed for other checks only.
    wanted=$(grep -v -e '^#' -e '^transformers' -e '^gguf' "$reference/requirements.txt")
    if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
        echo "accuracy: setting up Python packages in $venv"
        python3 -m venv "$venv" || {
            echo "accuracy: python3 cannot make virtual environments (on Debian: apt-get install python3-venv)" >&2
            exit 1
        }
        # PyPI's PyTorch brings gigabytes of CUDA on Linux; where PyTorch's own index can be reached, its CPU build is taken.
        cpu=https://download.pytorch.org/whl/cpu
        index=""
        if "$python" -c "import urllib.request as u; u.urlopen('$cpu/torch/', timeout=5)" 2>/dev/null; then
            index="--extra-index-url $cpu"
        fi
        # shellcheck disable=SC2086 # lists of words
        "$python" -m pip install --quiet $index $wanted
        echo "$wanted" >"$venv/installed"
    fi
fi

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
