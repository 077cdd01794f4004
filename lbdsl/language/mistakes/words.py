"""Detectors of wrong words: misspelt ones, those of other tools, and words in the wrong place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.nearest import close_words, nearest
from lbdsl.language.layout import WANTS_MORE
from lbdsl.language.lexer import Token
from lbdsl.language.mistakes.place import LONGEST, WORDS, Mistake, keyword
from lbdsl.language.words import BLOCKS, keywords, slip, statements, ticked, wish

_TRIALS = 6

_FORMS = dict.fromkeys(("minimise", "minimize", "minimises", "minimizes"), "minimizing")
"""Other forms of keywords, too far from them to be typos."""


def unknown_statement(p: Mistake) -> Diagnostic | None:
    word = p.token.text
    if p.failure.index != 0 or not (p.type in WORDS or wish(word, "statement")):
        return None
    if word in p.actions:
        help = "say which layers first: `layers SET ACTION`, or `else ACTION` for all the others"
        return p.error("LB001", f"a rule cannot begin with the action `{word}`", help=help)
    sign = p.at(1)
    if word in statements() and sign.type:
        fix = p.edit("remove `=`", "", sign.start, sign.end) if word in BLOCKS else None
        return p.error("LB011", f"`{word}` takes no `=` here", sign, help=p.form, fix=fix)
    said, near = wish(word, "statement"), nearest(word.lower(), statements())
    help = said or (f"did you mean `{near}`?" if near else f"statements begin with {ticked(statements())}")
    return p.error("LB001", f"unknown statement `{word}`", help=help, write=None if said else slip(word, statements()))


_SIGILS = {"param": "$", "let": "$", "group": "@"}


def name_without_sigil(p: Mistake) -> Diagnostic | None:
    """`let w = 512`, `group ends = first 2`."""
    sigil = _SIGILS.get(p.first)
    if sigil is None or p.failure.index != 1 or p.type not in WORDS:
        return None
    right = f"{sigil}{p.token.text}"
    write = right if p.fits(1, 2, p.token._replace(type="VAR" if sigil == "$" else "REF", text=right)) else None
    return p.error("LB008", f"unexpected `{p.token.text}`", help=(f"write `{right}`", *p.form), write=write)


def words_for_a_string(p: Mistake) -> Diagnostic | None:
    """`recipe quickstart`, `include common.lbr`, `else keep because layers matter`."""
    if not p.type or not p.expects("STRING") or p.at(-1).type not in ("RECIPE", "INCLUDE", "BECAUSE"):
        return None
    last = p.tokens[-1]
    text = p.span(p.token, last).text
    if '"' in text or not p.fits(p.failure.index, len(p.tokens), Token("STRING", f'"{text}"', p.token.start, last.end)):
        return None
    said = f"unexpected `{p.token.text}`, expected a string"
    return p.error("LB008", said, p.token, last, help="put strings in double quotes", write=f'"{text}"')


def no_statement(p: Mistake) -> Diagnostic | None:
    """A statement that begins with a set, or with the brace of JSON."""
    said = f"a statement cannot begin with `{p.token.text}`"
    if p.failure.index != 0:
        return None
    if p.type == "LBRACE":
        help = "a recipe in JSON becomes text with `lbdsl convert`; a saved plan is shown with `lbdsl show`"
        return p.error("LB001", said, help=help)
    if p.type not in ("INT", "ALL", "FIRST", "LAST", "MIDDLE", "EVERY", "REF", "VAR"):
        return None
    word = next((word for word in ("layers", "group", "let") if p.fits(0, 0, keyword(word))), None)
    if word is None:
        return p.error("LB001", said, help="a rule about layers begins with `layers`")
    fix = p.edit(f"write `{word}` before it", f"{word} ", p.token.start)
    return p.error("LB001", said, help=f"write `{word} {p.token.text}`", fix=fix)


def misspelt_keyword(p: Mistake) -> Diagnostic | None:
    """`layers 0-9 exept 3 keep`: replace a word by a similar keyword and parse again to see whether that helps. A misspelt
    keyword is read as a name, often as the action, so the failure is at the word or one or two tokens after it."""
    if len(p.tokens) > LONGEST:
        return None
    furthest, best = p.failure.index, None
    for index, word in islice(_candidates(p), _TRIALS):
        token = p.tokens[index]
        right = keyword(word)._replace(start=token.start, end=token.end)
        reached = p.reached([*p.tokens[:index], right, *p.tokens[index + 1 :]])
        if reached > furthest:
            furthest, best = reached, (token, word)
    if best is None:
        return None
    token, word = best
    sure = word in (_FORMS.get(token.text.lower()), slip(token.text, keywords().keys()))
    write = word if sure else None
    return p.error("LB050", f"unexpected `{token.text}`", token, help=(f"did you mean `{word}`?", *p.form), write=write)


def _candidates(p: Mistake) -> Iterator[tuple[int, str]]:
    """Words of the statement near its failure, each with similar keywords, the closest first."""
    for index in _words_near(p, 2):
        word = p.tokens[index].text
        if word.lower() in _FORMS:
            yield index, _FORMS[word.lower()]
        elif wish(word, "set") is None and word not in keywords():
            yield from ((index, near) for near in close_words(word, keywords().keys())[:3])


def _words_near(p: Mistake, before: int) -> Iterator[int]:
    """The indices of words that are not actions, at the failure or up to `before` tokens before it."""
    for index in range(p.failure.index, max(0, p.failure.index - before - 1), -1):
        if index < len(p.tokens) and p.tokens[index].type in WORDS and p.tokens[index].text not in p.actions:
            yield index


def word_of_another_tool(p: Mistake) -> Diagnostic | None:
    """A word of another tool, at the failure or right before it, where it was read as an action."""
    for index in _words_near(p, 1):
        token = p.tokens[index]
        said = wish(token.text, "set")
        if said is not None:
            return p.error("LB008", f"unexpected `{token.text}`", token, help=(said, *p.form))
    return None


def count_in_words(p: Mistake) -> Diagnostic | None:
    """`lowest six by nll drop`."""
    if p.type != "NAME" or p.at(1).type not in ("BY", "OF") or not p.expects("BY", "INT"):
        return None
    help = "an amount is a number or a percentage, as in `6` or `20%`"
    return p.error("LB008", f"`{p.token.text}` is not an amount", help=help)


def keyword_as_name(p: Mistake) -> Diagnostic | None:
    """`layers 8 else`."""
    word, before = p.token.text, p.at(-1)
    if word not in keywords() or not before.type or not p.expects("NAME") or p.failure.complete:
        return None
    value = before.type in ("BY", "LPAR", "COMMA", "EQUAL", "WHERE", "UNTIL", *WANTS_MORE)
    what = "an action" if p.is_rule and not value else "a name"
    help = (*p.form, "separate statements with `;` or a new line")
    return p.error("LB015", f"`{word}` is a keyword, not {what}", help=help)
