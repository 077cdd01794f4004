"""Documents into parts that never overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Part(StrEnum):
    """What a document is used for."""

    SCORE = "score"
    """Calibration text of the layers' scores."""
    JOINT = "joint"
    """Calibration text of the joint measurement, so that a plan is not judged on the text that chose it."""
    HEAL = "heal"
    EVAL = "eval"

    @property
    def noun(self) -> str:
        """What people call it."""
        return {"score": "score", "joint": "joint measurement", "heal": "healing", "eval": "evaluation"}[self.value]


_CALIBRATION = "calibration"
_USES: Mapping[str, int] = MappingProxyType({_CALIBRATION: 1, Part.HEAL: 3, Part.EVAL: 1})
_CALIBRATION_USES: Mapping[str, int] = MappingProxyType({Part.SCORE: 2, Part.JOINT: 1})


@dataclass(frozen=True)
class Split:
    """The documents of each part. Parts are disjoint, and a text that occurs twice is there once."""

    parts: Mapping[Part, tuple[str, ...]]

    def characters(self, part: Part) -> int:
        return sum(map(len, self.parts[part]))


def split_documents(documents: Iterable[str]) -> Split:
    """20 % calibration (two thirds score, one third joint), 60 % healing, 20 % evaluation, by characters.

    Documents are taken in the order of their sha256, so the result depends on the set of documents and on nothing
    else; each goes to the part that lacks most of its share. Blank documents are left out.
    """
    unique = {document_hash(text): text for text in documents if text.strip()}
    ordered = [unique[key] for key in sorted(unique)]
    uses = _allot(ordered, _USES)
    calibration = _allot(uses[_CALIBRATION], _CALIBRATION_USES)
    return Split(
        MappingProxyType(
            {
                Part.SCORE: calibration[Part.SCORE],
                Part.JOINT: calibration[Part.JOINT],
                Part.HEAL: uses[Part.HEAL],
                Part.EVAL: uses[Part.EVAL],
            }
        )
    )


def document_hash(text: str) -> str:
    """sha256 of a document; white space at its ends does not make it another one."""
    return hashlib.sha256(text.strip().encode()).hexdigest()


def _allot(documents: Sequence[str], shares: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Each document to the share with the largest deficit, ties to the first; whole numbers, so no rounding."""
    whole = sum(shares.values())
    seen = 0
    held = dict.fromkeys(shares, 0)
    result: dict[str, list[str]] = {name: [] for name in shares}
    for text in documents:
        seen += len(text)
        name = max(shares, key=lambda n: shares[n] * seen - held[n] * whole)
        held[name] += len(text)
        result[name].append(text)
    return {name: tuple(texts) for name, texts in result.items()}
