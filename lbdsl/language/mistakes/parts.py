"""Detectors of missing parts: a range's end, an operator's right side, `by`, a rule's action, a block."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lbdsl.core.diagnostic import Diagnostic, Label
from lbdsl.language.grammar import grammar
from lbdsl.language.layout import WANTS_MORE
from lbdsl.language.lexer import BAD, END, NUMBERS, Token
from lbdsl.language.mistakes.place import LONGEST, Mistake, keyword, last_call
from lbdsl.language.words import BLOCKS, keywords, statements, ticked

_VALUE_FOLLOWS = {"BY", "LPAR", "COMMA", "EQUAL", "WHERE", "UNTIL", "WHILE"} | WANTS_MORE - {"PLUS"}
_SHORT = {**dict.fromkeys((*NUMBERS, "VAR"), "v"), "NAME": "n", "KEY": "k", "EQUAL": "=", "==": "=", ":": "=", "COMMA": ","}
_ARGUMENTS = re.compile(r"(?P<sign>=(?=[vn])|(?=[vk]))(?:k=)?[vn](?:,k=[vn])*")
_VALUE_SIGNS = WANTS_MORE - {"IN", "MATCHES", "EXCEPT"}


def modules_in_layers(p: Mistake) -> Diagnostic | None:
    """`layers "*.q_proj" drop`."""
    if p.first != "layers" or p.type not in ("STRING", "REGEX"):
        return None
    text = p.token.text
    said = "layers are chosen by number, not by name; modules can only be kept or quantized, as in"
    return p.error("LB008", f"unexpected `{text}`", help=(f"{said} `modules {text} quantize(bits=4)`", *p.form))


def layers_in_brackets(p: Mistake) -> Diagnostic | None:
    """`layers [0, 1, 2] drop`."""
    closing = next((index for index, token in enumerate(p.tokens) if token.type == "RSQB"), None)
    if p.type != "LSQB" or p.first not in ("layers", "group") or closing is None:
        return None
    inside = p.tokens[p.failure.index + 1 : closing]
    if not inside or not p.fits(p.failure.index, closing + 1, *inside):
        return None
    right = p.span(inside[0], inside[-1]).text
    return p.error("LB008", "layers are listed without brackets", p.token, p.tokens[closing], write=right)


def open_range(p: Mistake) -> Diagnostic | None:
    """`layers 4- keep`."""
    start, dash = p.at(-2), p.at(-1)
    of_layers = p.first == "group" or any(token.type == "LAYERS" for token in p.tokens)
    if dash.type != "MINUS" or start.type not in ("INT", "VAR") or not of_layers:
        return None
    if not p.expects("INT", "VAR") or p.expects("NAME"):
        return None
    hints = ["write the last layer too, as in `4-7`"]
    if start.type == "INT" and int(start.text) > 0:
        hints.append(f"all layers from {start.text} on are `all except 0-{int(start.text) - 1}`")
    return p.error("LB009", "range has no end", start, dash, help=tuple(hints))


def action_for_a_value(p: Mistake) -> Diagnostic | None:
    """`where nll < drop`: it parses as a condition, and the rule has no action."""
    ended = not p.type and p.at(-1).type not in WANTS_MORE and p.first in ("where", "layers") and p.expects("NAME")
    if not ended and not (p.is_rule and p.type == "NAME"):
        return None
    index = last_call(p.tokens) if ended else p.failure.index
    sign, name = p.tokens[index - 1], p.tokens[index]
    if index < 1 or sign.type not in _VALUE_SIGNS or name.type != "NAME" or name.text not in p.actions:
        return None
    label = Label(p.span(name), f"`{name.text}` is an action, not a value")
    return p.error("LB012", f"the right side of `{sign.text}` is missing", sign, labels=label, help=p.form)


def action_without_parentheses(p: Mistake) -> Diagnostic | None:
    """`else kv_heads = 1`, `else swa 512`, `else swa window=512, sinks=4`."""
    at = p.failure.index - (p.type != "KEY" or p.token.text not in p.actions)
    if at < 1 or not p.is_rule or p.tokens[at].type not in ("NAME", "KEY") or p.tokens[at].text not in p.actions:
        return None
    chosen = p.first == "choose" and not any(token.type == "MINIMIZING" for token in p.tokens[:at])
    if not chosen and p.tokens[at - 1].type in _VALUE_FOLLOWS:
        return None
    rest = p.tokens[at + 1 : at + 1 + LONGEST]
    written = _ARGUMENTS.match("".join(_SHORT.get(token.type) or _SHORT.get(token.text, ".") for token in rest))
    if written is None:
        return None
    name, values = p.tokens[at], rest[written.end("sign") : written.end()]
    opened, closed = Token("LPAR", "(", 0, 0), Token("RPAR", ")", 0, 0)
    if not p.fits(at, at + 1 + written.end(), name._replace(type="NAME"), opened, *values, closed):
        return None
    right = f"{name.text}({p.span(values[0], values[-1]).text})"
    return p.error("LB011", f"the values of `{name.text}` go in parentheses", name, values[-1], write=right)


def right_side(p: Mistake) -> Diagnostic | None:
    """`where nll <`."""
    before = p.at(-1)
    if before.type not in WANTS_MORE or p.type in (BAD, *NUMBERS):
        return None
    if p.type and p.type.lower() not in keywords() and p.token.text not in ")]};":
        return None
    return p.error("LB012", f"the right side of `{before.text}` is missing", before, help=p.form)


def missing_by(p: Mistake) -> Diagnostic | None:
    """`lowest 30% nll drop`."""
    index = p.failure.index
    if p.type != "NAME" or not p.expects("BY") or not p.fits(index, index, keyword("by")):
        return None
    fix = p.edit("insert `by`", "by ", p.token.start)
    return p.error("LB013", "expected `by`", help=f"write `by {p.token.text}`", fix=fix)


def no_action(p: Mistake) -> Diagnostic | None:
    before = p.at(-1)
    if p.type or not p.is_rule or not p.expects("NAME"):
        return None
    if before.type in (*WANTS_MORE, "BY", "UNTIL", "LPAR", "COMMA", "EQUAL"):
        return None
    opener = p.at(-2) if before.text in p.actions else before
    for word, wanted in (("where", "condition"), ("by", "metric")):
        if opener.type == word.upper():
            return p.error("LB012", f"`{word}` has no {wanted}", opener, help=p.form)
    help = f"add an action for the layers: {ticked(sorted(p.actions))}"
    return p.error("LB016", "selector has no action", p.tokens[0], p.tokens[-1], help=help)


def action_on_next_line(p: Mistake, following: Sequence[Token]) -> Diagnostic | None:
    """One error for two invalid statements: `following` begins with the action of the rule before it."""
    action, end = following[0], p.tokens[-1].end
    if action.type != "NAME" or action.text not in p.actions:
        return None
    between = p.source.text[end : action.start]
    fix = None if "#" in between or ";" in between else p.edit("join the lines", " ", end, action.start)
    help = f"a new line ends a statement; write `{action.text}` behind the selector"
    return p.error("LB016", "selector has no action on its line", p.tokens[0], p.tokens[-1], help=help, fix=fix)


def two_statements(p: Mistake) -> Diagnostic | None:
    if not p.type or not p.failure.complete:
        return None
    word = p.token.text
    at, plus = p.failure.index, Token("PLUS", "+", 0, 0)
    # `keep` stands alone, and no action twice.
    joins = word in p.actions and not {"keep", word} & {token.text for token in p.tokens[:at]}
    if joins and word != "keep" and p.is_rule and p.fits(at, at, plus):
        said, help = f"`+` is missing before `{word}`", "a rule's actions are joined by `+`"
        return p.error("LB017", said, help=help, fix=p.edit("insert `+`", "+ ", p.token.start))
    if word not in statements():
        return p.error("LB017", f"unexpected `{word}` after the end of the statement", help=p.form)
    alone = p.fits(0, p.failure.index)
    help = "separate statements with `;` or a new line"
    if p.type == "WHERE" and not alone:
        help = "a condition stands before the action, as in `layers 0-3 where nll < 0.1 drop`"
    fix = p.edit("insert `;`", "; ", p.token.start) if alone else None
    return p.error("LB017", f"`;` or a new line is missing before `{word}`", help=help, fix=fix)


def no_block(p: Mistake) -> Diagnostic | None:
    if p.failure.index == 1 and p.first in BLOCKS and p.type != "LBRACE":
        return p.error("LB018", f"`{p.first}` has no block", p.tokens[0], help=p.form)
    return None


def anything_else(p: Mistake) -> Diagnostic:
    what = f"unexpected `{p.token.text.strip() or 'line end'}`" if p.type else "the statement ends too early"
    wanted, word = _wanted(p.failure.expected), keywords().get(p.token.text)
    help = p.form or ((f"as in `{word.example}`",) if word is not None else ())
    return p.error("LB008", f"{what}, expected {wanted}" if wanted else what, help=help)


_NAMES = {
    "PERCENT": "a percentage",
    "NAME": "a name",
    "STRING": "a string",
    "VAR": "`$name`",
    "REF": "`@name`",
    "INT": "a number",
    "KEY": "a key with `=`",
    "REGEX": '`~"pattern"`',
    "COMPARE": "a comparison",
}


def _wanted(expected: frozenset[str]) -> str:
    """The expected terminals as text; empty when they are too many to help."""
    if "INT" in expected:
        expected -= {"DECIMAL", "QUANTITY", "PERCENT"}
    if not expected or expected & {END, "NEWLINE"} or len(expected) > 7:
        return ""
    signs = grammar().signs
    words = sorted(_NAMES.get(name) or f"`{signs.get(name, name.lower())}`" for name in expected)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
