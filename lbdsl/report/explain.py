"""`lbdsl explain`: the page of a diagnostic code, an action, a metric, or any word of the language."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lbdsl.actions import actions
from lbdsl.core.codes import code_for, code_ids
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.nearest import close_words, distance, nearest
from lbdsl.core.units import tokens_text
from lbdsl.editor.pages import FUNCTIONS, HEADS, WORDS, parameter_page, unit_text, uses_of
from lbdsl.language.words import keywords, wish
from lbdsl.metrics import metrics
from lbdsl.recipe.schema import FACTS, Lora
from lbdsl.recipe.settings import BLOCKS, CHOICES, SETTINGS
from lbdsl.recipe.values import choices, examples_of, signature
from lbdsl.recipe.variables import TYPES
from lbdsl.report.diagnostics import Style, diagnostic_json, diagnostics_text

FORMAT_VERSION = 1

_INDENT = "    "
_wrapped = partial(textwrap.wrap, subsequent_indent="  ", break_long_words=False)


@dataclass(frozen=True)
class Page:
    """The page of one topic. `facts` are pairs of a heading and a text; `failing` and `fixed` are a code's example
    recipes, `findings` the real diagnostics of the first."""

    kind: str
    name: str
    title: str
    facts: tuple[tuple[str, str], ...] = ()
    form: str = ""
    failing: str = ""
    findings: tuple[Diagnostic, ...] = ()
    fixed: str = ""

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "kind": self.kind,
            "name": self.name,
            "title": self.title,
            "form": self.form or None,
            "facts": dict(self.facts),
        }
        if self.failing:
            found |= {"example": self.failing, "findings": [diagnostic_json(d) for d in self.findings]}
        return {**found, "fixed": self.fixed} if self.fixed else found


def pages_of(topic: str) -> tuple[Page, ...]:
    """Every page for `topic`; a word can be both a setting and a metric. Empty when there is none."""
    word = topic.strip().strip("`")
    if len(word) == 5 and word[:2].upper() == "LB" and word[2:].isdigit():
        word = word.upper()
    makers = (_code, _action, _metric, _keyword, _entry, _fact, _settings, _parameters)
    found = tuple(page for maker in makers for page in maker(word))
    instead = None if found else wish(word, "statement")
    return found if instead is None else (Page("word", word, f"Not in the language: {instead}."),)


def topics_by_kind() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """All topics, grouped under headings."""
    groups: dict[str, Iterable[str]] = {
        "actions": actions(),
        "metrics": ["sensitivity", *metrics()],
        "costs of the model": FUNCTIONS,
        "facts of the model": [f"model.{fact}" for fact in FACTS],
        "keywords": keywords(),
        "settings": [f"{block}.{key}" for block, rows in SETTINGS.items() for key in rows],
        "types": TYPES,
        "other words": WORDS,
        "codes": code_ids(),
    }
    return tuple((kind, tuple(names)) for kind, names in groups.items())


def topics() -> tuple[str, ...]:
    """Every topic, sorted; settings and parameters also without the name of their block or action."""
    names = {name for _, group in topics_by_kind() for name in group}
    names |= {key for rows in SETTINGS.values() for key in rows}
    names |= {name for cls in actions().values() for name in cls.parameters()}
    return tuple(sorted(names))


_NEAR = 0.3
"""The largest distance of a topic that is near, for each letter."""


def nearest_topics(topic: str) -> tuple[str, ...]:
    """At most three topics with names close to `topic`, the closest first. In a short word one wrong letter is too
    many: `foo` is not `for`."""
    known = topics()
    if topic[:2].upper() == "LB" and topic[2:3].isdigit():
        return tuple(close_words(topic.upper(), [name for name in known if name.startswith("LB")])[:3])
    words = [name for name in known if not name.startswith("LB")]
    close = [name for name in close_words(topic, words) if distance(topic, name) <= len(topic) * _NEAR][:3]
    longer = nearest(topic, words) if len(topic) > 3 else None
    return tuple(close) or ((longer,) if longer else ())


def _code(id: str) -> Iterator[Page]:
    """The page of a code: its failing example with that example's real diagnostics, and the fixed example."""
    if id in code_ids():
        from lbdsl.api.explaining import example_findings

        code = code_for(id)
        facts = [("Why", code.reason)] if code.reason else []
        if code.exit_code != 1:
            facts.append(("Exit code", f"{code.exit_code}, {_EXIT_CODES[code.exit_code]}"))
        found = example_findings(code)
        yield Page("code", id, code.title, tuple(facts), failing=code.example, findings=found, fixed=code.fixed)


