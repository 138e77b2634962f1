#!/bin/bash
# Makes everything in tests/golden anew, except golden/demo, which came with the demo model.
#
# TGV_PYTHON: see scripts/reference-python.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(bash scripts/reference-python.sh)

# PyTorch's threads would spin beside whatever else runs.
export OMP_WAIT_POLICY=PASSIVE
# The tokenizer comes first: its ids are made by another script.
for script in make_codegen_like_tokenizer make_tokenizer_goldens make_resize_goldens make_demo_pictures \
    make_scene_goldens make_rank_goldens make_stage_goldens make_picture_goldens make_stock_phi2 oracle; do
    echo "goldens: $script"
    "$python" "tests/reference/$script.py"
done
"$python" tests/reference/oracle.py --sensitivity
