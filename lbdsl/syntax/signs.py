"""Recognisers of wrong signs: `:` for `-`, `==` for `=`, `&&` for `and`, and the like."""

from __future__ import annotations

from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.span import Span
from lbdsl.syntax.lexer import BAD
from lbdsl.syntax.names import BLOCK_WORDS, RULE_WORDS
from lbdsl.syntax.place import Place, form_of, replacement

_VALUES = frozenset({"INT", "DECIMAL", "QUANTITY", "PERCENT", "STRING", "VAR"})
_CURLY = "\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"
_OTHER_SIGNS = {"&&": "and", "&": "and", "||": "or", "|": "or", "!": "not "}


def bad_character(p: Place) -> Diagnostic | None:
    if p.kind != BAD or p.token is None:
        return None
    sign = p.token.text
    if sign[0] in "\"'":
        if sign[0] == "'":
            return error("LB004", "strings stand in double quotes", p.span(), help='write `"text"`')
        return error("LB004", "string never closed", p.span(), help='a string ends with `"` on the same line')
    if sign[0] in _CURLY:
        return error("LB008", f"unexpected `{sign[0]}`", p.span(), help='strings stand in straight quotes: write `"text"`')
    # Behind a rule's action `&` joins another one, and `|` means nothing.
    joins = p.first in RULE_WORDS and p.failure.complete
    if sign in _OTHER_SIGNS and not (joins and sign[0] != "&"):
        meant = "+" if joins else _OTHER_SIGNS[sign]
        return error(
            "LB008",
            f"unexpected `{sign}`",
            p.span(),
            help=f"write `{meant.strip()}`",
            fix=replacement(f"write `{meant.strip()}`", p.span(), meant),
        )
    if sign == "%" and (before := p.before()) is not None and before.type in ("INT", "DECIMAL"):
        return error(
            "LB008",
            "a space before `%`",
            p.span(),
            help=f"write `{before.text}%`",
            fix=replacement("remove the space", Span(p.source, before.end, p.token.start), ""),
        )
    if sign[0] in "$@":
        return error("LB008", f"`{sign}` without a name", p.span(), help="write `$name` for a value, `@name` for a group")
    shown = sign if sign.isprintable() else f"U+{ord(sign[0]):04X}"
    return error("LB008", f"unexpected `{shown}`", p.span(), help=form_of(p))


def comment_sign(p: Place) -> Diagnostic | None:
    after = p.after()
    if p.kind == "OVER" and after is not None and after.text in ("/", "*"):
        # Behind a number `//` may be a division, and what follows `/* */` is no comment.
        sure = after.text == "/" and (p.failure.index == 0 or (p.first in RULE_WORDS and p.failure.complete))
        return error(
            "LB008",
            "comments begin with `#`",
            p.span(p.token, after),
            help="and end with the line",
            fix=replacement("write `#`", p.span(p.token, after), "#") if sure else None,
        )
    return None


def slice_range(p: Place) -> Diagnostic | None:
    start, end = p.before(), p.after()
    if p.kind not in ("COLON", "_DOTS") or start is None or end is None or start.type != "INT" or end.type != "INT":
        return None
    sign, low, high = p.token.text if p.token else "", int(start.text), int(end.text)
    if p.first not in (*RULE_WORDS, "group"):
        return _domain_sign(p, sign)
    last = high - 1 if sign == ":" else high
    if last < low:
        return error(
            "LB010",
            f"a range of layers is written with `-`, not `{sign}`",
            p.span(start, end),
            help="both ends belong to it: `0-3` is four layers",
        )
    further = next((token for token in p.tokens if token.start >= end.end), None)
    if further is not None and further.type in ("COLON", "_DOTS"):
        return error(
            "LB010",
            f"a range of layers is written with `-`, not `{sign}`",
            p.span(start, further),
            help=f"a range with a step is `every N and {low}-{last}`",
        )
    right = f"{low}-{last}" if last > low else str(low)
    return error(
        "LB010",
        f"a range of layers is written with `-`, not `{sign}`",
        p.span(start, end),
        help=f"`{p.span(start, end).text}` is `{right}` here: both ends belong to it",
        fix=replacement(f"write `{right}`", p.span(start, end), right),
    )


