"""What a statement that does not parse was meant to be: a list of recognisers, the first that knows it speaks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from lbdsl.core.diagnostic import Diagnostic, Edit, Fix, Label, error
from lbdsl.core.registry import nearest
from lbdsl.core.span import Source, Span
from lbdsl.syntax.lalr import Failure
from lbdsl.syntax.lexer import BAD, Token, tables
from lbdsl.syntax.names import BLOCK_WORDS, RULE_WORDS, STATEMENTS

_FORMS = {
    "else": "else ACTION",
    "where": "where CONDITION ACTION",
    "layers": "layers SET [where CONDITION] ACTION",
    "modules": 'modules "GLOB" [in layers SET] [where CONDITION] ACTION',
    "lowest": "lowest AMOUNT [of rest] by METRIC [until CONDITION] ACTION",
    "highest": "highest AMOUNT [of rest] by METRIC [until CONDITION] ACTION",
    "lbr": "lbr 1",
    "recipe": 'recipe "NAME"',
    "requires": "requires CONDITION",
    "param": "param $NAME: TYPE [in LOW..HIGH] [= DEFAULT]",
    "let": "let $NAME = VALUE",
    "group": "group @NAME = SET",
    "include": 'include "FILE" [sha256 "HASH"]',
    "measure": "measure { KEY = VALUE; ... }",
    "heal": "heal { KEY = VALUE; ... }",
    "eval": "eval { KEY = VALUE; ... }",
    "search": "search { vary $NAME in LOW..HIGH; minimize VALUE; ... }",
    "assert": "assert CONDITION",
}
_OTHER_SIGNS = {"&&": "and", "&": "and", "||": "or", "|": "or", "!": "not "}
_DANGLING = frozenset({"COMPARE", "PLUS", "MINUS", "TIMES", "OVER", "AND", "OR", "NOT", "IN", "MATCHES", "EXCEPT"})
_NUMBERS = frozenset({"INT", "DECIMAL", "QUANTITY", "PERCENT"})


@dataclass(frozen=True)
class _Place:
    """A statement and where it stopped making sense. `token` is None at the statement's end."""

    source: Source
    tokens: Sequence[Token]
    failure: Failure
    actions: Collection[str]

    @property
    def token(self) -> Token | None:
        return self.tokens[self.failure.index] if self.failure.index < len(self.tokens) else None

    def before(self, steps: int = 1) -> Token | None:
        """The token `steps` before the failure."""
        index = self.failure.index - steps
        return self.tokens[index] if index >= 0 else None

    def after(self, steps: int = 1) -> Token | None:
        index = self.failure.index + steps
        return self.tokens[index] if index < len(self.tokens) else None

    @property
    def kind(self) -> str:
        return self.token.kind if self.token else ""

    @property
    def first(self) -> str:
        return self.tokens[0].text

    def expects(self, *symbols: str) -> bool:
        return all(symbol in self.failure.expected for symbol in symbols)

    def span(self, first: Token | None = None, last: Token | None = None) -> Span:
        """The span of a token, or from one to another; by default of the failure (its end is an empty span)."""
        if first is None:
            if self.token is None:
                end = self.tokens[-1].end
                return Span(self.source, end, end)
            first = self.token
        return Span(self.source, first.start, (last or first).end)

    def block_bracket(self) -> bool:
        """Inside `{ }` of a block, outside its parentheses."""
        depth: list[str] = []
        for token in self.tokens[: self.failure.index]:
            if token.kind in ("LPAR", "LSQB", "LBRACE"):
                depth.append(token.kind)
            elif token.kind in ("RPAR", "RSQB", "RBRACE"):
                depth.pop()
        return bool(depth) and depth[-1] == "LBRACE" and self.first in BLOCK_WORDS


def explain_failure(source: Source, tokens: Sequence[Token], failure: Failure,
                    actions: Collection[str] = ()) -> Diagnostic:
    """The diagnostic of a failure; `actions` are known action names, used in messages only."""
    place = _Place(source, tokens, failure, actions)
    for recogniser in _RECOGNISERS:
        found = recogniser(place)
        if found is not None:
            return found
    return _anything(place)


