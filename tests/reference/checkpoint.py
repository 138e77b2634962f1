"""Read a checkpoint in the official TinyGPT-V file layout.

    phi2/{config.json,model.safetensors,tokenizer.json,...}
    eva_vit_g.pth               ViT state dict
    blip2_pretrained.pth        {"model": {Qformer.*, query_tokens, ln_vision.*}}
    TinyGPT-V_for_Stage4.pth    {"model": {llama_proj.*, llama_proj2.*, llama_model.model.*norm*}}
    meta.json                   dimensions
"""
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from model import Dims, TinyGptV

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo" / "checkpoint"


def load(folder=DEMO):
    """-> (model in float32, tokenizer); every key of every file has to find its place."""
    folder = Path(folder)
    state = {"llama_model." + k: t for k, t in load_file(folder / "phi2" / "model.safetensors").items()}
    state.update({"visual_encoder." + k: t for k, t in _pth(folder / "eva_vit_g.pth").items()})
    state.update(_pth(folder / "blip2_pretrained.pth")["model"])
    state.update(_pth(folder / "TinyGPT-V_for_Stage4.pth")["model"])
    model = TinyGptV(dims(folder / "meta.json"))
    model.load_state_dict({k: t.float() for k, t in state.items()}, strict=True)
    return model.eval(), load_tokenizer(folder)


def load_tokenizer(folder=DEMO):
    return Tokenizer.from_file(str(Path(folder) / "phi2" / "tokenizer.json"))


def dims(meta_path):
    meta = json.loads(Path(meta_path).read_text())
    vit, qformer, llm = meta["vit"], meta["qformer"], meta["llm"]
    return Dims(
        image_size=meta["image_size"], patch=vit["patch_size"], vit_width=vit["width"],
        vit_layers=vit["layers"], vit_heads=vit["heads"], vit_mlp=vit["mlp"],
        qf_width=qformer["width"], qf_layers=qformer["layers"], qf_heads=qformer["heads"],
        qf_mlp=qformer["mlp"], qf_cross_every=qformer["cross_attention_freq"], queries=qformer["queries"],
        proj_mid=meta["projection"]["mid"], hidden=llm["hidden"], layers=llm["layers"], heads=llm["heads"],
        mlp=llm["mlp"], rotary=llm["rotary_dims"], theta=llm["rope_theta"], vocab=llm["vocab"])


def _pth(path):
    return torch.load(path, map_location="cpu", weights_only=True)
