"""One digest of everything that a measurement depends on."""

from __future__ import annotations

from typing import Any

from lbdsl.core.digest import digest_of

ENGINE_VERSION = 2
"""Increase it when a change to the engine changes measured numbers."""


def fingerprint(*, model: str, blocks: str, saved: str, dtype: str, device: Any) -> str:
    """sha256 of everything that the sums depend on: weights, token ids (with their shape), arithmetic and the engine.

    `model` and `blocks` are digests. `saved` is the dtype of the stored weights and `dtype` the compute dtype, both as in
    ModelFacts. Only the type of `device` matters (`cuda:1` -> cuda).
    """
    kind = str(device).split(":")[0]
    return digest_of(
        {"model": model, "blocks": blocks, "saved": saved, "dtype": dtype, "device": kind, "engine": ENGINE_VERSION}
    )