def _form(place: _Place) -> tuple[str, ...]:
    form = _FORMS.get(place.first)
    return (f"the form is `{form}`",) if form else ()


def _replace(title: str, span: Span, text: str) -> Fix:
    return Fix(title, (Edit(span, text),))


def _no_statement(p: _Place) -> Diagnostic | None:
    if p.failure.index != 0 or p.token is None:
        return None
    token = p.token
    if token.kind in ("NAME", "KEY", "DOTTED"):
        near = nearest(token.text.lower(), STATEMENTS)
        if near:
            return error("LB001", f"unknown statement `{token.text}`", p.span(), help=f"did you mean `{near}`?",
                         fix=_replace(f"write `{near}`", p.span(), near))
        if token.text in p.actions:
            return error("LB001", f"a rule cannot begin with the action `{token.text}`", p.span(),
                         help="say which layers first: `layers SET ACTION`, or `else ACTION` for all the others")
        return error("LB001", f"unknown statement `{token.text}`", p.span(),
                     help="statements begin with " + ", ".join(f"`{word}`" for word in STATEMENTS))
    if token.kind in ("INT", "ALL", "FIRST", "LAST", "MIDDLE", "EVERY", "REF"):
        return error("LB001", f"a statement cannot begin with `{token.text}`", p.span(),
                     help="a rule about layers begins with `layers`",
                     fix=Fix("write `layers` before it", (Edit(Span(p.source, token.start, token.start), "layers "),)))
    return None


def _bad_character(p: _Place) -> Diagnostic | None:
    if p.kind != BAD or p.token is None:
        return None
    sign = p.token.text
    if sign[0] in "\"'":
        if sign[0] == "'":
            return error("LB004", "strings stand in double quotes", p.span(), help='write `"text"`')
        return error("LB004", "string never closed", p.span(), help='a string ends with `"` on the same line')
    if sign in _OTHER_SIGNS:
        return error("LB008", f"unexpected `{sign}`", p.span(), help=f"write `{_OTHER_SIGNS[sign].strip()}`",
                     fix=_replace(f"write `{_OTHER_SIGNS[sign].strip()}`", p.span(), _OTHER_SIGNS[sign]))
    if sign == "%" and (before := p.before()) is not None and before.kind in ("INT", "DECIMAL"):
        return error("LB008", "a space before `%`", p.span(), help=f"write `{before.text}%`",
                     fix=_replace("remove the space", Span(p.source, before.end, p.token.start), ""))
    if sign[0] in "$@":
        return error("LB008", f"`{sign}` without a name", p.span(), help="write `$name` for a value, `@name` for a group")
    shown = sign if sign.isprintable() else f"U+{ord(sign[0]):04X}"
    return error("LB008", f"unexpected `{shown}`", p.span(), help=_form(p))


def _comment_sign(p: _Place) -> Diagnostic | None:
    after = p.after()
    if p.kind == "OVER" and after is not None and after.text in ("/", "*"):
        return error("LB008", "comments begin with `#`", p.span(p.token, after),
                     fix=_replace("write `#`", p.span(p.token, after), "#"))
    return None


def _open_range(p: _Place) -> Diagnostic | None:
    start, dash = p.before(2), p.before()
    if dash is None or start is None or dash.kind != "MINUS" or start.kind not in ("INT", "VAR"):
        return None
    if p.first != "layers" and p.first != "group" and "LAYERS" not in {t.kind for t in p.tokens}:
        return None
    if not p.expects("INT", "VAR") or p.expects("NAME"):
        return None
    hints: list[str] = ["write the last layer too, as in `4-7`"]
    if start.kind == "INT" and int(start.text) > 0:
        hints.append(f"all layers from {start.text} on are `all except 0-{int(start.text) - 1}`")
    return error("LB009", "range has no end", p.span(start, dash), help=tuple(hints))


