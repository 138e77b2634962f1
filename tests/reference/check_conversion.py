"""Check converted GGUF files against the checkpoint they came from, with tools that share no code with the converter.

    python check_conversion.py CHECKPOINT DECODER.gguf VISION.gguf [--stage 4] [--alpha 16]

CHECKPOINT is a folder with phi2/, eva_vit_g.pth, one blip2_pretrained*.pth and one TinyGPT-V_for_Stage*.pth. PyTorch and
safetensors read the checkpoint, the `gguf` package the results (needs torch, numpy, safetensors, gguf, tokenizers).
Every tensor is worked out again here and compared: floats to the rounding of their type, Q8_0 also bit by bit with the
package's own quantiser, other quantised types by their error. Exits with 1 if anything differs.
"""
import argparse
import glob
import json
import os
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

F16, BF16, F32 = gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.F32
Q8_0 = gguf.GGMLQuantizationType.Q8_0
# Largest relative error (root mean square) that a type may show on Gaussian-like weights.
QUANTISED_ERROR = {"Q6_K": 0.02, "Q5_K": 0.04, "Q5_0": 0.05, "Q5_1": 0.05, "Q4_K": 0.08, "Q4_0": 0.1, "Q4_1": 0.09}

problems = []


def problem(text):
    problems.append(text)
    print("PROBLEM", text)


def one(folder, pattern):
    found = glob.glob(os.path.join(folder, pattern))
    assert len(found) == 1, f"{pattern}: {found}"
    return found[0]


def load_phi2(folder):
    for name in ("model.safetensors", "pytorch_model.bin"):
        path = os.path.join(folder, name)
        index = path + ".index.json"
        load = load_file if name.endswith("safetensors") else lambda p: torch.load(p, map_location="cpu", weights_only=True)
        if os.path.exists(path):
            return load(path)
        if os.path.exists(index):
            out = {}
            for shard in sorted(set(json.load(open(index))["weight_map"].values())):
                out.update(load(os.path.join(folder, shard)))
            return out
    raise SystemExit(f"{folder}: no weights")


def load_all(folder):
    """All tensors under the names of the whole model, the later file winning."""
    pth = lambda pattern: torch.load(one(folder, pattern), map_location="cpu", weights_only=True)
    unwrap = lambda d: d.get("model", d)
    all_tensors = {"llama_model." + k: v for k, v in load_phi2(os.path.join(folder, "phi2")).items()}
    all_tensors.update({"visual_encoder." + k: v for k, v in unwrap(pth("eva_vit_g.pth")).items()})
    all_tensors.update(unwrap(pth("blip2_pretrained*.pth")))
    for key, value in unwrap(pth("TinyGPT-V_for_Stage*.pth")).items():
        key = key.replace("llama_model.base_model.model.", "llama_model.").replace(".base_layer.", ".")
        if key.startswith("llama_model.") and key.endswith(("query_key_value.weight", "query_key_value.bias")):
            for part in "qkv":                              # a later fused matrix replaces earlier separate ones
                all_tensors.pop(key.replace("query_key_value", f"{part}_proj"), None)
        all_tensors[key] = value
    return {k: v.detach() for k, v in all_tensors.items() if v.is_floating_point()}


