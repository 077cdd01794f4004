"""Data to tree: the statements that JSON values say. Every mistake is found in one run, each with its path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from lbdsl.core.diagnostic import Diagnosed
from lbdsl.core.registry import nearest
from lbdsl.recipe.exchange_models import (
    BLOCKS,
    RULE_FORMS,
    Document,
    Form,
    statement_forms,
)
from lbdsl.recipe.exchange_values import Values
from lbdsl.syntax import tree


def statements_from(data: Any, name: str) -> Diagnosed[tuple[tree.Statement, ...]]:
    """The tree of a recipe's data; its nodes have no place in a text. `name` is that of the file, for messages.

    Errors: LB042 unknown keys, LB043 keys that lack or have the wrong value, LB044 text that does not parse.
    """
    reader = _Reader(name)
    if not isinstance(data, dict):
        reader.values.wrong("", 'a recipe is an object: {"format_version": 1, "statements": [...]}')
    elif reader.fits(Document, data, ""):
        found = [reader.statement(item, f"statements[{index}]") for index, item in enumerate(data["statements"])]
        if not reader.values.diagnostics:
            return Diagnosed(tuple(found))
    return Diagnosed(None, tuple(reader.values.diagnostics))


class _Reader:
    """Reads statements; `values` reads what stands in them and collects what is wrong."""

    def __init__(self, name: str):
        self.values = Values(name)

    def fits(self, form: type[Form], data: Any, path: str) -> bool:
        """Whether keys and kinds of values are those of a form."""
        if not isinstance(data, dict):
            self.values.wrong(path, "must be an object")
            return False
        try:
            form.model_validate(data)
        except ValidationError as problem:
            found = problem.errors(include_url=False)
            unknown = [item for item in found if item["type"] == "extra_forbidden"]
            # A key that is misspelt is not missing, too.
            meant = {
                (*item["loc"][:-1], nearest(str(item["loc"][-1]), _keys(form, list(item["loc"][:-1])))) for item in unknown
            }
            for item in [*unknown, *(item for item in found if item not in unknown)]:
                if item["type"] != "missing" or item["loc"] not in meant:
                    self._explain(form, path, item)
            return False
        return True

    def _explain(self, form: type[Form], path: str, item: Any) -> None:
        """One of pydantic's errors, in plain words."""
        *outside, last = item["loc"]
        place = _joined(path, outside)
        whole = _joined(path, item["loc"])
        if item["type"] == "extra_forbidden":
            self.values.unknown_key(place, str(last), _keys(form, outside))
        elif item["type"] == "missing":
            self.values.wrong(place, f"needs `{last}`")
        else:
            self.values.wrong(whole, _said(item))

    def statement(self, data: Any, path: str) -> Any:
        """The node of a statement; None with errors."""
        forms = statement_forms()
        if not isinstance(data, dict):
            self.values.wrong(path, "a statement is an object", help='as in {"layers": "0-3", "do": "keep"}')
            return None
        kind = next((key for key in forms if key in data), None)
        if kind is None:
            self._no_kind(data, path, forms)
            return None
        if not self.fits(forms[kind], data, path):
            return None
        v = self.values
        match kind:
            case "lbr":
                number = v.number(data["lbr"], f"{path}.lbr")
                return number and tree.Version(v.nowhere, number)
            case "recipe":
                return tree.RecipeName(v.nowhere, v.string(data["recipe"]))
            case "requires":
                return self._wrapped(tree.Requires, v.condition(data["requires"], f"{path}.requires"))
            case "assert":
                return self._wrapped(tree.Assertion, v.condition(data["assert"], f"{path}.assert"))
            case "param":
                domain = v.domain(data["in"], f"{path}.in") if "in" in data else None
                default = v.value(data["default"], f"{path}.default") if "default" in data else None
                kind_of = tree.Ident(v.nowhere, data["type"])
                return tree.Param(v.nowhere, v.variable(data["param"]), kind_of, domain, default)
            case "let":
                return tree.Let(v.nowhere, v.variable(data["let"]), v.value(data["value"], f"{path}.value"))
            case "group":
                group = tree.GroupRef(v.nowhere, data["group"].removeprefix("@"))
                return tree.Group(v.nowhere, group, v.layers(data["layers"], f"{path}.layers"))
            case "include":
                digest = data.get("sha256")
                return tree.Include(v.nowhere, v.string(data["include"]), None if digest is None else v.string(digest))
            case _ if kind in BLOCKS:
                settings = [self._setting(key, item, f"{path}.{kind}") for key, item in data[kind].items()]
                return tree.Block(v.nowhere, tree.Ident(v.nowhere, kind), tuple(settings))
            case _:
                return self._rule(kind, data, path)

    def _wrapped(self, node: Callable[..., Any], inner: Any) -> Any:
        return None if inner is None else node(self.values.nowhere, inner)

    def _no_kind(self, data: Mapping[Any, Any], path: str, forms: Iterable[str]) -> None:
        """A statement without a key that says what it is: most likely that key is misspelt."""
        for key in data:
            near = nearest(str(key), forms)
            if near is not None:
                self.values.unknown_key(path, str(key), forms)
                return
        known = ", ".join(f"`{key}`" for key in forms)
        self.values.wrong(path, "no key says what statement this is", help=f"one of {known}")

    def _setting(self, key: str, data: Any, path: str) -> tree.Setting:
        v = self.values
        return tree.Setting(v.nowhere, tree.Ident(v.nowhere, key), v.value(data, f"{path}.{key}"))

    def _rule(self, kind: str, data: Mapping[str, Any], path: str) -> tree.RuleStatement:
        v = self.values
        assert kind in RULE_FORMS, kind
        because = data.get("because")
        return tree.RuleStatement(
            v.nowhere,
            self._selector(kind, data, path),
            v.actions(data["do"], f"{path}.do"),
            None if because is None else v.string(because),
        )

    def _selector(self, kind: str, data: Mapping[str, Any], path: str) -> Any:
        v = self.values

        def optional(key: str, read: Callable[[Any, str], Any]) -> Any:
            return read(data[key], f"{path}.{key}") if key in data else None

        match kind:
            case "else":
                return tree.ElseSelector(v.nowhere)
            case "where":
                return tree.WhereSelector(v.nowhere, optional("where", v.condition))
            case "layers":
                return tree.LayersSelector(v.nowhere, optional("layers", v.layers), optional("where", v.condition))
            case "modules":
                patterns: list[Any] = [v.pattern(item, f"{path}.modules[{i}]") for i, item in enumerate(data["modules"])]
                return tree.ModulesSelector(
                    v.nowhere, tuple(patterns), optional("in_layers", v.layers), optional("where", v.condition)
                )
            case _:
                return tree.RankSelector(
                    v.nowhere,
                    data["rank"],
                    optional("amount", v.amount),
                    data.get("of_rest", False),
                    optional("by", v.score),
                    optional("until", v.condition),
                )


def _joined(path: str, parts: Iterable[int | str]) -> str:
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _keys(form: type[Form], outside: list[Any]) -> list[str]:
    """The keys of a form, or of the one inside it that an error is about."""
    for part in outside:
        inner = form.model_fields[part].annotation
        assert isinstance(inner, type), "only the settings of a block are a form inside another"
        form = inner
    return [info.alias or name for name, info in form.model_fields.items()]


_KINDS = {
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "string_pattern_mismatch": "must be a name",
    "too_short": "must not be empty",
}


def _said(item: Any) -> str:
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if item["type"] == "literal_error":
        return f"must be {item['ctx']['expected'].replace(chr(39), '`').replace('True', '`true`')}"
    return _KINDS.get(item["type"], str(item["msg"]).lower())
