"""Text that a model writes itself: calibration text of its own kind, whatever it was trained on.

Source: self-calibration, Williams et al. (arXiv 2410.17170).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import digest_of
from lbdsl.core.files import replace_entry
from lbdsl.core.progress import Report
from lbdsl.data.blocks import TokenBlocks
from lbdsl.data.split import TextPart

NAME = "text of the model itself"

VERSION = 1
"""Increase it when another text is written."""

LONGEST = 512
"""Tokens of one sequence: later tokens take longer and say little more."""


def written_blocks(
    model: Callable[[], Any],
    tokenizer: Any,
    tokens: int,
    seq: int,
    seed: int,
    folder: Path,
    model_digest: str,
    stage: Callable[[], AbstractContextManager[Report]],
) -> TokenBlocks:
    """`tokens` tokens in sequences of `seq`, at most `LONGEST`: sampled at temperature 1 from the start token, or the end
    token if there is none; an end token does not end a sequence. They are kept in `folder` and written once.

    `model` returns the model, and `stage` shows the progress; they are called only when there is something to write. Raises
    LbdslError LB448.
    """
    seq = min(seq, LONGEST, tokens)
    count = tokens // seq
    made_of = {"model": model_digest, "shape": [count, seq], "seed": seed, "version": VERSION}
    path = folder / "written" / f"{digest_of(made_of)[:32]}.safetensors"
    ids_SN = _kept(path, (count, seq))
    if ids_SN is None:
        with stage() as progress:
            ids_SN = _written(model(), tokenizer, count, seq, seed, progress)
        try:
            replace_entry(path, save({"ids": ids_SN}))
        except OSError as problem:
            help = "choose another folder with --cache-dir"
            raise fail("LB448", f"{path} cannot be written: {problem.strerror}", help=help) from None
    digest = hashlib.sha256(ids_SN.numpy().tobytes()).hexdigest()
    return TokenBlocks(ids_SN, digest, NAME, TextPart.SCORE, seed, 1, None)


def _kept(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """The ids in a file; a damaged file counts as missing."""
    try:
        ids = load(path.read_bytes()).get("ids")
    except (OSError, SafetensorError):
        return None
    return ids if ids is not None and tuple(ids.shape) == shape and ids.dtype == torch.int64 else None


def _written(model: Any, tokenizer: Any, count: int, seq: int, seed: int, progress: Report) -> Tensor:
    from transformers import GenerationConfig

    device = model.lm_head.weight.device
    start = next((token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None), 0)
    first = torch.full((count, 1), start, device=device)

    def told(ids: Tensor, _scores: Any, **_other: Any) -> Tensor:
        progress(ids.shape[1], seq, "tokens of each sequence")
        return torch.zeros(len(ids), dtype=torch.bool, device=device)

    # Without an end token in the configuration, transformers takes the model's own; one that is none ends nothing.
    wanted = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=seq - 1,
        eos_token_id=model.config.vocab_size,
        pad_token_id=start,
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.inference_mode():
        torch.manual_seed(seed)
        ids = model.generate(
            first, attention_mask=torch.ones_like(first), generation_config=wanted, stopping_criteria=[told]
        )
    return ids.to("cpu", torch.int64)