def _slice(p: _Place) -> Diagnostic | None:
    start, end = p.before(), p.after()
    if p.kind not in ("COLON", "_DOTS") or start is None or end is None or start.kind != "INT" or end.kind != "INT":
        return None
    sign, low, high = p.token.text if p.token else "", int(start.text), int(end.text)
    last = high - 1 if sign == ":" else high
    if last < low:
        return error("LB010", f"a range of layers is written with `-`, not `{sign}`", p.span(start, end),
                     help="both ends belong to it: `0-3` is four layers")
    right = f"{low}-{last}" if last > low else str(low)
    return error("LB010", f"a range of layers is written with `-`, not `{sign}`", p.span(start, end),
                 help=f"`{p.span(start, end).text}` is `{right}` here: both ends belong to it",
                 fix=_replace(f"write `{right}`", p.span(start, end), right))


def _equals(p: _Place) -> Diagnostic | None:
    before = p.before()
    if p.token is None or before is None:
        return None
    after = p.after()
    if p.kind == "NAME" and p.expects("KEY") and p.block_bracket() and after is not None and after.text in ("==", ":"):
        return error("LB011", "settings use `=`", p.span(after), help=f"write `{p.token.text} = VALUE`",
                     fix=_replace("write `=`", p.span(after), "="))
    if p.token.text == ":" and before.kind == "NAME" and p.expects("COMMA") and not p.block_bracket():
        return error("LB011", "arguments use `=`", p.span(), help=f"write `{before.text}=VALUE`",
                     fix=_replace("write `=`", p.span(), "="))
    if p.token.text in ("==", ":") and p.expects("EQUAL"):
        return error("LB011", f"`{p.first}` uses `=`", p.span(), help=_form(p), fix=_replace("write `=`", p.span(), "="))
    sign, follows = (after, p.after(2)) if p.kind == "KEY" else (p.token, after)
    if sign is None or sign.kind != "EQUAL" or p.first in BLOCK_WORDS:
        return None
    if (p.kind == "KEY" and p.expects("NAME")) or (p.kind == "EQUAL" and p.expects("COMPARE")):
        if follows is not None and follows.kind == "COMPARE" and follows.start == sign.end:
            right = f"{follows.text}="
            return error("LB008", f"unexpected `={follows.text}`", p.span(sign, follows), help=f"write `{right}`",
                         fix=_replace(f"write `{right}`", p.span(sign, follows), right))
        return error("LB011", "a comparison uses `==`", p.span(sign), help="`=` gives a value, `==` compares",
                     fix=_replace("write `==`", p.span(sign), "=="))
    return None


def _negative_layer(p: _Place) -> Diagnostic | None:
    after = p.after()
    if p.kind == "MINUS" and p.expects("EVERY") and after is not None and after.kind == "INT":
        whole = p.span(p.token, after)
        return error("LB010", "layers are not counted from the end", whole, help=f"the last {after.text} layers are "
                     f"`last {after.text}`", fix=_replace(f"write `last {after.text}`", whole, f"last {after.text}"))
    return None


def _comma_in_block(p: _Place) -> Diagnostic | None:
    if p.kind == "COMMA" and p.block_bracket():
        return error("LB011", "settings are separated by `;` or a new line", p.span(),
                     fix=_replace("write `;`", p.span(), ";"))
    return None


def _right_side(p: _Place) -> Diagnostic | None:
    before = p.before()
    if before is not None and before.kind in _DANGLING and (p.token is None or p.kind not in (BAD, *_NUMBERS)):
        if p.token is not None and p.token.kind not in tables().keywords.values() and p.token.text not in ")]};":
            return None
        return error("LB012", f"right side of `{before.text}` missing", p.span(before), help=_form(p))
    if p.token is None and p.first in ("where", "layers") and before is not None and before.kind in ("NAME", "RPAR"):
        # `where sensitivity < drop` parses as a condition, and then has no action.
        index = len(p.tokens) - 1
        while index > 0 and p.tokens[index].kind != "NAME":
            index -= 1
        sign, name = p.tokens[index - 1], p.tokens[index]
        if sign.kind == "COMPARE" and name.text in p.actions:
            return error("LB012", f"right side of `{sign.text}` missing", p.span(sign),
                         labels=(Label(p.span(name), f"`{name.text}` is an action, not a value"),), help=_form(p))
    return None


def _missing_by(p: _Place) -> Diagnostic | None:
    if p.kind in ("NAME", "KEY", "DOTTED") and p.expects("BY") and p.token is not None:
        at = Span(p.source, p.token.start, p.token.start)
        return error("LB013", "expected `by`", p.span(), help=f"write `by {p.token.text}`",
                     fix=Fix("insert `by`", (Edit(at, "by "),)))
    return None


