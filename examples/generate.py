"""Load a GGUF model, stream a text, and look inside: python examples/generate.py MODEL.gguf"""

from __future__ import annotations

import sys

import torch

import rocmforge_torch as rf


def main(path: str) -> None:
    model = rf.load_model(path)  # an nn.Module; its weights stay quantized, in the mapped file
    print(model.layers[0].attn)

    for piece in model.stream("Once upon a time", max_tokens=48, temperature=0.7, seed=1):
        print(piece, end="", flush=True)
    print()

    # Several prompts at once, of different lengths.
    prompts = ["The capital of France is", "2, 4, 6, 8,"]
    for prompt, text in zip(
        prompts, model.generate(prompts, max_tokens=12, temperature=0), strict=True
    ):
        print(repr(prompt + text))

    # The logits themselves, with a cache that later tokens are added to.
    ids = torch.tensor([model.tokenizer.encode("The capital of France is")])
    with torch.inference_mode():
        cache = model.new_cache(max_seq_len=64)
        best = model(ids, cache)[0, -1].softmax(-1).topk(5)
    for probability, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"{probability:6.1%}  {model.tokenizer.decode([token])!r}")


if __name__ == "__main__":
    main(sys.argv[1])
