"""Convert recipes to JSON and YAML and back: `to_exchange`, `from_exchange`, and the JSON schema: `recipe_schema`.

The data mirrors the statements: a list of objects, in which each part of a statement is a key, and its value is text in the
recipe language (`docs/exchange.md`). Nothing is resolved, so a round trip gives the same recipe, with its parameters and
includes; only comments and spacing are lost. Each kind of statement is one row of `STATEMENTS`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from lbdsl.core.diagnostic import Diagnosed, Label, error, refused
from lbdsl.core.nearest import nearest
from lbdsl.core.span import Source
from lbdsl.language import tree
from lbdsl.language.format import canonical_part, format_parsed
from lbdsl.language.lexer import string_text
from lbdsl.language.parse import parse
from lbdsl.language.words import keywords, ticked
from lbdsl.recipe.exchange_text import ExchangeForm, json_text, plain, read_data, yaml_text
from lbdsl.recipe.scope import Findings, Unresolved, attempt, each, meant_words
from lbdsl.recipe.settings import SETTINGS, STAGES

FORMAT_VERSION = 1
"""Version of the JSON form; it increases when a program that reads it would have to change."""

HEAD, DEFINITION, MEASURING, RULE, HEALING, ASSERTION = range(6)
"""Groups of statements, separated by a blank line in text."""

STRINGS = ("recipe", "include", "sha256", "because")
"""Keys whose value is a string of the language, without its quotes."""

BEFORE = {"layers": "group @it = ", "in_layers": "group @it = ", "choose": "group @it = ", "do": "else "}
BEFORE |= {"among": "choose for layers all among ", "in": "param $it: int in "}
"""What a value is formatted after, by key; others as in `let $it = VALUE`."""

_FIELD = re.compile(r"\[([^<\]]*)<(\w+)>\]|<(\w+)>")


class StatementForm(NamedTuple):
    """A kind of statement; for a rule, `node` is its selector. `text` is a template: `<key>` is the text of a key's value;
    `[...]` is left out if its key is absent. The first key identifies the kind. `fields` are those of the node, by key."""

    group: int
    node: type[tree.Node]
    text: str
    fields: dict[str, str]

    @property
    def key(self) -> str:
        return next(iter(self.fields))

    @property
    def required(self) -> list[str]:
        optional = {match[2] for match in _FIELD.finditer(self.text)}
        return [key for key in self.fields if key not in optional]

    def matches(self, node: tree.Node) -> bool:
        inner = node.selector if isinstance(node, tree.RuleStatement) else node
        return type(inner) is self.node and (not isinstance(inner, tree.Block) or inner.kind.name == self.key)

    def write(self, node: tree.Node) -> dict[str, Any]:
        """The data of a node of this kind."""
        fields = vars(node) | (vars(node.selector) if isinstance(node, tree.RuleStatement) else {})
        given = {key: fields.get(name, True) for key, name in self.fields.items()}
        return {key: _written(key, value) for key, value in given.items() if value is not None and value is not False}

    def schema(self) -> dict[str, Any]:
        about = keywords()["lowest" if self.key == "rank" else self.key].example
        return _object({key: _schema_of(key) for key in self.fields}, self.required) | {"description": f"`{about}`."}


def _form(group: int, node: type[tree.Node], text: str) -> StatementForm:
    """A row; the keys in `text` match the node's fields in order."""
    fields = [name for name in node._fields if name not in ("span", "kind")] or ["else"]
    if group == RULE and node is not tree.Choose:
        fields, text = [*fields, "actions", "because"], f"{text} <do>[ because <because>]"
    keys = [match[2] or match[3] for match in _FIELD.finditer(text)]
    return StatementForm(group, node, text, dict(zip(keys, fields, strict=True)))


