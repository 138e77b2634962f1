"""A stock Phi-2 of random weights, as other people's code has it.

Writes tests/golden/stock_phi2/: stock.gguf, made by transformers' PhiForCausalLM and the
convert_hf_to_gguf.py inside the crate llama-cpp-sys-2, and logits.json with logits.f32:
what PhiForCausalLM says at each position of a text.

The crate ships the converter without its packages `conversion` and `gguf`. They come from
the source archive of llama-cpp-python, whose copy of the converter must be the same, byte
for byte: --archive names a downloaded one, without it pip fetches it.

Weights are whole multiples of 2^-9, with one of ±127 of them in each block of 32, so that
the Q8_0 the file is stored in holds them exactly and the file stays small.
"""
import argparse
import json
import os
import runpy
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, PhiConfig, PhiForCausalLM

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "assets" / "demo" / "checkpoint" / "phi2"
OUT = ROOT / "tests" / "golden" / "stock_phi2"
ARCHIVE = "llama-cpp-python==0.3.36"
CRATE = "llama-cpp-sys-2"
TEXT = "###Human: What is left of the red circle?###Assistant: The blue star."
STEP = 2.0 ** -9
BLOCK = 32


def crate_source():
    """llama.cpp's folder in the crate that the library is built with."""
    args = ["cargo", "metadata", "--format-version", "1", "--locked"]
    packages = json.loads(subprocess.run(args, cwd=ROOT, check=True, capture_output=True).stdout)["packages"]
    manifest = next(p["manifest_path"] for p in packages if p["name"] == CRATE)
    return Path(manifest).parent / "llama.cpp"


def fetch_archive(folder):
    args = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder, ARCHIVE]
    subprocess.run(args, check=True)
    return next(Path(folder).glob("*.tar.gz"))


def unpack(archive, folder):
    """llama.cpp's folder in the archive, as far as the converter needs it."""
    with tarfile.open(archive) as tar:
        prefix = f"{tar.getnames()[0].split('/')[0]}/vendor/llama.cpp/"
        wanted = [m for m in tar.getmembers() if m.name.startswith(tuple(
            prefix + part for part in ("conversion/", "gguf-py/gguf/", "convert_hf_to_gguf.py")))]
        tar.extractall(folder, wanted, filter="data")
    return Path(folder) / prefix


def exact_in_q8_0(shape, rng):
    """About normal, σ = 40 steps."""
    blocks = np.clip(np.rint(rng.normal(0, 40, (*shape[:-1], shape[-1] // BLOCK, BLOCK))), -127, 127)
    blocks[..., 0] = np.where(blocks[..., 0] < 0, -127, 127)
    return torch.tensor(blocks.reshape(shape) * STEP, dtype=torch.float32)


def make_model(tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    model = PhiForCausalLM(PhiConfig(
        vocab_size=len(tokenizer), hidden_size=160, intermediate_size=640, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, hidden_act="gelu_new", layer_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4},
        bos_token_id=end, eos_token_id=end))
    rng = np.random.default_rng(9_100_600_000)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            values = exact_in_q8_0(tuple(parameter.shape), rng)
        else:
            mean = 1.0 if "layernorm" in name and name.endswith("weight") else 0.0
            values = torch.tensor(rng.normal(mean, 0.2, parameter.shape), dtype=torch.float32)
        parameter.data.copy_(values)
    return model.eval()


def convert(folder, converter, packages, out):
    """Runs the crate's converter as a program, with the packages it lacks."""
    sys.path[:0] = [str(packages), str(packages / "gguf-py")]
    os.environ["NO_LOCAL_GGUF"] = "1"
    from conversion.base import TextModel
    # It knows tokenizers by a hash of what they make of a text, which no tokenizer but Phi-2's own has.
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "phi-2"
    sys.argv = [str(converter), str(folder), "--outfile", str(out), "--outtype", "q8_0", "--model-name", "stock phi-2"]
    runpy.run_path(str(converter), run_name="__main__")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--archive", type=Path, help=f"source archive of {ARCHIVE}")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    model = make_model(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        source = crate_source()
        packages = unpack(args.archive or fetch_archive(folder), folder)
        converter = source / "convert_hf_to_gguf.py"
        if converter.read_bytes() != (packages / converter.name).read_bytes():
            sys.exit(f"{ARCHIVE} has another converter than the crate; find the version that has the same")
        phi2 = Path(folder) / "phi2"
        model.save_pretrained(phi2)
        tokenizer.save_pretrained(phi2)
        convert(phi2, converter, packages, OUT / "stock.gguf")

    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    logits.numpy().astype("<f4").tofile(OUT / "logits.f32")
    facts = {"text": TEXT, "ids": ids, "shape": list(logits.shape), "largest": round(float(logits.abs().max()), 3)}
    (OUT / "logits.json").write_text(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
