"""Runs the literate tests beside it: each `lbr` block is checked, and the `text` block after it says what is found.

`LBDSL_UPDATE_SPEC=1 pytest tests/spec` writes what is found into the files, to be read before it is committed. An
info string `lbr w=512` sets a parameter, `lbr on=example` goes on to the planner's findings for the model of the
documented examples, and a block `lbr file=a.lbr` after the first is a file beside the recipe.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from found_text import found_text

from lbdsl.core.codes import code_ids
from lbdsl.core.diagnostic import Diagnosed
from lbdsl.core.digest import digest_text
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.reading import TextsReader
from lbdsl.recipe.schema import Recipe
from lbdsl.verbs.explaining import planned_findings

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
    found = _found(_check(match))
    if os.environ.get("LBDSL_UPDATE_SPEC"):
        text = path.read_text(encoding="utf-8")
        old = match.group(0)
        new = old[: match.start("expected") - match.start()] + found + "```\n"
        path.write_text(text.replace(old, new), encoding="utf-8")
    else:
        assert found == match["expected"]


@pytest.mark.parametrize(("path", "match"), _cases())
def test_fixes_remove_their_problem(path: Path, match: re.Match[str]) -> None:
    """Applying a fix leaves a text without that problem, and one that is not broken in a new way."""
    before = _check(match)
    for d in before.diagnostics:
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
            others = sum(other.code.startswith("LB0") for other in before.diagnostics)
            assert sum(other.code.startswith("LB0") for other in after) < others


FRONT_END = [id for id in code_ids() if id < "LB300"]


def test_codes_are_tested() -> None:
    specified = "".join(path.read_text(encoding="utf-8") for path in HERE.glob("*.md"))
    elsewhere = {
        "LB006",
        "LB019",
        "LB020",
        "LB118",
        "LB212",
        "LB130",
        "LB131",
        "LB132",
        "LB133",
        "LB134",
        "LB135",
        "LB137",
        "LB138",
        "LB215",
        "LB217",
        "LB218",
    }
    # tests/language/test_syntax_limits.py, test_resolve.py, test_includes.py, test_plan_build.py, test_plan_modules.py
    elsewhere |= {f"LB04{last}" for last in range(9)}  # test_format.py, test_exchange.py, test_init.py
    elsewhere |= {"LB060", "LB061", "LB062"}  # tests/editor
    elsewhere |= {"LB051", "LB052"}  # test_check_fix.py, test_explain_command.py
    for id in FRONT_END:
        assert id in specified or id in elsewhere


def test_there_are_enough_of_both() -> None:
    expected = [case.values[1]["expected"] for case in _cases()]
    assert sum("error: LB" not in text for text in expected) >= 60
    assert sum("error: LB" in text for text in expected) >= 120
