"""Text that a model writes itself: of the kind that it was trained on, whatever that is.

Source: self-calibration, Williams et al. (arXiv 2410.17170). Cutting off improbable tokens (min-p 0.05) makes the text of a
small model coherent, and heals worse: it is less varied (docs/healing.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lbdsl.core.cache import WRITTEN
from lbdsl.core.digest import digest_of
from lbdsl.core.files import keep_in_cache, read_entry
from lbdsl.core.progress import Report
from lbdsl.data.blocks import TokenBlocks
from lbdsl.data.split import TextPart

NAME = "text of the model itself"

VERSION = 3
"""Increase it when another text is written."""

NOTHING: Mapping[str, Any] = MappingProxyType({})

BATCH = 32
"""The most sequences that are written together, and kept in one file: what a kill can lose."""


@dataclass(frozen=True)
class Writer:
    """A model that writes text, and where it is kept. `model` is called only when there is something to write, and `stage`
    shows the progress then."""

    model: Callable[[], Any]
    tokenizer: Callable[[], Any]
    digest: str
    folder: Path
    stage: Callable[[], AbstractContextManager[Report]]

    def ids(self, count: int, seq: int, seed: int) -> Tensor:
        """The first `count` of its sequences of `seq` tokens: int64 [count, seq]. They are sampled at temperature 1 from
        the start token, or the end token if there is none; an end token does not end a sequence. Raises LB448."""
        rows = [min(BATCH, count - start) for start in range(0, count, BATCH)]
        paths = [self._path(number, rows[number], seq, seed) for number in range(len(rows))]
        kept = {number: ids for number, path in enumerate(paths) if (ids := _kept(path, (rows[number], seq))) is not None}
        total = sum(rows) * seq
        if len(kept) < len(rows):
            with self.stage() as progress:
                model, tokenizer = self.model(), self.tokenizer()
                for number in range(len(rows)):
                    if number not in kept:
                        before = sum(rows[:number]) * seq

                        def told(done: int, before: int = before) -> None:
                            progress(before + done, total, "tokens")

                        kept[number] = _written(model, tokenizer, rows[number], seq, seed + number, told)
                        keep_in_cache(paths[number], save({"ids": kept[number]}))
        return torch.cat([kept[number] for number in range(len(rows))])

    def _path(self, number: int, rows: int, seq: int, seed: int) -> Path:
        made_of = {"model": self.digest, "shape": [rows, seq], "seed": seed, "number": number, "version": VERSION}
        return WRITTEN.path(self.folder, f"{digest_of(made_of)[:32]}.safetensors")


def _written(model: Any, tokenizer: Any, rows: int, seq: int, seed: int, told: Callable[[int], None]) -> Tensor:
    device = model.lm_head.weight.device
    start = next((token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None), 0)
    first = torch.full((rows, 1), start, device=device)

    def step(ids: Tensor, _scores: Any, **_other: Any) -> Tensor:
        told(ids.numel())
        return torch.zeros(len(ids), dtype=torch.bool, device=device)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.inference_mode():
        torch.manual_seed(seed)
        sampled = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        ids = generated(model, first, seq - 1, {"stopping_criteria": [step]}, **sampled)
    return ids.to("cpu", torch.int64)


def generated(model: Any, ids_BN: Tensor, count: int, inputs: Mapping[str, Any] = NOTHING, **how: Any) -> Any:
    """What `generate` returns for `count` more tokens a row, with these inputs besides: greedily, unless `how` says
    otherwise, and as nothing in the model's own configuration says, such as a penalty for repetitions. An end token ends
    nothing."""
    from transformers import GenerationConfig

    # Without an end token in the configuration, transformers takes another; one that is none ends nothing.
    end, pad = model.config.vocab_size, int(ids_BN[0, 0])
    wanted = GenerationConfig(max_new_tokens=count, eos_token_id=end, pad_token_id=pad, **{"do_sample": False, **how})
    # What the model's own has and this has not would be taken from there.
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        return model.generate(ids_BN, attention_mask=torch.ones_like(ids_BN), generation_config=wanted, **inputs)
    finally:
        model.generation_config = own


SEEDS = {TextPart.SCORE: 1, TextPart.JOINT: 2, TextPart.HEAL: 3}
"""Each part is another text: it takes every fourth million of seeds; 0 is the text for checking."""


def written_blocks(
    writer: Writer, tokens: int, seq: int, seed: int = 0, *, part: TextPart | None = None, most: int | None = None
) -> TokenBlocks:
    """`tokens` tokens in sequences of `seq` for a part of a recipe, or for checking. At most `most` are different: with
    fewer they are repeated, in another order each time. Raises LbdslError LB448."""
    seq = min(seq, tokens)
    count = tokens // seq
    different = count if most is None else max(1, min(count, most // seq))
    first = 4_000_000 * seed + 1_000_000 * (SEEDS[part] if part is not None else 0)
    ids_SN = writer.ids(different, seq, first)
    passes = -(-count // different)
    order = [torch.randperm(different, generator=torch.Generator().manual_seed(seed + turn)) for turn in range(1, passes)]
    rows = torch.cat([torch.arange(different), *order])[:count]
    ids_SN = ids_SN[rows].contiguous()
    digest = hashlib.sha256(ids_SN.numpy().tobytes()).hexdigest()
    available = different * seq if most is not None else None
    return TokenBlocks(ids_SN, digest, NAME, passes, available)


def _kept(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """The ids in a file; a damaged file counts as missing."""
    try:
        ids = load(read_entry(path)).get("ids")
    except (OSError, SafetensorError):
        return None
    return ids if ids is not None and tuple(ids.shape) == shape and ids.dtype == torch.int64 else None
