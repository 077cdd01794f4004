"""Explain a statement that does not parse: a table of detectors, of which the first that recognizes it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lbdsl.actions import actions
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.span import Source
from lbdsl.language.lexer import Token
from lbdsl.language.mistakes import parts, signs, words
from lbdsl.language.mistakes.place import Mistake
from lbdsl.language.parser import Failure

DETECTORS: tuple[Callable[[Mistake], Diagnostic | None], ...] = (
    signs.unquoted_text,
    signs.number_apart,
    signs.bad_character,
    signs.missing_separator,
    parts.action_without_parentheses,
    words.unknown_statement,
    words.name_without_sigil,
    words.words_for_a_string,
    words.no_statement,
    words.misspelt_keyword,
    signs.comment_sign,
    signs.sign_of_a_range,
    signs.negative_layer,
    parts.open_range,
    parts.no_block,
    signs.comma_in_a_number,
    signs.other_sign,
    signs.value_without_sign,
    signs.weight_behind_a_score,
    words.word_of_another_tool,
    parts.modules_in_layers,
    parts.layers_in_brackets,
    parts.action_for_a_value,
    parts.right_side,
    signs.missing_comma,
    words.count_in_words,
    parts.missing_by,
    words.keyword_as_name,
    parts.no_action,
    parts.two_statements,
    parts.anything_else,
)


def explain_failure(
    source: Source, tokens: Sequence[Token], failure: Failure, following: Sequence[Token]
) -> tuple[Diagnostic, bool]:
    """The diagnostic of a failure, and whether it covers the next statement as well."""
    place = Mistake(source, tokens, failure, actions())
    found = next(found for detector in DETECTORS if (found := detector(place)) is not None)
    joined = parts.action_on_next_line(place, following) if found.code == "LB016" and following else None
    return joined or found, joined is not None
