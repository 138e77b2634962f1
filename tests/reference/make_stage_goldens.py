"""Intermediate results of the reference, float32, for two of the demo's golden pictures.

Writes tests/golden/stages/: raw little-endian f32 files, and index.json with the
shape of each.  For a picture: normalised pixels, then each vision stage; for one
question about it: the prompt's token ids before and after the image, and what the
prompt's last position holds after each decoder layer, after the final norm, and
its logits.  For one picture also the position embedding resized to a larger grid
and the image embedding of the picture at that size.
"""
import json
from pathlib import Path

import torch
from PIL import Image

import answer
import checkpoint
from model import position_embedding

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
OUT = GOLDEN / "stages"
QUESTIONS = {
    "scene2": "Describe this image.",
    "scene7": "[vqa] Based on the image, respond to this question with a short answer: How many shapes are there?",
}
LARGE_GRID = 12                        # the checkpoint's is 8


def write(name, tensor):
    tensor.detach().contiguous().numpy().astype("<f4").tofile(OUT / f"{name}.f32")
    return {"file": f"{name}.f32", "shape": list(tensor.shape)}


@torch.no_grad()
def picture_stages(model, tokenizer, scene, question):
    pixels = answer.preprocess(Image.open(GOLDEN / "demo" / f"{scene}.png"), model.c.image_size)
    vision = {"pixels": pixels, **{k: t[0] for k, t in model.vision_stages(pixels[None]).items()}}
    before, after = answer.prompt_ids(tokenizer, question)
    prompt = answer.prompt_embeds(model, tokenizer, vision["projected"], question)
    decoder = model.llama_model.stages(prompt, model.llama_model.new_cache())
    return {
        "image": f"../demo/{scene}.png",
        "vision": {k: write(f"{scene}.{k}", t) for k, t in vision.items()},
        "question": question,
        "ids_before_image": before,
        "ids_after_image": after,
        "decoder": {k: write(f"{scene}.{k}", t[0]) for k, t in decoder.items()},
    }


@torch.no_grad()
def large_grid(model, scene):
    size = LARGE_GRID * model.c.patch
    pixels = answer.preprocess(Image.open(GOLDEN / "demo" / f"{scene}.png"), size)
    return {
        "image": f"../demo/{scene}.png",
        "image_size": size,
        "position_embedding": write("large.position_embedding",
                                    position_embedding(model.visual_encoder.pos_embed, LARGE_GRID)[0]),
        "projected": write("large.projected", model.encode_image(pixels[None])[0]),
    }


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    model, tokenizer = checkpoint.load()
    pictures = [picture_stages(model, tokenizer, *item) for item in QUESTIONS.items()]
    index = {"pictures": pictures, "large_grid": large_grid(model, "scene2")}
    (OUT / "index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
