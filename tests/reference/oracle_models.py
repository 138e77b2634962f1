"""Small random TinyGPT-V models as files in the official layout: which tensors each file holds, and their numbers.

Only the list of tensors is committed (tests/golden/oracle/*.json): the numbers follow
from it.  The tensor `key` of the file `path` of a model with the seed `seed` holds

    h    = FNV-1a, 64 bits, of the UTF-8 text "{seed}/{path}/{key}"
    z[i] = output i of SplitMix64 started at h
    u[i] = (z[i] >> 40) / 2^23 - 1             24 bits, -1 to 1
    w[i] = centre + spread * u[i]              float32, each operation rounded

rounded once more to the file's type.  tests/oracle/checkpoint.rs does the same in Rust.
"""
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from model import Dims

TOKENIZER = Path(__file__).resolve().parents[2] / "assets" / "demo" / "checkpoint" / "phi2"
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
VIT, BLIP2 = "eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth"
MASK = (1 << 64) - 1


@dataclass
class Spec:
    """One model: its sizes, and which of the layouts that exist its files have."""
    seed: int
    stage: int
    dims: Dims                          # image_size is that of the stored position embedding
    image_size: int                     # what the model is used with
    image: str
    question: str
    template: str
    types: dict                         # of the four inputs: phi2, vit, blip2, stage
    fused: bool = True                  # query_key_value, or q_proj, k_proj, v_proj
    weights: tuple = ("model.safetensors",)
    lora: tuple = ()                    # modules of a layer that have LoRA
    lora_spelling: str = ".default"
    lora_rank: int = 8
    lora_alpha: int | None = None       # in the checkpoint's configuration; 16 counts where it says nothing
    wrapped: bool = True                # PEFT's prefix in the stage checkpoint
    norm_biases: bool = False           # whether the q/k norms' biases are in the stage checkpoint
    qformer_in_stage: bool = False      # as checkpoints of older code
    unused_block: bool = False          # a last block of the ViT that the model does not use
    config: dict = field(default_factory=dict)

    @property
    def stage_file(self):
        return f"TinyGPT-V_for_Stage{self.stage}.pth"


def specs():
    f16 = dict(phi2="F16", vit="F16", blip2="F16", stage="F32")
    return {
        # The real picture size and patch grid, head sizes 80 with 32 rotated and 88, as official files are.
        "stage1": Spec(
            seed=4, stage=1, image_size=224, image="assets/demo/shapes-1.png", template="chat",
            question="Describe this image.", types=f16, lora=("query_key_value", "dense"), lora_alpha=16,
            unused_block=True, config=dict(partial_rotary_factor=0.4),
            dims=Dims(image_size=224, patch=14, vit_width=176, vit_layers=2, vit_heads=2, vit_mlp=320,
                      qf_width=128, qf_layers=3, qf_heads=2, qf_mlp=192, qf_cross_every=2, queries=8, proj_mid=96,
                      hidden=160, layers=2, heads=2, mlp=320, rotary=32, theta=10000.0, vocab=544)),
        # 448 pixels: the position embedding goes from 16x16 to 32x32.  Older spelling of LoRA, older stage checkpoint.
        "stage4": Spec(
            seed=4, stage=4, image_size=448, image="assets/demo/shapes-2.png", template="instruct",
            question="[vqa] What color is the star?", types=dict(phi2="BF16", vit="F16", blip2="F32", stage="F32"),
            lora=("query_key_value", "dense"), lora_spelling="", lora_rank=4, norm_biases=True, qformer_in_stage=True,
            config=dict(rope_parameters=dict(partial_rotary_factor=0.4, rope_theta=10000.0, rope_type="default")),
            dims=Dims(image_size=224, patch=14, vit_width=176, vit_layers=2, vit_heads=2, vit_mlp=320,
                      qf_width=64, qf_layers=2, qf_heads=1, qf_mlp=128, qf_cross_every=2, queries=6, proj_mid=200,
                      hidden=160, layers=3, heads=2, mlp=416, rotary=32, theta=10000.0, vocab=517)),
        # The newer Phi-2 layout in shards of PyTorch's format; everything in single precision.
        "split": Spec(
            seed=11, stage=3, image_size=56, image="tests/golden/demo/scene2.png", template="benchmark",
            question="[grounding] describe this image", types=dict.fromkeys(f16, "F32"), fused=False,
            weights=("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"),
            lora=("q_proj", "k_proj", "v_proj", "dense"), lora_alpha=24, norm_biases=True,
            config=dict(partial_rotary_factor=0.4),
            dims=Dims(image_size=56, patch=14, vit_width=352, vit_layers=2, vit_heads=4, vit_mlp=768,
                      qf_width=128, qf_layers=4, qf_heads=2, qf_mlp=256, qf_cross_every=2, queries=12, proj_mid=160,
                      hidden=320, layers=2, heads=4, mlp=640, rotary=32, theta=10000.0, vocab=517)),
        # No LoRA; widths that every quantised type fits.
        "plain": Spec(
            seed=30, stage=2, image_size=112, image="tests/golden/demo/scene7.png", template="rank",
            question="[vqa] Is there a circle?", types=dict.fromkeys(f16, "F16"), wrapped=False,
            weights=("pytorch_model.bin",), config=dict(partial_rotary_factor=0.5),
            dims=Dims(image_size=112, patch=14, vit_width=256, vit_layers=3, vit_heads=4, vit_mlp=512,
                      qf_width=128, qf_layers=2, qf_heads=2, qf_mlp=256, qf_cross_every=2, queries=10, proj_mid=128,
                      hidden=256, layers=3, heads=4, mlp=512, rotary=32, theta=10000.0, vocab=517)),
        # No size a multiple of anything; the position embedding goes from 5x5 to 8x8.
        "odd": Spec(
            seed=16, stage=4, image_size=56, image="tests/golden/demo/scene1.png", template="plain",
            question="[caption] a picture of", types=dict.fromkeys(f16, "BF16"), lora=("dense", "fc1"), lora_rank=3,
            lora_alpha=5, norm_biases=True, config=dict(partial_rotary_factor=0.35, rope_theta=50000.0),
            dims=Dims(image_size=35, patch=7, vit_width=132, vit_layers=3, vit_heads=3, vit_mlp=230,
                      qf_width=60, qf_layers=4, qf_heads=5, qf_mlp=100, qf_cross_every=3, queries=7, proj_mid=50,
                      hidden=120, layers=3, heads=3, mlp=200, rotary=14, theta=50000.0, vocab=523)),
    }


