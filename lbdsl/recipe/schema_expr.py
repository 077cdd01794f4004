"""Expressions of a resolved recipe, and the base of all its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator

from lbdsl.actions import Action, actions
from lbdsl.core.units import Unit
from lbdsl.layer.cost import STATIC_VALUES


class Phase(StrEnum):
    """When a value is known: from headers, after measuring, or after healing."""

    STATIC = "static"
    MEASURED = "measured"
    POST = "post"


class Node(BaseModel):
    """Base of all nodes; `at` is the (start, end) offset of its text in the recipe."""

    # Building all validators at import costs 30 ms; `check` needs few of them.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    at: tuple[int, int] | None = Field(default=None, exclude=True, repr=False)


# Expressions ---------------------------------------------------------------------------------------------------------


class Number(Node):
    """`8Ki`, `5%` (ratio 0.05), `0.1`, `10M tokens`."""

    node: Literal["number"] = "number"
    value: int | float
    unit: Unit = Unit.NONE


class Text(Node):
    node: Literal["text"] = "text"
    value: str


class Boolean(Node):
    node: Literal["boolean"] = "boolean"
    value: bool


class Items(Node):
    """A list, as in `model.family in ["llama", "qwen3"]`."""

    node: Literal["items"] = "items"
    items: tuple[Expr, ...]


class Score(Node):
    """A measured metric: of one layer in `where` and `by`, of the whole changed model where `joint`.

    `name` is what the recipe says (`sensitivity`), `metric` what it stands for (`nll`). `action` is None for a joint
    score and for a metric that takes none; such a one may look at a `part` of the layer, `block` (None: the attention).
    """

    node: Literal["score"] = "score"
    name: str
    metric: str
    action: SerializeAsAny[Action] | None = None
    joint: bool = False
    part: Literal["block"] | None = None

    @field_validator("action", mode="before")
    @classmethod
    def _known_action(cls, value: Any) -> Any:
        return None if value is None else action_from(value)

    @property
    def action_text(self) -> str:
        """What it is measured under: the action's text, or the part of the layer."""
        return self.action.text() if self.action is not None else self.part or ""

    @property
    def text(self) -> str:
        """What it is called in plans: `nll`, `kl(swa(window=256))`."""
        return f"{self.metric}({self.action_text})" if self.action_text else self.metric


class PostScore(Node):
    """A metric of the finished model, by its name: `ppl_increase`. `source` names one of the texts of the `eval` block;
    None stands for each of them."""

    node: Literal["post"] = "post"
    name: str
    source: str | None = None


class CostOf(Node):
    """`kv(32Ki)` (bytes a sequence), `flops(8Ki)` (a decoded token), `params`, `weights` (bytes) of the changed model: one
    of `lbdsl.layer.cost.STATIC_VALUES`."""

    node: Literal["cost"] = "cost"
    name: str
    ctx: int | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in STATIC_VALUES:
            raise ValueError(f"no cost is called {value!r}")
        return value


class Fact(Node):
    """`model.family`, `model.layers`, `model.hidden`, ...: a field of ModelFacts by its name."""

    node: Literal["fact"] = "fact"
    name: str


FACTS: Mapping[str, tuple[str, Unit]] = {
    "family": ("text", Unit.NONE),
    "architecture": ("text", Unit.NONE),
    "dtype": ("text", Unit.NONE),
    "tied": ("boolean", Unit.NONE),
    "layers": ("number", Unit.NONE),
    "hidden": ("number", Unit.NONE),
    "heads": ("number", Unit.NONE),
    "kv_heads": ("number", Unit.NONE),
    "head_dim": ("number", Unit.NONE),
    "intermediate": ("number", Unit.NONE),
    "vocab": ("number", Unit.NONE),
    "positions": ("number", Unit.TOKENS),
    "params": ("number", Unit.PARAMS),
    "kv_bytes_per_token": ("number", Unit.BYTES),
}
"""The facts that a recipe may ask for: the kind of each one's value, and the unit of a number."""


class Compare(Node):
    """A chain, `0.01 <= nll < 0.1`: `operands` has one more entry than `ops`."""

    node: Literal["compare"] = "compare"
    operands: tuple[Expr, ...]
    ops: tuple[Literal["<", "<=", ">", ">=", "==", "!=", "in", "not in", "matches"], ...]


class Logic(Node):
    node: Literal["logic"] = "logic"
    op: Literal["and", "or"]
    operands: tuple[Expr, ...]


class Not(Node):
    node: Literal["not"] = "not"
    operand: Expr


class Arithmetic(Node):
    """A flat chain of one precedence: `a + b - c` has operands (a, b, c) and ops ("+", "-")."""

    node: Literal["arithmetic"] = "arithmetic"
    operands: tuple[Expr, ...]
    ops: tuple[Literal["+", "-", "*", "/"], ...]


class Negate(Node):
    node: Literal["negate"] = "negate"
    operand: Expr


Expr = Annotated[
    Number | Text | Boolean | Items | Score | PostScore | CostOf | Fact | Compare | Logic | Not | Arithmetic | Negate,
    Field(discriminator="node"),
]


def action_from(value: Any) -> Action:
    """An action from itself or from its JSON; ValueError for an unknown kind or bad parameters."""
    if isinstance(value, Action):
        return value
    kind = value.get("kind") if isinstance(value, dict) else None
    cls = actions().get(str(kind))
    if cls is None:
        raise ValueError(f"no action is called {kind!r}")
    return cls.model_validate(value)
