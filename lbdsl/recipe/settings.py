"""How the settings of `measure`, `heal` and `eval` are read; `schema_blocks` has what they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from lbdsl.core.diagnostic import Label, note
from lbdsl.core.nearest import nearest
from lbdsl.core.span import Span
from lbdsl.core.units import Unit, tokens_text
from lbdsl.language import tree
from lbdsl.language.tree import Items, Number, String
from lbdsl.language.words import slip, ticked
from lbdsl.metrics import Of, TaskMetric, metrics_of
from lbdsl.recipe.expressions import resolve_score
from lbdsl.recipe.model_values import needle_of, task_named
from lbdsl.recipe.schema import Evaluate, Heal, Measure
from lbdsl.recipe.schema_blocks import (
    BUILTIN_TEXTS,
    JUDGING_ONLY,
    RECALL,
    SEQUENCES,
    HealSettings,
    Method,
    Mix,
    SelfText,
    Stage,
    Text,
)
from lbdsl.recipe.scope import Constant, Scope, Unresolved, attempt, each
from lbdsl.recipe.types import refuse_unquoted
from lbdsl.recipe.values import choices, constant, constants, described, filled, length_in_tokens, refusal, whole_number

Read = Callable[[Scope, str, tree.Expr], Any]
"""Returns the value of a setting, from its name in messages and its expression."""

METHODS: Mapping[str, type[Method]] = {cls.model_fields["node"].default: cls for cls in get_args(Method)}
STAGES = choices(Stage, "name")
LOSSES = ("kl", "hidden")


# Values --------------------------------------------------------------------------------------------------------------


def _real(scope: Scope, what: str, node: tree.Expr) -> float:
    value = constant(scope, node)
    if not isinstance(value, Number) or value.unit not in (Unit.NONE, Unit.RATIO):
        code = "LB107" if isinstance(value, Number) else "LB106"
        scope.fail(code, f"{what} is a plain number, not {described(value)}", node.span)
    return float(value.value)


def _text(scope: Scope, node: tree.Expr, block: str) -> Text:
    """The text that `measure` or `heal` takes."""
    if isinstance(node, tree.Call) and node.name.name == "self":
        return filled(scope, SelfText, node)
    if isinstance(node, tree.Call) and node.name.name == "mix":
        return _mix(scope, node, block)
    if isinstance(node, tree.Items):
        scope.fail("LB106", "several sources need `mix`", node.span, help='as in `data = mix("builtin:pydoc", "a.txt")`')
    refuse_unquoted(scope, node)
    return _source(scope, constant(scope, node), node, block)


def _mix(scope: Scope, call: tree.Call, block: str) -> Mix:
    """`mix("a.txt", self, weights=[2, 1])`; without weights, every source has the same."""
    given = [arg.value for arg in call.args or () if arg.key is None]
    named = [arg for arg in call.args or () if arg.key is not None]
    example = 'as in `mix("builtin:pydoc", self, weights=[2, 1])`'
    for arg in named:
        if arg.key is not None and arg.key.name != "weights":
            scope.unknown("LB104", f"`mix` has no parameter `{arg.key.name}`", arg.key, ("weights",), "parameters")
    if len(given) < 2 or len(named) > 1:
        scope.fail("LB104", "`mix` takes two sources or more, and their weights", call.span, help=example)
    sources = each(lambda node: _text(scope, node, block), given)
    weights: tuple[float, ...] = (1.0,) * len(given)
    for arg in named:
        weights = tuple(each(lambda node: _real(scope, "a weight", node), _items(scope, arg.value)))
        if len(weights) != len(given) or min(weights) <= 0:
            scope.fail("LB105", "`mix` needs one weight above 0 for each source", arg.span, help=example)
    for node, source in zip(given, sources, strict=True):
        if isinstance(source, Mix):
            scope.fail("LB106", "a `mix` in a `mix`", node.span, help="name all sources in one")
    return Mix(sources=tuple(source for source in sources if not isinstance(source, Mix)), weights=weights)


def _several_data(scope: Scope, node: tree.Expr, block: str) -> tuple[str, ...]:
    """One source, or a list of several, for `eval` or `recall`."""
    for item in node.items if isinstance(node, tree.Items) else (node,):
        if isinstance(item, tree.Call) and item.name.name in ("self", "mix"):
            help = "name texts that the model did not write, one by one"
            scope.fail("LB150", f"`{item.name.name}` is for measuring and healing", item.span, help=help)
    refuse_unquoted(scope, node)
    value = constant(scope, node)
    values = constants(value) if isinstance(value, Items) else (value,)
    if not values:
        scope.fail("LB106", "an empty list of sources", node.span, help="name at least one text")
    nodes = node.items if isinstance(node, tree.Items) else (node,) * len(values)
    return tuple(dict.fromkeys(each(lambda pair: _source(scope, *pair, block), zip(values, nodes, strict=True))))


def _source(scope: Scope, value: Constant, node: tree.Expr, block: str) -> str:
    """The name of one data source of a block, or of `recall`. LB150 for one that is kept for another."""
    if not isinstance(value, String) or not value.value:
        message = f"`data` is the name of a data source, not {described(value)}"
        scope.fail("LB106", message, node.span, help='as in `data = "builtin:pydoc"` or `data = "file.txt"`')
    name = value.value
    known = (RECALL,) if block == "recall" else BUILTIN_TEXTS
    if name.startswith("builtin:") and name not in known:
        meant = slip(name, known) if isinstance(node, tree.String) else None
        message = f"there is no built-in text `{name}`" + (" with questions" if name in BUILTIN_TEXTS else "")
        hint = f"did you mean `{nearest(name, known) or known[0]}`?"
        scope.fail("LB115", message, node.span, help=hint, write=f'"{meant}"' if meant else None)
    others = ticked((one for one in BUILTIN_TEXTS if one not in (*JUDGING_ONLY, RECALL)), " or ")
    for what, only, places in (("judging", JUDGING_ONLY, ("eval",)), ("healing", (RECALL,), ("heal", "recall"))):
        if name in only and block not in places:
            hint = f"name it in `{places[0]}`; elsewhere {others}, a file or a hub data set"
            scope.fail("LB150", f"`{name}` is for {what} only", node.span, help=hint)
    return name


def _choice(scope: Scope, node: tree.Expr, choices: Collection[str], what: str, arguments: bool = False) -> tree.Call:
    """One of a few names; `arguments`: whether arguments may follow it."""
    if not isinstance(node, tree.Call):
        scope.fail("LB115", f"expected {what}", node.span, help=f"one of {ticked(choices)}")
    name = node.name.name
    if name not in choices:
        scope.unknown("LB115", f"no {what.removeprefix('a ')} `{name}`", node.name, choices, "known", "choice")
    if node.args is not None and not arguments:
        scope.fail("LB104", f"`{name}` takes no arguments here", node.span)
    return node


def _word(choices: Collection[str], what: str, scope: Scope, _: str, node: tree.Expr) -> str:
    return _choice(scope, node, choices, what).name.name


def _metric(scope: Scope, what: str, node: tree.Expr) -> str:
    known = {name: cls for name, cls in metrics_of(Of.LAYER).items() if not issubclass(cls, TaskMetric)}
    call = _choice(scope, node, tuple(known), "a metric", arguments=True)
    if call.args and not known[call.name.name].takes_action:
        return resolve_score(scope, call).text
    return _word(tuple(known), "a metric", scope, what, node)


def _several(read: Read) -> Read:
    """One value, or a list of them, without repetitions."""

    def values(scope: Scope, what: str, node: tree.Expr) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(each(lambda item: read(scope, what, item), _items(scope, node))))

    return values


def _items(scope: Scope, node: tree.Expr) -> tuple[tree.Expr, ...]:
    given = constant(scope, node) if isinstance(node, tree.Variable) else node
    return given.items if isinstance(given, tree.Items) else (node,)


def _method(scope: Scope, what: str, node: tree.Expr) -> Method:
    call = _choice(scope, node, METHODS, "a method", arguments=True)
    return filled(scope, METHODS[call.name.name], call)


def _loss(scope: Scope, what: str, node: tree.Expr) -> Mapping[str, float]:
    """`kl`, `kl + 0.1 * hidden`, `0.5 * kl + hidden`: a weighted sum of the losses, each at most once."""
    terms: tuple[tree.Expr, ...] = (node,)
    if isinstance(node, tree.Arithmetic):
        if "-" in node.ops:
            scope.fail("LB115", "a loss is a sum", node.span, help="as in `kl + 0.1 * hidden`")
        terms = node.operands if "+" in node.ops else terms
    weights: dict[str, float] = {}
    for term in terms:
        name, weight = _term(scope, term)
        if name in weights:
            scope.fail("LB115", f"`{name}` appears twice in the loss", term.span)
        if weight < 0:
            scope.fail("LB129", f"the weight of `{name}` is negative", term.span)
        weights[name] = weight
    if not any(weights.values()):
        scope.fail("LB129", "all weights of the loss are zero", node.span)
    return {"kl_weight": weights.get("kl", 0.0), "hidden_weight": weights.get("hidden", 0.0)}


def _term(scope: Scope, node: tree.Expr) -> tuple[str, float]:
    weight, loss = 1.0, node
    if isinstance(node, tree.Arithmetic) and node.ops == ("*",):
        left, right = node.operands
        factor, loss = (left, right) if isinstance(right, tree.Call) else (right, left)
        weight = _real(scope, "a weight", factor)
    return _word(LOSSES, "a loss", scope, "", loss), weight


# The table -----------------------------------------------------------------------------------------------------------

BLOCKS: Mapping[str, type[BaseModel]] = {"measure": Measure, "heal": Heal, "eval": Evaluate}


class SettingRow(NamedTuple):
    """One setting: how its value is read, and its description for `explain` and the reference."""

    read: Read
    meaning: str


CHOICES: Mapping[str, Collection[str]] = {
    "method": METHODS,
    "loss": LOSSES,
    **{key: names for block in BLOCKS.values() for key in block.model_fields if (names := choices(block, key))},
}
"""The names that are valid in a setting."""

_OWN: Mapping[str, Read] = {
    "metric": _metric,
    "recall": lambda scope, _, node: _several_data(scope, node, "recall"),
    "method": _method,
    "tasks": _several(lambda scope, _, node: task_named(scope, node)),
    "needle": _several(partial(needle_of, code="LB129")),
}


def _reader(block: str, key: str, field: FieldInfo) -> Read:
    """How a setting is read: as its field's type and unit say, unless it has a form of its own."""
    unit = field.json_schema_extra.get("unit") if isinstance(field.json_schema_extra, dict) else ""
    if key == "data":
        source = _several_data if block == "eval" else _text
        return lambda scope, _, node: source(scope, node, block)
    if key in CHOICES and key not in _OWN:
        read = partial(_word, CHOICES[key], field.title or "")
        return _several(read) if get_origin(field.annotation) is tuple else read
    by_unit: Mapping[str, Read] = {
        "length": length_in_tokens,
        "tokens": lambda scope, what, node: whole_number(scope, what, node, Unit.TOKENS),
    }
    return _OWN.get(key) or by_unit.get(str(unit)) or (_real if field.annotation is float else whole_number)


