"""The tokens that are valid at a position in a recipe, by the parser's own tables.

The statement is cut off before the word at the cursor and fed to the LALR automaton; the terminals that its state
accepts may follow. The meaning of a name there (action, metric, word of a setting) is derived from the tokens around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lbdsl.actions import actions
from lbdsl.core.span import Source
from lbdsl.language.layout import CONTINUES_BEFORE, ONLY_BEGINS, split_statements
from lbdsl.language.lexer import BAD, BRACKETS, Lexed, Token
from lbdsl.language.parser import Failure, Parser
from lbdsl.language.words import BLOCKS, keywords
from lbdsl.metrics import Of, metrics_of

_WORDS = frozenset({"NAME", "KEY", "DOTTED", "VAR", "REF"})
_STRINGS = frozenset({"STRING", "REGEX"})


class Role(NamedTuple):
    """The meaning of a name at the cursor. `kind` is one of

    action      a rule's action; `key` is `modules` in a rule on modules, `owner` is the metric that it is an argument of
    metric      the metric of a ranking
    layer       a value of a layer, in `where`
    model       a value of the whole model, in `assert`, `requires`, `until`, `while` and `subject to`
    constant    a value known from the text
    any         a value of any of the three kinds above, in `let`
    type        a parameter's type
    argument    an argument of the call `owner`, for its parameter `key` (empty: the `position`-th)
    stage       the name of a stage of `heal`
    setting     the value of the setting `key` of the block `owner`
    """

    kind: str
    owner: str = ""
    key: str = ""
    position: int = 0

    @property
    def parameter(self) -> str:
        """The parameter of the action `owner` that an argument is for; empty for none."""
        names = actions()[self.owner].parameters() if self.owner in actions() else ()
        return self.key or next(iter(names[self.position :]), "")


@dataclass(frozen=True)
class Cursor:
    """A position in a text. `start` and `end` are the offsets of the word there, which completion replaces."""

    before: tuple[Token, ...]
    """The tokens of the statement before the word."""

    start: int
    end: int
    expected: frozenset[str]
    """The terminals that are valid here; empty when the statement has a syntax error before."""

    in_string: bool = False

    @property
    def first(self) -> str:
        """The kind of the statement's first token; empty at its beginning."""
        return self.before[0].type if self.before else ""

    @property
    def block(self) -> str:
        """The name of the block that the cursor is in, or empty."""
        return self.before[0].text if self.before and self.before[0].text in BLOCKS else ""

    def open_brackets(self) -> list[int]:
        """Indices of the brackets that are open here, the outermost first."""
        stack: list[int] = []
        for index, token in enumerate(self.before):
            if token.type in BRACKETS:
                stack.append(index)
            elif stack and token.type == BRACKETS[self.before[stack[-1]].type]:
                stack.pop()
        return stack

    def call(self) -> tuple[str, int] | None:
        """The innermost call that is open here: its name, and the index of its bracket."""
        for index in reversed(self.open_brackets()):
            if self.before[index].type == "LPAR" and index and self.before[index - 1].type == "NAME":
                return self.before[index - 1].text, index
            if self.before[index].type == "LBRACE":
                return None
        return None

    def given(self, bracket: int) -> tuple[str, ...]:
        """The keys that are already given directly inside a bracket."""
        return tuple(token.text for token in self._directly_inside(bracket) if token.type == "KEY")

    def _directly_inside(self, bracket: int) -> Iterator[Token]:
        """The tokens after a bracket that are not in a nested bracket."""
        depth = 0
        for token in self.before[bracket + 1 :]:
            depth += (token.type in BRACKETS) - (token.type in BRACKETS.values())
            if depth == 0:
                yield token

    def role(self) -> Role:
        """The role of a name at this position."""
        previous = self.before[-1].type if self.before else ""
        if self.first == "PARAM" and previous == "COLON":
            return Role("type")
        call = self.call()
        if call is not None:
            return self._argument(*call)
        if previous == "STAGE":
            return Role("stage")
        if self.block:
            setting = self._setting()
            if setting is not None:
                return setting
        if previous == "BY":
            return Role("metric")
        if self.first == "CHOOSE":
            return self._choosing()
        if self.first == "PARAM":
            return Role("constant")
        if self.first == "LET":
            return Role("any")
        if self.first in ("ASSERT", "REQUIRES") or any(token.type in ("UNTIL", "WHILE") for token in self.before):
            return Role("action" if self._is_action() else "model")
        if not self._is_action():
            return Role("layer")
        return Role("action", key="modules" if self.first == "MODULES" else "")

    def _choosing(self) -> Role:
        """The role of a name in `choose`, by the last of its words before."""
        roles = {"AMONG": Role("action"), "MINIMIZING": Role("model", key="minimized"), "TO": Role("model", key="budget")}
        return next((roles[token.type] for token in reversed(self.before) if token.type in roles), Role("constant"))

    def _argument(self, name: str, bracket: int) -> Role:
        position, key = 0, ""
        for token in self._directly_inside(bracket):
            if token.type == "COMMA":
                position, key = position + 1, ""
            elif token.type == "KEY":
                key = token.text
        metric = metrics_of(Of.LAYER).get(name)
        if metric is not None and metric.takes_action and not self.block:
            return Role("action", name)
        return Role("argument", name, key, position)

    def _setting(self) -> Role | None:
        for token in reversed(self.before):
            if token.type in ("NEWLINE", "SEMICOLON", "LBRACE", "RBRACE"):
                return None
            if token.type == "KEY":
                return Role("setting", self.block, token.text)
        return None

    def _is_action(self) -> bool:
        """Whether a name here would be a rule's action: only then may `because` follow it."""
        return "BECAUSE" in _expected([*self.before, Token("NAME", "it", self.start, self.start)], self.start)


