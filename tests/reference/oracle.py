"""What PyTorch computes with the small random models of oracle_models.py, stage by stage: tests/golden/oracle/.

The vision half is transformers' Blip2VisionModel and Blip2QFormerModel, the decoder its PhiForCausalLM with
qk_layernorm and a LlamaRMSNorm behind each attention (check_reference_against_transformers.py puts model.py's weights
into them); the two projections, which nothing there has, are ours.  All in float32.  model.py has to agree.

For each model: NAME.json, what the files hold and what is expected, and NAME.f32, the expected tensors' numbers, every
so many of them.  With --sensitivity, replaces each tensor of the files in turn instead, and fails if one hardly matters:
a mistake in what is done with it would not be seen.

    python oracle.py [--checkpoints DIR] [--sensitivity] [NAME ...]
"""
import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer

import answer
import oracle_checkpoint
import oracle_models
from check_reference_against_transformers import their_decoder, their_qformer, their_vision

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "golden" / "oracle"
SAMPLES = 2000                      # of one tensor, at most
NEW_TOKENS = 32
BOS = 0
# (before the image, after it), docs/model.md, section 8
SYSTEM = ("Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
          "Please answer my questions.")
TEMPLATES = {
    "chat": (SYSTEM + "###Human: <Img>", "</Img> {}###Assistant: "),
    "benchmark": ("###Human: <Img>", "</Img> {}###Assistant: "),
    "rank": ("###Human: <Img>", "</Img> {} ###Assistant: "),
    "instruct": ("<s>[INST] <Img>", "</Img> {} [/INST]"),
    "plain": ("", "{}"),
}
RANK_QUESTION = "[vqa] Based on the image, respond to this question with a short answer: What is it?"
CANDIDATES = ["red", "a blue circle", "no", "two green squares left of it"]
ENDS = ["\n", "###"]
# A tensor replaced by another of its kind changes some expected tensor by more than this, relative to its largest value:
# two hundred times what tests/oracle allows in single precision.
SENSITIVITY = 0.002


class Oracle:
    """transformers' models with the weights of a checkpoint."""

    def __init__(self, spec, model):
        self.spec, self.model = spec, model
        self.vision, self.qformer, self.decoder = their_vision(model), their_qformer(model), their_decoder(model)

    def vision_stages(self, pixels):
        """[3, S, S] -> every stage's output, without the batch dimension."""
        before_norm = []
        hook = self.vision.post_layernorm.register_forward_pre_hook(lambda _, inputs: before_norm.append(inputs[0]))
        normed = self.vision(pixels[None], interpolate_pos_encoding=True).last_hidden_state
        hook.remove()
        queries = self.qformer(query_embeds=self.model.query_tokens, encoder_hidden_states=normed).last_hidden_state
        projected = self.model.llama_proj2(self.model.llama_proj(queries))
        stages = {"vit": before_norm[0], "ln_vision": normed, "qformer": queries, "projected": projected}
        return {name: t[0] for name, t in stages.items()}

    def embed(self, ids):
        return self.decoder.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))

    def decoder_stages(self, embeds):
        """[T, D] -> what every position holds after each layer, and the logits of the last one."""
        states = {}

        def keep(name):
            return lambda _module, _inputs, out: states.update({name: (out[0] if isinstance(out, tuple) else out)[0]})

        hooks = [layer.register_forward_hook(keep(f"layer{i}")) for i, layer in enumerate(self.decoder.model.layers)]
        states["logits"] = self.decoder(inputs_embeds=embeds[None], use_cache=False).logits[0, -1]
        for hook in hooks:
            hook.remove()
        # The library computes the last layer for the last position only.
        last = f"layer{len(hooks) - 1}"
        states[last] = states[last][-1]
        return states

    def greedy(self, embeds):
        """-> (ids, the least lead of a first choice over the second, relative to the largest logit)."""
        ids, lead = [], math.inf
        for _ in range(NEW_TOKENS):
            logits = self.decoder(inputs_embeds=torch.cat([embeds, self.embed(ids)])[None], use_cache=False).logits[0, -1]
            best = logits.topk(2)
            ids.append(int(best.indices[0]))
            lead = min(lead, float((best.values[0] - best.values[1]) / logits.abs().max()))
        return ids, lead

    def loss(self, prompt, ids):
        """Mean cross-entropy of the tokens `ids` after the prompt [T, D]."""
        logits = self.decoder(inputs_embeds=torch.cat([prompt, self.embed(ids)])[None], use_cache=False).logits[0]
        return float(F.cross_entropy(logits[len(prompt) - 1:-1], torch.tensor(ids)))