STATEMENTS = (
    _form(HEAD, tree.Version, "lbr <lbr>"),
    _form(HEAD, tree.RecipeName, "recipe <recipe>"),
    _form(HEAD, tree.Requires, "requires <requires>"),
    _form(DEFINITION, tree.Param, "param <param>: <type>[ in <in>][ = <default>]"),
    _form(DEFINITION, tree.Let, "let <let> = <value>"),
    _form(DEFINITION, tree.Group, "group <group> = <layers>"),
    _form(DEFINITION, tree.Include, "include <include>[ sha256 <sha256>]"),
    _form(MEASURING, tree.Block, "measure { <measure> }"),
    _form(HEALING, tree.Block, "heal { <heal> }"),
    _form(HEALING, tree.Block, "eval { <eval> }"),
    _form(ASSERTION, tree.Assertion, "assert <assert>"),
    _form(RULE, tree.ElseSelector, "<else>"),
    _form(RULE, tree.Choose, "choose for layers <choose> among <among> minimizing <minimizing> subject to <subject_to>"),
    _form(RULE, tree.RankSelector, "<rank>[ <amount>][ <of_rest>] by <by>[ until <until>][ while <while>]"),
    _form(RULE, tree.ModulesSelector, "modules <modules>[ in layers <in_layers>][ where <where>]"),
    _form(RULE, tree.LayersSelector, "layers <layers>[ where <where>]"),
    _form(RULE, tree.WhereSelector, "where <where>"),
)
"""Every statement, in the order in which their keys are looked for."""

# Writing -------------------------------------------------------------------------------------------------------------


def to_exchange(text: str, name: str, form: ExchangeForm) -> Diagnosed[str]:
    """The recipe in `text` as JSON or YAML, its names not resolved. None with errors: it does not parse, or LB045."""
    parsed = parse(Source(name, text))
    if not parsed.ok:
        return Diagnosed(None, parsed.diagnostics)
    statements = parsed.unwrap().statements
    refused = []
    for block in (statement for statement in statements if isinstance(statement, tree.Block)):
        for settings in (block.settings, *(stage.settings for stage in block.stages)):
            first = {setting.key.name: setting.key for setting in reversed(settings)}
            for key in (setting.key for setting in settings if first[setting.key.name] is not setting.key):
                labels = Label(first[key.name].span, "first set here")
                message = f"`{key.name}` is set twice, and JSON has no such form"
                refused.append(error("LB045", message, key.span, labels=labels, help="remove one of them"))
    if refused:
        return Diagnosed(None, tuple(refused))
    written = [next(form for form in STATEMENTS if form.matches(node)).write(node) for node in statements]
    data = {"format_version": FORMAT_VERSION, "statements": written}
    return Diagnosed(f"{json_text(data)}\n" if form == "json" else yaml_text(data), parsed.diagnostics)


def _written(key: str, value: Any) -> Any:
    if isinstance(value, str | bool):
        return value
    if key in STRINGS:
        return value.value
    if key in SETTINGS:
        stages = [{"stage": item.name.name, **_settings(item.settings)} for item in value if isinstance(item, tree.Stage)]
        return _settings(item for item in value if isinstance(item, tree.Setting)) | ({"stages": stages} if stages else {})
    first = last = value
    while isinstance(first, tuple):
        first, last = first[0], last[-1]
    source: Source = first.span.source
    return plain(canonical_part(BEFORE.get(key, "let $it = "), source.text[first.span.start : last.span.end]))


def _settings(settings: Any) -> dict[str, Any]:
    return {setting.key.name: _written("value", setting.value) for setting in settings}


# Reading -------------------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """Text of a statement; `path` is the place of the value that it is of, None for what is between values."""

    text: str
    path: str | None = None


def from_exchange(text: str, name: str, form: ExchangeForm) -> Diagnosed[str]:
    """The recipe in JSON or YAML as text of the recipe language, canonically formatted. None with errors LB041 - LB045."""
    reader = _Reader(name)
    try:
        data, reader.diagnostics[:] = read_data(text, name, form)
        statements = None if reader.diagnostics else attempt(reader.document, data)
    except RecursionError:
        return refused("LB041", f"{name} is nested too deep")
    if statements is None or reader.diagnostics:
        return Diagnosed(None, tuple(reader.diagnostics))
    lines = [("\n" if at and group != statements[at - 1][0] else "") + line for at, (group, line) in enumerate(statements)]
    parsed = parse(Source(name, "".join(f"{line}\n" for line in lines)))
    # Each was parsed alone; what is left is what statements do together, such as too many tokens.
    problem = next((problem for problem in parsed.diagnostics if problem.is_error), None)
    if problem is not None:
        return refused("LB045", f"{name}: {problem.message}", problem.span, help=problem.help)
    return format_parsed(parsed.unwrap())


