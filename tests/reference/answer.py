"""From a picture and a question to the reference's greedy answer.

The prompt is "###Human: <Img>{IMAGE}</Img> {question} ###Assistant:"; later turns
go on with " {answer}###Human: {question} ###Assistant:".  The text before the
image and the text after it are tokenised apart, and "###" ends an answer.
"""
import numpy as np
import torch
from PIL import Image

CLIP_MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
CLIP_STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)
HEAD = "###Human: <Img>"
STOP = "###"


def preprocess(image, size):
    """PIL image -> [3, size, size] float32: bicubic resize, scale to 0..1, normalise."""
    image = image.convert("RGB")
    # Two calls keep the order of the passes, horizontal first: newer Pillows swap them for some sizes, which changes
    # the 8-bit rounding between them.
    image = image.resize((size, image.height), Image.BICUBIC).resize((size, size), Image.BICUBIC)
    a = np.asarray(image, np.float32) / 255.0
    return torch.from_numpy((a - CLIP_MEAN) / CLIP_STD).permute(2, 0, 1).contiguous()


@torch.no_grad()
def encode(model, images, batch=64):
    """PIL images -> image embeddings [B, Q, D]."""
    pixels = torch.stack([preprocess(image, model.c.image_size) for image in images])
    return torch.cat([model.encode_image(part) for part in pixels.split(batch)])


def tail(question, history=()):
    """The prompt's text after the image; history: earlier (question, answer) pairs."""
    earlier = "".join(f"{q} ###Assistant: {a}###Human: " for q, a in history)
    return f"</Img> {earlier}{question} ###Assistant:"


def prompt_ids(tokenizer, question, history=()):
    """-> (ids before the image, ids after it)."""
    return tokenizer.encode(HEAD).ids, tokenizer.encode(tail(question, history)).ids


def prompt_embeds(model, tokenizer, embedding, question, history=()):
    """Embeddings [1, T, D] of the whole prompt; embedding [Q, D]."""
    before, after = (model.llama_model.model.embed_tokens(torch.tensor(ids))
                     for ids in prompt_ids(tokenizer, question, history))
    return torch.cat([before, embedding, after])[None]


@torch.no_grad()
def generate(model, tokenizer, embedding, question, history=(), max_new=64):
    """-> (answer, logits of its first token [V])."""
    phi, cache = model.llama_model, model.llama_model.new_cache()
    stop = tokenizer.token_to_id(STOP)
    x = prompt_embeds(model, tokenizer, embedding, question, history)
    ids, first = [], None
    for _ in range(max_new):
        logits = phi(x, cache)[0]
        first = logits if first is None else first
        token = int(logits.argmax())
        if token == stop:
            break
        ids.append(token)
        x = phi.model.embed_tokens(torch.tensor([[token]]))
    return tokenizer.decode(ids).strip(), first


@torch.no_grad()
def generate_batch(model, tokenizer, embeddings, questions, max_new=64):
    """Answers to many single-turn questions; embeddings [B, Q, D].

    Prompts of one length go together, so there is no padding."""
    phi, stop = model.llama_model, tokenizer.token_to_id(STOP)
    by_length = {}
    for i, question in enumerate(questions):
        by_length.setdefault(len(prompt_ids(tokenizer, question)[1]), []).append(i)
    answers = [None] * len(questions)
    for group in by_length.values():
        cache = phi.new_cache()
        x = torch.cat([prompt_embeds(model, tokenizer, embeddings[i], questions[i]) for i in group])
        ids, done = [[] for _ in group], [False] * len(group)
        for _ in range(max_new):
            tokens = phi(x, cache).argmax(-1)
            for j, token in enumerate(tokens.tolist()):
                done[j] = done[j] or token == stop
                if not done[j]:
                    ids[j].append(token)
            if all(done):
                break
            x = phi.model.embed_tokens(tokens[:, None])
        for j, i in enumerate(group):
            answers[i] = tokenizer.decode(ids[j]).strip()
    return answers
