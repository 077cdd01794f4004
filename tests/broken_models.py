"""Tiny models that are sound, and break when a layer is left out: their weights overflow, or drown all else.

One channel of the residual stream is empty but for the biases of MLPs: one layer fills it, the next empties it again.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal

import torch

from tests.tiny_model import byte_tokenizer, tiny_llama

Kind = Literal["nan", "inf", "constant", "one token"]
KINDS: tuple[Kind, ...] = ("nan", "inf", "constant", "one token")
CHANNEL, LIKING = 31, 30
"""That which breaks, and one that is nearly all of the stream, so that it has the same size everywhere."""

SPECIAL = "\xff"
"""A character with a value of its own in the channel, where a model is to break on it alone."""


@cache
def frequencies() -> torch.Tensor:
    """The logarithm of the share of each token of Python's documentation, [260]."""
    ids = byte_tokenizer()("".join(topics.values()))["input_ids"]
    return (torch.bincount(torch.tensor(ids), minlength=260) + 1.0).div(len(ids)).log()


@torch.no_grad()
def save_breaking(folder: Path, kind: Kind, *, whole: bool = False, special: bool = False) -> Path:
    """A model that breaks without its layer 3: its logits are NaN, infinite, all alike ("constant"), or the same for every
    input with one token first. While it is sound it knows how frequent each character is, and little else. Its first
    choice is then token 0, which is what comes first among equals and NaNs, too (but where "one token" says that).
    `whole`: it breaks as it is. `special`: NaN only in texts with `SPECIAL`, alike elsewhere."""
    model = tiny_llama(mlp_bias=True, tie_word_embeddings=False)
    body = model.model
    body.embed_tokens.weight[:, CHANNEL] = 0
    for layer in body.layers:
        layer.self_attn.o_proj.weight[CHANNEL] = 0
        layer.mlp.down_proj.weight[CHANNEL] = 0
        layer.mlp.down_proj.bias.zero_()
    # The square of 1e20 is infinite, so that the norm divides by it; twice 2e38 is infinite itself.
    levels = {"nan": (2e38, 2e38), "inf": (1e6, 0.0), "constant": (1e20, 0.0), "one token": (1e15, 0.0)}[kind]
    if special:
        assert kind == "nan"
        levels = (1e38, 1e38)
        body.embed_tokens.weight[byte_tokenizer()(SPECIAL)["input_ids"][1], CHANNEL] = 2e38
    for first, level in zip((2, 4), levels, strict=True):
        body.layers[first].mlp.down_proj.bias[CHANNEL] = level
        body.layers[first + 1].mlp.down_proj.bias[CHANNEL] = -level
    body.embed_tokens.weight[:, LIKING] = 1e3
    body.norm.weight[LIKING] = 32**-0.5
    model.lm_head.weight *= 20
    model.lm_head.weight[:, LIKING] = frequencies()
    if kind != "one token":
        model.lm_head.weight[0, LIKING] = frequencies().max() + 0.1
    if kind == "inf":
        body.norm.weight[CHANNEL] = 1e20
        model.lm_head.weight[:, CHANNEL] = 1e20 * torch.sign(torch.randn(len(model.lm_head.weight)))
    if kind == "one token":
        model.lm_head.weight[0, CHANNEL] = model.lm_head.weight[:, CHANNEL].abs().max() + 1
    if whole:
        body.layers[3].mlp.down_proj.bias[CHANNEL] = 0
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