class Expected:
    """The tensors that the two files must hold, worked out in float32 (the folded projection in float64)."""

    def __init__(self, source, heads, alpha):
        self.s, self.heads, self.alpha = source, heads, alpha

    def get(self, key, default=None):
        if key in self.s:
            return self.s[key].float()
        assert default is not None, key
        return default

    def merged(self, module):
        w = self.get(module + ".weight")
        return w + self.delta(module) if self.delta(module) is not None else w

    def delta(self, module):
        for spelling in (".default", ""):
            a = self.s.get(f"{module}.lora_A{spelling}.weight")
            if a is not None:
                b = self.s[f"{module}.lora_B{spelling}.weight"]
                return (self.alpha / a.shape[0]) * (b.float() @ a.float())
        return None

    def qkv(self, attention):
        """-> weight and bias, all q rows, then k, then v."""
        fused = attention + ".query_key_value"

        def reorder(t):                                     # [head][q,k,v][d] -> [q,k,v][head][d]
            return t.view(self.heads, 3, -1, *t.shape[1:]).transpose(0, 1).reshape(t.shape)

        if fused + ".weight" in self.s:
            w, b = reorder(self.get(fused + ".weight")), reorder(self.get(fused + ".bias"))
        else:
            parts = [f"{attention}.{p}_proj" for p in "qkv"]
            w = torch.cat([self.merged(p) for p in parts])
            b = torch.cat([self.get(p + ".bias") for p in parts])
        delta = self.delta(fused)
        return (w if delta is None else w + reorder(delta)), b

    def decoder(self, layers):
        m, out = "llama_model.model", {}
        width = self.get(m + ".embed_tokens.weight").shape[1]
        head = width // self.heads
        out["token_embd.weight"] = self.get(m + ".embed_tokens.weight")
        for part in ("weight", "bias"):
            out[f"output_norm.{part}"] = self.get(f"{m}.final_layernorm.{part}")
            out[f"output.{part}"] = self.get(f"llama_model.lm_head.{part}")
        for n in range(layers):
            to, frm = f"blk.{n}", f"{m}.layers.{n}"
            out[f"{to}.attn_qkv.weight"], out[f"{to}.attn_qkv.bias"] = self.qkv(frm + ".self_attn")
            for part in ("weight", "bias"):
                out[f"{to}.attn_norm.{part}"] = self.get(f"{frm}.input_layernorm.{part}")
                fill = torch.ones(head) if part == "weight" else torch.zeros(head)
                for x in "qk":
                    out[f"{to}.attn_{x}_norm.{part}"] = self.get(f"{frm}.self_attn.{x}_layernorm.{part}", fill)
            out[f"{to}.post_attention_norm.weight"] = self.get(f"{frm}.post_layernorm.weight", torch.ones(width))
            for a, b in (("attn_output", "self_attn.dense"), ("ffn_up", "mlp.fc1"), ("ffn_down", "mlp.fc2")):
                out[f"{to}.{a}.weight"] = self.merged(f"{frm}.{b}")
                out[f"{to}.{a}.bias"] = self.get(f"{frm}.{b}.bias")
        return out

    def vision(self, blocks, layers, cross):
        v, q, out = "visual_encoder", "Qformer.bert", {}
        out["v.class_embd"] = self.get(v + ".cls_token").flatten()
        out["v.position_embd.weight"] = self.get(v + ".pos_embed")[0]
        out["qf.query_tokens"] = self.get("query_tokens")[0]

        def pair(to, frm):
            for part in ("weight", "bias"):
                out[f"{to}.{part}"] = self.get(f"{frm}.{part}")

        pair("v.patch_embd", v + ".patch_embed.proj")
        pair("v.post_ln", "ln_vision")
        for n in range(blocks):
            to, frm = f"v.blk.{n}", f"{v}.blocks.{n}"
            for a, b in (("ln1", "norm1"), ("ln2", "norm2"), ("attn_out", "attn.proj"), ("ffn_up", "mlp.fc1"),
                         ("ffn_down", "mlp.fc2")):
                pair(f"{to}.{a}", f"{frm}.{b}")
            out[f"{to}.attn_qkv.weight"] = self.get(frm + ".attn.qkv.weight")
            qb, vb = self.get(frm + ".attn.q_bias"), self.get(frm + ".attn.v_bias")
            out[f"{to}.attn_qkv.bias"] = torch.cat([qb, torch.zeros_like(qb), vb])
        pair("qf.embd_norm", q + ".embeddings.LayerNorm")
        for n in range(layers):
            to, frm = f"qf.blk.{n}", f"{q}.encoder.layer.{n}"
            for kind, name in (("attn", "attention"), ("cross", "crossattention")):
                if kind == "cross" and n % cross:
                    continue
                for a, b in (("q", "self.query"), ("k", "self.key"), ("v", "self.value"), ("out", "output.dense"),
                             ("norm", "output.LayerNorm")):
                    pair(f"{to}.{kind}_{a}", f"{frm}.{name}.{b}")
            for a, b in (("ffn_up", "intermediate_query.dense"), ("ffn_down", "output_query.dense"),
                         ("ffn_norm", "output_query.LayerNorm")):
                pair(f"{to}.{a}", f"{frm}.{b}")
        w1, b1, w2, b2 = (self.get(f"llama_proj{i}.{p}").double() for i in ("", "2") for p in ("weight", "bias"))
        out["mm.0.weight"], out["mm.0.bias"] = (w2 @ w1).float(), (w2 @ b1 + b2).float()
        return out


