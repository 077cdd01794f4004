"""Read and write JSON and YAML, within the language's limits.

YAML is read as plain data by the YAML 1.2 core schema: `on` is a string, not a boolean, and `1:30` is not a number.
Duplicate keys (also in JSON), anchors, aliases, tags and more than one document are errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import yaml

from lbdsl.core.diagnostic import Diagnosed, LbdslError, fail, refused
from lbdsl.language.limits import MAX_BYTES, MAX_DIGITS
from lbdsl.model.config_file import no_constant, unique_keys

_INTEGER = re.compile(rf"-?(?:0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+")
_ODD_LINE_END = re.compile("[\r\x85\u2028\u2029\ufeff]")
_LIKE_A_NUMBER = re.compile(r"[-+]?\.?[0-9][0-9_.eE+-]*$")
_CORE_SCHEMA = {"": None, "~": None, "null": None, "true": True, "false": False}

ExchangeForm = Literal["json", "yaml"]


def read_data(text: str, name: str, form: ExchangeForm) -> Diagnosed[Any]:
    """The data of a text; LB041 with the position of an error."""
    try:
        if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            raise fail("LB041", f"{name} is larger than {MAX_BYTES // 2**20} MiB")
        data = (_json if form == "json" else _yaml)(text, name)
        json.dumps(data, ensure_ascii=False).encode()
        return Diagnosed(data)
    except UnicodeEncodeError:
        return refused("LB041", f"{name} holds half of a surrogate pair")
    except LbdslError as problem:
        return Diagnosed(None, problem.diagnostics)


def yaml_text(data: Any) -> str:
    """Block-style YAML that YAML 1.1 and 1.2 parsers read the same way."""

    class Dumper(yaml.SafeDumper):
        """Indents lists inside objects, and quotes strings that some parsers would read as numbers."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def text(dumper: yaml.SafeDumper, value: str) -> Any:
        # Line ends other than `\\n` would be lost in any other style.
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if _ODD_LINE_END.search(value) else None)

    Dumper.add_representer(str, text)
    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _LIKE_A_NUMBER, list("-+.0123456789"))
    return str(yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=False))


# JSON ----------------------------------------------------------------------------------------------------------------


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(
            text, object_pairs_hook=unique_keys, parse_float=plain, parse_int=plain, parse_constant=no_constant
        )
    except json.JSONDecodeError as problem:
        reason = f"{problem.msg[:1].lower()}{problem.msg[1:]}"
        raise fail("LB041", f"{name}:{problem.lineno}:{problem.colno}: {reason}") from None
    except ValueError as problem:
        raise fail("LB041", f"{name}: {problem}") from None


def plain(text: str) -> int | float | str:
    """The number if it round-trips to the same text without an exponent (YAML parsers disagree on those); else the text,
    as in `1e-3`, which the recipe language reads."""
    for form, kind in ((_INTEGER, int), (_DECIMAL, float)):
        if form.fullmatch(text) and repr(value := kind(text)) == text:
            return value
    return text


def json_text(data: Any, indent: int = 0) -> str:
    """Indented JSON. Inner lists and objects that fit on a line are written on one."""
    flat = json.dumps(data, ensure_ascii=False, allow_nan=False)
    if not isinstance(data, dict | list) or not data or (indent >= 4 and indent + len(flat) <= 100):
        return flat
    inner = " " * (indent + 2)
    if isinstance(data, list):
        parts = [inner + json_text(item, indent + 2) for item in data]
    else:
        parts = [f"{inner}{json_text(key)}: {json_text(item, indent + 2)}" for key, item in data.items()]
    opening, closing = "[]" if isinstance(data, list) else "{}"
    return opening + "\n" + ",\n".join(parts) + "\n" + " " * indent + closing


# YAML ----------------------------------------------------------------------------------------------------------------


def _yaml(text: str, name: str) -> Any:
    """The one document of a text, as dict, list, str, numbers, bool and None, and no other Python objects."""
    # libyaml, if PyYAML is built with it, is ten times as fast.
    events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    found: list[Any] = []
    try:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if found:
                    raise _refused(name, event, "a second document")
                found.append(_value(name, events, next(events)))
    except yaml.MarkedYAMLError as problem:
        at = f":{problem.problem_mark.line + 1}:{problem.problem_mark.column + 1}" if problem.problem_mark else ""
        reason = str(problem.problem)
        sign = "'@'" in reason or "cannot start any token" in reason
        help = "quote strings that begin with `@`" if sign else ()
        raise fail("LB041", f"{name}{at}: {problem.problem}", help=help) from None
    except yaml.YAMLError as problem:
        raise fail("LB041", f"{name}: {' '.join(str(problem).split())[:200]}") from None
    if not found:
        raise fail("LB041", f"{name} is empty")
    return found[0]


def _value(name: str, events: Iterator[Any], event: Any) -> Any:
    """The value that begins with `event`; those that follow are its parts."""
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise _refused(name, event, "anchors and aliases have no place in a recipe", "name a part with `let` or `group`")
    if event.tag not in (None, "!"):
        raise _refused(name, event, f"the tag `{event.tag}` has no place in a recipe")
    if isinstance(event, yaml.ScalarEvent):
        return _CORE_SCHEMA.get(event.value, plain(event.value)) if event.implicit[0] else event.value
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_value(name, events, item))
        return items
    found: dict[str, Any] = {}
    while not isinstance(key := next(events), yaml.MappingEndEvent):
        if not isinstance(key, yaml.ScalarEvent) or key.anchor is not None or key.tag not in (None, "!"):
            raise _refused(name, key, "a key is plain text")
        if key.value in found:
            raise _refused(name, key, f"the key `{key.value}` appears twice in one object")
        found[key.value] = _value(name, events, next(events))
    return found


def _refused(name: str, event: Any, what: str, help: str | tuple[str, ...] = ()) -> LbdslError:
    mark = event.start_mark
    return fail("LB041", f"{name}:{mark.line + 1}:{mark.column + 1}: {what}", help=help)
