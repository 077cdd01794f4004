"""The settings of `measure`, `heal` and `eval`, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lbdsl.core.diagnostic import Label
from lbdsl.core.span import Span
from lbdsl.core.units import tokens_text
from lbdsl.recipe.schema import Evaluate, Heal, Measure, Node
from lbdsl.recipe.schema_blocks import SEQUENCES
from lbdsl.recipe.scope import Scope, at
from lbdsl.recipe.setting_values import (
    EVAL_METRICS,
    LOSSES,
    METHODS,
    Read,
    checked,
    data_name,
    data_names,
    eval_metrics,
    integer,
    loss,
    method,
    metric,
    rate,
    tokens,
)
from lbdsl.syntax import tree

__all__ = ["EVAL_METRICS", "LOSSES", "METHODS", "SETTINGS", "SettingRow", "read_settings", "resolve_block"]


class SettingRow(NamedTuple):
    """One setting: how its value is read, and its page for `explain` and the reference."""

    read: Read
    meaning: str


_SEQ = SettingRow(tokens("seq", power_of_two=True), "length of a sequence, in tokens")
_DATA = SettingRow(data_name, "the text: `builtin:pydoc`, a local file or a hub data set")
_SEED = SettingRow(integer("seed"), "seed of every random choice")

SETTINGS: Mapping[str, Mapping[str, SettingRow]] = {
    "measure": {
        "metric": SettingRow(metric, "what `sensitivity` stands for"),
        "data": _DATA,
        "tokens": SettingRow(tokens("tokens"), "tokens of calibration text"),
        "seq": SettingRow(
            tokens("seq", power_of_two=True),
            "length of a sequence, in tokens; open: 1Ki, or twice the widest window that a rule sets",
        ),
        "seed": _SEED,
    },
    "heal": {
        "data": _DATA,
        "tokens": SettingRow(tokens("tokens"), "tokens seen, passes included"),
        "method": SettingRow(method, "`lora(rank=16, alpha=32)` or `full`"),
        "loss": SettingRow(loss, "`kl` or `kl + WEIGHT * hidden`"),
        "lr": SettingRow(rate, "peak learning rate"),
        "seq": _SEQ,
        "batch": SettingRow(integer("batch"), "sequences a step"),
        "seed": _SEED,
    },
    "eval": {
        "data": SettingRow(data_names, "the text, or a list of several; each assert must hold on every one"),
        "tokens": SettingRow(tokens("tokens"), "tokens of held-out text, of each source"),
        "seq": SettingRow(
            tokens("seq", power_of_two=True),
            "length of a sequence, in tokens; open: the largest context that asserts and budgets name, within the "
            "model's positions, else 2Ki",
        ),
        "metrics": SettingRow(eval_metrics, "what is reported of the finished model"),
    },
}
"""Every setting of every block."""

_SCHEMAS: Mapping[str, type[Node]] = {"measure": Measure, "heal": Heal, "eval": Evaluate}


def resolve_block(scope: Scope, block: tree.Block) -> Any:
    """`Measure`, `Heal` or `Evaluate`; None with errors."""
    kind = block.kind.name
    read = read_settings(scope, kind, block.settings)
    places = {name: (span.source.base + span.start, span.source.base + span.end) for name, span in read.spans.items()}
    # Also with errors: the bounds of the other settings are looked at.
    found = checked(scope, _SCHEMAS[kind], read.values | {"at": at(block), "set_at": places}, read.spans, block.span)
    if found is None or not read.good:
        return None
    _say_rounding(scope, found, read.spans)
    return found


ROUNDED = 0.05
"""Tokens are taken in whole sequences, when healing in whole steps. It is said when a larger part than this gets lost."""


def _say_rounding(scope: Scope, block: Any, spans: Mapping[str, Span]) -> None:
    """LB145 where the tokens of a block are not a multiple of its sequences."""
    span = next((spans[name] for name in ("tokens", "seq", "batch") if name in spans), None)
    if block.seq is None or not (isinstance(block, Heal) or block.tokens >= SEQUENCES * block.seq):
        return  # `lbdsl.plan.lengths` says it
    batch = getattr(block, "batch", 1)
    steps = max(1, block.tokens // (batch * block.seq))
    seq = block.seq
    used = steps * batch * seq
    if span is None or abs(used - block.tokens) <= ROUNDED * block.tokens:
        return
    pieces = f"{steps * batch} sequences" if steps * batch > 1 else "one sequence"
    pieces += f" of {tokens_text(seq)}" + (f", {batch} a step" if batch > 1 else "")
    near = max(1, round(block.tokens / (batch * seq))) * batch * seq
    scope.note(
        "LB145",
        f"{used} tokens are taken, not {block.tokens}: {pieces}",
        span,
        help=f"`tokens = {tokens_text(near)}` is a multiple",
    )


class Settings(NamedTuple):
    """The fields that the settings of a block give, and where each value stands. Not `good`: some had errors."""

    values: dict[str, Any]
    spans: dict[str, Span]
    good: bool


def read_settings(scope: Scope, kind: str, settings: Sequence[tree.Setting]) -> Settings:
    """What the settings of a block say; errors are reported."""
    table = SETTINGS[kind]
    values: dict[str, Any] = {}
    spans: dict[str, Span] = {}
    seen: dict[str, Span] = {}
    good = True
    for setting in settings:
        key = setting.key.name
        if key not in table:
            _unknown(scope, kind, setting, table)
            good = False
        elif key in seen:
            scope.error("LB112", f"`{key}` is set twice", setting.key.span, labels=(Label(seen[key], "first set here"),))
            good = False
        else:
            seen[key] = setting.key.span
            fields = table[key].read(scope, setting)
            good = good and fields is not None
            for field, value in (fields or {}).items():
                values[field], spans[field] = value, setting.value.span
    return Settings(values, spans, good)


def _unknown(scope: Scope, kind: str, setting: tree.Setting, table: Mapping[str, SettingRow]) -> None:
    key = setting.key.name
    elsewhere = [other for other, rows in SETTINGS.items() if key in rows]
    if elsewhere:
        scope.error(
            "LB114",
            f"`{kind}` has no setting `{key}`",
            setting.key.span,
            help=(f"it belongs to `{elsewhere[0]}`", "settings: " + ", ".join(f"`{name}`" for name in table)),
        )
    else:
        scope.unknown(
            "LB114", f"`{kind}` has no setting `{key}`", key, setting.key.span, table, "settings", wishes="setting"
        )
