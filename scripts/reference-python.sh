#!/bin/bash
# Prints the path of a Python that has the packages of a file: $TGV_PYTHON, or one that is set up under target/.
# Arguments: the file [tests/reference/requirements.txt] and the folder to set up [target/venv].
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${TGV_PYTHON:-}" ]; then
    echo "$TGV_PYTHON"
    exit
fi
requirements=${1:-tests/reference/requirements.txt}
venv=${2:-target/venv}
python=$venv/bin/python
# gguf is needed for a check of converted files only.
wanted=$(grep -v -e '^#' -e '^gguf' "$requirements")
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "setting up Python packages in $venv" >&2
    python3 -m venv "$venv" || {
        echo "python3 cannot make virtual environments (on Debian: apt-get install python3-venv)" >&2
        exit 1
    }
    # PyPI's PyTorch brings gigabytes of CUDA on Linux; where PyTorch's own index can be reached, its CPU build is taken.
    cpu=https://download.pytorch.org/whl/cpu
    index=""
    if "$python" -c "import urllib.request as u; u.urlopen('$cpu/torch/', timeout=5)" 2>/dev/null; then
        index="--extra-index-url $cpu"
    fi
    # shellcheck disable=SC2086 # lists of words
    "$python" -m pip install --quiet $index $wanted >&2
    echo "$wanted" >"$venv/installed"
fi
echo "$python"
