"""Run an exported model, without a module of a model: python examples/run_exported.py MODEL.pt2

Write one first: rocmforge export MODEL.gguf -o MODEL.pt2
"""

from __future__ import annotations

import sys

import torch

from rocmforge_torch.exported import ExportedDecoder


def main(path: str) -> None:
    decoder = ExportedDecoder(path)
    print(decoder.info)

    prompt = "The capital of France is"
    print(prompt, end="", flush=True)
    for piece in decoder.stream(prompt, max_tokens=24):
        print(piece, end="", flush=True)
    print()

    # The program itself: ids and a cache in, the logits after the last id out.
    ids = torch.tensor([decoder.tokenizer.encode(prompt)])
    with torch.inference_mode():
        cache = decoder.new_cache(batch_size=1, max_seq_len=64)
        best = decoder(ids, cache)[0].softmax(-1).topk(5)
    for probability, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"{probability:6.1%}  {decoder.tokenizer.decode([token])!r}")


if __name__ == "__main__":
    main(sys.argv[1])