@dataclass
class _Reader(Findings):
    """Collects errors, each with its path: LB042 unknown keys, LB043 missing keys and wrong values, LB044 text that does
    not parse. An invalid value raises `Unresolved`."""

    name: str

    def document(self, data: Any) -> tuple[tuple[int, str], ...]:
        """The groups and the texts of the statements."""
        if not isinstance(data, dict):
            self._refuse("", 'a recipe is an object: {"format_version": 1, "statements": [...]}')
        self._check_keys(_KEYS, _KEYS, data, "")
        if data["format_version"] != FORMAT_VERSION or data["format_version"] is True:
            self._refuse("format_version", f"must be {FORMAT_VERSION}")
        if not isinstance(data["statements"], list):
            self._refuse("statements", "must be a list")
        return each(lambda item: self._statement(item[1], f"statements[{item[0]}]"), enumerate(data["statements"]))

    def _statement(self, data: Any, path: str) -> tuple[int, str]:
        if not isinstance(data, dict):
            self._refuse(path, "a statement is an object", help='as in {"layers": "0-3", "do": "keep"}')
        form = next((form for form in STATEMENTS if form.key in data), None)
        if form is None:
            # Most likely the key that identifies the statement is misspelt.
            keys = [form.key for form in STATEMENTS]
            misspelt = next((key for key in data if nearest(key, keys) is not None), None)
            if misspelt is None:
                self._refuse(path, "no key says what statement this is", help=f"one of {ticked(keys)}")
            self._unknown_key(path, misspelt, keys)
            raise Unresolved
        self._check_keys(form.fields, form.required, data, path)
        values = dict(each(lambda key: (key, tuple(self._value(key, data[key], f"{path}.{key}"))), data))
        parts, end = list[_Part](), 0
        for match in _FIELD.finditer(form.text):
            parts.append(_Part(form.text[end : match.start()]))
            value = values.get(match[2] or match[3], ())
            if any(part.text for part in value):
                parts += [_Part(match[1] or ""), *value]
            end = match.end()
        return form.group, self._parsed(form, data, [*parts, _Part(form.text[end:])], path)

    def _value(self, key: str, data: Any, path: str) -> Iterator[_Part]:
        if key in SETTINGS:
            yield from self._block(data, path, (*SETTINGS[key], *(("stages",) if key == "heal" else ())))
        elif key in STRINGS:
            if data is None and key in ("sha256", "because"):
                return
            if not isinstance(data, str):
                self._refuse(path, "must be text")
            yield _Part(string_text(data), path)
        elif key in ("else", "of_rest"):
            if not isinstance(data, bool) or (key == "else" and not data):
                self._refuse(path, "must be `true`" if key == "else" else "must be true or false")
            yield _Part(key.replace("_", " ") * data)
        elif isinstance(data, str | int | float):
            yield _Part(str(data).lower() if isinstance(data, bool) else str(data), path)
        else:
            self._refuse(path, "must be text in the recipe language, a number, true or false")

    def _block(self, data: Any, path: str, known: Collection[str]) -> Iterator[_Part]:
        """The settings of a block or a stage, and its stages."""
        if not isinstance(data, dict):
            self._refuse(path, "must be an object")
        self._check_keys(known, ("stage",) if "stage" in known else (), data, path)
        for key, value in data.items():
            if key == "stages":
                if not isinstance(value, list):
                    self._refuse(f"{path}.stages", "must be a list")
                for number, stage in enumerate(value):
                    at = f"{path}.stages[{number}]"
                    inner = list(self._block(stage, at, ("stage", *SETTINGS["heal"])))
                    if stage["stage"] not in STAGES:
                        self._refuse(f"{at}.stage", f"must be one of {', '.join(STAGES)}")
                    yield _Part(f"stage {stage['stage']} {{ ")
                    yield from inner
                    yield _Part(" }; ")
            elif key != "stage":
                yield _Part(f"{key} = ")
                yield from self._value("value", value, f"{path}.{key}")
                yield _Part("; ")

    def _parsed(self, form: StatementForm, data: dict[str, Any], parts: list[_Part], path: str) -> str:
        """The text of a statement; LB044 at an error in one of its values, or where one is more than a value."""
        text = "".join(part.text for part in parts)
        file, found = parse(Source(self.name, text))
        problem = next((problem for problem in found if problem.is_error), None)
        if problem is not None:
            assert problem.span is not None, "errors of syntax have a place"
            at = 0
            for part in parts:
                if part.path is not None and problem.span.start <= at + len(part.text):
                    ends = (min(max(0, end - at), len(part.text)) for end in (problem.span.start, problem.span.end))
                    span = Source(f"{self.name}: {part.path}", part.text).span(*ends)
                    # The form of the statement that it stands in would only confuse.
                    hints = [text for text in problem.help if not text.startswith("the form is")]
                    if '"' not in part.text and part.path.endswith((".data", ".default", ".value")):
                        hints.append(f'a string of the language has quotes of its own: "\\"{part.text}\\""')
                    self.fail("LB044", problem.message, span, help=tuple(hints))
                at += len(part.text)
            self.fail("LB044", f"{self.name}: `{path}`: {problem.message}", None, help=problem.help)
        single = file is not None and len(file.statements) == 1 and not file.comments and form.matches(file.statements[0])
        if file is None or not single or _shape(form.write(file.statements[0])) != _shape(data):
            self.fail("LB044", f"{self.name}: `{path}` must hold one value a key and nothing else", None)
        return text

    def _refuse(self, path: str, message: str, *, help: str | tuple[str, ...] = ()) -> NoReturn:
        self.fail("LB043", f"{self.name}: {f'`{path}`: ' if path else ''}{message}", None, help=help)

    def _unknown_key(self, path: str, key: str, known: Collection[str]) -> None:
        hints = (*meant_words(key, known)[0], f"keys: {ticked(known)}")
        where = f"`{path}` has no key" if path else "no key"
        self.error("LB042", f"{self.name}: {where} `{key}`", None, help=hints)

    def _check_keys(self, known: Collection[str], required: Collection[str], data: dict[str, Any], path: str) -> None:
        """Fail when keys are unknown or missing."""
        unknown = [key for key in data if key not in known]
        for key in unknown:
            self._unknown_key(path, key, known)
        # A misspelt key is not reported as missing, too.
        meant = {nearest(key, known) for key in unknown}
        missing = [key for key in known if key in required and key not in data and key not in meant]
        for key in missing:
            self.error("LB043", f"{self.name}: {f'`{path}`: ' if path else ''}needs `{key}`", None)
        if unknown or missing:
            raise Unresolved


