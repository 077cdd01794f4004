"""Every code has a page that says why; its example fails with it, and the same put right does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lbdsl.api.explaining import example_findings, text_findings
from lbdsl.core import codes
from lbdsl.core.codes import Code, all_codes, code_for, code_ids, register
from lbdsl.core.diagnostic import error

CODES = all_codes()
EXAMPLES = [pytest.param(code, id=code.id) for code in CODES if code.example]
PACKAGE = Path(codes.__file__).parents[2]


def test_every_code_is_documented() -> None:
    for code in CODES:
        assert re.fullmatch(r"LB\d{3}", code.id), code.id
        assert not code.title.endswith("."), code.id
        assert len(code.title) <= 60, code.id
        assert code.reason.endswith("."), f"the reason of {code.id} is a sentence"
        # 130 is Ctrl-C, which is an error only where a sweep gives what it has.
        assert code.exit_code in (1, 2, 3, 4, 5, 6, 7) or (code.id, code.exit_code) == ("LB357", 130), code.id
        assert (Path(codes.__file__).parent / f"{code.id}.md").is_file(), "the file has the name of its code"


def test_most_codes_of_recipes_have_an_example() -> None:
    assert len(EXAMPLES) >= 100


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_example_fails_with_its_code_and_what_is_put_right_is_right(code: Code) -> None:
    found = example_findings(code)
    assert found
    assert found[0].message
    assert not found[0].message.endswith(".")
    found = text_findings(code.fixed)
    assert code.id not in {d.code for d in found}
    assert not [d for d in found if d.is_error]


def test_codes_are_those_that_the_source_uses() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert set(re.findall(r'"(LB\d{3})"', source)) == set(code_ids())


def test_a_page_is_read_when_its_code_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    text_of = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **options: read.append(path.name) or text_of(path, **options))
    codes._own.cache_clear()
    assert error("LB203", "two actions").exit_code == code_for("LB203").exit_code == 1
    assert read == ["LB203.md"]
    with pytest.raises(KeyError):
        error("LB999", "no such code")


def test_a_plug_in_registers_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "_REGISTERED", {})
    code = Code.from_page(
        "# XY001: too green\n\nGreen models\nare not supported.\n\nExit code: 6\n\n"
        "Fails:\n\n```lbr\nelse green()\n```\n\nFixed:\n\n```lbr\nelse keep\n```\n"
    )
    assert code == Code("XY001", "too green", "Green models are not supported.", "else green()", 6, "else keep")
    register([code])
    register([code])
    assert error("XY001", "this model is green").exit_code == 6
    assert "XY001" in code_ids()
    with pytest.raises(AssertionError):
        register([Code("XY001", "another")])
    with pytest.raises(ValueError, match="XY001"):
        Code.from_page("XY001 without a heading")
