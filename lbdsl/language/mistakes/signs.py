"""Detectors of wrong signs: `:` for `-`, `==` for `=`, `&&` for `and`, and the like."""

from __future__ import annotations

import re
from itertools import takewhile

from lbdsl.core.diagnostic import Diagnostic, Edit, Fix
from lbdsl.core.span import Span
from lbdsl.core.units import readings, readings_text
from lbdsl.language.lexer import BAD, BRACKETS, NUMBERS, Token
from lbdsl.language.mistakes.place import Mistake
from lbdsl.language.words import BLOCKS

_CURLY = "\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"
_LAYERS = ("INT", "REF")
_OTHER_SIGNS = {"&&": "and", "&": "and", "||": "or", "|": "or", "!": "not "}


_VALUE_FOLLOWS = ("EQUAL", "LSQB", "COMMA", "LPAR")
_VALUE_ENDED = ("RSQB", "COMMA", "RPAR", "RBRACE", "SEMICOLON", "NEWLINE")
_NAME_OF_A_TEXT = re.compile(r"(?:\w+:|(?!\.?\d)[\w.~-]*/|builtin:)[\w.~/:@-]+")


def unquoted_text(p: Mistake) -> Diagnostic | None:
    """`data = org/name:config`, `data = ./a.txt`, `mix(builtin:pydoc, self)`."""
    if not p.type or p.first not in BLOCKS:
        return None
    first = last = p.failure.index
    while first > 0 and p.tokens[first - 1].end == p.tokens[first].start and p.tokens[first - 1].type not in _VALUE_FOLLOWS:
        first -= 1
    while last + 1 < len(p.tokens) and p.tokens[last + 1].start == p.tokens[last].end:
        if p.tokens[last + 1].type in _VALUE_ENDED:
            break
        last += 1
    whole = p.span(p.tokens[first], p.tokens[last])
    before = p.tokens[first - 1].type if first else ""
    # `lora(rank:16)` has a wrong sign.
    sure = before in ("EQUAL", "LSQB") or "/" in whole.text or whole.text.startswith("builtin:")
    if before not in _VALUE_FOLLOWS or not sure or not _NAME_OF_A_TEXT.fullmatch(whole.text):
        return None
    quoted = f'"{whole.text}"'
    if not p.parses([*p.tokens[:first], Token("STRING", quoted, whole.start, whole.end), *p.tokens[last + 1 :]]):
        return None
    return p.error(
        "LB004", "text without quotes", p.tokens[first], p.tokens[last], help="put strings in double quotes", write=quoted
    )


def number_apart(p: Mistake) -> Diagnostic | None:
    """`tokens = 200 k`, `weights <= 200 MiB`."""
    index, before = p.failure.index, p.at(-1)
    if p.type != "NAME" or before.type not in ("INT", "DECIMAL"):
        return None
    found = readings(p.span(before, p.token).text)
    one = next(iter(found), "")
    joined = Token("PERCENT" if one.endswith("%") else "QUANTITY", one, before.start, p.token.end)
    if not found or not p.parses([*p.tokens[: index - 1], joined, *p.tokens[index + 1 :]]):
        return None
    fix = p.edit(f"write `{one}`", one, before.start, p.token.end) if len(found) == 1 else None
    return p.error("LB007", "a space in a number", before, p.token, help=readings_text(found), fix=fix)


def bad_character(p: Mistake) -> Diagnostic | None:
    if p.type != BAD:
        return None
    sign, before = p.token.text, p.at(-1)
    if sign[0] == "'":
        return p.error("LB004", "put strings in double quotes", help='write `"text"`')
    if sign[0] == '"':
        return p.error("LB004", "string never closed", help='a string ends with `"` on the same line')
    if sign[0] in _CURLY:
        return p.error("LB008", f"unexpected `{sign[0]}`", help='use straight quotes: write `"text"`')
    # After a rule's action `&` adds another one, and `|` has no meaning.
    joins = p.is_rule and p.failure.complete
    if sign in _OTHER_SIGNS and not (joins and sign[0] != "&"):
        meant = "+" if joins else _OTHER_SIGNS[sign]
        if meant == "and" and p.expects("EXCEPT"):
            # Between sets of layers it may mean their union or their intersection.
            help = "`,` is the layers of both sets, `and` those that are in both"
            return p.error("LB008", f"unexpected `{sign}`", help=help)
        return p.error("LB008", f"unexpected `{sign}`", help=f"write `{meant.strip()}`", write=meant)
    if sign == "%" and before.type in ("INT", "DECIMAL"):
        fix = p.edit("remove the space", "", before.end, p.token.start)
        return p.error("LB008", "a space before `%`", help=f"write `{before.text}%`", fix=fix)
    following = p.at(1)
    if sign == "." and following.type == "INT" and following.start == p.token.end:
        right = f"0.{following.text}"
        return p.error("LB007", "a number begins with a digit", p.token, following, help=f"write `{right}`", write=right)
    if sign[0] in "$@":
        return p.error("LB008", f"`{sign}` without a name", help="write `$name` for a value, `@name` for a group")
    shown = sign if sign.isprintable() else f"U+{ord(sign[0]):04X}"
    return p.error("LB008", f"unexpected `{shown}`", help=p.form)


