"""Completion at the cursor: the words that the parser accepts there."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lbdsl.actions import Action, actions
from lbdsl.actions.base import acts_on_weights
from lbdsl.cost.cost import STATIC_VALUES
from lbdsl.editor.analysis import Analysis
from lbdsl.editor.cursor import Cursor, Role
from lbdsl.editor.pages import FUNCTIONS, WORDS, action_page, keyword_page, metric_page, parameter_page, setting_page
from lbdsl.language.words import keywords
from lbdsl.metrics import Of, TaskMetric, metrics, metrics_of
from lbdsl.recipe.schema import FACTS
from lbdsl.recipe.schema_blocks import BUILTIN_TEXTS, JUDGING_ONLY, QUESTIONS_FILE, RECALL
from lbdsl.recipe.settings import CHOICES, SETTINGS, STAGES
from lbdsl.recipe.values import choices, examples_of
from lbdsl.recipe.variables import TYPES

_PARAMETERS = {"lora": ("rank", "alpha"), "mix": ("weights",), "self": ("tokens", "seed")}
"""Of words with arguments that are no actions."""


@dataclass(frozen=True)
class Item:
    """One suggestion. `kind` is the name of one of the protocol's `CompletionItemKind`; `insert` is the inserted text, with
    `${1:name}` placeholders if `snippet`."""

    label: str
    kind: str
    detail: str = ""
    page: str = ""
    insert: str = ""
    snippet: bool = False

    @property
    def text(self) -> str:
        return self.insert or self.label


def complete(analysis: Analysis, offset: int) -> tuple[Cursor | None, tuple[Item, ...]]:
    """The suggestions at an offset, names before keywords, and the cursor whose word they replace."""
    cursor = analysis.cursor(offset)
    if cursor is None:
        return None, ()
    if cursor.in_string:
        return cursor, tuple(_texts(analysis, cursor))
    found = [*_names(analysis, cursor), *_keywords(cursor)]
    return cursor, tuple({item.label: item for item in reversed(found)}.values())[::-1]


def _names(analysis: Analysis, cursor: Cursor) -> Iterator[Item]:
    expected = cursor.expected
    if "VAR" in expected and _takes_words(cursor):
        expected -= {"VAR"}
    defines = bool(cursor.before) and cursor.before[-1].type in ("PARAM", "LET", "GROUP")
    for terminal, sigil, kind in (("VAR", "$", "Variable"), ("REF", "@", "Struct")):
        if terminal in expected and not defines:
            for name, definition in analysis.names_before(cursor.start, sigil).items():
                yield Item(name, kind, definition.detail, definition.page)
    if "KEY" in expected:
        yield from _keys(cursor)
    if "NAME" in expected:
        yield from _by_role(analysis, cursor.role())
    if "DOTTED" in expected and cursor.role().kind in ("model", "layer", "any"):
        for fact, (kind, unit) in FACTS.items():
            yield Item(f"model.{fact}", "Constant", unit.value if kind == "number" else kind)
    if "STRING" in expected:
        yield from _texts(analysis, cursor)


def _keys(cursor: Cursor) -> Iterator[Item]:
    call = cursor.call()
    if call is not None:
        name, bracket = call
        known = actions()[name].parameters() if name in actions() else _PARAMETERS.get(name, ())
        for key in known:
            if key not in cursor.given(bracket):
                page = parameter_page(name, key) or WORDS[name]
                yield Item(f"{key}=", "Property", f"parameter of {name}", page, key + "=")
    elif cursor.block:
        bracket = cursor.open_brackets()[-1]
        for key, row in SETTINGS.get(cursor.block, {}).items():
            if key not in cursor.given(bracket):
                yield Item(f"{key} =", "Property", row.meaning, setting_page(cursor.block, key) or "", f"{key} = ")


def _by_role(analysis: Analysis, role: Role) -> Iterator[Item]:
    """The names that are valid in a role."""
    match role.kind:
        case "type":
            for name, (*_, meaning) in TYPES.items():
                yield Item(name, "TypeParameter", meaning)
        case "action":
            for name, action in actions().items():
                # A metric's argument must be an action that changes the layer.
                if (not role.owner or not action.keeps) and (
                    role.key != "modules" or any(map(acts_on_weights, examples_of(action)[:1]))
                ):
                    yield _action(name)
        case "metric" | "layer":
            for name in ("sensitivity", *metrics_of(Of.LAYER)):
                yield Item(name, "Value", "score of a layer", metric_page(name, analysis.metric))
        case "model":
            for name, (form, said) in FUNCTIONS.items():
                if (name == "serves" and role.key != "budget") or (role.key == "minimized" and name not in STATIC_VALUES):
                    continue
                words = [] if form == name else form[len(name) + 1 : -1].replace("CTX", "8Ki").split(", ")
                places = ", ".join(f"${{{n}:{word}}}" for n, word in enumerate(words, 1) if not word.startswith("engine="))
                yield Item(name, "Function", form, said, f"{name}({places})" if words else name, bool(words))
            for of in (Of.CHANGED,) if role.key else (Of.CHANGED, Of.FINISHED):
                for name in metrics_of(of):
                    yield Item(name, "Value", f"of {of.value}", metric_page(name, analysis.metric))
        case "constant":
            yield from _words(("true", "false"))
        case "stage":
            yield from _words(STAGES)
        case "any":
            for kind in ("layer", "model", "constant"):
                yield from _by_role(analysis, Role(kind))
        case "argument":
            if role.owner == "mix" and not role.key:
                yield from _words(("self",))
            if role.owner in metrics():
                yield from _words(getattr(metrics()[role.owner], "parts", ()))
            if role.owner == "recovery":
                yield from _words(
                    kind for kind, cls in metrics().items() if issubclass(cls, TaskMetric) and kind != role.owner
                )
            cls = actions().get(role.owner)
            if cls is not None and role.parameter in cls.parameters():
                yield from _words(choices(cls, role.parameter))
        case "setting":
            yield from _words(CHOICES.get(role.key, ()))
            if role.key == "data" and role.owner != "eval":
                yield from _words(("self", "mix"))
            if role.key == "metric":
                for name in metrics_of(Of.LAYER):
                    yield Item(name, "Value", "what `sensitivity` stands for", metric_page(name))


def _action(name: str) -> Item:
    cls = actions()[name]
    needed = [key for key in cls.parameters() if cls.model_fields[key].is_required()]
    if not needed:
        return Item(name, "Function", "action", action_page(name))
    places = ", ".join(f"{key}=${{{place}:{_sample(cls, key)}}}" for place, key in enumerate(needed, start=1))
    return Item(name, "Function", "action", action_page(name), f"{name}({places})", True)


def _sample(cls: type[Action], key: str) -> str:
    """A parameter's value in the action's own example."""
    given = re.search(rf"\b{key}=([^,)]+)", cls.example)
    return given[1] if given else key


def _words(names: Iterable[str]) -> Iterator[Item]:
    for name in names:
        yield Item(name, "EnumMember", "", metric_page(name) if name in metrics() else WORDS.get(name, ""))


def _texts(analysis: Analysis, cursor: Cursor) -> Iterator[Item]:
    """The suggested strings: built-in texts, recipes to include, module names, model families."""
    role, found = cursor.role(), list[tuple[str, str]]()
    if (role.kind == "setting" and role.key == "data") or role.owner == "mix":
        hidden = (*(JUDGING_ONLY if cursor.block != "eval" else ()), RECALL if cursor.block != "heal" else "")
        said = {RECALL: "texts that ask what they said"}
        found = [(name, said.get(name, "text that is always there")) for name in BUILTIN_TEXTS if name not in hidden]
    elif (role.kind == "setting" and role.key == "needle") or role.owner == "needle":
        found = [(name, "questions about texts") for name in _beside(analysis.path, QUESTIONS_FILE)]
    elif cursor.before and cursor.before[-1].type == "INCLUDE":
        found = [(name, "a recipe beside this one") for name in _beside(analysis.path, ".lbr")]
    elif cursor.first == "MODULES" and analysis.facts is not None:
        modules = Counter(module.rsplit(".", 1)[-1] for module in analysis.facts.modules)
        found = [(f"*.{name}", f"{count} modules of this model") for name, count in sorted(modules.items())]
    elif any(token.text == "model.family" for token in cursor.before):
        from lbdsl.families import FAMILIES

        found = [(name, "a supported family") for name in FAMILIES]
    for text, detail in found:
        yield Item(f'"{text}"', "Text", detail)


def _takes_words(cursor: Cursor) -> bool:
    """Whether only one of a few words is valid, though the parser would accept any expression."""
    role = cursor.role()
    return (role.kind == "setting" and role.key in ("metric", "metrics", "method", "loss")) or (
        role.kind == "action" and bool(role.owner)
    )


def _beside(path: Path | None, ending: str) -> list[str]:
    """The other files of a kind in a recipe's folder, at most a hundred."""
    if path is None:
        return []
    try:
        with os.scandir(path.parent) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(ending) and entry.name != path.name)
    except (OSError, ValueError):
        return []
    return names[:100]


def _keywords(cursor: Cursor) -> Iterator[Item]:
    truth = cursor.role().kind in ("layer", "model", "action", "any") and not _takes_words(cursor)
    for word, keyword in keywords().items():
        if word.upper() in cursor.expected and (truth or word != "not"):
            beginning = not cursor.before and bool(keyword.form)
            insert = (keyword.snippet or f"{word} ") if beginning else word
            yield Item(word, "Keyword", "statement" if beginning else "keyword", keyword_page(word), insert, "${" in insert)