def _keyword_as_action(p: _Place) -> Diagnostic | None:
    words = tables().keywords
    if p.token is None or p.token.text not in words or not p.expects("NAME"):
        return None
    if p.failure.complete:
        return None
    before = p.before()
    if before is None:
        return None
    value = before.kind in ("BY", "LPAR", "COMMA", "EQUAL", "WHERE", "UNTIL", *_DANGLING)
    what = "an action" if p.first in RULE_WORDS and not value else "a name"
    return error("LB015", f"`{p.token.text}` is a keyword, not {what}", p.span(),
                 help=(*_form(p), "statements are separated by `;` or a new line"))


def _no_action(p: _Place) -> Diagnostic | None:
    if p.token is not None or p.first not in RULE_WORDS or not p.expects("NAME"):
        return None
    before = p.before()
    if before is None or before.kind in (*_DANGLING, "BY", "UNTIL", "LPAR", "COMMA", "EQUAL"):
        return None
    opener = p.before(2) if before.text in p.actions else before
    if opener is not None and opener.kind == "WHERE":
        return error("LB012", "`where` has no condition", p.span(opener), help=_form(p))
    if opener is not None and opener.kind == "BY":
        return error("LB012", "`by` has no metric", p.span(opener), help=_form(p))
    known = ", ".join(f"`{name}`" for name in sorted(p.actions)) or "`keep`"
    return error("LB016", "rule has no action" if before.kind == "PLUS" else "selector has no action",
                 p.span(p.tokens[0], p.tokens[-1]), help=(f"add what becomes of the layers: {known}",))


def _two_statements(p: _Place) -> Diagnostic | None:
    if p.token is None or not p.failure.complete:
        return None
    if p.token.text in STATEMENTS:
        at = Span(p.source, p.token.start, p.token.start)
        return error("LB017", f"a new statement begins at `{p.token.text}`", p.span(),
                     help="separate statements by `;` or a new line", fix=Fix("insert `;`", (Edit(at, "; "),)))
    return error("LB017", f"unexpected `{p.token.text}` after the end of the statement", p.span(), help=_form(p))


def _no_block(p: _Place) -> Diagnostic | None:
    if p.failure.index == 1 and p.first in BLOCK_WORDS and p.kind != "LBRACE":
        return error("LB018", f"`{p.first}` has no block", p.span(p.tokens[0]), help=_form(p))
    return None


def _anything(p: _Place) -> Diagnostic:
    what = "the statement ends too early" if p.token is None else f"unexpected `{p.token.text.strip() or 'line end'}`"
    wanted = _wanted(p.failure.expected)
    return error("LB008", f"{what}, expected {wanted}" if wanted else what, p.span(), help=_form(p))


def _wanted(expected: frozenset[str]) -> str:
    """The expected symbols in words, when they are few enough to say something."""
    names = {"NAME": "a name", "STRING": 'a string', "VAR": "`$name`", "REF": "`@name`", "INT": "a number",
             "KEY": "a key with `=`", "COMMA": "`,`", "EQUAL": "`=`", "COLON": "`:`", "RPAR": "`)`", "LPAR": "`(`",
             "RBRACE": "`}`", "LBRACE": "`{`", "RSQB": "`]`", "REGEX": '`~"pattern"`', "_DOTS": "`..`"}
    hidden = {"DECIMAL", "QUANTITY", "PERCENT"} if "INT" in expected else set()
    if "$END" in expected or "NEWLINE" in expected or len(expected - hidden) > 7:
        return ""
    words = {kind: f"`{word}`" for word, kind in tables().keywords.items()} | {"PERCENT": "a percentage"} | names
    shown = sorted(words.get(symbol, f"`{symbol.lower()}`") for symbol in expected - hidden)
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


_RECOGNISERS: tuple[Callable[[_Place], Diagnostic | None], ...] = (
    _bad_character, _no_statement, _comment_sign, _slice, _negative_layer, _open_range, _no_block, _equals, _comma_in_block,
    _right_side, _missing_by, _keyword_as_action, _no_action, _two_statements,
)