def _rows(block: str) -> Iterator[tuple[str, SettingRow]]:
    for key, field in BLOCKS[block].model_fields.items():
        if field.description:
            yield key, SettingRow(_reader(block, key, field), field.description)
        if key == "method":
            yield "loss", SettingRow(_loss, "`kl` or `kl + WEIGHT * hidden`")


SETTINGS: Mapping[str, Mapping[str, SettingRow]] = {block: dict(_rows(block)) for block in BLOCKS}
"""Every setting of every block, as the blocks' fields define them."""


def resolve_block(scope: Scope, block: tree.Block) -> Any:
    """`Measure`, `Heal` or `Evaluate`."""
    kind = block.kind.name
    values, spans, good = _read(scope, kind, block.settings)
    # Even with errors, check the bounds of the other settings.
    found = _checked(scope, BLOCKS[kind], values, spans, block.span)
    stages = attempt(each, lambda stage: _stage(scope, kind, stage, values, spans), block.stages)
    if not good or stages is None:
        raise Unresolved
    for part in stages or [found]:
        _note_rounding(scope, part)
        if kind == "heal":
            _check_teacher(scope, part)
    return found.model_copy(update={"stages": tuple(stages)}) if stages else found


def _read(
    scope: Scope, kind: str, settings: Iterable[tree.Setting], without: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Span], bool]:
    """The values of settings and their places, by field, and whether all are valid."""
    values: dict[str, Any] = {}
    spans: dict[str, Span] = {}
    seen: dict[str, Span] = {}

    def read(setting: tree.Setting) -> None:
        key = setting.key.name
        if key not in SETTINGS[kind] or key in without:
            _unknown(scope, kind, setting.key, without)
        if key in seen:
            scope.fail("LB112", f"`{key}` is set twice", setting.key.span, labels=Label(seen[key], "first set here"))
        seen[key] = setting.key.span
        value = SETTINGS[kind][key].read(scope, f"`{key}`", setting.value)
        fields = value if isinstance(value, dict) else {key: value}
        values.update(fields)
        spans.update(dict.fromkeys(fields, setting.value.span))

    good = attempt(each, read, settings) is not None
    return values, spans, good


