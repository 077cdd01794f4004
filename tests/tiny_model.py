"""A tiny Llama with a byte-level tokenizer, on disk: small enough to measure, heal and judge in seconds."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and an end-of-text token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")


def tiny_llama(seed: int = 0, **config: object) -> LlamaForCausalLM:
    """Six layers in fp32, GQA, tied head, one token a byte; weights scaled so that attention decides the logits."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    other = {"initializer_range": 0.15, "tie_word_embeddings": True, "eos_token_id": 256, "bos_token_id": None}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **other, **config}))


def save_tiny_model(
    folder: Path, *, layers: int = 6, dtype: torch.dtype = torch.float32, seed: int = 0, **config: int
) -> Path:
    """The model on disk with its tokenizer."""
    tiny_llama(seed, num_hidden_layers=layers, **config).to(dtype).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


RECIPE = """lbr 1
recipe "tiny"
param $window: tokens in 4..64 = 16
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
layers 0 keep
lowest 2 of rest by sensitivity drop
lowest 2 of rest by kl(swa(window=$window, sinks=2)) swa(window=$window, sinks=2)
else keep
heal { data = "builtin:pydoc"; tokens = 2048; seq = 64; batch = 2; lr = 2e-3; method = lora(rank=4, alpha=8) }
eval { data = "builtin:pydoc"; tokens = 512; seq = 64 }
assert kv(1Ki) <= 80%
assert ppl_increase < 300%
"""
