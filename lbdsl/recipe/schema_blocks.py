"""Blocks of a resolved recipe: `measure`, `heal` and `eval`, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from lbdsl.core.span import Span

BUILTIN_TEXTS = ("builtin:pydoc", "builtin:wikitext")
"""Texts that are always there; see `lbdsl.data.sources`."""

JUDGING_ONLY = ("builtin:wikitext",)
"""Those that only `eval` may name: text that neither chose a plan nor healed a model."""


SEQUENCES = 4
"""The fewest sequences that a mean and its error are taken over; `tokens` rises to it."""


class _Values(BaseModel):
    # Building all validators at import costs 30 ms; `check` needs few of them.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class BlockSettings(_Values):
    """Base of the blocks. `span` is the block's place in the text, `set_at` those of the values that the recipe sets, by
    field; the others are open."""

    span: SkipValidation[Span | None] = Field(default=None, exclude=True, repr=False)
    set_at: SkipValidation[Mapping[str, Span]] = Field(default={}, exclude=True, repr=False)


class Measure(BlockSettings):
    """`measure { ... }`: on which text scores are taken. `tokens` and `seq` in tokens.

    An open `seq` is 1Ki, or what the windows of the rules need; see `lbdsl.plan.lengths`, which gives it its value.
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


class Heal(BlockSettings):
    """`heal { ... }`: distillation from the base model. `tokens` counts tokens seen, passes included; the loss is
    `kl_weight * KL(base || healed) + hidden_weight * hidden`."""

    data: str = "builtin:pydoc"
    tokens: int = Field(default=200_000, ge=1)
    method: Annotated[Lora | FullWeights, Field(discriminator="node")] = Lora()
    kl_weight: float = Field(default=1.0, ge=0)
    hidden_weight: float = Field(default=0.0, ge=0)
    lr: float = Field(default=1e-3, gt=0)
    seq: int = Field(default=1024, ge=2)
    batch: int = Field(default=2, ge=1)
    seed: int = Field(default=0, ge=0)


class Evaluate(BlockSettings):
    """`eval { ... }`: on which texts the artifact is judged; every assert must hold on each of them.

    An open `seq` is the largest context that asserts and budgets name, within the model's positions; see
    `lbdsl.plan.lengths`, which gives it its value.
    """

    data: tuple[str, ...] = ("builtin:wikitext",)
    tokens: int = Field(default=16_384, ge=1)
    seq: int | None = Field(default=None, ge=2)
    metrics: tuple[str, ...] = ("perplexity", "kl", "agreement")