def _stage(scope: Scope, kind: str, stage: tree.Stage, values: Mapping[str, Any], spans: Mapping[str, Span]) -> Stage:
    """A stage of healing; what it does not set is as its block sets it."""
    if kind != "heal":
        scope.fail("LB114", f"`{kind}` has no stages", stage.span, help="stages belong to `heal`")
    name = stage.name.name
    if name not in STAGES:
        scope.unknown("LB115", f"no stage `{name}`", stage.name, STAGES, "stages", "choice")
    own, places, good = _read(scope, kind, stage.settings, () if name == "distill" else ("loss",))
    found = _checked(scope, Stage, {**values, **own, "name": name}, {**spans, **places}, stage.span)
    if not good:
        raise Unresolved
    return found


def _check_teacher(scope: Scope, stage: Heal | Stage) -> None:
    """LB147 for a loss that needs more of the base than a cache has."""
    matching = isinstance(stage, Stage) and stage.name == "match"
    if stage.teacher == "cached" and (matching or stage.hidden_weight > 0):
        what = "a stage `match`" if matching else "the loss `hidden`"
        message = f"{what} needs the states of every layer, and `teacher = cached` has the last ones alone"
        help = "write `teacher = loaded` there; a stage `distill` with the loss `kl` may have its own `teacher = cached`"
        scope.error("LB147", message, stage.set_at.get("teacher", stage.span), help=help)


