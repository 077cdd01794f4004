"""Split documents into parts that never overlap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from lbdsl.core.digest import digest_text
from lbdsl.data.chat import Chat


class TextPart(StrEnum):
    """The use of a document."""

    SCORE = "score"
    """Calibration text for the layers' scores."""
    JOINT = "joint"
    """Calibration text for the joint measurement, so that a plan is not evaluated on the text that selected it."""
    HEAL = "heal"
    EVAL = "eval"

    @property
    def noun(self) -> str:
        """The name in messages."""
        return {"score": "score", "joint": "joint measurement", "heal": "healing", "eval": "evaluation"}[self.value]


_CALIBRATION = "calibration"
_USES: Mapping[str, int] = MappingProxyType({_CALIBRATION: 1, TextPart.HEAL: 3, TextPart.EVAL: 1})
_CALIBRATION_USES: Mapping[str, int] = MappingProxyType({TextPart.SCORE: 1, TextPart.JOINT: 1})

_STRETCHES: Mapping[TextPart, int] = MappingProxyType(
    {TextPart.HEAL: 6, TextPart.SCORE: 1, TextPart.JOINT: 1, TextPart.EVAL: 2}
)
"""Shares of a long document, in the order of its text; the same shares as for whole documents."""

LONG = 20
"""A document with more than 1 / LONG of its source's characters is cut into stretches, one for each part."""

GAP, MOST_GAP = 50, 16_384
"""The gap between two stretches, which is left out: 1 / GAP of the document's characters, at most MOST_GAP."""


class Stretch(NamedTuple):
    """A document, or a stretch of one: its text, and the hash of the whole document."""

    text: str
    document: str

    @property
    def whole(self) -> bool:
        return document_hash(self.text) == self.document


@dataclass(frozen=True)
class Split:
    """The text of each part. Parts are disjoint; duplicate documents are kept once."""

    pieces: Mapping[TextPart, tuple[Stretch, ...]]

    def texts(self, part: TextPart) -> tuple[str, ...]:
        return tuple(piece.text for piece in self.pieces[part])

    def characters(self, part: TextPart) -> int:
        return sum(len(piece.text) for piece in self.pieces[part])


def split_documents(documents: Iterable[str]) -> Split:
    """20 % calibration (half of it score, half joint), 60 % healing, 20 % evaluation, by characters.

    Whole documents are assigned in the order of their sha256, each to the part with the largest deficit of its share. A
    long one (see `LONG`) that is no chat, such as a book in a .txt file, gives a stretch to every part, with gaps between
    (see `GAP`). The result depends only on the set of documents. Blank documents are left out.
    """
    unique = {document_hash(text): text for text in documents if text.strip()}
    characters = sum(map(len, unique.values()))
    pieces: dict[TextPart, list[Stretch]] = {part: [] for part in TextPart}
    short: list[Stretch] = []
    for key in sorted(unique):
        if isinstance(unique[key], Chat) or len(unique[key]) * LONG <= characters:
            short.append(Stretch(unique[key], key))
            continue
        for part, text in _stretches(unique[key]).items():
            pieces[part].append(Stretch(text, key))
    uses = _allot(short, _USES)
    calibration = _allot(uses[_CALIBRATION], _CALIBRATION_USES)
    for part in TextPart:
        pieces[part] += (calibration if part in _CALIBRATION_USES else uses)[part]
    return Split(MappingProxyType({part: tuple(found) for part, found in pieces.items()}))


def only_evaluation(documents: Iterable[str]) -> Split:
    """A split with all documents in the evaluation part."""
    unique = {document_hash(text): text for text in documents if text.strip()}
    found = tuple(Stretch(text, key) for key, text in unique.items())
    return Split(MappingProxyType({part: found if part is TextPart.EVAL else () for part in TextPart}))


def joined(splits: Iterable[Split]) -> Split:
    """The text of several sources: each part has what it has of each of them."""
    every = tuple(splits)
    return Split(MappingProxyType({part: tuple(one for split in every for one in split.pieces[part]) for part in TextPart}))


def document_hash(text: str) -> str:
    """sha256 of a document, ignoring white space at its ends."""
    return digest_text(text.strip())


def _stretches(text: str) -> dict[TextPart, str]:
    """One contiguous stretch per part, cut after a paragraph, line or word near the exact position."""
    gap = min(len(text) // GAP, MOST_GAP)
    usable = len(text) - gap * (len(_STRETCHES) - 1)
    found: dict[TextPart, str] = {}
    start, share = 0, 0
    for place, (part, weight) in enumerate(_STRETCHES.items()):
        share += weight
        stop = usable * share // sum(_STRETCHES.values()) + gap * place
        stop = stop if stop >= len(text) else _break(text, start, stop)
        found[part] = text[start:stop]
        start = _break(text, stop, min(len(text), stop + gap))
    return {part: stretch for part, stretch in found.items() if stretch.strip()}


def _break(text: str, start: int, stop: int) -> int:
    """The end of the last paragraph, else line, else word near the end of text[start:stop]; `stop` if there is none."""
    floor = stop - min(2048, max(1, (stop - start) // 16))
    for mark in ("\n\n", "\n", " "):
        cut = text.rfind(mark, floor, stop)
        if cut >= 0:
            return cut + len(mark)
    return stop


def _allot(pieces: Sequence[Stretch], shares: Mapping[str, int]) -> dict[str, tuple[Stretch, ...]]:
    """Assign each piece to the share with the largest deficit, ties to the first; in integers, without rounding."""
    whole = sum(shares.values())
    seen = 0
    held = dict.fromkeys(shares, 0)
    result: dict[str, list[Stretch]] = {name: [] for name in shares}
    for piece in pieces:
        seen += len(piece.text)
        name = max(shares, key=lambda n: shares[n] * seen - held[n] * whole)
        held[name] += len(piece.text)
        result[name].append(piece)
    return {name: tuple(found) for name, found in result.items()}
