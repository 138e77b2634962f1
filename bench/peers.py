"""PyTorch and ONNX Runtime as contestants of tinygptv-bench: whole ViT-g and Q-Former, random weights.

`python3 peers.py NAME …` speaks the protocol of bench/src/protocol.rs: a line of JSON for every request on stdin.
"""

import argparse
import json
import os
import sys
import time


def say(kind, value):
    print(json.dumps({kind: value}), file=answers, flush=True)


def fill(module):
    """Numbers of a usual spread, much sooner than from torch's own initialisation."""
    import torch

    noise = torch.randn(1 << 16, generator=torch.Generator().manual_seed(1)) * 0.02
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                p.fill_(1.0)
            else:
                flat = p.view(-1)
                for start in range(0, flat.numel(), noise.numel()):
                    part = flat[start : start + noise.numel()]
                    part.copy_(noise[: part.numel()])


def build(make, config):
    """A model without torch's slow initialisation."""
    import torch

    with torch.device("meta"):
        model = make(config)
    model = model.to_empty(device="cpu").eval()
    fill(model)
    for name, buffer in model.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))
    return model


def models(sizes, side, blocks):
    """transformers' ViT of BLIP-2 and its Q-Former."""
    from transformers import Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig, Blip2VisionModel

    vision = Blip2VisionConfig(
        hidden_size=sizes["width"],
        intermediate_size=sizes["mlp"],
        num_hidden_layers=blocks,
        num_attention_heads=sizes["heads"],
        patch_size=sizes["patch"],
        image_size=side,
        layer_norm_eps=1e-6,
    )
    qformer = Blip2QFormerConfig(
        hidden_size=sizes["qf_width"],
        intermediate_size=sizes["qf_mlp"],
        num_hidden_layers=sizes["qf_layers"],
        num_attention_heads=sizes["qf_heads"],
        encoder_hidden_size=sizes["width"],
        vocab_size=1,
    )
    return build(Blip2VisionModel, vision), build(Blip2QFormerModel, qformer)


class Torch:
    """The whole encoder in PyTorch."""

    def __init__(self, kind, options):
        import torch
        import transformers

        self.torch, self.kind, self.options = torch, kind, options
        torch.set_num_threads(options.threads)
        torch.set_grad_enabled(False)
        self.side = None
        self.about = {"torch": torch.__version__, "transformers": transformers.__version__}

    def prepare(self, side):
        torch, sizes = self.torch, self.options.sizes
        self.side = self.vision = self.qformer = self.projection = None
        vision, qformer = models(sizes, side, sizes["blocks"])
        projection = build(lambda of: torch.nn.Linear(*of), (sizes["qf_width"], sizes["projection"]))
        dtype = torch.bfloat16 if self.kind == "bf16" else torch.float32
        parts = [part.to(dtype) for part in (vision, qformer, projection)]
        if self.kind == "int8":
            from torch.ao.quantization import quantize_dynamic

            parts = [quantize_dynamic(part, {torch.nn.Linear}, torch.qint8, inplace=True) for part in parts]
        self.vision, self.qformer, self.projection = parts
        self.pixels = torch.randn(1, 3, side, side).to(dtype)
        self.queries = torch.randn(1, sizes["queries"], sizes["qf_width"]).to(dtype)
        self.side = side

    def encode(self):
        features = self.vision(pixel_values=self.pixels).last_hidden_state
        queries = self.qformer(query_embeds=self.queries, encoder_hidden_states=features).last_hidden_state
        return self.projection(queries)

    def measure(self, side):
        if self.side != side:
            self.prepare(side)
        start = time.perf_counter()
        out = self.encode()
        taken = time.perf_counter() - start
        if not bool(self.torch.isfinite(out.float()).all()):
            raise ValueError("numbers that are not finite came out")
        return taken


class Onnx:
    """Some blocks of the ViT in ONNX Runtime with its dynamic int8 quantisation; the time is scaled to all blocks."""

    def __init__(self, options):
        import onnx
        import onnxruntime
        import onnxruntime.quantization
        import torch

        self.options = options
        torch.set_num_threads(options.threads)
        self.side = None
        self.blocks = min(options.blocks, options.sizes["blocks"])
        self.about = {
            "onnxruntime": onnxruntime.__version__,
            "onnx": onnx.__version__,
            "blocks": f"{self.blocks} of {options.sizes['blocks']}, no Q-Former",
        }

    def files(self, side):
        sizes = self.options.sizes
        name = f"vit-{sizes['width']}-{sizes['mlp']}-{self.blocks}-{side}"
        return [os.path.join(self.options.folder, f"{name}{end}.onnx") for end in ("", "-int8")]

    def prepare(self, side):
        import onnxruntime

        self.side = None
        plain, quantised = self.files(side)
        if not os.path.exists(quantised):
            self.export(side, plain, quantised)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = self.options.threads
        self.session = onnxruntime.InferenceSession(quantised, settings, providers=["CPUExecutionProvider"])
        import numpy

        self.pixels = numpy.random.default_rng(1).standard_normal((1, 3, side, side), dtype=numpy.float32)
        self.side = side

    def export(self, side, plain, quantised):
        import torch
        from onnxruntime.quantization import QuantType, quantize_dynamic

        vision, _ = models(self.options.sizes, side, self.blocks)

        class Features(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.vision = vision

            def forward(self, pixels):
                return self.vision(pixel_values=pixels).last_hidden_state

        with torch.no_grad():
            torch.onnx.export(Features().eval(), (torch.randn(1, 3, side, side),), plain, input_names=["pixels"], verbose=False)
        quantize_dynamic(plain, quantised + ".new", weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
        os.replace(quantised + ".new", quantised)
        for leftover in (plain, plain + ".data"):
            if os.path.exists(leftover):
                os.remove(leftover)

    def measure(self, side):
        if self.side != side:
            self.prepare(side)
        start = time.perf_counter()
        self.session.run(None, {"pixels": self.pixels})
        return (time.perf_counter() - start) * self.options.sizes["blocks"] / self.blocks


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["pytorch-fp32", "pytorch-bf16", "pytorch-int8", "onnxruntime-int8"])
    parser.add_argument("--sizes", type=json.loads, required=True, help="the vision encoder's sizes, JSON")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--blocks", type=int, required=True, help="blocks that ONNX Runtime computes")
    parser.add_argument("--folder", required=True, help="where exported models are kept")
    options = parser.parse_args()
    library, kind = options.name.split("-")
    try:
        peer = Onnx(options) if library == "onnxruntime" else Torch(kind, options)
    except ImportError as error:
        say("missing", f"{error}; install what bench/requirements.txt lists")
        return
    say("hello", peer.about)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] != "encode":
                raise ValueError(f"this worker cannot do {request['do']}")
            say("figures", {"seconds": peer.measure(request["side"])})
        except Exception as error:  # whatever a library throws is a reason to tell
            say("error", f"{type(error).__name__}: {error}".splitlines()[0])


if __name__ == "__main__":
    # Libraries print to stdout as they like; replies have it for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main()
