"""What a measurement depends on, as one digest."""

from __future__ import annotations

from typing import Any

from lbdsl.core.digest import digest_of

ENGINE_VERSION = 2
"""Raise it when the engine's numbers change."""


def fingerprint(*, model: str, blocks: str, saved: str, dtype: str, device: Any) -> str:
    """sha256 of all that the sums depend on: weights, token ids (with their shape), arithmetic and the engine.

    `model` and `blocks` are digests; weights are kept in `saved` and computed with in `dtype`, both as in ModelFacts; of
    `device` only its kind matters (`cuda:1` -> cuda).
    """
    kind = str(device).split(":")[0]
    return digest_of(
        {"model": model, "blocks": blocks, "saved": saved, "dtype": dtype, "device": kind, "engine": ENGINE_VERSION}
    )
