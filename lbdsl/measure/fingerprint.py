"""One digest of everything that a measurement depends on."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from lbdsl.actions import actions
from lbdsl.core.digest import digest_of
from lbdsl.core.registry import code_of
from lbdsl.metrics import metrics
from lbdsl.parts import parts
from lbdsl.plan.made_from import PLUG_IN
from lbdsl.statistics import statistics

ENGINE_VERSION = 3
"""Increase it with each change of lbdsl by which a number that is kept comes out otherwise, beyond rounding: of the model's
code, a metric, a statistic, what an action makes of weights, or which tokens are counted. Other text needs no increase, nor
do other versions of libraries: the key names both. `tests/measure/test_engine_version.py` fails where numbers change
without it."""


def versions_of(*, gguf: bool) -> dict[str, str]:
    """The versions that measured numbers depend on: torch's without its patch release, which changes no kernel on purpose,
    and for a GGUF file that of transformers, which converts it. For other models transformers gives norms, rotary tables
    and masks, which a checkpoint defines: its releases, one a month, are not named. Of each plug-in with an action, a part,
    a metric or a statistic the sha256 of its file, and of its runtime file; of what these import from others, nothing."""
    named = {"torch": ".".join(version("torch").split(".")[:2])}
    named |= {"transformers": version("transformers")} if gguf else {}
    for kinds in (actions(), parts(), metrics(), statistics()):
        for cls in kinds.values():
            named |= {f"{PLUG_IN}{name}": digest for name, digest in code_of(cls).items()}
    return named


def fingerprint(*, model: str, blocks: str, saved: str, dtype: str, device: Any, versions: Mapping[str, str]) -> str:
    """sha256 of everything that the sums depend on: weights, token ids (with their shape), arithmetic and the engine.

    `model` and `blocks` are digests. `saved` is the dtype of the stored weights and `dtype` the compute dtype, both as in
    ModelFacts. Only the type of `device` matters (`cuda:1` -> cuda). `versions` as of `versions_of`.
    """
    kind = str(device).split(":")[0]
    arithmetic = {"saved": saved, "dtype": dtype, "device": kind, "engine": ENGINE_VERSION, "versions": dict(versions)}
    return digest_of({"model": model, "blocks": blocks, **arithmetic})
