"""Runs the literate tests beside it: each `lbr` block is checked, and the `text` block after it says what is found.

`LBDSL_UPDATE_SPEC=1 pytest tests/spec` writes what is found into the files, to be read before it is committed. An
info string `lbr w=512` sets a parameter, `lbr on=example` goes on to the planner's findings for the model of the
documented examples, and a block `lbr file=a.lbr` after the first is a file beside the recipe.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from lbdsl.api.explaining import planned_findings
from lbdsl.core.codes import code_ids
from lbdsl.core.diagnostic import Diagnosed, Diagnostic
from lbdsl.core.digest import digest_text
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.reading import TextsReader
from lbdsl.recipe.schema import Recipe
from tests.found_text import found_text

HERE = Path(__file__).parent
NAME = "recipe.lbr"
BLOCK = re.compile(
    r"^## (?P<title>.+?)\n\n```lbr(?P<info>[^\n]*)\n(?P<text>(?:(?!```).*\n)*)```\n\n"
    r"(?P<beside>(?:```lbr file=[^\n]*\n(?:(?!```).*\n)*```\n\n)*)"
    r"```text\n(?P<expected>(?:(?!```).*\n)*)```\n",
    re.M,
)
FILE = re.compile(r"```lbr file=(?P<name>[^\n]*)\n(?P<text>(?:(?!```).*\n)*)```\n", re.M)


def _cases() -> list[pytest.ParameterSet]:
    return [
        pytest.param(path, match, id=f"{path.stem}: {match['title']}")
        for path in sorted(HERE.glob("*.md"))
        for match in BLOCK.finditer(path.read_text(encoding="utf-8"))
    ]


def _check(match: re.Match[str], text: str | None = None) -> Diagnosed[Recipe]:
    settings = dict(item.split("=", 1) for item in match["info"].split())
    on = settings.pop("on", None)
    files = [(file["name"], file["text"], digest_text(file["text"])) for file in FILE.finditer(match["beside"])]
    checked = recipe_from_text(
        match["text"] if text is None else text,
        NAME,
        settings,
        reader=TextsReader(files, NAME, "beside the recipe") if files else None,
    )
    if on is None or checked.value is None:
        return checked
    return Diagnosed(checked.value, (*checked.diagnostics, *planned_findings(checked.value)))


def _found(result: Diagnosed[Recipe]) -> str:
    """What the `text` block holds."""
    lines = []
    if result.value is not None:
        lines.append("ok")
        lines += [
            f"  {rule.number} {type(rule.selector).__name__.removesuffix('Selector').lower()}"
            f" -> {' + '.join(action.text() for action in rule.actions)}"
            for rule in result.value.rules
        ]
    return found_text(result.diagnostics, NAME) + "".join(line + "\n" for line in lines)


@pytest.mark.parametrize(("path", "match"), _cases())
def test_case(path: Path, match: re.Match[str]) -> None:
    checked = _check(match)
    found = _found(checked)
    if os.environ.get("LBDSL_UPDATE_SPEC"):
        text = path.read_text(encoding="utf-8")
        old = match.group(0)
        new = old[: match.start("expected") - match.start()] + found + "```\n"
        path.write_text(text.replace(old, new), encoding="utf-8")
        return
    assert found == match["expected"]
    assert_fixes_help(match, checked.diagnostics)


def assert_fixes_help(match: re.Match[str], before: Sequence[Diagnostic]) -> None:
    """Applying a fix leaves a text without that problem, and one that is not broken in a new way."""
    for d in before:
        if d.fix is None:
            continue
        if any(edit.span.source.name != NAME for edit in d.fix.edits):
            continue
        text = match["text"]
        for edit in sorted(d.fix.edits, key=lambda edit: edit.span.start, reverse=True):
            text = text[: edit.span.start] + edit.text + text[edit.span.end :]
        after = _check(match, text).diagnostics
        assert (d.code, d.message) not in {(other.code, other.message) for other in after}
        if d.code.startswith("LB0") and d.message != "comments begin with `#`":
            others = sum(other.code.startswith("LB0") for other in before)
            assert sum(other.code.startswith("LB0") for other in after) < others


def test_codes_are_tested() -> None:
    """Each code is in a specification or in another test."""
    files = [path for path in HERE.parent.rglob("*") if path.suffix in (".py", ".md") and path != Path(__file__)]
    named = {code for path in files for code in re.findall(r"LB\d{3}", path.read_text(encoding="utf-8"))}
    assert not set(code_ids()) - named


def test_there_are_enough_of_both() -> None:
    expected = [case.values[1]["expected"] for case in _cases()]
    assert sum("error: LB" not in text for text in expected) >= 60
    assert sum("error: LB" in text for text in expected) >= 120
