"""Kinds of values in a recipe's JSON: how each is converted to recipe text, written from the tree, and described in the
schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

from lbdsl.actions import actions
from lbdsl.language import tree
from lbdsl.language.format import canonical_part
from lbdsl.language.grammar import grammar
from lbdsl.language.lexer import string_text
from lbdsl.recipe.exchange_reader import JsonReader, each_item
from lbdsl.recipe.exchange_schemas import (
    ACTION,
    ANY_VALUE,
    BOOLEAN,
    CALL,
    COUNT,
    EXPRESSION,
    NAME,
    NUMBER,
    TEXT,
    Kind,
    any_schema,
    array_schema,
    object_schema,
)
from lbdsl.recipe.exchange_text import plain
from lbdsl.recipe.scope import each, meant_words
from lbdsl.recipe.settings import SETTINGS, STAGES

# Prefixes that turn a JSON string into a statement that can be parsed.
_AS_VALUE = "let $it = "
_AS_LAYERS = "group @it = "
_AS_AMOUNT = "group @it = first "
_AS_DOMAIN = "param $it: int in "
_AS_ACTIONS = "else "

# Reading -------------------------------------------------------------------------------------------------------------


def _value(reader: JsonReader, data: Any, path: str) -> str:
    """Any value; a JSON string is an expression."""
    match data:
        case bool():
            return str(data).lower()
        case int() | float():
            return repr(data)
        case str():
            return reader.parsed(_AS_VALUE, data, path)[1]
        case list():
            return f"[{_values(reader, data, path)}]"
        case {"text": str() as text} if len(data) == 1:
            return string_text(text)
        case dict():
            return _call(reader, data, path)
    reader.refuse(path, "must be a number, text, true, false, a list or an object")


def _values(reader: JsonReader, data: list[Any], path: str) -> str:
    return ", ".join(each_item(partial(_value, reader), data, path))


def _call(reader: JsonReader, data: dict[str, Any], path: str) -> str:
    """{"swa": {"window": 512}} or {"swa": [512]}."""
    if len(data) != 1:
        hints = ('as in {"swa": {"window": 512}}', 'a string is {"text": "..."}')
        reader.refuse(path, "a call is an object with one key", help=hints)
    name, given = next(iter(data.items()))
    if not re.fullmatch(NAME, name) or name in grammar().keywords:
        reader.refuse(path, f"`{name}` is not a name that can be called")
    path = f"{path}.{name}"
    if isinstance(given, list):
        return f"{name}({_values(reader, given, path)})"
    if not isinstance(given, dict):
        hint = f'a string is {{"text": ...}}; `{name}` without arguments is just "{name}"'
        reader.refuse(path, "arguments are an object, or a list for arguments without names", help=hint)
    parameters = actions()[name].parameters() if name in actions() else given
    for key in given:
        if key not in parameters:
            reader.unknown_key(path, key, parameters)
        elif not re.fullmatch(NAME, key):
            reader.wrong(path, f"`{key}` is not a valid argument name")
    return f"{name}({', '.join(_named_values(reader, given, path, '='))})"


def _named_values(reader: JsonReader, data: dict[str, Any], path: str, sign: str) -> tuple[str, ...]:
    return each(lambda item: f"{item[0]}{sign}{_value(reader, item[1], f'{path}.{item[0]}')}", data.items())


def _score(reader: JsonReader, data: Any, path: str) -> str:
    """The value of `by`: a metric, as text or as a call."""
    if isinstance(data, dict):
        return _call(reader, data, path)
    node, text = reader.parsed(_AS_VALUE, data, path) if isinstance(data, str) else (None, "")
    if node is None or not isinstance(node.value, tree.Call):
        reader.refuse(path, 'must be a metric, as in "sensitivity" or {"kl": ["drop"]}')
    return text


def _actions(reader: JsonReader, data: Any, path: str) -> str:
    """The value of `do`: one action or a list of them."""
    if data == []:
        reader.refuse(path, "needs an action")
    return (
        " + ".join(each_item(partial(_action, reader), data, path))
        if isinstance(data, list)
        else _action(reader, data, path)
    )


def _action(reader: JsonReader, data: Any, path: str) -> str:
    if isinstance(data, str):
        rule, text = reader.parsed(_AS_ACTIONS, data, path)
        names = [call.name.name for call in rule.actions]
        if rule.because is not None:
            reader.wrong(path, "`because` is a key of its own")
    elif isinstance(data, dict):
        # Check the name of the action first; its arguments may have errors, too.
        names, text = [*data] if len(data) == 1 else [], ""
    else:
        reader.refuse(path, 'an action is its name, or an object as in {"swa": {"window": 512}}')
    for name in names:
        if name not in actions():
            known = "actions: " + ", ".join(f"`{action}`" for action in actions())
            reader.wrong(path, f"no action `{name}`", help=(*meant_words(name, actions())[0], known))
    return text or _call(reader, data, path)


def _module_pattern(reader: JsonReader, data: Any, path: str) -> str:
    match data:
        case str():
            return string_text(data)
        case {"regex": str() as text} if len(data) == 1:
            if (len(text) - len(text.rstrip("\\"))) % 2:
                reader.fail("LB045", f"{reader.name}: `{path}` ends in a backslash, which a recipe cannot hold", None)
            # A quote that is escaped already stays as it is.
            return '~"' + re.sub(r'(\\.)|"', lambda found: found[1] or '\\"', text, flags=re.DOTALL) + '"'
    reader.refuse(path, 'must be a glob, or {"regex": "..."}')


def _condition(reader: JsonReader, data: Any, path: str) -> str:
    """An expression in the recipe language; true, false and plain numbers need no quotes."""
    return _value(reader, data, path) if isinstance(data, int | float) else reader.parsed(_AS_VALUE, data, path)[1]


def _numeral(data: Any) -> Any:
    """An integer as text, so that JSON need not quote it."""
    return str(data) if isinstance(data, int) and not isinstance(data, bool) else data


def _amount(reader: JsonReader, data: Any, path: str) -> str:
    """How many layers: a count, a share, or a variable."""
    group, text = reader.parsed(_AS_AMOUNT, _numeral(data), path)
    if not isinstance(group.layers, tree.Edge):
        reader.refuse(path, 'must be an amount, as in 6, "10%" or "$n"')
    return text


def _domain(reader: JsonReader, data: Any, path: str) -> str:
    match data:
        case list():
            if not data:
                reader.refuse(path, "needs a value")
            return f"{{{_values(reader, data, path)}}}"
        case {"from": low, "to": high} if len(data) == 2:
            low, high = each(lambda end: _value(reader, data[end], f"{path}.{end}"), ("from", "to"))
            # A name before `= DEFAULT` would be read as a key, and `tokens` not as a unit.
            return f"{low}..({high})" if _ENDS_IN_WORD.search(high) else f"{low}..{high}"
        case str():
            param, text = reader.parsed(_AS_DOMAIN, data, path)
            if param.default is not None:
                reader.refuse(path, "a domain has no `=`; the default is a key of its own")
            return text
    reader.refuse(path, 'must be {"from": 64, "to": "8Ki"}, "64..8Ki", or a list of values')


_ENDS_IN_WORD = re.compile(r"(?:^|[^\w.$])[A-Za-z_]\w*$")
"""A last token that is a bare name, or the unit `tokens`: neither `$x` nor `model.layers`."""


def _number(reader: JsonReader, data: Any, path: str) -> str:
    text = _value(reader, data, path)
    if not text.isdigit():
        reader.refuse(path, "must be a number")
    return text


# Writing -------------------------------------------------------------------------------------------------------------


def _expression_data(node: tree.Node) -> str:
    return canonical_part(_AS_VALUE, node.span.text)


def _value_data(node: tree.Expr) -> Any:
    """A value: a number, a boolean, `{"text": ...}` for a string, a list, a call, or any other expression as text."""
    match node:
        case tree.Number() | tree.Minus(operand=tree.Number()):
            return plain(_expression_data(node))
        case tree.String():
            return {"text": node.value}
        case tree.Items():
            return [_value_data(item) for item in node.items]
        case tree.Call(name=tree.Ident(name="true" | "false"), args=None):
            return node.name.name == "true"
        case tree.Call():
            return _call_data(node)
    return _expression_data(node)


def _call_data(node: tree.Call) -> Any:
    """`keep` by its name, `swa(window=4)` as {"swa": {"window": 4}}, `swa(4)` as {"swa": [4]}, mixed ones as text."""
    if node.args is None:
        return node.name.name
    keys = [arg.key.name for arg in node.args if arg.key is not None]
    values = [_value_data(arg.value) for arg in node.args]
    if not keys:
        return {node.name.name: values}
    if len(keys) == len(values) == len(set(keys)):
        return {node.name.name: dict(zip(keys, values, strict=True))}
    return _expression_data(node)


def _actions_data(calls: tuple[tree.Call, ...]) -> Any:
    return _call_data(calls[0]) if len(calls) == 1 else [_call_data(call) for call in calls]


def _domain_data(node: tree.Interval | tree.Choice) -> Any:
    if isinstance(node, tree.Choice):
        return [_value_data(option) for option in node.options]
    return {"from": _value_data(node.low), "to": _value_data(node.high)}


# The kinds -----------------------------------------------------------------------------------------------------------


def _plain(text: Callable[[Any], str], right: Callable[[Any], bool], wanted: str, **schema: Any) -> Kind:
    """A value that is the same in the tree and in JSON; `right` says whether it is valid."""

    def read(reader: JsonReader, data: Any, path: str) -> str:
        if not right(data):
            reader.refuse(path, f"must be {wanted}")
        return text(data)

    return Kind(read, lambda value: value, schema)


def _name(sign: str = "") -> Kind:
    """A node that is a name; in JSON its sigil may be omitted."""
    pattern = (f"{re.escape(sign)}?" if sign else "") + NAME
    read = _plain(
        lambda data: sign + data.removeprefix(sign),
        lambda data: isinstance(data, str) and re.fullmatch(pattern, data) is not None,
        "a name",
        type="string",
        pattern=f"^{pattern}$",
    )
    return read._replace(write=lambda node: f"{sign}{node.name}")


def settings_of(block: str) -> Kind:
    """The items of a block: the settings, from the table `SETTINGS`, and the stages of `heal`."""
    rows = SETTINGS[block]
    has_stages = block == "heal"

    def read(reader: JsonReader, data: Any, path: str) -> str:
        if not isinstance(data, dict):
            reader.refuse(path, "must be an object")
        reader.check_keys((*rows, *((_STAGES,) if has_stages else ())), (), data, path)
        settings = _named_values(reader, {key: data[key] for key in data if key != _STAGES}, path, " = ")
        listed = data.get(_STAGES, [])
        if not isinstance(listed, list):
            reader.refuse(f"{path}.{_STAGES}", "must be a list")
        stages = each_item(partial(_stage, reader, rows), listed, f"{path}.{_STAGES}")
        return "; ".join((*settings, *stages))

    def write(items: tuple[tree.Setting | tree.Stage, ...]) -> dict[str, Any]:
        found = _settings_data(item for item in items if isinstance(item, tree.Setting))
        stages = [
            {_STAGE: item.name.name, **_settings_data(item.settings)} for item in items if isinstance(item, tree.Stage)
        ]
        return {**found, _STAGES: stages} if stages else found

    settings = {key: {**ANY_VALUE, "description": row.meaning} for key, row in rows.items()}
    stage = object_schema({_STAGE: {"enum": list(STAGES)}, **settings}, [_STAGE])
    return Kind(
        read,
        write,
        object_schema({**settings, **({_STAGES: array_schema(stage)} if has_stages else {})}, []),
        f"{block.title()}Settings",
    )


_STAGES, _STAGE = "stages", "stage"


def _stage(reader: JsonReader, rows: Collection[str], data: Any, path: str) -> str:
    if not isinstance(data, dict):
        reader.refuse(path, "must be an object")
    reader.check_keys((_STAGE, *rows), (_STAGE,), data, path)
    name = WORD.read(reader, data[_STAGE], f"{path}.{_STAGE}")
    settings = _named_values(reader, {key: data[key] for key in data if key != _STAGE}, path, " = ")
    return f"stage {name} {{ {'; '.join(settings)} }}"


def _settings_data(settings: Iterable[tree.Setting]) -> dict[str, Any]:
    return {setting.key.name: _value_data(setting.value) for setting in settings}


_A_TEXT = {**object_schema({"text": TEXT}), "description": "A text, in contrast to an expression."}
_VALUES = any_schema(NUMBER, BOOLEAN, EXPRESSION, _A_TEXT, array_schema(ANY_VALUE), CALL)
_ABOUT_CONDITIONS = "A condition in the recipe language, such as `nll < 0.1 and kl(drop) < 0.2`."
_CONDITIONS = any_schema(TEXT, NUMBER, BOOLEAN, description=_ABOUT_CONDITIONS)
_ABOUT_LAYERS = "A set of layers in the recipe language, such as `0-3, last 2 except 1` or `@ends`."
_ABOUT_AMOUNTS = "A number of layers, a share such as `10%`, or a variable."
_INTERVAL = object_schema({"from": ANY_VALUE, "to": ANY_VALUE})

WORD, VARIABLE, GROUP = _name(), _name("$"), _name("@")
STRING = _plain(string_text, lambda data: isinstance(data, str), "text", **TEXT)._replace(write=lambda node: node.value)
_STRING_OR_NULL = STRING._replace(
    read=lambda reader, data, path: "" if data is None else STRING.read(reader, data, path),
    schema=any_schema(TEXT, {"type": "null"}),
)
_VALUE = Kind(_value, _value_data, _VALUES, "Value")
_CONDITION = Kind(_condition, _expression_data, _CONDITIONS, "Condition")
_PATTERN = any_schema(TEXT, object_schema({"regex": TEXT}))

_SCORE = Kind(_score, _call_data, any_schema(TEXT, CALL), "Score")
_ACTIONS = Kind(_actions, _actions_data, any_schema(ACTION, array_schema(ACTION, minItems=1)), "Actions")

_RANKS = ["lowest", "highest"]


def _listed(kind: Kind) -> Kind:
    """One value or more of a kind."""

    def read(reader: JsonReader, data: Any, path: str) -> str:
        if not isinstance(data, list) or not data:
            reader.refuse(path, "must not be empty" if data == [] else "must be a list")
        return ", ".join(each_item(partial(kind.read, reader), data, path))

    return Kind(read, lambda values: [kind.write(value) for value in values], array_schema(kind.reference(), minItems=1))


KINDS: Mapping[str, Kind] = {
    "number": _VALUE._replace(read=_number),
    "expr": _CONDITION,
    "where": _CONDITION,
    "until": _CONDITION,
    "while_": _CONDITION,
    "among": _listed(_ACTIONS),
    "minimizing": _SCORE,
    "subject_to": _listed(_CONDITION),
    "path": STRING,
    "sha256": _STRING_OR_NULL,
    "because": _STRING_OR_NULL,
    "type": WORD,
    "value": _VALUE,
    "default": _VALUE,
    "domain": Kind(_domain, _domain_data, any_schema(_INTERVAL, array_schema(ANY_VALUE, minItems=1), TEXT), "Domain"),
    "layers": Kind(
        lambda reader, data, path: reader.parsed(_AS_LAYERS, _numeral(data), path)[1],
        lambda node: plain(canonical_part(_AS_LAYERS, node.span.text)),
        any_schema(TEXT, COUNT, description=_ABOUT_LAYERS),
        "Layers",
    ),
    "amount": Kind(_amount, _value_data, any_schema(TEXT, COUNT, description=_ABOUT_AMOUNTS), "Amount"),
    "by": _SCORE,
    "actions": _ACTIONS,
    "patterns": _listed(
        Kind(
            _module_pattern, lambda node: {"regex": node.value} if isinstance(node, tree.Pattern) else node.value, _PATTERN
        )
    ),
    "direction": _plain(str, lambda data: data in _RANKS, "`lowest` or `highest`", enum=_RANKS),
    "of_rest": _plain(lambda data: "of rest" * data, lambda data: isinstance(data, bool), "true or false", **BOOLEAN),
    "else": _plain(lambda data: "else", lambda data: data is True, "`true`", const=True),
}
"""The kinds of values of statement fields, by field name in the tree."""
