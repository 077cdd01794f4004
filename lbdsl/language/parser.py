"""Parse one statement's tokens to one node: Lark runs its LALR automaton, and each reduction builds a node of the tree.

Lark's own trees would cost a second pass and twice the time, so its reductions call `Parser` directly. A piece on the stack
is a node with its range of text, including parentheses around it; the node's own span does not include these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache, cached_property
from operator import itemgetter
from typing import Any, NamedTuple, cast

from lark.exceptions import UnexpectedToken
from lark.grammar import Rule
from lark.lexer import LexerThread
from lark.parsers.lalr_interactive_parser import InteractiveParser
from lark.parsers.lalr_parser_state import ParseConf, ParserState

from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.span import Source, Span
from lbdsl.core.units import Unit, without_prefix
from lbdsl.language import tree
from lbdsl.language.grammar import START, grammar
from lbdsl.language.lexer import END, Token

_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"\\": "\\", '"': '"', "n": "\n", "t": "\t"}

_NO_LEXER = LexerThread(cast(Any, None), None)
"""Tokens come from `lbdsl.language.lexer`, after `lbdsl.language.layout` has split them into statements."""


class Failure:
    """A syntax error: `index` is the unexpected token's, or one past the last if the statement ends too early."""

    def __init__(self, index: int, state: ParserState[int]):
        self.index = index
        self._state = state

    @cached_property
    def expected(self) -> frozenset[str]:
        """The terminals that are allowed there."""
        return frozenset(InteractiveParser(None, self._state, _NO_LEXER).accepts())

    @property
    def complete(self) -> bool:
        """Whether the tokens before it are a complete statement."""
        return END in self.expected


class _Piece(NamedTuple):
    """A list as its `node` is merged into the parent's list."""

    node: Any
    start: int
    end: int


class _Callbacks(dict[Any, Callable[[Any], Any]]):
    """Those of tokens, and of each rule when it is first reduced: a recipe uses few of them."""

    def __init__(self, reduction: Callable[[Rule], Callable[[Any], Any]]):
        self._reduction = reduction

    def __missing__(self, rule: Rule) -> Callable[[Any], Any]:
        self[rule] = self._reduction(rule)
        return self[rule]


class Parser:
    """Parses the statements of one source, and collects errors inside tokens (`"\\q"`)."""

    def __init__(self, source: Source):
        self.source = source
        self.diagnostics: list[Diagnostic] = []
        callbacks = _Callbacks(self._reduction)
        callbacks |= dict.fromkeys(_VALUES, lambda token: _Piece(self.value(token), token.start, token.end))
        self._conf = ParseConf(grammar().table, callbacks, START)

    def parse(self, tokens: Sequence[Token]) -> Any:
        """The node of a statement, or a `Failure`."""
        state = ParserState(self._conf, _NO_LEXER)
        feed: Any = state.feed_token  # it only needs the `type` of a token
        index = 0
        last = tokens[-1].end if tokens else 0
        try:
            for token in tokens:
                feed(token)
                index += 1
            return feed(Token(END, "", last, last), True).node
        except UnexpectedToken:
            return Failure(index, state)

    def value(self, token: Token) -> Any:
        """The node of a token that is a value on its own; for a keyword or sign, its text."""
        return _VALUES[token.type](self, Span(self.source, token.start, token.end), token.text)

    def _reduction(self, rule: Rule) -> Callable[[list[Any]], Any]:
        """The function that combines the pieces of a reduced rule into one."""
        kept = self._kept(rule)
        name, alone = rule.alias or rule.origin.name, rule.options.expand1 and not rule.alias
        if alone and len(rule.expansion) == 1:
            return itemgetter(0)  # Most reductions: a lone operand at one level of precedence.
        make = _NODES.get(name)

        def reduce(pieces: list[Any]) -> Any:
            start, end = pieces[0].start, pieces[-1].end
            nodes: list[Any] = []
            for index in kept:
                piece = pieces[index] if index is not None else None
                if piece is None:
                    nodes.append(None)
                elif type(piece.node) is not list:
                    nodes.append(piece.node)
                elif not nodes:
                    nodes = piece.node  # Extend the list of a chain in place: a long chain takes linear time.
                else:
                    nodes.extend(piece.node)
            if make is None:
                return _Piece(nodes[0] if alone else nodes, start, end)
            return _Piece(make(Span(self.source, start, end), *nodes), start, end)

        return reduce

    @staticmethod
    @cache
    def _kept(rule: Rule) -> list[int | None]:
        """The indices of a rule's symbols that become parts of the node; None for an optional `[...]` that is absent."""
        kept: list[int | None] = []
        symbols: Iterator[Any] = iter(enumerate(rule.expansion))
        for left_out in rule.options.empty_indices or [False] * len(rule.expansion):
            if left_out:
                kept.append(None)
                continue
            index, symbol = next(symbols)
            if not symbol.is_term or (symbol.name in _VALUES and (rule.options.keep_all_tokens or not symbol.filter_out)):
                kept.append(index)
        return kept

    def _string(self, span: Span, text: str) -> tree.String:
        def unescaped(match: re.Match[str]) -> str:
            char, at = match[1], span.start + 1 + match.start()
            if char not in _ESCAPES:
                help = 'valid escapes are `\\\\`, `\\"`, `\\n` and `\\t`'
                where = Span(self.source, at, at + 2)
                self.diagnostics.append(error("LB014", f"unknown escape `\\{char}` in a string", where, help=help))
            return _ESCAPES.get(char, char)

        return tree.String(span, _ESCAPE.sub(unescaped, text[1:-1]))