def _shape(data: Any) -> Any:
    """The keys that say something, of an object and of those in it."""
    if isinstance(data, dict):
        return {
            key: _shape(value) for key, value in data.items() if value is not None and value is not False and value != []
        }
    return [_shape(item) for item in data] if isinstance(data, list) else None


_KEYS = ("format_version", "statements")

# The schema ----------------------------------------------------------------------------------------------------------


def _object(properties: dict[str, Any], required: Collection[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


_VALUE = {
    "type": ["string", "number", "boolean"],
    "description": "Text in the recipe language, such as `8Ki` or `$window`.",
}


def _schema_of(key: str) -> dict[str, Any]:
    if key in SETTINGS:
        settings = {name: {**_VALUE, "description": row.meaning} for name, row in SETTINGS[key].items()}
        stage = _object({"stage": {"enum": list(STAGES)}, **settings}, ["stage"])
        stages = {"stages": {"type": "array", "items": stage}} if key == "heal" else {}
        return _object({**settings, **stages}, [])
    if key in STRINGS:
        return {"type": "string" if key in ("recipe", "include") else ["string", "null"]}
    if key == "rank":
        return {"enum": ["lowest", "highest"]}
    return {"const": True} if key == "else" else {"type": "boolean"} if key == "of_rest" else _VALUE


def recipe_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12), for editors and for programs that write recipes. Values in the recipe language are
    any text here: `lbdsl check` knows the language."""
    forms = {f"{form.key.title()}Form": form.schema() for form in STATEMENTS}
    statement = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in forms]}
    document = {"format_version": {"const": FORMAT_VERSION}, "statements": {"type": "array", "items": statement}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:lbdsl:recipe:{FORMAT_VERSION}",
        "title": "lbdsl recipe",
        "description": "A recipe for compressing a language model, as `lbdsl convert` writes it.",
        **_object(document, _KEYS),
        "$defs": forms,
    }
