"""Blocks of a resolved recipe: `measure`, `heal`, `eval` and `search`, with their defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lbdsl.recipe.schema_expr import Expr, Node, Phase
from lbdsl.recipe.schema_rules import Assertion


class Measure(Node):
    """`measure { ... }`: on which text scores are taken. `tokens` and `seq` in tokens."""

    metric: str = "nll"
    data: str = "builtin:pydoc"
    tokens: int = Field(default=8192, ge=1)
    seq: int = Field(default=1024, ge=2)
    seed: int = Field(default=0, ge=0)


class Lora(Node):
    """Low-rank adapters on all linear maps of the layers, merged at the end (arXiv 2106.09685)."""

    node: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1, le=4096)
    alpha: float = Field(default=32, gt=0)


class FullWeights(Node):
    node: Literal["full"] = "full"


class Heal(Node):
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


class Evaluate(Node):
    """`eval { ... }`: on which text the artifact is judged."""

    data: str = "builtin:pydoc"
    tokens: int = Field(default=16_384, ge=1)
    seq: int = Field(default=2048, ge=2)
    metrics: tuple[str, ...] = ("perplexity", "kl", "agreement")


class Vary(Node):
    """`vary $window in 64..1Ki`: both ends belong to it; or `in {64, 256}`. Values are in the parameter's unit."""

    name: str
    low: int | float | None = None
    high: int | float | None = None
    options: tuple[int | float | str | bool, ...] = ()


class Objective(Node):
    """`minimize EXPR` or `maximize EXPR`, a value of the whole model; `phase` says when it is known."""

    direction: Literal["minimize", "maximize"]
    expr: Expr
    phase: Phase
    text: str


class Search(Node):
    """`search { ... }`: which parameters to vary, and what makes their values good."""

    vary: tuple[Vary, ...]
    objectives: tuple[Objective, ...]
    subject_to: tuple[Assertion, ...] = ()
    trials: int = Field(default=20, ge=1, le=10_000)
    seed: int = Field(default=0, ge=0)
