"""What a measurement depends on, as one digest."""

from __future__ import annotations

from typing import Any

from lbdsl.core.digest import digest_of

ENGINE_VERSION = 1
"""Raise it when the engine's numbers change."""


def fingerprint(*, model: str, blocks: str, dtype: str, device: Any) -> str:
    """sha256 of all that the sums depend on: weights, token ids (with their shape), arithmetic and the engine.

    `model` and `blocks` are digests, `dtype` is as in ModelFacts; of `device` only its kind matters (`cuda:1` -> cuda).
    """
    return digest_of(
        {"model": model, "blocks": blocks, "dtype": dtype, "device": str(device).split(":")[0], "engine": ENGINE_VERSION}
    )
