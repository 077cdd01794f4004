"""The closest known word to a typo, for "did you mean"."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable

_JOINS = re.compile("[_-]")
_JOIN, _CASE, _FIRST_LETTER = 0.2, 0.05, 0.15
"""What another join, another case and another first letter add to the edits; typos of first letters are rare."""

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
    # Another letter in a short word may be another word.
    same_letters = longest > 3 or len(typed) != len(meant) or sorted(typed.lower()) == sorted(meant.lower())
    return (
        same_letters
        and (typed[:1].lower() == meant[:1].lower() or typed[:2] == meant[1::-1])
        and re.findall(r"\d", typed) == re.findall(r"\d", meant)
        and distance(typed, meant) <= 1.25
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
    """Edits between two words, without their joins, where letters next to each other may be swapped once; a little more
    where cases, joins or first letters differ, for typos there are rare. Infinite if the edits are more than `most`.

    Optimal string alignment (Navarro, A guided tour to approximate string matching, 2001).
    """
    from rapidfuzz.distance import OSA

    if typed == meant:
        return 0.0
    one, other = (_JOINS.sub("", word) for word in (typed, meant))
    edits = OSA.distance(one.lower(), other.lower(), score_cutoff=None if most == math.inf else int(most))
    if edits > most:
        return math.inf
    joins = _JOINS.findall(typed) != _JOINS.findall(meant)
    case = edits == 0 and one != other
    return edits + _JOIN * joins + _CASE * case + _FIRST_LETTER * (typed[:1].lower() != meant[:1].lower())


def known_hints(name: str, known: Collection[str], kind: str) -> tuple[str, ...]:
    """Help for a name that is none of those known: the closest, and all of them."""
    close = nearest(name, known)
    listed = f"{kind}: {', '.join(f'`{name}`' for name in known)}"
    return (f"did you mean `{close}`?", listed) if close else (listed,)
