"""Everything that the documented example of each code gives, word for word.

`LBDSL_UPDATE_SPEC=1 pytest tests/golden/codes` writes it, to be read before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from found_text import found_text

from lbdsl.api.explaining import example_findings, text_findings
from lbdsl.core.codes import Code, all_codes

GOLDEN = Path(__file__).with_name("findings.txt")


def _findings(code: Code) -> str:
    """Nothing for a code that no recipe reaches."""
    first, odder = found_text(text_findings(code.example)), found_text(example_findings(code))
    if not odder:
        return ""
    return first if odder in first else f"{first}on another model or with odd scores:\n{odder}"


def _sections() -> dict[str, str]:
    if not GOLDEN.exists():
        return {}
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in GOLDEN.read_text(encoding="utf-8").split("== ")[1:]}


def test_they_are_of_codes_in_order() -> None:
    if os.environ.get("LBDSL_UPDATE_SPEC"):
        found = {code.id: _findings(code) for code in all_codes()}
        GOLDEN.write_text("".join(f"== {id}\n{text}" for id, text in found.items() if text), encoding="utf-8")
    shown = _sections()
    assert list(shown) == [code.id for code in all_codes() if code.id in shown]


@pytest.mark.parametrize("code", all_codes(), ids=lambda code: code.id)
def test_findings(code: Code) -> None:
    assert _findings(code) == _sections().get(code.id, "")