def _domain_sign(p: Place, sign: str) -> Diagnostic | None:
    """`param $w: tokens in 64:256`; a second `..` is no sign in place of another."""
    if sign != ":" or p.first not in ("param", "search"):
        return None
    return error(
        "LB011",
        "a range of values is written with `..`, not `:`",
        p.span(),
        help=form_of(p),
        fix=replacement("write `..`", p.span(), ".."),
    )


def negative_layer(p: Place) -> Diagnostic | None:
    after = p.after()
    if p.kind == "MINUS" and p.expects("EVERY") and after is not None and after.type == "INT":
        whole = p.span(p.token, after)
        one = int(after.text) == 1
        hints = ["the last layer is `last 1`"]
        if not one:
            only = f"`last {after.text} except last {int(after.text) - 1}`"
            hints = [f"the last {after.text} layers are `last {after.text}`; the first of them alone is {only}"]
        return error(
            "LB010",
            "layers are not counted from the end",
            whole,
            help=tuple(hints),
            fix=replacement("write `last 1`", whole, "last 1") if one else None,
        )
    return None


def equals(p: Place) -> Diagnostic | None:
    before = p.before()
    if p.token is None or before is None:
        return None
    after = p.after()
    if p.kind == "NAME" and p.expects("KEY") and p.block_bracket() and after is not None and after.text in ("==", ":"):
        return error(
            "LB011",
            "settings use `=`",
            p.span(after),
            help=f"write `{p.token.text} = VALUE`",
            fix=replacement("write `=`", p.span(after), "="),
        )
    if p.token.text == ":" and before.type == "NAME" and p.expects("COMMA") and not p.block_bracket():
        return error(
            "LB011",
            "arguments use `=`",
            p.span(),
            help=f"write `{before.text}=VALUE`",
            fix=replacement("write `=`", p.span(), "="),
        )
    if p.kind in _VALUES and before.type == "NAME" and before.text not in p.actions and p.expects("COMMA", "RPAR"):
        return error(
            "LB011",
            "arguments use `=`",
            p.span(before, p.token),
            help=f"write `{before.text}={p.token.text}`",
            fix=replacement("write `=`", Span(p.source, before.end, p.token.start), "="),
        )
    if p.token.text in ("==", ":") and p.expects("EQUAL"):
        return error(
            "LB011", f"`{p.first}` uses `=`", p.span(), help=form_of(p), fix=replacement("write `=`", p.span(), "=")
        )
    sign, follows = (after, p.after(2)) if p.kind == "KEY" else (p.token, after)
    if sign is None or sign.type != "EQUAL" or p.first in BLOCK_WORDS:
        return None
    compared = p.expects("COMPARE") or (p.failure.complete and p.first in ("requires", "assert"))
    if (p.kind == "KEY" and p.expects("NAME")) or (p.kind == "EQUAL" and compared):
        if follows is not None and follows.type == "COMPARE" and follows.start == sign.end:
            right = f"{follows.text}="
            return error(
                "LB008",
                f"unexpected `={follows.text}`",
                p.span(sign, follows),
                help=f"write `{right}`",
                fix=replacement(f"write `{right}`", p.span(sign, follows), right),
            )
        return error(
            "LB011",
            "a comparison uses `==`",
            p.span(sign),
            help="`=` gives a value, `==` compares",
            fix=replacement("write `==`", p.span(sign), "=="),
        )
    return None


def comma_in_block(p: Place) -> Diagnostic | None:
    if p.kind == "COMMA" and p.block_bracket():
        return error(
            "LB011",
            "settings are separated by `;` or a new line",
            p.span(),
            fix=replacement("write `;`", p.span(), ";"),
        )
    return None