_EXIT_CODES = {
    2: "wrong usage",
    3: "a stale plan",
    4: "a quality gate failed",
    5: "cannot be satisfied",
    6: "unsafe or unsupported",
    7: "a bug of lbdsl",
    130: "interrupted",
}


def parts_of(doc: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The first paragraph of a docstring, and its paragraphs with headings: What, Why, Example, Source."""
    first, *rest = re.split(rf"^({HEADS}):", inspect.cleandoc(doc), flags=re.MULTILINE)
    texts = [" ".join(text.split()) for text in rest]
    return " ".join(first.split()), tuple(zip(texts[::2], texts[1::2], strict=True))


def _action(name: str) -> Iterator[Page]:
    if cls := actions().get(name):
        title, facts = parts_of(cls.__doc__ or "")
        parameters = [(parameter, _parameter(name, parameter)) for parameter in cls.parameters()]
        claims = ", ".join(sorted({path for action in examples_of(cls) for path in action.claims()}))
        yield Page("action", name, title, (*facts, ("Claims", claims), *parameters), form=signature(name, cls))


def _parameter(action: str, name: str) -> str:
    """A parameter's description, such as `in tokens, at least 1, needed`: the text after the colon on its editor page."""
    page = parameter_page(action, name) or ""
    return page.partition("`: ")[2].rstrip(".")


def _metric(name: str) -> Iterator[Page]:
    if name == "sensitivity":
        what = "the metric of `measure { metric = ... }` under `drop`; `nll` unless another is named"
        own = (("What", what), ("Example", "`lowest 8 by sensitivity drop`"))
        yield Page("metric", name, "Damage when this layer's attention alone is removed.", own, form=name)
    elif cls := metrics().get(name):
        title, facts = parts_of(cls.__doc__ or "")
        yield Page("metric", name, title, (*facts, ("Unit", unit_text(cls)), *uses_of(cls)), form=cls.form())


def _keyword(word: str) -> Iterator[Page]:
    if keyword := keywords().get(word):
        facts = [("Example", f"`{keyword.example}`")]
        if word in SETTINGS:
            facts.append(("Settings", "; ".join(f"`{key}` {row.meaning}" for key, row in SETTINGS[word].items())))
        yield Page("keyword", word, keyword.meaning, tuple(facts), form=keyword.form)


def _entry(name: str) -> Iterator[Page]:
    """A word that a table of the language has."""
    if name in FUNCTIONS:
        form, meaning = FUNCTIONS[name]
        yield Page("value", name, meaning, form=form)
    elif name in WORDS:
        yield Page("word", name, WORDS[name])
    elif name in TYPES:
        yield Page("type", name, _sentence(TYPES[name][-1]), (("Example", f"`param $name: {name}`"),))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _fact(name: str) -> Iterator[Page]:
    bare = name.removeprefix("model.")
    if bare in FACTS and bare != name:
        kind, unit = FACTS[bare]
        what = unit.value if kind == "number" and unit.value != "number" else kind
        yield Page("fact", name, f"A fact of the source model: {what}.", (("Example", f"`requires {name} ...`"),))


def _settings(word: str) -> Iterator[Page]:
    block, dot, key = word.rpartition(".")
    for name, rows in SETTINGS.items():
        if key in rows and (not dot or name == block):
            default = default_of(name, key)
            facts = (("Default", f"`{default}`"),) if default else ()
            yield Page("setting", f"{name}.{key}", _sentence(rows[key].meaning), facts, form=f"{name} {{ {key} = ... }}")
        for setting in rows:
            if word in CHOICES.get(setting, ()) and word not in WORDS:
                title = f"A value of the setting `{setting}`: {rows[setting].meaning}."
                yield Page("value", word, title, form=f"{name} {{ {setting} = {word} }}")


def default_of(block: str, key: str) -> str:
    """The default of a setting in recipe syntax; empty when it has none, as for an unset `seq`."""
    if key == "method":
        return signature("lora", Lora)
    if key == "loss":
        return "kl"
    value = BLOCKS[block].model_fields[key].get_default()
    if value is None:
        return ""
    if key == "data":
        return f'"{value[0] if isinstance(value, tuple) else value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(value)}]"
    return tokens_text(value) if key in ("tokens", "seq") else str(value)


def _parameters(word: str) -> Iterator[Page]:
    for name, cls in actions().items():
        if word in cls.parameters():
            title = f"A parameter of `{name}`: {_parameter(name, word)}."
            yield Page("parameter", word, title, form=signature(name, cls))
        for parameter in cls.parameters():
            if word.isidentifier() and word not in WORDS and word in choices(cls, parameter):
                what = dict(parts_of(cls.__doc__ or "")[1]).get("What", "")
                about = re.findall(rf"[^.]*\b{parameter}={word}\b[^.]*\.", what)
                facts = (("What", " ".join(map(str.strip, about))),) if about else ()
                title = f"A value of the parameter `{parameter}` of `{name}`."
                yield Page("value", word, title, facts, form=f"{name}({parameter}={word})")


def pages_text(pages: Sequence[Page], style: Style) -> str:
    """All pages, separated by blank lines."""
    return "\n".join(_page(page, style) for page in pages)


def _page(page: Page, style: Style) -> str:
    head = f"{page.name}: {page.title}" if page.kind == "code" else f"{page.name} ({page.kind})"
    lines = [style.paint("bold", line) for line in textwrap.wrap(head, style.width)]
    if page.form:
        form = _wrapped(page.form, style.width - len(_INDENT))
        lines += ["", *(_INDENT + style.paint("gutter", line) for line in form)]
    if page.kind != "code" and page.title:
        lines += ["", *textwrap.wrap(page.title, style.width)]
    if page.facts:
        lines.append("")
    for name, text in page.facts:
        lead = f"{name}: "
        first, *rest = _wrapped(lead + text, style.width)
        lines += [style.paint("help", first[: len(lead)]) + first[len(lead) :], *rest]
    if page.failing:
        lines += ["", style.paint("error", "This fails:"), "", *_indented(page.failing, style)]
        if page.findings:
            narrow = replace(style, width=style.width - len(_INDENT))
            shown = diagnostics_text(page.findings[:1], narrow).rstrip("\n")
            lines += ["", *(_INDENT + line if line else "" for line in shown.splitlines())]
    if page.fixed:
        lines += ["", style.paint("help", "This is right:"), "", *_indented(page.fixed, style)]
    return "\n".join(lines) + "\n"


def topics_text(style: Style) -> str:
    """Every topic, by kind."""
    lines: list[str] = []
    for kind, names in topics_by_kind():
        lines.append(style.paint("bold", kind))
        if kind == "codes":
            lines += [f"  {code}  {code_for(code).title}" for code in names]
        else:
            lines += _wrapped(", ".join(names), style.width, initial_indent="  ", break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _indented(text: str, style: Style) -> list[str]:
    """An example's lines, indented; lines wider than the page are cut."""
    room = style.width - len(_INDENT)
    dots = "…" if style.unicode else "..."
    return [_INDENT + (line if len(line) <= room else line[: room - len(dots)] + dots) for line in text.splitlines()]
