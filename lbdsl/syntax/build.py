"""Reductions of the grammar to tree nodes: one small function for each node name of `lbr.lark`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.span import Source, Span
from lbdsl.core.units import BINARY, DECIMAL, Unit
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import Token

_ESCAPES = {"\\": "\\", '"': '"', "n": "\n", "t": "\t"}


class Builder:
    """Makes nodes of one source, and collects what is wrong inside a token (`"\\q"`)."""

    def __init__(self, source: Source):
        self.source = source
        self.diagnostics: list[Diagnostic] = []

    def build(self, name: str, children: list[Any], start: int, end: int) -> Any:
        """The node called `name` in the grammar."""
        return _BUILDERS[name](self, Span(self.source, start, end), children)

    def span(self, token: Token) -> Span:
        return Span(self.source, token.start, token.end)

    def ident(self, token: Token) -> tree.Ident:
        return tree.Ident(self.span(token), token.text)

    def value(self, token: Token) -> Any:
        """The node of a token that is a value by itself."""
        span = self.span(token)
        match token.kind:
            case "VAR":
                return tree.Variable(span, token.text[1:])
            case "REF":
                return tree.GroupRef(span, token.text[1:])
            case "STRING":
                return tree.String(span, self._unescape(token))
            case "REGEX":
                return tree.Pattern(span, token.text[2:-1].replace('\\"', '"'))
            case _:
                return _number(span, token)

    def _unescape(self, token: Token) -> str:
        body = token.text[1:-1]
        if "\\" not in body:
            return body
        out, index = [], 0
        while index < len(body):
            char = body[index]
            if char == "\\":
                index += 1
                if body[index] not in _ESCAPES:
                    at = token.start + index
                    self.diagnostics.append(
                        error(
                            "LB014",
                            f"unknown escape `\\{body[index]}` in a string",
                            Span(self.source, at, at + 2),
                            help='strings know `\\\\`, `\\"`, `\\n` and `\\t`',
                        )
                    )
                char = _ESCAPES.get(body[index], body[index])
            out.append(char)
            index += 1
        return "".join(out)


def _number(span: Span, token: Token) -> tree.Number:
    # `10M  tokens` and `10M tokens` say the same.
    text = " ".join(token.text.split())
    if token.kind == "INT":
        return tree.Number(span, int(text), Unit.NONE, text)
    if token.kind == "DECIMAL":
        return tree.Number(span, float(text), Unit.NONE, text)
    if token.kind == "PERCENT":
        return tree.Number(span, float(text[:-1]) / 100, Unit.RATIO, text)
    assert token.kind == "QUANTITY", f"{token.kind} is no number"
    unit, body = Unit.NONE, text
    if body.endswith("tokens"):
        unit, body = Unit.TOKENS, body[: -len("tokens")].rstrip()
    elif body.endswith("B"):
        unit, body = Unit.BYTES, body[:-1]
    factor = 1
    for prefixes in (BINARY, DECIMAL):
        for suffix, scale in prefixes.items():
            if factor == 1 and body.endswith(suffix):
                factor, body = scale, body[: -len(suffix)]
    if body.isdigit():
        return tree.Number(span, int(body) * factor, unit, text)
    scaled = float(body) * factor
    return tree.Number(span, int(scaled) if scaled.is_integer() else scaled, unit, text)


def _tokens(children: list[Any]) -> list[Token]:
    return [child for child in children if isinstance(child, Token)]


def _find(children: list[Any], *types: type) -> Any:
    return next((child for child in children if isinstance(child, types)), None)


def _param(b: Builder, span: Span, c: list[Any]) -> tree.Param:
    domain = _find(c, tree.Interval, tree.Choice)
    default = next((x for x in c[2:] if x is not domain), None)
    return tree.Param(span, b.value(c[0]), b.ident(c[1]), domain, default)


def _rule(b: Builder, span: Span, c: list[Any]) -> tree.RuleStatement:
    return tree.RuleStatement(span, c[0], c[1], b.value(c[2]) if len(c) > 2 else None)


def _modules(b: Builder, span: Span, c: list[Any]) -> tree.ModulesSelector:
    marks = {child[0]: child[1] for child in c if not isinstance(child, Token)}
    return tree.ModulesSelector(span, tuple(b.value(t) for t in _tokens(c)), marks.get("in"), marks.get("where"))


def _rank(b: Builder, span: Span, c: list[Any]) -> tree.RankSelector:
    until = next((x[1] for x in c if isinstance(x, tuple) and x[0] == "until"), None)
    return tree.RankSelector(
        span, c[0].text, _find(c, tree.Number, tree.Variable), "of rest" in c, _find(c, tree.Call), until
    )


def _arithmetic(b: Builder, span: Span, c: list[Any]) -> tree.Arithmetic:
    return tree.Arithmetic(span, tuple(c[::2]), tuple(token.text for token in c[1::2]))


def _call(b: Builder, span: Span, c: list[Any]) -> tree.Call:
    parens = span.end > c[0].end
    return tree.Call(span, b.ident(c[0]), tuple(c[1:]) if parens else None)


def _arg(b: Builder, span: Span, c: list[Any]) -> tree.Arg:
    return tree.Arg(span, b.ident(c[0]) if len(c) == 2 else None, c[-1])


def _every(b: Builder, span: Span, c: list[Any]) -> tree.Every:
    return tree.Every(span, b.value(c[0]), b.value(c[1]) if len(c) == 2 else None)


def _include(b: Builder, span: Span, c: list[Any]) -> tree.Include:
    return tree.Include(span, b.value(c[0]), b.value(c[1]) if len(c) == 2 else None)


_BUILDERS: Mapping[str, Callable[[Builder, Span, list[Any]], Any]] = {
    "version": lambda b, s, c: tree.Version(s, b.value(c[0])),
    "recipe_name": lambda b, s, c: tree.RecipeName(s, b.value(c[0])),
    "requires": lambda b, s, c: tree.Requires(s, c[0]),
    "param": _param,
    "let": lambda b, s, c: tree.Let(s, b.value(c[0]), c[1]),
    "group": lambda b, s, c: tree.Group(s, b.value(c[0]), c[1]),
    "include": _include,
    "assertion": lambda b, s, c: tree.Assertion(s, c[0]),
    "search": lambda b, s, c: tree.Search(s, tuple(x for x in c if not isinstance(x, Token))),
    "rule": _rule,
    "else_selector": lambda b, s, c: tree.ElseSelector(s),
    "where_selector": lambda b, s, c: tree.WhereSelector(s, c[0]),
    "layers_selector": lambda b, s, c: tree.LayersSelector(s, c[0], c[1][1] if len(c) == 2 else None),
    "modules_selector": _modules,
    "rank_selector": _rank,
    "where": lambda b, s, c: ("where", c[0]),
    "until": lambda b, s, c: ("until", c[0]),
    "in_layers": lambda b, s, c: ("in", c[0]),
    "of_rest": lambda b, s, c: "of rest",
    "action": lambda b, s, c: tuple(x for x in c if not isinstance(x, Token)),
    "except_set": lambda b, s, c: tree.ExceptSet(s, c[0], c[1]),
    "union_set": lambda b, s, c: tree.UnionSet(s, tuple(c)),
    "inter_set": lambda b, s, c: tree.InterSet(s, tuple(c)),
    "not_set": lambda b, s, c: tree.NotSet(s, c[0]),
    "all_layers": lambda b, s, c: tree.AllLayers(s),
    "point": lambda b, s, c: tree.Point(s, b.value(c[0])),
    "range": lambda b, s, c: tree.Range(s, b.value(c[0]), b.value(c[2])),
    "edge": lambda b, s, c: tree.Edge(s, c[0].text, c[1]),
    "every": _every,
    "ranked_set": lambda b, s, c: tree.RankedSet(s, c[0].text, c[1], c[2]),
    "group_ref": lambda b, s, c: b.value(c[0]),
    "amount": lambda b, s, c: b.value(c[0]),
    "block": lambda b, s, c: tree.Block(s, b.ident(c[0]), tuple(x for x in c[1:] if not isinstance(x, Token))),
    "setting": lambda b, s, c: tree.Setting(s, b.ident(c[0]), c[1]),
    "vary": lambda b, s, c: tree.Vary(s, b.value(c[0]), c[1]),
    "objective": lambda b, s, c: tree.Objective(s, c[0].text, c[1]),
    "subject": lambda b, s, c: tree.Subject(s, c[0]),
    "span_domain": lambda b, s, c: tree.Interval(s, c[0], c[1]),
    "choice_domain": lambda b, s, c: tree.Choice(s, tuple(c)),
    "either": lambda b, s, c: tree.Logic(s, "or", tuple(c)),
    "both": lambda b, s, c: tree.Logic(s, "and", tuple(c)),
    "negation": lambda b, s, c: tree.Not(s, c[0]),
    "compare": lambda b, s, c: tree.Compare(s, tuple(c[::2]), tuple(c[1::2])),
    "cmp_op": lambda b, s, c: tree.Operator(s, " ".join(token.text for token in c)),
    "arithmetic": _arithmetic,
    "minus": lambda b, s, c: tree.Minus(s, c[-1]),
    "number": lambda b, s, c: b.value(c[0]),
    "string": lambda b, s, c: b.value(c[0]),
    "pattern": lambda b, s, c: b.value(c[0]),
    "variable": lambda b, s, c: b.value(c[0]),
    "dotted": lambda b, s, c: tree.Dotted(s, c[0].text),
    "list": lambda b, s, c: tree.Items(s, tuple(c)),
    "call": _call,
    "arg": _arg,
}