def compare(path, reader, expected):
    held = {t.name: t for t in reader.tensors}
    for name in sorted(set(held) ^ set(expected)):
        problem(f"{path}: {name} is only in the {'file' if name in held else 'checkpoint'}")
    worst = {}
    for name in sorted(set(held) & set(expected)):
        t, want = held[name], expected[name].numpy()
        shape = tuple(int(d) for d in reversed(t.shape))
        if shape != want.shape:
            problem(f"{path}: {name} is {shape}, not {want.shape}")
            continue
        got = gguf.dequantize(t.data, t.tensor_type).reshape(shape)
        scale = max(float(np.abs(want).max()), 1e-30)
        error = float(np.abs(got - want).max()) / scale
        kind = t.tensor_type.name
        if t.tensor_type in (F32, F16, BF16):
            limit = {F32: 1e-6, F16: 2.0 ** -10, BF16: 2.0 ** -7}[t.tensor_type]
        elif t.tensor_type == Q8_0:
            limit = 0.005
            same = np.array_equal(gguf.quantize(want, Q8_0).reshape(-1), np.asarray(t.data).reshape(-1))
            worst[kind + " blocks differ"] = worst.get(kind + " blocks differ", 0) + (not same)
        else:
            error = float(np.sqrt(((got - want) ** 2).mean()) / max(np.sqrt((want ** 2).mean()), 1e-30))
            limit = QUANTISED_ERROR.get(kind, 0.2)
        if len(shape) == 1 and t.tensor_type != F32:
            problem(f"{path}: {name} has one dimension but type {kind}")
        if not error <= limit:
            problem(f"{path}: {name} ({kind}) is off by {error:.3g}")
        worst[kind] = max(worst.get(kind, 0), error)
    print(path, {k: float(f"{v:.3g}") for k, v in worst.items()}, f"{len(held)} tensors")


def field(reader, key):
    assert key in reader.fields, key
    return reader.fields[key].contents()


def check_tokenizer(reader, folder):
    from tokenizers import Tokenizer
    path = os.path.join(folder, "phi2", "tokenizer.json")
    if not os.path.exists(path):
        return
    tok, raw = Tokenizer.from_file(path), json.load(open(path))
    tokens, types = field(reader, "tokenizer.ggml.tokens"), field(reader, "tokenizer.ggml.token_type")
    added = {a["id"]: a for a in raw["added_tokens"]}
    for i, (text, kind) in enumerate(zip(tokens, types)):
        want = tok.id_to_token(i)
        special = i in added and (added[i]["special"] or (want.startswith("<|") and want.endswith("|>")))
        want_kind = 5 if want is None else 3 if special else 4 if i in added else 1
        if (want or f"[PAD{i}]", want_kind) != (text, kind):
            problem(f"token {i} is {text!r} of type {kind}, not {want!r} of type {want_kind}")
    merges = [m if isinstance(m, str) else " ".join(m) for m in raw["model"]["merges"]]
    if merges != field(reader, "tokenizer.ggml.merges"):
        problem("the merges differ")
    print(f"tokenizer: {len(tokens)} tokens, {len(merges)} merges")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("checkpoint")
    p.add_argument("decoder")
    p.add_argument("vision")
    p.add_argument("--stage", type=int, default=4)
    p.add_argument("--alpha", type=float, default=16)
    a = p.parse_args()
    decoder, vision = gguf.GGUFReader(a.decoder), gguf.GGUFReader(a.vision)
    for key in ("tinygptv.pair_id", "tinygptv.stage", "tinygptv.source.names", "tinygptv.source.sha256"):
        if field(decoder, key) != field(vision, key):
            problem(f"{key} differs between the two files")
    if field(decoder, "tinygptv.stage") != a.stage:
        problem("the stage is wrong")
    expected = Expected(load_all(a.checkpoint), field(decoder, "phi2.attention.head_count"), a.alpha)
    compare(a.decoder, decoder, expected.decoder(field(decoder, "phi2.block_count")))
    compare(a.vision, vision, expected.vision(
        field(vision, "clip.vision.block_count"), field(vision, "tinygptv.qformer.block_count"),
        field(vision, "tinygptv.qformer.cross_attention_interval")))
    check_tokenizer(decoder, a.checkpoint)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
