"""The closest known word to a typo, for "did you mean"."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from functools import lru_cache

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_PLACES = {char: (row, column + row / 2) for row, chars in enumerate(_ROWS) for column, char in enumerate(chars)}

_SWAP, _GAP, _DOUBLE, _NEXT_KEY, _OTHER, _CASE, _JOIN = 0.8, 0.9, 0.7, 0.85, 1.0, 0.05, 0.2
_FIRST_LETTER = 0.15
"""Added if the first letters differ: typos there are rare."""

_SHORTEST_PREFIX = 3

_CLEARLY = 0.5
"""How much closer the best word must be than any other."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice closest to `name`; None when nothing is close enough.

    Typos are a letter missing, added, swapped with the next or replaced. A prefix of at least three letters (`sens`)
    matches the only word that begins with it. Ties go to the word that comes first.
    """
    known = list(choices)
    close = close_words(name, known)
    if close:
        return close[0]
    short = name.lower()
    longer = [choice for choice in known if choice.lower().startswith(short)] if len(short) >= _SHORTEST_PREFIX else []
    return longer[0] if len(longer) == 1 else None


def slip(name: str, choices: Iterable[str]) -> str | None:
    """The only choice that `name` can be a typo of, else None: stricter than `nearest`, so that a fix can write it without
    asking. None if the first letter or a digit differs, or if a second word is about as close."""
    close = [choice for choice in close_words(name, choices) if _is_slip(name, choice)]
    if len(close) > 1 and distance(name, close[1]) < distance(name, close[0]) + _CLEARLY:
        return None
    return close[0] if close else None


def _is_slip(typed: str, meant: str) -> bool:
    longest = max(len(typed), len(meant))
    allowed = 0.8 if longest <= 3 else 1.2 if longest < 8 else 1.85
    return (
        (typed[:1].lower() == meant[:1].lower() or typed[:2] == meant[1::-1])
        and re.findall(r"\d", typed) == re.findall(r"\d", meant)
        and distance(typed, meant) <= allowed
    )


def close_words(name: str, choices: Iterable[str]) -> list[str]:
    """The choices that `name` may be a typo of, the closest first. A choice is left out if `name` has the same words and
    more (`quantize` for `kv_quantize`)."""
    allowed = _allowed(len(name))
    words = _words(name)
    found = [
        (distance(name, choice, allowed), place, choice)
        for place, choice in enumerate(choices)
        if abs(len(choice) - len(name)) <= allowed + 1 and not _words(choice) < words
    ]
    return [choice for far, _, choice in sorted(found) if far <= allowed]


def _words(name: str) -> set[str]:
    return set(re.split(r"[_-]+", name.lower().strip("_-")))


def _allowed(length: int) -> float:
    """The largest distance of a typo, for a word of `length` letters."""
    return 1.2 if length <= 5 else 2.2 if length <= 8 else 3.2


def distance(typed: str, meant: str, most: float = math.inf) -> float:
    """Weighted edit distance of two words: optimal string alignment, with a lower cost for common typos. Infinite if it is
    found to be more than `most`.

    The Damerau-Levenshtein recurrence, restricted so that no substring is edited twice (Navarro, A guided tour to
    approximate string matching, 2001).
    """
    if typed == meant:
        return 0.0
    before_last: list[float] = []
    last = [_GAP * column for column in range(len(meant) + 1)]
    gaps = [_gap(meant, index) for index in range(len(meant))]
    for row, char in enumerate(typed, start=1):
        gap = _gap(typed, row - 1)
        line = [last[0] + gap]
        for column, wanted in enumerate(meant, start=1):
            cost = min(
                last[column] + gap,
                line[column - 1] + gaps[column - 1],
                last[column - 1] + (0.0 if char == wanted else _replace(char, wanted)),
            )
            if row > 1 and column > 1 and char == meant[column - 2] and typed[row - 2] == wanted and char != wanted:
                cost = min(cost, before_last[column - 2] + _SWAP)
            line.append(cost)
        before_last, last = last, line
        # A swap goes back two rows, all else one.
        if min(last) > most and min(before_last) > most:
            return math.inf
    first = _FIRST_LETTER if typed[:1].lower() != meant[:1].lower() else 0.0
    return last[-1] + first


def known_hints(name: str, known: Collection[str], kind: str) -> tuple[str, ...]:
    """Help for a name that is none of those known: the closest, and all of them."""
    close = nearest(name, known)
    listed = f"{kind}: {', '.join(f'`{name}`' for name in known)}"
    return (f"did you mean `{close}`?", listed) if close else (listed,)


def _gap(word: str, index: int) -> float:
    """The cost of a letter that is missing in the other word; lower for a doubled letter."""
    char = word[index]
    if char in "_-":
        return _JOIN
    return _DOUBLE if index and word[index - 1] == char else _GAP


@lru_cache(4096)
def _replace(char: str, wanted: str) -> float:
    """The cost of another letter."""
    if char.lower() == wanted.lower():
        return _CASE
    if char in "_-" and wanted in "_-":
        return _JOIN
    one, other = _PLACES.get(char.lower()), _PLACES.get(wanted.lower())
    near = one is not None and other is not None and abs(one[0] - other[0]) <= 1 and abs(one[1] - other[1]) <= 1
    return _NEXT_KEY if near else _OTHER