def relative(a, b):
    """Largest difference relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def agree_with_model(model, oracle, pixels, prompt, stages):
    """model.py, which the demo's goldens come from, computes the same."""
    ours = {k: t[0] for k, t in model.vision_stages(pixels[None]).items()}
    decoder = model.llama_model.stages(prompt[None], model.llama_model.new_cache())
    ours["logits"] = decoder["logits"][0]
    worst = max(relative(t, stages[name]) for name, t in ours.items())
    assert worst < 2e-5, worst
    return worst


class Samples:
    """The numbers of NAME.f32 and what NAME.json says about them."""

    def __init__(self):
        self.index, self.numbers = {}, []

    def add(self, name, tensor):
        flat = tensor.detach().flatten()
        step = 1
        if len(flat) > SAMPLES:
            step = -(-len(flat) // SAMPLES)
            while math.gcd(step, tensor.shape[-1]) > 1:     # so that every column is seen
                step += 1
        self.index[name] = dict(shape=list(tensor.shape), step=step, norm=float(flat.double().norm()),
                                largest=float(flat.abs().max()))
        self.numbers.append(flat[::step])

    def write(self, path):
        torch.cat(self.numbers).numpy().astype("<f4").tofile(path)


def prompt_ids(tokenizer, template, question):
    before, after = TEMPLATES[template]
    return tokenizer.encode(before).ids, tokenizer.encode(after.format(question)).ids


def prompt_embeds(oracle, ids, image, bos=False):
    before, after = ids
    return torch.cat([oracle.embed([BOS] * bos + before), image, oracle.embed(after)])


@torch.no_grad()
def expect(name, spec, model, tokenizer):
    """Writes a model's goldens."""
    oracle = Oracle(spec, model)
    pixels = answer.preprocess(Image.open(ROOT / spec.image), spec.image_size)
    stages = {"pixels": pixels, **oracle.vision_stages(pixels)}
    ids = prompt_ids(tokenizer, spec.template, spec.question)
    prompt = prompt_embeds(oracle, ids, stages["projected"])
    stages.update(oracle.decoder_stages(prompt))
    difference = agree_with_model(model, oracle, pixels, prompt, stages)
    samples = Samples()
    for key in ["pixels", "vit", "ln_vision", "qformer", "projected",
                *(f"layer{i}" for i in range(spec.dims.layers)), "logits"]:
        samples.add(key, stages[key])
    samples.write(OUT / f"{name}.f32")
    greedy, lead = oracle.greedy(prompt)

    rank_ids = prompt_ids(tokenizer, "rank", RANK_QUESTION)
    rank_prompt = prompt_embeds(oracle, rank_ids, stages["projected"], bos=True)
    losses = {end: [oracle.loss(rank_prompt, tokenizer.encode(text + end).ids) for text in CANDIDATES] for end in ENDS}
    print(f"{name}: {len(prompt)} positions, lead of the greedy tokens {lead:.1e}, {len(set(greedy))} different; "
          f"model.py within {difference:.1e}; losses {[round(x, 3) for x in losses[ENDS[0]]]}")
    # Otherwise rounding could change a token.
    assert lead > 2e-3, f"{name}: take another seed"
    write_json(OUT / f"{name}.json", dict(
        seed=spec.seed, stage=spec.stage, image=spec.image, image_size=spec.image_size,
        vit_heads=spec.dims.vit_heads, vit_blocks=spec.dims.vit_layers, qformer_heads=spec.dims.qf_heads,
        lora_rank=spec.lora_rank, lora_alpha=spec.lora_alpha, config=oracle_models.config(spec),
        files=files_with_check(spec), template=spec.template, question=spec.question, ids_before_image=ids[0],
        ids_after_image=ids[1], expected=samples.index, greedy=greedy,
        rank=dict(question=RANK_QUESTION, candidates=CANDIDATES, losses=losses)))


def files_with_check(spec):
    """The list of files, each with its very last number: whoever makes the files anew can see that they are these."""
    files = oracle_models.files(spec)
    for file in files:
        file["last"] = oracle_models.tensor(spec.seed, file["path"], file["tensors"][-1], file["type"]).flatten()[-1].item()
    return files


def write_json(path, data):
    """One line a tensor and an entry."""
    def lines(value, depth):
        pad = " " * depth
        if isinstance(value, dict) and depth < 2:
            return "{\n" + ",\n".join(f"{pad} {json.dumps(k)}: {lines(v, depth + 1)}" for k, v in value.items()) + f"\n{pad}}}"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n" + ",\n".join(pad + " " + lines_of_file(v, depth + 1) for v in value) + f"\n{pad}]"
        return json.dumps(value)

    def lines_of_file(file, depth):
        head = json.dumps({k: v for k, v in file.items() if k != "tensors"})[:-1]
        return head + ', "tensors": [\n' + ",\n".join(" " * (depth + 1) + json.dumps(t) for t in file["tensors"]) + "]}"

    path.write_text(lines(data, 0) + "\n")