# ------------------------------------------------------------------ numbers

def fnv1a(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 & MASK
    return h


def uniform(name, n):
    """n numbers of -1 to 1, float32."""
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a(name)) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)


def tensor(seed, path, entry, type_name):
    key, shape, centre, spread = entry
    values = np.float32(centre) + np.float32(spread) * uniform(f"{seed}/{path}/{key}", int(np.prod(shape)))
    return torch.from_numpy(values).reshape(shape).to(TYPES[type_name])


# ------------------------------------------------------- the files' tensors

class Entries:
    """Builds a file's list of [key, shape, centre, spread]."""

    def __init__(self):
        self.list = []

    def add(self, key, shape, centre, spread):
        self.list.append([key, list(shape), float(np.float32(centre)), float(np.float32(spread))])

    def matrix(self, key, *shape, gain=1.0):
        """Keeps the variance of its input, times gain squared."""
        self.add(key, shape, 0, gain * (3 / np.prod(shape[1:])) ** 0.5)

    def bias(self, key, n):
        self.add(key, [n], 0, 0.6)

    def linear(self, name, out, cin, gain=1.0):
        self.matrix(name + ".weight", out, cin, gain=gain)
        self.bias(name + ".bias", out)

    def norm(self, name, n, bias=True):
        self.add(name + ".weight", [n], 1, 0.5)
        if bias:
            self.bias(name + ".bias", n)


def phi2_entries(spec):
    c, e = spec.dims, Entries()
    e.matrix("model.embed_tokens.weight", c.vocab, c.hidden, gain=0.5 * c.hidden ** 0.5)
    for i in range(c.layers):
        at = f"model.layers.{i}."
        e.norm(at + "input_layernorm", c.hidden)
        if spec.fused:
            e.linear(at + "self_attn.query_key_value", 3 * c.hidden, c.hidden)
        else:
            for part in "qkv":
                e.linear(f"{at}self_attn.{part}_proj", c.hidden, c.hidden)
        e.linear(at + "self_attn.dense", c.hidden, c.hidden)
        e.linear(at + "mlp.fc1", c.mlp, c.hidden)
        e.linear(at + "mlp.fc2", c.hidden, c.mlp)
    e.norm("model.final_layernorm", c.hidden)
    e.matrix("lm_head.weight", c.vocab, c.hidden, gain=3)
    e.bias("lm_head.bias", c.vocab)
    return e.list


