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
SHOWN = [code for code in all_codes() if example_findings(code)]


def _findings(code: Code) -> str:
    first, odder = found_text(text_findings(code.example)), found_text(example_findings(code))
    return first if odder in first else f"{first}on another model or with odd scores:\n{odder}"


def _sections() -> dict[str, str]:
    if not GOLDEN.exists():
        return {}
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in GOLDEN.read_text(encoding="utf-8").split("== ")[1:]}


def test_all_are_there() -> None:
    if os.environ.get("LBDSL_UPDATE_SPEC"):
        GOLDEN.write_text("".join(f"== {code.id}\n{_findings(code)}" for code in SHOWN), encoding="utf-8")
    assert list(_sections()) == [code.id for code in SHOWN]


@pytest.mark.parametrize("code", SHOWN, ids=lambda code: code.id)
def test_findings(code: Code) -> None:
    assert _findings(code) == _sections()[code.id]
