"""What a statement that does not parse was meant to be: a list of recognisers, the first that knows it speaks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from lbdsl.core.diagnostic import Diagnostic, Edit, Fix, Label, error
from lbdsl.core.registry import nearest
from lbdsl.core.span import Source, Span
from lbdsl.syntax.grammar import keywords
from lbdsl.syntax.lexer import BAD, Token
from lbdsl.syntax.misspelt import LONGEST, misspelt_keyword
from lbdsl.syntax.names import BLOCK_WORDS, RULE_WORDS, STATEMENTS
from lbdsl.syntax.parser import Failure, Parser
from lbdsl.syntax.place import Place, form_of, replacement
from lbdsl.syntax.signs import bad_character, comma_in_block, comment_sign, equals, negative_layer, slice_range
from lbdsl.syntax.wishes import slip, wish

_DANGLING = frozenset({"COMPARE", "PLUS", "MINUS", "TIMES", "OVER", "AND", "OR", "NOT", "IN", "MATCHES", "EXCEPT"})
_NUMBERS = frozenset({"INT", "DECIMAL", "QUANTITY", "PERCENT"})


def explain_failure(source: Source, tokens: Sequence[Token], failure: Failure, actions: Collection[str] = ()) -> Diagnostic:
    """The diagnostic of a failure; `actions` are known action names, used in messages only."""
    place = Place(source, tokens, failure, actions)
    for recogniser in _RECOGNISERS:
        found = recogniser(place)
        if found is not None:
            return found
    return _anything(place)


def _no_statement(p: Place) -> Diagnostic | None:
    if p.failure.index != 0 or p.token is None:
        return None
    token = p.token
    if token.type in ("NAME", "KEY", "DOTTED"):
        if token.text in p.actions:
            return error(
                "LB001",
                f"a rule cannot begin with the action `{token.text}`",
                p.span(),
                help="say which layers first: `layers SET ACTION`, or `else ACTION` for all the others",
            )
        after = p.after()
        if token.text in STATEMENTS and after is not None:
            return error(
                "LB011",
                f"`{token.text}` takes no `=` here",
                p.span(after),
                help=form_of(p),
                fix=replacement("remove `=`", p.span(after), "") if token.text in BLOCK_WORDS else None,
            )
        said = wish(token.text, "statement")
        near = None if said else nearest(token.text.lower(), STATEMENTS)
        meant = slip(token.text, STATEMENTS) if near else None
        listed = "statements begin with " + ", ".join(f"`{word}`" for word in STATEMENTS)
        return error(
            "LB001",
            f"unknown statement `{token.text}`",
            p.span(),
            help=said or (f"did you mean `{near}`?" if near else listed),
            fix=replacement(f"write `{meant}`", p.span(), meant) if meant else None,
        )
    if token.type in ("INT", "ALL", "FIRST", "LAST", "MIDDLE", "EVERY", "REF", "VAR"):
        word = next((word for word in ("layers", "group", "let") if _parses([_keyword(word), *p.tokens], p)), None)
        start = Span(p.source, token.start, token.start)
        return error(
            "LB001",
            f"a statement cannot begin with `{token.text}`",
            p.span(),
            help=f"write `{word} {token.text}`" if word else "a rule about layers begins with `layers`",
            fix=Fix(f"write `{word}` before it", (Edit(start, f"{word} "),)) if word else None,
        )
    if token.type == "LBRACE":
        return error(
            "LB001",
            "a statement cannot begin with `{`",
            p.span(),
            help="a recipe in JSON becomes text with `lbdsl convert`; a saved plan is shown with `lbdsl show`",
        )
    return None


def _parses(tokens: Sequence[Token], p: Place) -> bool:
    """Whether these tokens are a whole statement, so that a fix leaves no other mistake in it."""
    return 0 < len(tokens) <= LONGEST and not isinstance(Parser(p.source).parse(tokens), Failure)


def _keyword(word: str) -> Token:
    return Token(keywords()[word], word, 0, 0)


def _wished(p: Place) -> Diagnostic | None:
    """A word that the language does not have, at the failure or right before it, where it was taken for an action."""
    for index in (p.failure.index, p.failure.index - 1):
        token = p.tokens[index] if 0 < index < len(p.tokens) else None
        if token is None or token.type not in ("NAME", "KEY", "DOTTED") or token.text in p.actions:
            continue
        said = wish(token.text, "set")
        if said is not None:
            return error("LB008", f"unexpected `{token.text}`", p.span(token), help=(said, *form_of(p)))
    return None


def _modules_in_layers(p: Place) -> Diagnostic | None:
    """`layers "*.q_proj" drop`."""
    if p.first != "layers" or p.token is None or p.kind not in ("STRING", "REGEX"):
        return None
    return error(
        "LB008",
        f"unexpected `{p.token.text}`",
        p.span(),
        help=(
            "layers are chosen by number, not by name; modules can only be kept or quantized, as in "
            f"`modules {p.token.text} quantize(bits=4)`",
            *form_of(p),
        ),
    )


def _open_range(p: Place) -> Diagnostic | None:
    start, dash = p.before(2), p.before()
    if dash is None or start is None or dash.type != "MINUS" or start.type not in ("INT", "VAR"):
        return None
    if p.first != "layers" and p.first != "group" and "LAYERS" not in {t.type for t in p.tokens}:
        return None
    if not p.expects("INT", "VAR") or p.expects("NAME"):
        return None
    hints: list[str] = ["write the last layer too, as in `4-7`"]
    if start.type == "INT" and int(start.text) > 0:
        hints.append(f"all layers from {start.text} on are `all except 0-{int(start.text) - 1}`")
    return error("LB009", "range has no end", p.span(start, dash), help=tuple(hints))


def _right_side(p: Place) -> Diagnostic | None:
    before = p.before()
    if p.token is not None and p.first in RULE_WORDS and p.kind == "NAME":
        found = _action_for_value(p, p.failure.index)
        if found is not None:
            return found
    if before is not None and before.type in _DANGLING and (p.token is None or p.kind not in (BAD, *_NUMBERS)):
        if p.token is not None and p.token.type not in keywords().values() and p.token.text not in ")]};":
            return None
        return error("LB012", f"right side of `{before.text}` missing", p.span(before), help=form_of(p))
    if p.token is None and p.first in ("where", "layers") and p.expects("NAME"):
        # `where sensitivity < drop` parses as a condition, and then has no action.
        return _action_for_value(p, _last_call(p.tokens))
    return None


_VALUE_SIGNS = frozenset({"COMPARE", "PLUS", "MINUS", "TIMES", "OVER", "AND", "OR", "NOT"})


def _action_for_value(p: Place, index: int) -> Diagnostic | None:
    """An action at `index` right after an operator that wants a value."""
    sign, name = p.tokens[index - 1], p.tokens[index]
    if index < 1 or sign.type not in _VALUE_SIGNS or name.type != "NAME" or name.text not in p.actions:
        return None
    return error(
        "LB012",
        f"right side of `{sign.text}` missing",
        p.span(sign),
        labels=(Label(p.span(name), f"`{name.text}` is an action, not a value"),),
        help=form_of(p),
    )


def _last_call(tokens: Sequence[Token]) -> int:
    """The index of the name that the last call begins with, its arguments passed over."""
    index = len(tokens) - 1
    depth = 0
    while index > 0:
        depth += (tokens[index].type == "RPAR") - (tokens[index].type == "LPAR")
        if depth == 0 and tokens[index].type != "LPAR":
            break
        index -= 1
    return index


_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def _missing_comma(p: Place) -> Diagnostic | None:
    """`layers 0 1 2 drop`."""
    before = p.before()
    if p.kind not in ("INT", "REF") or before is None or not p.expects("COMMA") or p.first not in ("layers", "group"):
        return None
    if before.type not in ("INT", "REF"):
        return None
    index = p.failure.index
    last = index
    while last + 1 < len(p.tokens) and p.tokens[last + 1].type in ("INT", "REF"):
        last += 1
    gaps = [p.tokens[place].end for place in range(index - 1, last)]
    # `0 5` may be meant as a range, `@a @b` as what is in both.
    numbers = all(token.type == "INT" for token in p.tokens[index - 1 : last + 1])
    listed = ", ".join(token.text for token in p.tokens[index - 1 : last + 1])
    dash, start = p.before(2), p.before(3)
    ranged = dash is not None and dash.type == "MINUS"
    if ranged and start is not None:
        listed = f"{start.text}-{listed}"
    sure = numbers and (ranged or len(gaps) > 1)
    return error(
        "LB008",
        f"unexpected `{p.token.text if p.token else ''}`: layers are separated by `,`",
        p.span(),
        help=f"write `{listed}`"
        + ("" if sure or not numbers else f", or `{before.text}-{p.tokens[last].text}` for a range"),
        fix=Fix("insert `,`", tuple(Edit(Span(p.source, gap, gap), ",") for gap in gaps)) if sure else None,
    )


def _word_for_amount(p: Place) -> Diagnostic | None:
    """`lowest six by nll drop`."""
    after = p.after()
    if p.kind != "NAME" or p.token is None or not p.expects("BY", "INT") or after is None:
        return None
    if after.type not in ("BY", "OF"):
        return None
    word = p.token.text.lower()
    number = str(_WORDS.index(word) + 1) if word in _WORDS else None
    return error(
        "LB008",
        f"`{p.token.text}` is no amount",
        p.span(),
        help=f"write `{number}`" if number else "an amount is a number or a percentage, as in `6` or `20%`",
        fix=replacement(f"write `{number}`", p.span(), number) if number else None,
    )


def _missing_by(p: Place) -> Diagnostic | None:
    if p.kind == "NAME" and p.expects("BY") and p.token is not None:
        index = p.failure.index
        if not _parses([*p.tokens[:index], _keyword("by"), *p.tokens[index:]], p):
            return None
        at = Span(p.source, p.token.start, p.token.start)
        return error(
            "LB013",
            "expected `by`",
            p.span(),
            help=f"write `by {p.token.text}`",
            fix=Fix("insert `by`", (Edit(at, "by "),)),
        )
    return None


def _keyword_as_action(p: Place) -> Diagnostic | None:
    words = keywords()
    if p.token is None or p.token.text not in words or not p.expects("NAME"):
        return None
    if p.failure.complete:
        return None
    before = p.before()
    if before is None:
        return None
    value = before.type in ("BY", "LPAR", "COMMA", "EQUAL", "WHERE", "UNTIL", *_DANGLING)
    what = "an action" if p.first in RULE_WORDS and not value else "a name"
    return error(
        "LB015",
        f"`{p.token.text}` is a keyword, not {what}",
        p.span(),
        help=(*form_of(p), "statements are separated by `;` or a new line"),
    )


def _no_action(p: Place) -> Diagnostic | None:
    if p.token is not None or p.first not in RULE_WORDS or not p.expects("NAME"):
        return None
    before = p.before()
    if before is None or before.type in (*_DANGLING, "BY", "UNTIL", "LPAR", "COMMA", "EQUAL"):
        return None
    opener = p.before(2) if before.text in p.actions else before
    if opener is not None and opener.type == "WHERE":
        return error("LB012", "`where` has no condition", p.span(opener), help=form_of(p))
    if opener is not None and opener.type == "BY":
        return error("LB012", "`by` has no metric", p.span(opener), help=form_of(p))
    known = ", ".join(f"`{name}`" for name in sorted(p.actions)) or "`keep`"
    return error(
        "LB016",
        "rule has no action" if before.type == "PLUS" else "selector has no action",
        p.span(p.tokens[0], p.tokens[-1]),
        help=(f"add what becomes of the layers: {known}",),
    )


def _two_statements(p: Place) -> Diagnostic | None:
    if p.token is None or not p.failure.complete:
        return None
    if p.token.text in STATEMENTS:
        at = Span(p.source, p.token.start, p.token.start)
        alone = _parses(p.tokens[p.failure.index :], p)
        hints = ["separate statements by `;` or a new line"]
        if p.kind == "WHERE" and not alone:
            hints = ["a condition stands before the action, as in `layers 0-3 where nll < 0.1 drop`"]
        return error(
            "LB017",
            f"a new statement begins at `{p.token.text}`",
            p.span(),
            help=tuple(hints),
            fix=Fix("insert `;`", (Edit(at, "; "),)) if alone else None,
        )
    return error("LB017", f"unexpected `{p.token.text}` after the end of the statement", p.span(), help=form_of(p))


def _no_block(p: Place) -> Diagnostic | None:
    if p.failure.index == 1 and p.first in BLOCK_WORDS and p.kind != "LBRACE":
        return error("LB018", f"`{p.first}` has no block", p.span(p.tokens[0]), help=form_of(p))
    return None


def _anything(p: Place) -> Diagnostic:
    what = "the statement ends too early" if p.token is None else f"unexpected `{p.token.text.strip() or 'line end'}`"
    wanted = _wanted(p.failure.expected)
    return error("LB008", f"{what}, expected {wanted}" if wanted else what, p.span(), help=form_of(p))


def _wanted(expected: frozenset[str]) -> str:
    """The expected symbols in words, when they are few enough to say something."""
    names = {
        "NAME": "a name",
        "STRING": "a string",
        "VAR": "`$name`",
        "REF": "`@name`",
        "INT": "a number",
        "KEY": "a key with `=`",
        "COMMA": "`,`",
        "EQUAL": "`=`",
        "COLON": "`:`",
        "RPAR": "`)`",
        "LPAR": "`(`",
        "RBRACE": "`}`",
        "LBRACE": "`{`",
        "RSQB": "`]`",
        "REGEX": '`~"pattern"`',
        "_DOTS": "`..`",
        "PLUS": "`+`",
        "MINUS": "`-`",
        "TIMES": "`*`",
        "OVER": "`/`",
        "COMPARE": "a comparison",
    }
    hidden = {"DECIMAL", "QUANTITY", "PERCENT"} if "INT" in expected else set()
    if "$END" in expected or "NEWLINE" in expected or len(expected - hidden) > 7:
        return ""
    words = {kind: f"`{word}`" for word, kind in keywords().items()} | {"PERCENT": "a percentage"} | names
    shown = sorted(words.get(symbol, f"`{symbol.lower()}`") for symbol in expected - hidden)
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


_RECOGNISERS: tuple[Callable[[Place], Diagnostic | None], ...] = (
    bad_character,
    _no_statement,
    misspelt_keyword,
    comment_sign,
    slice_range,
    negative_layer,
    _open_range,
    _no_block,
    equals,
    comma_in_block,
    _wished,
    _modules_in_layers,
    _right_side,
    _missing_comma,
    _word_for_amount,
    _missing_by,
    _keyword_as_action,
    _no_action,
    _two_statements,
)
