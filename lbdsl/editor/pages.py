"""Markdown texts about words, for hover and completion, made from docstrings and tables."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

from pydantic_core import PydanticUndefined

from lbdsl.actions import Action, actions
from lbdsl.actions.base import argument_text
from lbdsl.core.units import Unit
from lbdsl.cost.cost import STATIC_VALUES
from lbdsl.cost.profile import PREDICTED_VALUES
from lbdsl.language.words import keywords
from lbdsl.metrics import Metric, Of, TaskMetric, metrics
from lbdsl.recipe.settings import SETTINGS
from lbdsl.recipe.values import BOUNDS, choices, signature

FUNCTIONS: Mapping[str, tuple[str, str]] = {
    **{
        name: (
            f"{name}(CTX)" if value.takes_context else name,
            f"{value.meaning} A percentage is a share of the base model's.",
        )
        for name, value in STATIC_VALUES.items()
    },
    **{
        name: (value.form, f"{value.meaning} Predicted from what `lbdsl calibrate` measured in {value.engines[0]}.")
        for name, value in PREDICTED_VALUES.items()
    },
    "serves": (
        'serves("ENGINE")',
        "Whether an engine loads the changed model through some export; in budgets of `choose`.",
    ),
}
"""Costs and conditions of the whole model."""

WORDS: Mapping[str, str] = {
    "lora": "Trains low-rank additions and merges them: `lora(rank=16, alpha=32)`.",
    "full": "Trains all weights.",
    "sinks": "Trains learned sinks, and the maps of `linear`, alone.",
    "stage": "A part of healing with settings of its own: `stage match { tokens = 50k }`.",
    "match": "A stage of healing: each changed layer learns to give what the base's layer gives, on its hidden states.",
    "distill": "A stage of healing: the model learns to predict what the base predicts.",
    "self": "Text that the base model writes itself: `self(tokens=1M, seed=0)`.",
    "mix": 'Several texts, by weight: `mix("builtin:pydoc", self, weights=[2, 1])`.',
    "hidden": "Distance of the hidden states from the base's.",
    "perplexity": "exp of the mean next-token loss.",
    "true": "Holds.",
    "false": "Does not hold.",
}
"""The words that are values of settings, and their meanings."""

HEADS = "What|Why|Example|Source"
"""How paragraphs of the docstrings of actions and metrics begin."""


def page_of_class(cls: type[Action] | type[Metric]) -> str:
    """The docstring of an action or metric, with the headings of its paragraphs in bold."""
    return re.sub(rf"\n+({HEADS}): ", r"\n\n**\1**: ", inspect.cleandoc(cls.__doc__ or ""))


def action_page(name: str) -> str:
    return f"```lbr\n{signature(name, actions()[name])}\n```\n{page_of_class(actions()[name])}"


def metric_page(name: str, stands_for: str | None = None) -> str:
    """The page of a metric; `stands_for` is the metric that `sensitivity` means in the recipe."""
    if name == "sensitivity":
        meant = metrics()[stands_for or "nll"]
        under = f"{meant.kind}({meant.default_action})" if meant.takes_action else meant.kind
        return (
            f"```lbr\nsensitivity\n```\nDamage when this layer's attention alone is removed: here `{under}`, by "
            "`measure { metric = ... }`."
        )
    cls = metrics()[name]
    uses = "\n".join(f"- {head}: {said}" for head, said in uses_of(cls))
    return f"```lbr\n{cls.form()}\n```\nUnit: {unit_text(cls)}\n\n{page_of_class(cls)}\n\n{uses}"


def unit_text(cls: type[Metric]) -> str:
    return "none" if cls.unit is Unit.NONE else cls.unit.value


def uses_of(cls: type[Metric]) -> tuple[tuple[str, str], ...]:
    """Where a metric may be used, and what it means there."""
    name, task = cls.kind, issubclass(cls, TaskMetric)
    meant = f"; `{name}` means `{cls.layer_form()}`" if cls.takes_action else ""
    asked = f"as in `{cls.form()}`; asked of the finished model and of its base"
    judged = f'`{name}` is that of the finished model, on every text of `eval`; `{name}("TEXT")` is that on one of them'
    said = {
        Of.LAYER: (
            "In `where` and `by`",
            f"of each layer, as in `{cls.layer_form()}`" if task else f"the value of each layer{meant}",
        ),
        Of.CHANGED: ("In `assert`", f"`{name}` is that of the whole changed model, before healing"),
        Of.FINISHED: ("In `assert`", asked if task else judged),
    }
    return tuple(said[of] for of in Of if of in cls.of)


def keyword_page(word: str) -> str:
    keyword = keywords()[word]
    return (f"```text\n{keyword.form}\n```\n" if keyword.form else "") + keyword.meaning


def setting_page(block: str, key: str) -> str | None:
    row = SETTINGS.get(block, {}).get(key)
    return None if row is None else f"`{key}` of `{block}`: {row.meaning}."


def parameter_page(action: str, name: str) -> str | None:
    """The page of an action's parameter: its description, unit, bounds, choices and default."""
    cls = actions().get(action)
    if cls is None or name not in cls.parameters():
        return None
    info = cls.model_fields[name]
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    said = [info.description] if info.description else []
    said += [f"in {extra['unit']}"] if "unit" in extra else []
    most = 2**31 - 1  # the limit of 32-bit integers is omitted
    for bound in info.metadata:
        said += [f"{words} {getattr(bound, sign)}" for sign, words in BOUNDS.items() if getattr(bound, sign, most) < most]
    if choices(cls, name) and not info.description:
        said.append("one of " + ", ".join(f"`{choice}`" for choice in choices(cls, name)))
    default = info.get_default()
    said.append("needed" if default is PydanticUndefined else f"`{argument_text(default)}` unless given")
    return f"`{name}` of `{signature(action, cls)}`: {', '.join(said)}."
