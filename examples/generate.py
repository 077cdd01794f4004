"""Print what a base model and a compressed one say after the same prompt.

python examples/generate.py MODEL ARTIFACT "a prompt" [tokens]
"""

from __future__ import annotations

import sys

import torch

import lbdsl


def continuation(model: torch.nn.Module, tokenizer, prompt: str, tokens: int) -> str:
    """Greedy text after `prompt`."""
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def main() -> None:
    base_name, artifact, prompt = sys.argv[1:4]
    tokens = int(sys.argv[4]) if len(sys.argv) > 4 else 30
    bench = lbdsl.OpenModel(base_name)
    compressed, tokenizer = lbdsl.load(artifact)
    print(f"base        {continuation(bench.base, bench.tokenizer, prompt, tokens)!r}")
    print(f"compressed  {continuation(compressed, tokenizer, prompt, tokens)!r}")


if __name__ == "__main__":
    main()