def comment_sign(p: Mistake) -> Diagnostic | None:
    after = p.at(1)
    if p.type != "OVER" or after.text not in ("/", "*"):
        return None
    # After a number `//` may be a division, and the text after `/* */` is not a comment.
    sure = after.text == "/" and (p.failure.index == 0 or (p.is_rule and p.failure.complete))
    write = "#" if sure else None
    return p.error(
        "LB008", "comments begin with `#`", p.token, after, help="a comment runs to the end of its line", write=write
    )


def sign_of_a_domain(p: Mistake) -> Diagnostic | None:
    """`param $w: tokens in 64:256`."""
    if p.type != "COLON" or p.first != "param" or not p.at(-1).type == p.at(1).type == "INT":
        return None
    return p.error("LB011", "a range of values is written with `..`, not `:`", help=p.form, write="..")


def sign_of_a_range(p: Mistake) -> Diagnostic | None:
    """`layers 0:4 keep`, `layers 0..3 keep`."""
    start, end, sign = p.at(-1), p.at(1), p.token.text
    if p.type not in ("COLON", "_DOTS") or not start.type == end.type == "INT" or not (p.is_rule or p.first == "group"):
        return None
    if not p.expects("EXCEPT"):
        return None  # A number of a condition, and not of a set of layers.
    said = f"a range of layers is written with `-`, not `{sign}`"
    low, last = int(start.text), int(end.text) - (sign == ":")
    if last < low:
        return p.error("LB010", said, start, end, help="both ends belong to it: `0-3` is four layers")
    further = p.at(2)
    if further.type in ("COLON", "_DOTS"):
        return p.error("LB010", said, start, further, help=f"a range with a step is `every N and {low}-{last}`")
    right = f"{low}-{last}" if last > low else str(low)
    both = f"`{p.span(start, end).text}` is `{right}` here: both ends belong to it"
    return p.error("LB010", said, start, end, help=both, write=right)


def negative_layer(p: Mistake) -> Diagnostic | None:
    after = p.at(1)
    if p.type != "MINUS" or after.type != "INT" or not p.expects("EVERY"):
        return None
    n = int(after.text)
    said = "layers are not counted from the end"
    if n == 0:
        return p.error("LB010", said, p.token, after, help="the first layer is `0`", write="0")
    if n == 1:
        return p.error("LB010", said, p.token, after, help="the last layer is `last 1`", write="last 1")
    only = f"`last {after.text} except last {n - 1}`"
    help = f"the last {after.text} layers are `last {after.text}`; the first of them alone is {only}"
    return p.error("LB010", said, p.token, after, help=help)


def sign_for_equals(p: Mistake) -> Diagnostic | None:
    """`heal { tokens == 3 }`, `swa(window: 512)`, `swa(window 512)`, `let $x == 3`."""
    before, after, argument = p.at(-1), p.at(1), "arguments use `=`"
    if p.type == "NAME" and after.text in ("==", ":") and p.expects("KEY"):
        end = p.at(2).end if p.at(2).type == "EQUAL" and p.at(2).start == after.end else after.end  # `:=`
        fix = p.edit("write `=`", "=", after.start, end)
        return p.error("LB011", "settings use `=`", after, help=f"write `{p.token.text} = VALUE`", fix=fix)
    if p.token.text == ":" and after.type == "EQUAL" and after.start == p.token.end:
        both = p.edit("write `=`", "=", p.token.start, after.end) if p.expects("EQUAL") else None
        return p.error("LB011", f"`{p.first}` uses `=`", p.token, after, help=p.form, fix=both)
    if before.type == "NAME" and p.expects("COMMA"):
        if p.token.text == ":":
            return p.error("LB011", argument, help=f"write `{before.text}=VALUE`", write="=")
        if p.type in (*NUMBERS, "STRING", "VAR") and before.text not in p.actions and p.expects("RPAR"):
            fix = p.edit("write `=`", "=", before.end, p.token.start)
            return p.error("LB011", argument, before, p.token, help=f"write `{before.text}={p.token.text}`", fix=fix)
    if p.token.text in ("==", ":") and p.expects("EQUAL"):
        return p.error("LB011", f"`{p.first}` uses `=`", help=p.form, write="=")
    return None


