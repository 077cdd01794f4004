"""`lbdsl explain`: the page of a diagnostic code, an action, a metric, or any word of the language."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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

FORMAT_VERSION = 1


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
        from lbdsl.report.diagnostics import diagnostic_json

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
    makers = (_code, _action, _metric, _keyword, _entry, _fact)
    found = [page for maker in makers if (page := maker(word)) is not None]
    found += [*_settings(word), *_parameters(word)]
    instead = None if found else wish(word, "statement")
    return tuple(found) if instead is None else (Page("word", word, f"Not in the language: {instead}."),)


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


def _code(id: str) -> Page | None:
    """The page of a code: its failing example with that example's real diagnostics, and the fixed example."""
    if id not in code_ids():
        return None
    from lbdsl.api.explaining import example_findings

    code = code_for(id)
    facts = [("Why", code.reason)] if code.reason else []
    if code.exit_code != 1:
        facts.append(("Exit code", f"{code.exit_code}, {_EXIT_CODES[code.exit_code]}"))
    found = example_findings(code)
    return Page("code", id, code.title, tuple(facts), failing=code.example, findings=found, fixed=code.fixed)


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


def _action(name: str) -> Page | None:
    cls = actions().get(name)
    if cls is None:
        return None
    title, facts = parts_of(cls.__doc__ or "")
    parameters = [(parameter, _parameter(name, parameter)) for parameter in cls.parameters()]
    claims = ", ".join(sorted({path for action in examples_of(cls) for path in action.claims()}))
    return Page("action", name, title, (*facts, ("Claims", claims), *parameters), form=signature(name, cls))


def _parameter(action: str, name: str) -> str:
    """A parameter's description, such as `in tokens, at least 1, needed`: the text after the colon on its editor page."""
    page = parameter_page(action, name) or ""
    return page.partition("`: ")[2].rstrip(".")


def _metric(name: str) -> Page | None:
    if name == "sensitivity":
        what = "the metric of `measure { metric = ... }` under `drop`; `nll` unless another is named"
        own = (("What", what), ("Example", "`lowest 8 by sensitivity drop`"))
        return Page("metric", name, "Damage when this layer's attention alone is removed.", own, form=name)
    cls = metrics().get(name)
    if cls is None:
        return None
    title, facts = parts_of(cls.__doc__ or "")
    return Page("metric", name, title, (*facts, ("Unit", unit_text(cls)), *uses_of(cls)), form=cls.form())


def _keyword(word: str) -> Page | None:
    if word not in keywords():
        return None
    keyword = keywords()[word]
    facts = [("Example", f"`{keyword.example}`")]
    if word in SETTINGS:
        facts.append(("Settings", "; ".join(f"`{key}` {row.meaning}" for key, row in SETTINGS[word].items())))
    return Page("keyword", word, keyword.meaning, tuple(facts), form=keyword.form)


def _entry(name: str) -> Page | None:
    """A word that a table of the language has."""
    if name in FUNCTIONS:
        form, meaning = FUNCTIONS[name]
        return Page("value", name, meaning, form=form)
    if name in WORDS:
        return Page("word", name, WORDS[name])
    if name in TYPES:
        return Page("type", name, _sentence(TYPES[name][-1]), (("Example", f"`param $name: {name}`"),))
    return None


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _fact(name: str) -> Page | None:
    bare = name.removeprefix("model.")
    if bare not in FACTS or bare == name:
        return None
    kind, unit = FACTS[bare]
    what = unit.value if kind == "number" and unit.value != "number" else kind
    return Page("fact", name, f"A fact of the source model: {what}.", (("Example", f"`requires {name} ...`"),))


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
