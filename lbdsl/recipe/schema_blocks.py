"""Blocks of a resolved recipe: `measure`, `heal` and `eval`, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from lbdsl.core.span import Span

BUILTIN_TEXTS = ("builtin:pydoc", "builtin:docs", "builtin:wikitext")
"""Texts that are always available; see `lbdsl.data.sources`."""

JUDGING_ONLY = ("builtin:wikitext",)
"""Those that only `eval` may name: held-out text, used neither for measuring nor for healing."""


SEQUENCES = 4
"""The minimum number of sequences for a mean and its error; `tokens` is raised to reach it."""


class _Values(BaseModel):
    # Building all validators at import costs 30 ms; `check` needs few of them.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class BlockSettings(_Values):
    """Base of the blocks. `span` is the block's place in the text; `set_at` has, by field, the places of the values that
    the recipe sets. All other fields are open."""

    span: SkipValidation[Span | None] = Field(default=None, exclude=True, repr=False)
    set_at: SkipValidation[Mapping[str, Span]] = Field(default={}, exclude=True, repr=False)


class Measure(BlockSettings):
    """`measure { ... }`: the calibration text that scores are measured on. `tokens` and `seq` in tokens.

    If the recipe does not set `seq`, `lbdsl.plan.lengths` sets it: to 1Ki, or more if the windows of the rules need it.
    """

    metric: str = "nll"
    data: str = "builtin:pydoc"
    tokens: int = Field(default=8192, ge=1)
    seq: int | None = Field(default=None, ge=2)
    seed: int = Field(default=0, ge=0)


class Lora(_Values):
    """Low-rank adapters on all linear maps of the layers, merged at the end (arXiv 2106.09685)."""

    node: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1, le=4096, strict=True)
    alpha: float = Field(default=32, gt=0, strict=True)


class FullWeights(_Values):
    node: Literal["full"] = "full"


class LearnedSinks(_Values):
    node: Literal["sinks"] = "sinks"


Method = Lora | FullWeights | LearnedSinks


class Heal(BlockSettings):
    """`heal { ... }`: distillation from the base model. `tokens` counts tokens seen, over all passes; the loss is
    `kl_weight * KL(base || healed) + hidden_weight * hidden`."""

    data: str = "builtin:pydoc"
    tokens: int = Field(default=200_000, ge=1)
    method: Annotated[Method, Field(discriminator="node")] = Lora()
    kl_weight: float = Field(default=1.0, ge=0)
    hidden_weight: float = Field(default=0.0, ge=0)
    lr: float = Field(default=1e-3, gt=0)
    seq: int = Field(default=1024, ge=2)
    batch: int = Field(default=2, ge=1)
    seed: int = Field(default=0, ge=0)


class Evaluate(BlockSettings):
    """`eval { ... }`: the texts that the artifact is evaluated on; every assert must hold on each of them.

    If the recipe does not set `seq`, `lbdsl.plan.lengths` sets it to the largest context that asserts and budgets name,
    within the model's positions.
    """

    data: tuple[str, ...] = ("builtin:wikitext",)
    tokens: int = Field(default=16_384, ge=1)
    seq: int | None = Field(default=None, ge=2)
    metrics: tuple[str, ...] = ("perplexity", "kl", "agreement")