def sign_of_a_comparison(p: Mistake) -> Diagnostic | None:
    """`where nll = 0.1 drop`, `where nll =< 0.1 drop`."""
    sign, follows = (p.at(1), p.at(2)) if p.type == "KEY" else (p.token, p.at(1))
    if p.failure.index == 0 or sign.type != "EQUAL" or p.first in BLOCKS:
        return None
    if p.type == "EQUAL" and any(token.type in ("UNTIL", "WHILE", "SUBJECT") for token in p.tokens[: p.failure.index]):
        return p.error("LB011", "a budget uses `<=`", sign, help="`=` gives a value, `<=` compares", write="<=")
    compared = p.expects("COMPARE") or (p.failure.complete and p.first in ("requires", "assert"))
    if not (p.expects("NAME") if p.type == "KEY" else compared):
        return None
    if follows.type == "COMPARE" and follows.start == sign.end:
        right = f"{follows.text}="
        return p.error("LB008", f"unexpected `={follows.text}`", sign, follows, help=f"write `{right}`", write=right)
    return p.error("LB011", "a comparison uses `==`", sign, help="`=` gives a value, `==` compares", write="==")


def comma_in_a_block(p: Mistake) -> Diagnostic | None:
    so_far = [token.type for token in p.tokens[: p.failure.index]]
    inside = [opening for opening, closing in BRACKETS.items() if so_far.count(opening) > so_far.count(closing)]
    if p.type != "COMMA" or p.first not in BLOCKS or inside != ["LBRACE"]:
        return None
    before, after = p.at(-1), p.at(1)
    if before.type == after.type == "INT" and len(after.text) == 3 and before.end == p.token.start == after.start - 1:
        return p.error("LB007", "a comma in a number", before, after, help=f"write `{before.text}{after.text}`")
    return p.error("LB011", "settings are separated by `;` or a new line", write=";")


def missing_separator(p: Mistake) -> Diagnostic | None:
    """`heal { data = "a.txt" tokens = 2k }`."""
    index = p.failure.index
    if p.type not in ("KEY", "STAGE") or not p.parses(
        [*p.tokens[:index], Token("SEMICOLON", ";", 0, 0), *p.tokens[index:]]
    ):
        return None
    said = f"unexpected `{p.token.text}`: settings are separated by `;` or a new line"
    return p.error("LB008", said, help="write `;` before it", fix=p.edit("insert `;`", ";", p.at(-1).end))


def missing_comma(p: Mistake) -> Diagnostic | None:
    """`layers 0 1 2 drop`."""
    before = p.at(-1)
    if p.type not in _LAYERS or before.type not in _LAYERS or p.first not in ("layers", "group") or not p.expects("COMMA"):
        return None
    listed = [before, *takewhile(lambda token: token.type in _LAYERS, p.tokens[p.failure.index :])]
    # `0 5` may be meant as a range, `@a @b` as an intersection.
    numbers = all(token.type == "INT" for token in listed)
    ranged = p.at(-2).type == "MINUS"
    sure = numbers and (ranged or len(listed) > 2)
    text = (f"{p.at(-3).text}-" if ranged else "") + ", ".join(token.text for token in listed)
    other = "" if sure or not numbers else f", or `{before.text}-{listed[-1].text}` for a range"
    fix = Fix("insert `,`", tuple(Edit(Span(p.source, token.end, token.end), ",") for token in listed[:-1]))
    said = f"unexpected `{p.token.text}`: layers are separated by `,`"
    return p.error("LB008", said, help=f"write `{text}`{other}", fix=fix if sure else None)
