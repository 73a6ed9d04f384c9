"""What llama.cpp predicts: `python llama_cpp.py PROMPT FILE...`, in a process of its own.

PROMPT is a list of token numbers in JSON. For each file a line of JSON: {token: log-probability} of
the next token, for as many of the likeliest as the file has tokens.
"""

from __future__ import annotations

import json
import os
import sys

import xllamacpp


def next_token(path: str, prompt: list[int], tokens: int) -> dict[str, float]:
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 64, 1, 1
    params.warmup = False
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    request = {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": tokens}
    answer = xllamacpp.Server(params).handle_completions(request)
    (chosen,) = answer["choices"][0]["logprobs"]["content"]
    return {str(t["id"]): t["logprob"] for t in chosen["top_logprobs"]}


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # llama.cpp writes what it does to both
    count, prompt, *paths = sys.argv[1:]
    for path in paths:
        print(json.dumps(next_token(path, json.loads(prompt), int(count))), file=out, flush=True)
