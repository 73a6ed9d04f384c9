"""A GGUF file as a model of transformers: python examples/transformers_generate.py MODEL.gguf"""

from __future__ import annotations

import sys

import torch
from transformers import pipeline

from rocmforge_torch.integrations.transformers import from_gguf, tokenizer_from_gguf

PROMPT = "The capital of France is"


def main(path: str) -> dict[str, str]:
    """What the model writes: by `generate` with a static cache, and by a pipeline."""
    model = from_gguf(path)  # Gemma3ForCausalLM, LlamaForCausalLM, ...; its weights stay quantized
    tokenizer = tokenizer_from_gguf(path)
    print(model.model.layers[0].self_attn.q_proj.weight)

    inputs = tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)
    options = {"max_new_tokens": 24, "do_sample": False}
    ids = model.generate(**inputs, cache_implementation="static", disable_compile=True, **options)
    texts = {"generate": tokenizer.decode(ids[0], skip_special_tokens=True)}

    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    texts["pipeline"] = write(PROMPT, **options)[0]["generated_text"]
    for name, text in texts.items():
        print(f"{name}: {text!r}")

    # Gradients flow through the quantized products, to whatever is trained beside them.
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).requires_grad_()
    loss = model(inputs_embeds=embeddings, labels=inputs["input_ids"]).loss
    loss.backward()
    assert embeddings.grad is not None
    print(f"loss {loss.item():.3f}, gradient {torch.linalg.vector_norm(embeddings.grad):.3f}")
    return texts


if __name__ == "__main__":
    main(sys.argv[1])