def _unknown(scope: Scope, kind: str, key: tree.Ident, without: Collection[str]) -> None:
    if key.name in without:
        scope.fail("LB114", f"a stage `match` has no `{key.name}`", key.span, help="its loss is the error of each layer")
    table, message = SETTINGS[kind], f"`{kind}` has no setting `{key.name}`"
    elsewhere = [other for other, rows in SETTINGS.items() if key.name in rows]
    if elsewhere:
        scope.fail("LB114", message, key.span, help=(f"it belongs to `{elsewhere[0]}`", f"settings: {ticked(table)}"))
    scope.unknown("LB114", message, key, table, "settings", "setting")


def _checked(
    scope: Scope, schema: type[BaseModel], values: Mapping[str, Any], spans: Mapping[str, Span], span: Span
) -> Any:
    """The block at `span`, validated; a violated bound is an error at its setting."""
    try:
        return schema(**values, span=span, set_at=spans)
    except ValidationError as problem:
        for item in problem.errors():
            scope.error("LB129", refusal(item)[1], spans.get(str(item["loc"][0]), span))
        raise Unresolved from None


ROUNDED = 0.05
"""Tokens are rounded to whole sequences, when healing to whole steps. A relative change above this is reported."""


def _note_rounding(scope: Scope, block: Any) -> None:
    """LB145 if the tokens of a block are not a multiple of its sequences."""
    span = next((block.set_at[name] for name in ("tokens", "seq", "batch") if name in block.set_at), None)
    if block.seq is None or not (isinstance(block, HealSettings) or block.tokens >= SEQUENCES * block.seq):
        return  # `lbdsl.plan.lengths` reports it
    seq, batch = block.seq, getattr(block, "batch", 1)
    steps = block.steps if isinstance(block, HealSettings) else max(1, block.tokens // seq)
    used = steps * batch * seq
    if span is None or abs(used - block.tokens) <= ROUNDED * block.tokens:
        return
    pieces = f"{steps * batch} sequences" if steps * batch > 1 else "one sequence"
    pieces += f" of {tokens_text(seq)}" + (f", {batch} a step" if batch > 1 else "")
    near = max(1, round(block.tokens / (batch * seq))) * batch * seq
    message = f"{used} tokens are taken, not {block.tokens}: {pieces}"
    scope.diagnostics.append(note("LB145", message, span, help=f"`tokens = {tokens_text(near)}` is a multiple"))