def cursor_at(source: Source, lexed: Lexed, offset: int, *, whole: bool = False) -> Cursor | None:
    """The cursor at an offset of a lexed text; None inside a comment.

    A word that ends at the offset is at the cursor. With `whole`, so is a word that begins there, as for a mouse pointer.
    """
    tokens = lexed.tokens
    if any(comment.start < offset <= comment.end for comment in lexed.comments):
        return None
    touching = (i for i, token in enumerate(tokens) if token.start <= offset <= token.end)
    index = next((i for i in touching if tokens[i].start < offset or (whole and tokens[i].type != "NEWLINE")), None)
    if index is not None and whole and tokens[index].end == offset and index + 1 < len(tokens):
        following = tokens[index + 1]
        index += following.start == offset and _is_word(following)
    start = end = offset
    in_string = False
    before = [token for token in tokens if token.end <= offset]
    if index is not None:
        token = tokens[index]
        inside = token.type in _STRINGS and (token.start < offset < token.end)
        dotted = token.text == "." and token.type == BAD and index and tokens[index - 1].end == token.start
        if dotted and tokens[index - 1].type in ("NAME", "DOTTED"):
            start, end = tokens[index - 1].start, token.end
            before = list(tokens[: index - 1])
        elif inside or _is_word(token) or (token.type == BAD and token.text in ("$", "@", '"')) or whole:
            start, end, in_string = token.start, token.end, inside or token.text[0] == '"'
            before = list(tokens[:index])
    earlier, statement = _statements(source, before, start)
    expected = _expected(statement, start)
    if earlier and not statement and before[-1].type == "NEWLINE" and before[-1].end < start:
        # An indented line may continue the statement above.
        expected |= _expected(earlier, start) & CONTINUES_BEFORE
    return Cursor(tuple(statement), start, end, expected, in_string)


def _is_word(token: Token) -> bool:
    return token.type in _WORDS or token.text in keywords()


def _statements(source: Source, before: Sequence[Token], at: int) -> tuple[list[Token], list[Token]]:
    """The tokens of the statement above, and of the statement at `at`, up to `at`."""
    chunks, _ = split_statements(source, [*before[_safe_start(before) :], Token(BAD, "", at, at)])
    return list(chunks[-2].tokens) if len(chunks) > 1 else [], list(chunks[-1].tokens[:-1])


def _safe_start(tokens: Sequence[Token]) -> int:
    """The index of a token that always begins a statement, with two more such tokens after it: splitting the tokens from
    there gives the same statements as splitting the whole text."""
    begins = 0
    for index in range(len(tokens) - 1, 1, -1):
        first = tokens[index - 1].type == "NEWLINE" and tokens[index - 2].type not in ("IN", "NEWLINE")
        begins += tokens[index].type in ONLY_BEGINS and first
        if begins == 3:
            return index
    return 0


def _expected(statement: Sequence[Token], at: int) -> frozenset[str]:
    """The terminals that may follow the tokens of a statement; none when these already have a syntax error."""
    found = Parser(Source("", "")).parse([*statement, Token(BAD, "", at, at)])
    assert isinstance(found, Failure), "nothing accepts a bad token"
    return found.expected if found.index == len(statement) else frozenset()
