"""Every code says why; its example fails with it, and the same put right does not."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from lbdsl.api.explaining import EXAMPLE_FILES, example_findings, text_findings
from lbdsl.cli.check import check
from lbdsl.core.codes import Code, all_codes
from lbdsl.recipe import recipe_from_text

CODES = all_codes()
EARLIER = {"LB301": {"LB205"}, "LB316": {"LB203", "LB204"}, "LB318": {"LB122"}}
"""Codes of recipes that programs build; in text another code says the same first."""

PLANNED = [code for code in CODES if code.id < "LB330" and not code.is_command and code.example and code.id[:4] != "LB06"]
"""Codes that a text shows, alone or on the example model. LB06x are of renaming in an editor."""


def is_recipe(text: str) -> bool:
    return bool(text) and not text.startswith(("lbdsl ", "lbdsl.", "LBDSL_", "pip ", "{"))


def test_every_code_is_documented() -> None:
    for code in CODES:
        assert re.fullmatch(r"LB\d{3}", code.id)
        assert code.title
        assert not code.title.endswith(".")
        assert code.reason.endswith("."), "the reason is a sentence"
        assert code.exit_code in (1, 2, 3, 4, 5, 6, 7)
        if code.exit_code != 7:  # those are bugs of ours, which no input is known to show
            assert code.example
            assert code.fixed
        assert len(code.title) <= 60


def test_at_least_forty_codes_are_reached_from_recipes() -> None:
    assert len([code for code in CODES if not code.is_command and example_findings(code)]) >= 80


@pytest.mark.parametrize("code", PLANNED, ids=lambda code: code.id)
def test_the_example_fails_with_its_code(code: Code) -> None:
    if code.id in EARLIER:
        assert EARLIER[code.id] & {d.code for d in text_findings(code.example)}
        return
    found = example_findings(code)
    assert found
    assert found[0].message
    assert not found[0].message.endswith(".")


@pytest.mark.parametrize(
    "code", [code for code in CODES if is_recipe(code.fixed) and code.id[:4] != "LB06"], ids=lambda code: code.id
)
def test_what_is_put_right_is_right(code: Code) -> None:
    on_model = code.id >= "LB300"
    found = text_findings(code.fixed) if on_model else recipe_from_text(code.fixed, reader=Beside()).diagnostics
    assert code.id not in {d.code for d in found}
    assert not [d for d in found if d.is_error]


class Beside:
    """The files that examples include."""

    root = "recipe.lbr"

    def read(self, path: str):
        from lbdsl.core.digest import digest_text
        from lbdsl.recipe.reading import Found

        return Found(EXAMPLE_FILES[path], path, digest_text(EXAMPLE_FILES[path]))


@pytest.mark.parametrize(
    "code", [code for code in CODES if is_recipe(code.example) and code.id >= "LB400"], ids=lambda code: code.id
)
def test_recipes_that_fail_later_are_good_so_far(code: Code) -> None:
    """What only a run can find: the recipe itself has no error."""
    assert not [d for d in recipe_from_text(code.example).diagnostics if d.is_error and d.code != "LB216"]


CHECKS = [code for code in CODES if code.example.startswith("lbdsl check recipes/")]


@pytest.mark.parametrize("code", CHECKS, ids=lambda code: code.id)
def test_commands_that_check_fail_and_are_put_right(code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    bad = CliRunner().invoke(check, shlex.split(code.example)[2:])
    assert bad.exit_code == code.exit_code
    assert code.id in bad.stdout
    assert CliRunner().invoke(check, shlex.split(code.fixed)[2:]).exit_code == 0


def test_codes_are_used() -> None:
    """No code that nothing gives. Planned commands of other modules may come later than their codes."""
    package = Path(__file__).parents[2] / "lbdsl"
    source = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path.parent.name != "codes")
    assert [code.id for code in CODES if f'"{code.id}"' not in source] in ([], ["LB048"], ["LB500"], ["LB048", "LB500"])
