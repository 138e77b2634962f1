"""TinyGPT-V in plain PyTorch: the reference that the library is compared with.

    picture --ViT--> N x Dv --ln_vision--> Q-Former (Q queries) --> Q x Dq
            --llama_proj--> --llama_proj2--> Q x D   -- in place of {IMAGE}
    among the token embeddings --> modified Phi-2 --> next-token logits

Shapes in comments: B batch, N vision tokens, Q queries, T text positions,
D width, H heads, d head width.  Parameter names are the checkpoint's key names.
"""
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Dims:
    image_size: int
    patch: int
    vit_width: int
    vit_layers: int
    vit_heads: int
    vit_mlp: int
    qf_width: int
    qf_layers: int
    qf_heads: int
    qf_mlp: int
    qf_cross_every: int
    queries: int
    proj_mid: int
    hidden: int
    layers: int
    heads: int
    mlp: int
    rotary: int                # rotated dims of each head
    theta: float
    vocab: int


class TinyGptV(nn.Module):
    def __init__(self, c: Dims):
        super().__init__()
        self.c = c
        self.visual_encoder = Vit(c)
        self.ln_vision = nn.LayerNorm(c.vit_width, eps=1e-5)
        self.query_tokens = nn.Parameter(torch.zeros(1, c.queries, c.qf_width))
        self.Qformer = QFormer(c)
        self.llama_proj = nn.Linear(c.qf_width, c.proj_mid)
        self.llama_proj2 = nn.Linear(c.proj_mid, c.hidden)
        self.llama_model = Phi(c)

    def vision_stages(self, pixels):            # [B, 3, S, S] normalised
        """Every stage from pixels to image embeddings, by name, in order."""
        vit = self.visual_encoder(pixels)                                        # [B, N, Dv]
        normed = self.ln_vision(vit)
        queries = self.query_tokens.expand(pixels.shape[0], -1, -1)
        qformer = self.Qformer(queries, normed)                                  # [B, Q, Dq]
        projected = self.llama_proj2(self.llama_proj(qformer))                   # [B, Q, D]
        return {"vit": vit, "ln_vision": normed, "qformer": qformer, "projected": projected}

    def encode_image(self, pixels):             # [B, 3, S, S] -> [B, Q, D]
        return self.vision_stages(pixels)["projected"]


# ------------------------------------------------------------------- vision

