"""Read a checkpoint in the official layout, however its files are made, into the reference model of model.py.

Written from the description of the files (docs/model.md, section 7), without regard to the converter.
"""
import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from model import TinyGptV
from oracle_models import BLIP2, VIT

LORA = re.compile(r"(.*)\.lora_(A|B)(?:\.default)?\.weight")


def read(path):
    if path.suffix == ".safetensors":
        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("model", state)


def load(spec, folder):
    """-> the model, float32, LoRA merged."""
    folder, c = Path(folder), spec.dims
    state = {}
    for name in spec.weights:
        state.update({f"llama_model.{key}": t for key, t in read(folder / "phi-2" / name).items()})
    for key, t in read(folder / VIT).items():
        block = re.match(r"blocks\.(\d+)\.", key)
        if not key.startswith(("norm.", "head.")) and not (block and int(block[1]) >= c.vit_layers):
            state[f"visual_encoder.{key}"] = t
    state.update(read(folder / BLIP2))
    lora = {"A": {}, "B": {}}
    for key, t in read(folder / spec.stage_file).items():
        key = key.replace("llama_model.base_model.model.", "llama_model.")
        match = LORA.fullmatch(key)
        if match:
            lora[match[2]][match[1]] = t.float()
        else:
            state[key] = t
    state = {key: t.float() for key, t in state.items() if not unused(key)}

    assert lora["A"].keys() == lora["B"].keys()
    for module, a in lora["A"].items():
        scale = (spec.lora_alpha or 16) / a.shape[0]
        state[f"{module}.weight"] = state[f"{module}.weight"] + scale * (lora["B"][module] @ a)
    for i in range(c.layers):
        attention = f"llama_model.model.layers.{i}.self_attn."
        if not spec.fused:
            fuse(state, attention, c.heads)
        for norm in ("q_layernorm", "k_layernorm"):
            state.setdefault(f"{attention}{norm}.bias", torch.zeros(c.hidden // c.heads))
    model = TinyGptV(c)
    model.load_state_dict(state, strict=True)
    return model.eval()


def unused(key):
    """The Q-Former's text path, BLIP-2's own head, integer buffers."""
    return key.startswith("t5_proj.") or key.startswith("Qformer.") and bool(
        re.search(r"\.embeddings\.(word|position)_|\.layer\.\d+\.(intermediate|output)\.", key))


def fuse(state, attention, heads):
    """q_proj, k_proj, v_proj -> query_key_value, laid out [head, (q, k, v), head width]."""
    for kind in ("weight", "bias"):
        parts = [state.pop(f"{attention}{p}_proj.{kind}") for p in "qkv"]
        parts = [p.reshape(heads, -1, *p.shape[1:]) for p in parts]
        state[f"{attention}query_key_value.{kind}"] = torch.stack(parts, 1).reshape(-1, *parts[0].shape[2:])
