"""Random checkpoint files of full size in the official layout, to time and weigh a conversion.

    python make_full_checkpoint.py OUT_DIR        # about 11 GB

Writes phi-2/ (fused attention, two safetensors shards, fp16), eva_vit_g.pth (40 blocks, fp16),
blip2_pretrained_flant5xxl.pth (fp32, keys of other parts besides) and TinyGPT-V_for_Stage4.pth (LoRA r = 64, norms,
projections).  Every tensor is a window of one block of normal numbers: sizes matter here, values do not.
"""
import argparse
import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

TOKENIZER = Path(__file__).resolve().parents[1] / "golden" / "tokenizer" / "codegen-like"
WIDTH, LAYERS, HEAD, MLP, VOCAB = 2560, 32, 80, 10240, 51200
VIT, VIT_BLOCKS, VIT_MLP = 1408, 40, 6144
QF, QF_LAYERS, QF_MLP, MIDDLE, RANK = 768, 12, 3072, 4096, 64

generator = torch.Generator().manual_seed(5)
block = torch.randn(1 << 28, generator=generator) * 0.02
at = 0


def numbers(*shape, dtype=torch.float16, around=0.0):
    global at
    count = math.prod(shape)
    if at + count > block.numel():
        at = at % 977
    window = block[at:at + count]
    at += count
    return (window + around).to(dtype).reshape(shape)


def linear(name, rows, columns, **options):
    return {f"{name}.weight": numbers(rows, columns, **options), f"{name}.bias": numbers(rows, **options)}


def norm(name, width, **options):
    return {f"{name}.weight": numbers(width, around=1.0, **options), f"{name}.bias": numbers(width, **options)}


def phi2(folder):
    folder.mkdir(parents=True, exist_ok=True)
    layers = []
    for i in range(LAYERS):
        name = f"model.layers.{i}"
        layers.append({**norm(f"{name}.input_layernorm", WIDTH),
                       **linear(f"{name}.self_attn.query_key_value", 3 * WIDTH, WIDTH),
                       **linear(f"{name}.self_attn.dense", WIDTH, WIDTH),
                       **linear(f"{name}.mlp.fc1", MLP, WIDTH), **linear(f"{name}.mlp.fc2", WIDTH, MLP)})
    ends = {"model.embed_tokens.weight": numbers(VOCAB, WIDTH), **norm("model.final_layernorm", WIDTH),
            **linear("lm_head", VOCAB, WIDTH)}
    shards = [{k: t for layer in layers[:20] for k, t in layer.items()},
              {**{k: t for layer in layers[20:] for k, t in layer.items()}, **ends}]
    where = {}
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05}-of-00002.safetensors"
        save_file(shard, folder / name)
        where |= {key: name for key in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["PhiForCausalLM"], "model_type": "phi", "vocab_size": VOCAB, "hidden_size": WIDTH,
        "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": WIDTH // HEAD,
        "max_position_embeddings": 2048, "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "partial_rotary_factor": 0.4,
        "qk_layernorm": False, "hidden_act": "gelu_new", "tie_word_embeddings": False}))
    for file in TOKENIZER.iterdir():
        shutil.copy(file, folder / file.name)


def vit():
    state = {"cls_token": numbers(1, 1, VIT), "pos_embed": numbers(1, 257, VIT),
             "patch_embed.proj.weight": numbers(VIT, 3, 14, 14), "patch_embed.proj.bias": numbers(VIT)}
    for i in range(VIT_BLOCKS):
        name = f"blocks.{i}"
        state |= {**norm(f"{name}.norm1", VIT), **norm(f"{name}.norm2", VIT),
                  f"{name}.attn.qkv.weight": numbers(3 * VIT, VIT), f"{name}.attn.q_bias": numbers(VIT),
                  f"{name}.attn.v_bias": numbers(VIT), **linear(f"{name}.attn.proj", VIT, VIT),
                  **linear(f"{name}.mlp.fc1", VIT_MLP, VIT), **linear(f"{name}.mlp.fc2", VIT, VIT_MLP)}
    return {**state, **norm("norm", VIT), **linear("head", 1000, VIT)}


def qformer():
    single = {"dtype": torch.float32}
    state = {"query_tokens": numbers(1, 32, QF, **single), **norm("ln_vision", VIT, **single),
             **norm("Qformer.bert.embeddings.LayerNorm", QF, **single),
             "Qformer.bert.embeddings.position_ids": torch.arange(512)[None], **linear("t5_proj", 4096, QF, **single)}
    for i in range(QF_LAYERS):
        name = f"Qformer.bert.encoder.layer.{i}"
        for attention, width in [("attention", QF)] + [("crossattention", VIT)] * (i % 2 == 0):
            state |= {**linear(f"{name}.{attention}.self.query", QF, QF, **single),
                      **linear(f"{name}.{attention}.self.key", QF, width, **single),
                      **linear(f"{name}.{attention}.self.value", QF, width, **single),
                      **linear(f"{name}.{attention}.output.dense", QF, QF, **single),
                      **norm(f"{name}.{attention}.output.LayerNorm", QF, **single)}
        for path in ["", "_query"]:
            state |= {**linear(f"{name}.intermediate{path}.dense", QF_MLP, QF, **single),
                      **linear(f"{name}.output{path}.dense", QF, QF_MLP, **single),
                      **norm(f"{name}.output{path}.LayerNorm", QF, **single)}
    return {"model": state}


def stage4():
    state = {**linear("llama_proj", MIDDLE, QF, dtype=torch.float32),
             **linear("llama_proj2", WIDTH, MIDDLE, dtype=torch.float32)}
    for i in range(LAYERS):
        name = f"llama_model.base_model.model.model.layers.{i}"
        for layer, rows in [("query_key_value", 3 * WIDTH), ("dense", WIDTH)]:
            lora = f"{name}.self_attn.{layer}"
            state |= {f"{lora}.lora_A.default.weight": numbers(RANK, WIDTH, dtype=torch.float32),
                      f"{lora}.lora_B.default.weight": numbers(rows, RANK, dtype=torch.float32)}
        for layer, width in [("self_attn.q_layernorm", HEAD), ("self_attn.k_layernorm", HEAD), ("input_layernorm", WIDTH),
                             ("post_layernorm", WIDTH)]:
            state[f"{name}.{layer}.weight"] = numbers(width, around=1.0, dtype=torch.float32)
    return {"model": state, "config": {"model": {"lora_r": RANK, "lora_alpha": 16}}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    phi2(out / "phi-2")
    torch.save(vit(), out / "eva_vit_g.pth")
    torch.save(qformer(), out / "blip2_pretrained_flant5xxl.pth")
    torch.save(stage4(), out / "TinyGPT-V_for_Stage4.pth")


if __name__ == "__main__":
    main()
