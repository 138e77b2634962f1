"""Compare model.py with the implementations in Hugging Face transformers.

    ViT and ln_vision   Blip2VisionModel, also with an interpolated position embedding
    Q-Former            Blip2QFormerModel
    decoder             PhiForCausalLM(qk_layernorm=True): as it is, against ours without
                        the RMSNorm after attention; and with a LlamaRMSNorm hooked in
                        behind its attention, against ours complete

Each with random weights of odd dimensions and with the demo checkpoint's weights.
Prints the largest absolute difference beside the largest value; exit status 1 if one
is above 1e-4 of the other.  Needs transformers besides requirements.txt.
"""
import sys

import torch
import torch.nn as nn
from transformers import (Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig, Blip2VisionModel, PhiConfig,
                          PhiForCausalLM)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import checkpoint
from model import Dims, TinyGptV

RANDOM_DIMS = Dims(
    image_size=84, patch=14, vit_width=88, vit_layers=3, vit_heads=4, vit_mlp=150,
    qf_width=60, qf_layers=5, qf_heads=3, qf_mlp=100, qf_cross_every=2, queries=7, proj_mid=50,
    hidden=120, layers=3, heads=3, mlp=200, rotary=16, theta=10000.0, vocab=99)


def random_model():
    torch.manual_seed(1)
    model = TinyGptV(RANDOM_DIMS)
    for name, p in model.named_parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=p[0].numel() ** -0.5)
        else:                                       # norms and biases, none left at 1 or 0
            nn.init.normal_(p, mean=1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, std=0.2)
    return model.eval()


def load(theirs, renamed):
    """Every parameter of theirs gets one of ours, and none is left over."""
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert not unexpected, unexpected
    parameters = dict(theirs.named_parameters())
    assert not [k for k in missing if k in parameters], missing
    return theirs.eval()


def rename(state, prefix, table):
    """Keys of state under prefix, with the replacements of table made in order."""
    out = {}
    for key, tensor in state.items():
        if key.startswith(prefix):
            key = key[len(prefix):]
            for old, new in table:
                key = key.replace(old, new)
            out[key] = tensor
    return out


def their_vision(model):
    c, state = model.c, model.state_dict()
    theirs = Blip2VisionModel(Blip2VisionConfig(
        hidden_size=c.vit_width, intermediate_size=c.vit_mlp, num_hidden_layers=c.vit_layers,
        num_attention_heads=c.vit_heads, image_size=c.image_size, patch_size=c.patch, hidden_act="gelu",
        layer_norm_eps=1e-6, qkv_bias=True))
    renamed = rename(state, "visual_encoder.", [
        ("cls_token", "embeddings.class_embedding"), ("pos_embed", "embeddings.position_embedding"),
        ("patch_embed.proj.", "embeddings.patch_embedding."), ("blocks.", "encoder.layers."),
        ("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("attn.proj", "attn.projection"), ("attn.", "self_attn.")])
    for i in range(c.vit_layers):
        at = f"encoder.layers.{i}.self_attn."
        q, v = renamed.pop(at + "q_bias"), renamed.pop(at + "v_bias")
        renamed[at + "qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    renamed.update(rename(state, "ln_vision.", [("weight", "post_layernorm.weight"), ("bias", "post_layernorm.bias")]))
    theirs = load(theirs, renamed)
    theirs.post_layernorm.eps = 1e-5                # transformers gives it the blocks' epsilon
    return theirs


def their_qformer(model):
    c = model.c
    theirs = Blip2QFormerModel(Blip2QFormerConfig(
        hidden_size=c.qf_width, num_hidden_layers=c.qf_layers, num_attention_heads=c.qf_heads,
        intermediate_size=c.qf_mlp, hidden_act="gelu", layer_norm_eps=1e-12,
        cross_attention_frequency=c.qf_cross_every, encoder_hidden_size=c.vit_width))
    return load(theirs, rename(model.state_dict(), "Qformer.bert.", [
        ("embeddings.LayerNorm", "layernorm"), (".self.", ".attention.")]))


def their_decoder(model):
    """With an RMSNorm after attention exactly if `model` has one."""
    c = model.c
    d = c.hidden // c.heads
    theirs = PhiForCausalLM(PhiConfig(
        vocab_size=c.vocab, hidden_size=c.hidden, intermediate_size=c.mlp, num_hidden_layers=c.layers,
        num_attention_heads=c.heads, hidden_act="gelu_new", layer_norm_eps=1e-5, qk_layernorm=True,
        rope_parameters={"rope_type": "default", "rope_theta": c.theta, "partial_rotary_factor": c.rotary / d},
        tie_word_embeddings=False, attention_dropout=0.0, resid_pdrop=0.0, embd_pdrop=0.0,
        bos_token_id=None, eos_token_id=None))
    renamed = rename(model.state_dict(), "llama_model.", [])
    for i in range(c.layers):
        at = f"model.layers.{i}."
        for kind in ("weight", "bias"):
            fused = renamed.pop(f"{at}self_attn.query_key_value.{kind}")
            parts = fused.view(c.heads, 3, d, *fused.shape[1:]).unbind(1)
            for name, part in zip("qkv", parts):
                renamed[f"{at}self_attn.{name}_proj.{kind}"] = part.reshape(c.hidden, *fused.shape[1:])
        weight = renamed.pop(at + "post_layernorm.weight", None)
        if weight is not None:
            norm = LlamaRMSNorm(c.hidden, eps=1e-6)
            norm.weight.data = weight
            theirs.model.layers[i].self_attn.register_forward_hook(
                lambda _module, _inputs, out, norm=norm: (norm(out[0]), *out[1:]))
    return load(theirs, renamed)


def compare(what, ours, theirs):
    """Print the difference; True if it is rounding."""
    difference, largest = (ours - theirs).abs().max().item(), ours.abs().max().item()
    print(f"  {what:40} {tuple(ours.shape)!s:18} difference {difference:.1e} of {largest:.2f}")
    return difference < 1e-4 * largest


@torch.no_grad()
def check(model):
    c = model.c
    torch.manual_seed(2)
    ok = []
    vision = their_vision(model)
    for side in (c.image_size, c.image_size + 4 * c.patch):
        pixels = torch.randn(2, 3, side, side)
        stages = model.vision_stages(pixels)
        theirs = vision(pixels, interpolate_pos_encoding=True).last_hidden_state
        ok.append(compare(f"ViT and ln_vision, {side} px", stages["ln_vision"], theirs))

    queries = model.query_tokens.expand(2, -1, -1)
    theirs = their_qformer(model)(query_embeds=queries, encoder_hidden_states=stages["ln_vision"]).last_hidden_state
    ok.append(compare("Q-Former", stages["qformer"], theirs))

    for norm in ("with", "without"):
        if norm == "without":
            for layer in model.llama_model.model.layers:
                layer.post_layernorm = nn.Identity()
        embeds = model.llama_model.model.embed_tokens(torch.randint(c.vocab, (2, 60)))
        theirs = their_decoder(model)(inputs_embeds=embeds).logits
        cache = model.llama_model.new_cache()
        first = model.llama_model(embeds[:, :40], cache)
        ok.append(compare(f"decoder {norm} RMSNorm, 40 positions", first, theirs[:, 39]))
        for i in range(40, 60):
            last = model.llama_model(embeds[:, i:i + 1], cache)
        ok.append(compare("  then 20 more, one by one", last, theirs[:, 59]))
    return all(ok)


def main():
    results = []
    for title, model in (("random weights", random_model()), ("demo checkpoint", checkpoint.load()[0])):
        print(title)
        results.append(check(model))
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