def vit_entries(spec):
    c, e = spec.dims, Entries()
    w = c.vit_width
    e.add("cls_token", [1, 1, w], 0, 1)
    e.add("pos_embed", [1, (c.image_size // c.patch) ** 2 + 1, w], 0, 1)
    e.matrix("patch_embed.proj.weight", w, 3, c.patch, c.patch)
    e.bias("patch_embed.proj.bias", w)
    for i in range(c.vit_layers + spec.unused_block):
        at = f"blocks.{i}."
        e.norm(at + "norm1", w)
        e.bias(at + "attn.q_bias", w)
        e.bias(at + "attn.v_bias", w)
        e.matrix(at + "attn.qkv.weight", 3 * w, w)
        e.linear(at + "attn.proj", w, w)
        e.norm(at + "norm2", w)
        e.linear(at + "mlp.fc1", c.vit_mlp, w)
        e.linear(at + "mlp.fc2", w, c.vit_mlp)
    if spec.unused_block:
        e.norm("norm", w)
        e.linear("head", 10, w)
    return e.list


def qformer_entries(c, e):
    w = c.qf_width
    e.add("query_tokens", [1, c.queries, w], 0, 1)
    e.norm("Qformer.bert.embeddings.LayerNorm", w)
    for i in range(c.qf_layers):
        at = f"Qformer.bert.encoder.layer.{i}."
        kinds = ["attention"] + ["crossattention"] * (i % c.qf_cross_every == 0)
        for kind in kinds:
            cin = w if kind == "attention" else c.vit_width
            # Uneven attention: otherwise the queries become alike.
            e.linear(f"{at}{kind}.self.query", w, w, gain=2)
            e.linear(f"{at}{kind}.self.key", w, cin, gain=2)
            e.linear(f"{at}{kind}.self.value", w, cin)
            e.linear(f"{at}{kind}.output.dense", w, w)
            e.norm(f"{at}{kind}.output.LayerNorm", w)
        for suffix in ("_query", ""):               # the second is the text path, which is not used
            e.linear(f"{at}intermediate{suffix}.dense", c.qf_mlp, w)
            e.linear(f"{at}output{suffix}.dense", w, c.qf_mlp)
            e.norm(f"{at}output{suffix}.LayerNorm", w)


def blip2_entries(spec):
    c, e = spec.dims, Entries()
    e.norm("ln_vision", c.vit_width)
    qformer_entries(c, e)
    e.matrix("Qformer.bert.embeddings.word_embeddings.weight", 11, c.qf_width)
    e.linear("t5_proj", 24, c.qf_width)
    return e.list


def stage_entries(spec):
    c, e = spec.dims, Entries()
    decoder = "llama_model.base_model.model.model.layers" if spec.wrapped else "llama_model.model.layers"
    outputs = {"query_key_value": 3 * c.hidden, "fc1": c.mlp}
    for i in range(c.layers):
        at = f"{decoder}.{i}."
        for module in spec.lora:
            name = f"{at}{'mlp' if module == 'fc1' else 'self_attn'}.{module}"
            e.matrix(f"{name}.lora_A{spec.lora_spelling}.weight", spec.lora_rank, c.hidden)
            scale = (spec.lora_alpha or 16) / spec.lora_rank
            e.matrix(f"{name}.lora_B{spec.lora_spelling}.weight", outputs.get(module, c.hidden), spec.lora_rank,
                     gain=0.7 / scale)
        e.norm(at + "self_attn.q_layernorm", c.hidden // c.heads, spec.norm_biases)
        e.norm(at + "self_attn.k_layernorm", c.hidden // c.heads, spec.norm_biases)
        e.norm(at + "post_layernorm", c.hidden, bias=False)
    e.linear("llama_proj", c.proj_mid, c.qf_width)
    e.linear("llama_proj2", c.hidden, c.proj_mid)
    if spec.qformer_in_stage:
        qformer_entries(c, e)
    return e.list


def config(spec):
    c = spec.dims
    return dict(
        architectures=["PhiForCausalLM"], model_type="phi", vocab_size=c.vocab, hidden_size=c.hidden,
        intermediate_size=c.mlp, num_hidden_layers=c.layers, num_attention_heads=c.heads, hidden_act="gelu_new",
        max_position_embeddings=512, layer_norm_eps=1e-5, qk_layernorm=False, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=0, **spec.config)


def files(spec):
    """Every weight file: path, number type, whether its tensors lie under "model", and the tensors."""
    phi2, shards = phi2_entries(spec), len(spec.weights)
    named = [(f"phi-2/{name}", "phi2", False, phi2[i::shards]) for i, name in enumerate(spec.weights)]
    named += [(VIT, "vit", False, vit_entries(spec)), (BLIP2, "blip2", True, blip2_entries(spec)),
              (spec.stage_file, "stage", True, stage_entries(spec))]
    return [dict(path=path, type=spec.types[role], wrapped=wrapped, tensors=tensors)
            for path, role, wrapped, tensors in named]


# ------------------------------------------------------------------ writing

def write(spec, folder):
    """All files of a model, as a user has them."""
    phi2 = folder / "phi-2"
    phi2.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(TOKENIZER / name, phi2 / name)
    (phi2 / "config.json").write_text(json.dumps(config(spec)))
    shards = {}
    for file in files(spec):
        path = file["path"]
        state = {entry[0]: tensor(spec.seed, path, entry, file["type"]) for entry in file["tensors"]}
        if path.startswith("phi-2/"):
            shards.update(dict.fromkeys(state, Path(path).name))
        if path.endswith(".safetensors"):
            save_file(state, folder / path)
            continue
        whole = {"model": state} if file["wrapped"] else state
        if path == BLIP2:
            state["Qformer.bert.embeddings.position_ids"] = torch.arange(12)[None]
        if path == spec.stage_file:
            whole["optimizer"], whole["epoch"] = {}, 7
            if spec.lora_alpha is not None:
                whole["config"] = {"model": {"lora_r": spec.lora_rank, "lora_alpha": spec.lora_alpha}}
        torch.save(whole, folder / path)
    if len(spec.weights) > 1:
        (phi2 / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
