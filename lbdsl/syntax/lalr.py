"""The LALR(1) automaton: one statement's tokens to one node. Without recursion, so no input is too deep for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lbdsl.syntax.build import Builder
from lbdsl.syntax.lexer import END, Token, tables


@dataclass(frozen=True)
class Failure:
    """The token that has no place: its index (the end of the statement is one past the last) and the symbols that do.

    `complete` says that the tokens before it are a whole statement.
    """

    index: int
    expected: frozenset[str]

    @property
    def complete(self) -> bool:
        return END in self.expected


class _Splice(list[Any]):
    """Children that go into their parent's list."""


def parse_statement(tokens: Sequence[Token], builder: Builder) -> Any:
    """The node of a statement, or a `Failure`."""
    known = tables()
    states, rules, final = known.states, known.rules, known.end
    stack = [known.start]
    values: list[Any] = []
    spans: list[tuple[int, int]] = []
    last = tokens[-1].end if tokens else 0
    for index, token in enumerate([*tokens, Token(END, "", last, last)]):
        while True:
            code = states[stack[-1]].get(token.kind)
            if code is None:
                return Failure(index, _viable(stack))
            if code >= 0:
                stack.append(code)
                values.append(token)
                spans.append((token.start, token.end))
                break
            origin, name, size, kept, kind = rules[-1 - code]
            if size == 1 and kind == "single" and kept and type(values[-1]) is not _Splice:
                # A lone operand passes through the levels of precedence as it is: most reductions are such.
                stack[-1] = states[stack[-2]][origin]
                if token.kind == END and stack[-1] == final:
                    return values[-1]
                continue
            start, end = (spans[-size][0], spans[-1][1]) if size else (token.start, token.start)
            children = _children(values, size, kept)
            if size:
                del stack[-size:], values[-size:], spans[-size:]
            if kind == "splice":
                value = children
            elif kind == "single" and len(children) == 1:
                value = children[0]
            else:
                value = builder.build(name, children, start, end)
            stack.append(states[stack[-1]][origin])
            values.append(value)
            spans.append((start, end))
            if token.kind == END and stack[-1] == final:
                return value
    raise AssertionError("the end of a statement is accepted or refused")


def _children(values: list[Any], size: int, kept: list[int]) -> list[Any]:
    """The kept children, spliced. A list rule's own list is reused, so that a long chain costs linear time."""
    base = len(values) - size
    children = _Splice()
    for index in kept:
        value = values[base + index]
        if not isinstance(value, _Splice):
            children.append(value)
        elif index == kept[0]:
            children = value
        else:
            children.extend(value)
    return children


def _viable(stack: list[int]) -> frozenset[str]:
    """The terminals that could come next: those that lead to a shift (or to the end) after all reductions."""
    states = tables().states
    return frozenset(
        symbol for symbol in states[stack[-1]] if (symbol.isupper() or symbol == END) and _shifts(stack, symbol)
    )


def _shifts(stack: list[int], symbol: str) -> bool:
    known = tables()
    copy = list(stack)
    while True:
        code = known.states[copy[-1]].get(symbol)
        if code is None:
            return False
        if code >= 0:
            return True
        origin, _, size, _, _ = known.rules[-1 - code]
        if size:
            del copy[-size:]
        copy.append(known.states[copy[-1]][origin])
        if symbol == END and copy[-1] == known.end:
            return True