class PatchEmbed(nn.Module):
    def __init__(self, c: Dims):
        super().__init__()
        self.proj = nn.Conv2d(3, c.vit_width, c.patch, c.patch)
        self.patch = c.patch

    def forward(self, x):                       # [B, 3, S, S] -> [B, (S/p)^2, Dv], row by row
        # the convolution written as one matrix product
        b, ch, hh, ww = x.shape
        p = self.patch
        x = x.reshape(b, ch, hh // p, p, ww // p, p).permute(0, 2, 4, 1, 3, 5)
        x = x.reshape(b, (hh // p) * (ww // p), ch * p * p)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class VitAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x):                       # [B, N, Dv]
        b, n, w = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).view(b, n, 3, self.heads, w // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)    # each [B, H, N, d]
        y = F.scaled_dot_product_attention(q, k, v)          # scale d**-0.5
        return self.proj(y.transpose(1, 2).reshape(b, n, w))


class VitMlp(nn.Module):
    def __init__(self, width, mid):
        super().__init__()
        self.fc1 = nn.Linear(width, mid)
        self.fc2 = nn.Linear(mid, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))    # exact (erf) GELU


class VitBlock(nn.Module):
    def __init__(self, c: Dims):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.vit_width, eps=1e-6)
        self.attn = VitAttention(c.vit_width, c.vit_heads)
        self.norm2 = nn.LayerNorm(c.vit_width, eps=1e-6)
        self.mlp = VitMlp(c.vit_width, c.vit_mlp)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """EVA-style: class token first, learned absolute positions, no final norm."""

    def __init__(self, c: Dims):
        super().__init__()
        n = (c.image_size // c.patch) ** 2 + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.vit_width))
        self.pos_embed = nn.Parameter(torch.zeros(1, n, c.vit_width))
        self.patch_embed = PatchEmbed(c)
        self.blocks = nn.ModuleList(VitBlock(c) for _ in range(c.vit_layers))

    def forward(self, pixels):                  # [B, 3, S, S] normalised -> [B, N, Dv]
        x = self.patch_embed(pixels)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        x = x + position_embedding(self.pos_embed, pixels.shape[-1] // self.patch_embed.patch)
        for block in self.blocks:
            x = block(x)
        return x


def position_embedding(pos_embed, grid):        # [1, 1 + g*g, Dv] -> [1, 1 + grid*grid, Dv]
    """The patch part resized to another grid (bicubic, no antialiasing); the class row is kept."""
    stored = round((pos_embed.shape[1] - 1) ** 0.5)
    if grid == stored:
        return pos_embed
    patches = pos_embed[:, 1:].reshape(1, stored, stored, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([pos_embed[:, :1], patches.permute(0, 2, 3, 1).flatten(1, 2)], 1)


# ----------------------------------------------------------------- Q-Former

class SelfPart(nn.Module):
    def __init__(self, width, kv_width):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(kv_width, width)
        self.value = nn.Linear(kv_width, width)


class OutPart(nn.Module):
    """dense -> + residual -> LayerNorm"""

    def __init__(self, cin, width):
        super().__init__()
        self.dense = nn.Linear(cin, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, h, residual):
        return self.LayerNorm(self.dense(h) + residual)


class QfAttention(nn.Module):
    def __init__(self, width, kv_width, heads):
        super().__init__()
        self.heads = heads
        # "self" is the key name in checkpoints, hence add_module
        self.add_module("self", SelfPart(width, kv_width))
        self.output = OutPart(width, width)

    def forward(self, x, kv):                   # [B, Q, Dq], [B, M, Dkv] -> [B, Q, Dq]
        p = self._modules["self"]
        b, q, w = x.shape

        def split(t):
            return t.view(b, -1, self.heads, w // self.heads).transpose(1, 2)

        y = F.scaled_dot_product_attention(split(p.query(x)), split(p.key(kv)), split(p.value(kv)))
        return self.output(y.transpose(1, 2).reshape(b, q, w), x)


class DenseOnly(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.dense = nn.Linear(cin, cout)


class QfLayer(nn.Module):
    def __init__(self, c: Dims, cross):
        super().__init__()
        self.attention = QfAttention(c.qf_width, c.qf_width, c.qf_heads)
        if cross:
            self.crossattention = QfAttention(c.qf_width, c.vit_width, c.qf_heads)
        self.cross = cross
        self.intermediate_query = DenseOnly(c.qf_width, c.qf_mlp)
        self.output_query = OutPart(c.qf_mlp, c.qf_width)

    def forward(self, x, vision):
        x = self.attention(x, x)
        if self.cross:
            x = self.crossattention(x, vision)
        return self.output_query(F.gelu(self.intermediate_query.dense(x)), x)


class QFormer(nn.Module):
    """Post-norm BERT-style encoder over the query tokens; cross-attention in layers 0, every, 2*every, ..."""

    def __init__(self, c: Dims):
        super().__init__()
        self.bert = nn.Module()
        self.bert.embeddings = nn.Module()
        self.bert.embeddings.LayerNorm = nn.LayerNorm(c.qf_width, eps=1e-12)
        self.bert.encoder = nn.Module()
        self.bert.encoder.layer = nn.ModuleList(
            QfLayer(c, i % c.qf_cross_every == 0) for i in range(c.qf_layers))

    def forward(self, queries, vision):         # [B, Q, Dq], [B, N, Dv] -> [B, Q, Dq]
        x = self.bert.embeddings.LayerNorm(queries)
        for layer in self.bert.encoder.layer:
            x = layer(x, vision)
        return x


# ------------------------------------------------------------ language model

class RMSNorm(nn.Module):
    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotary_tables(positions, dim, theta):
    """positions [T] -> cos, sin, each [T, dim] (rotate-half convention)."""
    inverse = theta ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angle = positions.float()[:, None] * inverse
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):                        # [B, H, T, d]; the first cos.shape[-1] dims turn
    r = cos.shape[-1]
    a, rest = x[..., :r], x[..., r:]
    half = torch.cat([-a[..., r // 2:], a[..., :r // 2]], -1)
    return torch.cat([a * cos + half * sin, rest], -1)


class PhiAttention(nn.Module):
    def __init__(self, c: Dims):
        super().__init__()
        self.heads, self.d = c.heads, c.hidden // c.heads
        self.query_key_value = nn.Linear(c.hidden, 3 * c.hidden)
        self.dense = nn.Linear(c.hidden, c.hidden)
        self.q_layernorm = nn.LayerNorm(self.d, eps=1e-5)
        self.k_layernorm = nn.LayerNorm(self.d, eps=1e-5)

    def forward(self, x, cos, sin, mask, cache):
        b, t, w = x.shape
        # fused output is laid out [head, (q, k, v), head width]
        q, k, v = self.query_key_value(x).view(b, t, self.heads, 3, self.d).unbind(3)
        q = rotate(self.q_layernorm(q).transpose(1, 2), cos, sin)
        k = rotate(self.k_layernorm(k).transpose(1, 2), cos, sin)
        v = v.transpose(1, 2)
        if cache:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        cache[:] = [k, v]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)   # scale d**-0.5
        return self.dense(y.transpose(1, 2).reshape(b, t, w))


class PhiMlp(nn.Module):
    def __init__(self, c: Dims):
        super().__init__()
        self.fc1 = nn.Linear(c.hidden, c.mlp)
        self.fc2 = nn.Linear(c.mlp, c.hidden)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class PhiLayer(nn.Module):
    def __init__(self, c: Dims):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(c.hidden, eps=1e-5)
        self.self_attn = PhiAttention(c)
        self.post_layernorm = RMSNorm(c.hidden)
        self.mlp = PhiMlp(c)

    def forward(self, x, cos, sin, mask, cache):
        h = self.input_layernorm(x)
        a = self.post_layernorm(self.self_attn(h, cos, sin, mask, cache))
        return x + a + self.mlp(h)


class Phi(nn.Module):
    """Phi-2 with LayerNorm on q and k and an RMSNorm after attention."""

    def __init__(self, c: Dims):
        super().__init__()
        self.c = c
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(c.vocab, c.hidden)
        self.model.layers = nn.ModuleList(PhiLayer(c) for _ in range(c.layers))
        self.model.final_layernorm = nn.LayerNorm(c.hidden, eps=1e-5)
        self.lm_head = nn.Linear(c.hidden, c.vocab)

    def new_cache(self):
        """Keys and values seen so far: an empty list for each layer."""
        return [[] for _ in self.model.layers]

    def forward(self, embeds, cache):           # [B, T, D] -> [B, V], logits after the last position
        return self.stages(embeds, cache)["logits"]

    def stages(self, embeds, cache):
        """What the last position holds after each layer and the final norm, [B, D], and its logits [B, V]."""
        t = embeds.shape[1]
        past = cache[0][0].shape[2] if cache[0] else 0
        mask = torch.ones(t, past + t, dtype=torch.bool).tril(past)
        cos, sin = rotary_tables(torch.arange(past, past + t), self.c.rotary, self.c.theta)
        x, out = embeds, {}
        for i, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, mask, cache[i])
            out[f"layer{i}"] = x[:, -1]
        out["final_norm"] = self.model.final_layernorm(x[:, -1])
        out["logits"] = self.lm_head(out["final_norm"])
        return out