def _quantity(text: str) -> tuple[int | float, Unit]:
    units = {"tokens": Unit.TOKENS, "B": Unit.BYTES}
    ending = next((ending for ending in units if text.endswith(ending)), "")
    body, factor = without_prefix(text.removesuffix(ending).rstrip())
    unit = units.get(ending, Unit.NONE)
    if body.isdigit():
        return int(body) * factor, unit
    # As floats, 16.1 times 1,000 is no whole number.
    scaled = Fraction(body) * factor
    return int(scaled) if scaled.denominator == 1 else float(scaled), unit


def _number(value: Callable[[str], tuple[int | float, Unit]]) -> Callable[[Parser, Span, str], tree.Number]:
    def make(_: Parser, span: Span, written: str) -> tree.Number:
        text = " ".join(written.split())  # `10M  tokens` and `10M tokens` are the same.
        return tree.Number(span, *value(text), text)

    return make


_VALUES: Mapping[str, Callable[[Parser, Span, str], Any]] = {
    "DOTTED": lambda p, span, text: tree.Dotted(span, text),
    "VAR": lambda p, span, text: tree.Variable(span, text[1:]),
    "REF": lambda p, span, text: tree.GroupRef(span, text[1:]),
    "STRING": Parser._string,
    "REGEX": lambda p, span, text: tree.Pattern(span, text[2:-1].replace('\\"', '"')),
    "INT": _number(lambda text: (int(text), Unit.NONE)),
    "DECIMAL": _number(lambda text: (float(text), Unit.NONE)),
    "PERCENT": _number(lambda text: (float(text[:-1]) / 100, Unit.RATIO)),
    "QUANTITY": _number(_quantity),
    **dict.fromkeys(("NAME", "KEY", "MEASURE", "HEAL", "EVAL"), lambda p, span, text: tree.Ident(span, text)),
    **dict.fromkeys(("LOWEST", "HIGHEST", "FIRST", "LAST", "MIDDLE"), lambda p, span, text: text),
    **dict.fromkeys(("PLUS", "MINUS", "TIMES", "OVER", "COMPARE", "IN", "NOT", "MATCHES"), lambda p, span, text: text),
}

Make = Callable[..., Any]
"""Makes a node from its span and the parts kept of a rule, in grammar order; None for an absent optional `[...]`."""


def _of_rest(node: Any) -> Make:
    """For a node whose last field is a tuple: that of all the parts for which there is no other field."""
    single = len(node._fields) - 2
    return lambda span, *parts: node(span, *parts[:single], parts[single:])


def _chain(node: Make) -> Make:
    """For a node of operands with operators between them."""
    return lambda span, *nodes: node(span, nodes[::2], nodes[1::2])


def _rank(span: Span, direction: str, amount: Any, of_rest: bool | None, by: tree.Call, bound: Any) -> tree.RankSelector:
    until, while_ = (None, bound.expr) if isinstance(bound, tree.While) else (bound, None)
    return tree.RankSelector(span, direction, amount, bool(of_rest), by, until, while_)


def _choose(span: Span, layers: Any, *nodes: Any) -> tree.Choose:
    among = tuple(node for node in nodes if isinstance(node, tuple))
    minimizing, *subject_to = nodes[len(among) :]
    return tree.Choose(span, layers, among, minimizing, tuple(subject_to))


def _by_rule_name() -> dict[str, Make]:
    """What makes the nodes of the tree, by the names of grammar rules: `LayersSelector` as `layers_selector`."""
    nodes = [value for value in vars(tree).values() if isinstance(value, type) and issubclass(value, tree.Node)]
    lists = {node for node in nodes if "".join([*node.__annotations__.values()][-1:]).startswith("tuple[")}
    made = {node: _of_rest(node) if node in lists else node for node in nodes}
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.__name__).lower(): make for node, make in made.items()}


_NODES: Mapping[str, Make] = {
    **_by_rule_name(),
    "choose": _choose,
    "rule": tree.RuleStatement,
    "modules_selector": lambda span, *nodes: tree.ModulesSelector(span, nodes[:-2], *nodes[-2:]),
    "rank_selector": _rank,
    "bounded_selector": lambda span, direction, *rest: _rank(span, direction, None, *rest),
    "of_rest": lambda span: True,
    "action": lambda span, *calls: calls[::2],
    "range": lambda span, first, _, last: tree.Range(span, first, last),
    "either": lambda span, *operands: tree.Logic(span, "or", operands),
    "both": lambda span, *operands: tree.Logic(span, "and", operands),
    "compare": _chain(tree.Compare),
    "cmp_op": lambda span, *words: tree.Operator(span, " ".join(words)),
    "arithmetic": _chain(tree.Arithmetic),
    "minus": lambda span, _, operand: tree.Minus(span, operand),
    "word": lambda span, name: tree.Call(span, name, None),
}
"""The functions that build nodes, by grammar rule or alias. A rule with a node's name builds that node from its fields,
with the exceptions listed here; a rule without an entry only collects pieces."""
