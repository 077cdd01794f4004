"""Detectors of wrong signs: `:` for `-`, `==` for `=`, `&&` for `and`, and the like."""

from __future__ import annotations

import re
from itertools import takewhile

from lbdsl.core.diagnostic import Diagnostic, Edit, Fix
from lbdsl.core.span import Source, Span
from lbdsl.core.units import readings, readings_text
from lbdsl.language.layout import split_statements
from lbdsl.language.lexer import BAD, NUMBERS, Token, lex
from lbdsl.language.mistakes.place import LONGEST, Mistake, last_call
from lbdsl.language.words import BLOCKS

_CURLY = "\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"
_LAYERS = ("INT", "REF")
_OF_RANGES = ("COLON", "_DOTS", "TO")
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
    if not p.fits(first, last + 1, Token("STRING", quoted, whole.start, whole.end)):
        return None
    help = "put strings in double quotes"
    return p.error("LB004", "text without quotes", p.tokens[first], p.tokens[last], help=help, write=quoted)


def number_apart(p: Mistake) -> Diagnostic | None:
    """`tokens = 200 k`, `weights <= 200 MiB`."""
    index, before = p.failure.index, p.at(-1)
    if p.type != "NAME" or before.type not in ("INT", "DECIMAL"):
        return None
    found = readings(p.span(before, p.token).text)
    one = next(iter(found), "")
    joined = Token("PERCENT" if one.endswith("%") else "QUANTITY", one, before.start, p.token.end)
    if not found or not p.fits(index - 1, index + 1, joined):
        return None
    write = one if len(found) == 1 else None
    return p.error("LB007", "a space in a number", before, p.token, help=readings_text(found), write=write)


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
        return p.error("LB008", f"unexpected `{sign}`", write=meant)
    if sign == "%" and before.type in ("INT", "DECIMAL"):
        fix = p.edit("remove the space", "", before.end, p.token.start)
        return p.error("LB008", "a space before `%`", help=f"write `{before.text}%`", fix=fix)
    following = p.at(1)
    if sign == "." and following.type == "INT" and following.start == p.token.end:
        return p.error("LB007", "a number begins with a digit", p.token, following, write=f"0.{following.text}")
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
    help, write = "a comment runs to the end of its line", "#" if sure else None
    return p.error("LB008", "comments begin with `#`", p.token, after, help=help, write=write)


def sign_of_a_range(p: Mistake) -> Diagnostic | None:
    """`layers 0:4 keep`, `layers 0..3 keep`, `layers 0 to 3 keep`."""
    start, end, sign = p.at(-1), p.at(1), p.token.text
    if p.type not in _OF_RANGES or not start.type == end.type == "INT" or not (p.is_rule or p.first == "group"):
        return None
    if not p.expects("EXCEPT"):
        return None  # A number of a condition, and not of a set of layers.
    said = f"a range of layers is written with `-`, not `{sign}`"
    low, last = int(start.text), int(end.text) - (sign == ":")
    if last < low or p.at(2).type in _OF_RANGES:
        help = "both ends belong to it: `0-3` is four layers; a step is `every 2 and 0-3`"
        return p.error("LB010", said, start, end, help=help)
    right = f"{low}-{last}" if last > low else str(low)
    both = f"`{p.span(start, end).text}` is `{right}` here: both ends belong to it"
    return p.error("LB010", said, start, end, help=both, write=right)


def negative_layer(p: Mistake) -> Diagnostic | None:
    after = p.at(1)
    if p.type != "MINUS" or after.type != "INT" or not p.expects("EVERY"):
        return None
    n, write = int(after.text), {"0": "0", "1": "last 1"}.get(after.text)
    several = f"the last {n} layers are `last {n}`; the first of them alone is `last {n} except last {n - 1}`"
    said = "layers are not counted from the end"
    return p.error("LB010", said, p.token, after, help=None if write else several, write=write)


_SIGN = re.compile(r"\w*\s*([=<>:,]+)")
_INSTEAD = {":": ("..", "="), ":=": ("=",), "==": ("=",), "=": ("==",), ",": (";",), "=<": ("<=",), "=>": (">=",)}
_WHY = {
    "==": "`=` gives a value, `==` compares",
    "<=": "`=` gives a value, `<=` compares",
    ";": "settings are separated by `;` or a new line",
}


def other_sign(p: Mistake) -> Diagnostic | None:
    """`heal { tokens == 3 }`, `swa(window: 512)`, `where nll = 0.1 drop`, `in 64:256`: another sign leads further. It may
    change how the word before it is read, so the text is read again."""
    text, end = p.source.text, p.tokens[-1].end
    match = _SIGN.match(text, p.token.start, end)
    if match is None or len(p.tokens) > LONGEST or (match[1] == "," and p.first not in BLOCKS):
        return None
    sign, start, stop = match[1], match.start(1), match.end(1)
    before = [token.type for token in p.tokens if token.end <= start]
    bounded = sign == "=" and not {"UNTIL", "WHILE", "SUBJECT"}.isdisjoint(before)
    for right in ("<=",) if bounded else _INSTEAD.get(sign, ()):
        tried = text[p.tokens[0].start : start] + right + text[stop:end]
        chunks, _ = split_statements(Source("", tried), lex(tried).tokens)
        if p.reached(chunks[0].tokens) > len(before) + (right != ";"):
            code, said = "LB008" if sign in ("=<", "=>") else "LB011", f"expected `{right}`, not `{sign}`"
            return p.error(code, said, Token("", sign, start, stop), help=_WHY.get(right), write=right)
    return None


def value_without_sign(p: Mistake) -> Diagnostic | None:
    """`swa(window 512)`."""
    before = p.at(-1)
    if before.type != "NAME" or before.text in p.actions or not p.expects("RPAR"):
        return None
    if p.type not in (*NUMBERS, "STRING", "VAR"):
        return None
    return p.error("LB011", "arguments use `=`", before, p.token, write=f"{before.text}={p.token.text}")


def comma_in_a_number(p: Mistake) -> Diagnostic | None:
    """`tokens = 200,000`."""
    before, after = p.at(-1), p.at(1)
    if p.type != "COMMA" or not before.type == after.type == "INT" or len(after.text) != 3 or p.first not in BLOCKS:
        return None
    if not before.end == p.token.start == after.start - 1 or "LSQB" in [token.type for token in p.tokens]:
        return None
    return p.error("LB007", "a comma in a number", before, after, help=f"write `{before.text}{after.text}`")


def weight_behind_a_score(p: Mistake) -> Diagnostic | None:
    """`by kl(drop) + recall(drop) * 0.2`."""
    weight, index = p.at(1), p.failure.index
    if p.type != "TIMES" or weight.type not in (*NUMBERS, "VAR"):
        return None
    first = last_call(p.tokens[:index])
    score = p.tokens[first:index]
    if not score or not p.fits(first, index + 2, weight, p.token, *score):
        return None
    right = f"{weight.text} * {p.span(score[0], score[-1]).text}"
    return p.error("LB011", "the weight of a score stands before it", score[0], weight, write=right)


def missing_separator(p: Mistake) -> Diagnostic | None:
    """`heal { data = "a.txt" tokens = 2k }`."""
    index = p.failure.index
    if p.type not in ("KEY", "STAGE") or not p.fits(index, index, Token("SEMICOLON", ";", 0, 0)):
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
