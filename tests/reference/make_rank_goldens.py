"""Losses of candidate answers by the reference, for questions about the golden scenes.

Writes tests/golden/ranks.jsonl, a line a question: {"image", "question", "expected",
"end", "bos", "candidates", "losses"}. A loss is the mean cross-entropy of the
candidate's tokens with the end text's behind them (encoded together), after the
prompt "###Human: <Img>{IMAGE}</Img> {question} ###Assistant: ", in front of which
stands <|endoftext|> where "bos" says so.
"""
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

import answer
import checkpoint
from eval_scenes import write_lines

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CANDIDATES = {
    "vsr": ["true", "false"],
    "color": ["red", "green", "blue", "yellow", "purple", "orange"],
    "exists": ["yes", "no"],
    "count": ["zero", "one", "two", "three", "four"],
    "identify": ["red circle", "small blue square", "yellow star", "green triangle", "I do not know.", "purple square"],
}
VARIANTS = [("\n", True), ("###", True), ("###", False)]
EACH = 6


@torch.no_grad()
def losses(model, tokenizer, embedding, question, candidates, end, bos):
    phi = model.llama_model
    embed = phi.model.embed_tokens
    front = [tokenizer.token_to_id("<|endoftext|>")] if bos else []
    parts = [embed(torch.tensor(front + tokenizer.encode(answer.HEAD).ids)), embedding,
             embed(torch.tensor(tokenizer.encode(f"</Img> {question} ###Assistant: ").ids))]
    result = []
    for candidate in candidates:
        ids = tokenizer.encode(candidate + end).ids
        cache = phi.new_cache()
        x, rows = torch.cat(parts)[None], []
        for token in ids:
            rows.append(phi(x, cache)[0])
            x = embed(torch.tensor([[token]]))
        result.append(F.cross_entropy(torch.stack(rows), torch.tensor(ids)).item())
    return result


def main():
    model, tokenizer = checkpoint.load()
    records = [json.loads(line) for line in (GOLDEN / "scenes" / "questions.jsonl").open()]
    chosen = []
    for kind in CANDIDATES:
        chosen += [r for r in records if kind in (r["kind"], r["task"])][:EACH]
    names = sorted({r["image"] for r in chosen})
    embeddings = dict(zip(names, answer.encode(model, [Image.open(GOLDEN / "scenes" / n) for n in names])))
    lines = []
    for i, r in enumerate(chosen):
        candidates = CANDIDATES[r["kind"] if r["kind"] in CANDIDATES else r["task"]]
        if r["expected"] not in candidates:
            candidates = [*candidates, r["expected"]]
        end, bos = VARIANTS[i % len(VARIANTS)]
        found = losses(model, tokenizer, embeddings[r["image"]], r["question"], candidates, end, bos)
        lines.append({"image": r["image"], "question": r["question"], "expected": r["expected"], "end": end, "bos": bos,
                      "candidates": candidates, "losses": [round(loss, 6) for loss in found]})
    write_lines(GOLDEN / "ranks.jsonl", lines)


if __name__ == "__main__":
    main()