@torch.no_grad()
def sensitivity(name, spec, model, tokenizer):
    """Replaces each tensor by another of its kind. -> whether every one is seen in some expected tensor."""
    pixels = answer.preprocess(Image.open(ROOT / spec.image), spec.image_size)[None]
    before, after = (torch.tensor(ids, dtype=torch.long) for ids in prompt_ids(tokenizer, spec.template, spec.question))
    embed = model.llama_model.model.embed_tokens

    def stages():
        vision = {key: t[0] for key, t in model.vision_stages(pixels).items()}
        prompt = torch.cat([embed(before), vision["projected"], embed(after)])[None]
        return vision | model.llama_model.stages(prompt, model.llama_model.new_cache())

    original, changes = stages(), {}
    for key, tensor in model.named_parameters():
        # A bias of the keys adds the same to all of a query's scores, which softmax takes away again.
        if key.endswith(".self.key.bias") or not tensor.any():
            continue
        kept = tensor.clone()
        # The same numbers in another order, turned around their mean.
        tensor.copy_(2 * kept.mean() - kept.flatten().flip(0).reshape(kept.shape))
        now = stages()
        changes[key] = max(relative(now[stage], original[stage]) for stage in now)
        tensor.copy_(kept)
    weakest = min(changes, key=changes.get)
    print(f"{name}: {len(changes)} tensors; the least change is {changes[weakest]:.1e}, by {weakest}")
    return changes[weakest] > SENSITIVITY


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoints", type=Path, help="keep the checkpoints in this folder")
    parser.add_argument("--sensitivity", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(oracle_models.TOKENIZER / "tokenizer.json"))
    specs = oracle_models.specs()
    OUT.mkdir(parents=True, exist_ok=True)
    good = True
    for name in args.names or specs:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (args.checkpoints or Path(temporary)) / name
            oracle_models.write(specs[name], folder)
            model = oracle_checkpoint.load(specs[name], folder)
        if args.sensitivity:
            good &= sensitivity(name, specs[name], model, tokenizer)
        else:
            expect(name, specs[name], model, tokenizer)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
