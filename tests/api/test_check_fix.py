"""`check --fix`: what is written, what is not, and that it ends."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lbdsl.api.fixing import MAX_ROUNDS, fix_text
from lbdsl.cli.check import check
from lbdsl.core.diagnostic import Diagnostic, Edit, Fix, LbdslError, error
from lbdsl.core.span import Source, Span
from lbdsl.recipe.load import recipe_from_text

BAD = """\
layres 5 drp           # a comment stays
layers 0:4 kep
lowest 3 sensitvity drop
heal { tokens == 3k, lr = 1e-3 }
else keep
layers 7 swa(windw=4k)
assert kv(1Ki) < 50%
"""
GOOD = """\
layers 5 drop           # a comment stays
layers 0-3 keep
lowest 3 by sensitivity drop
heal { tokens = 3k; lr = 1e-3 }
layers 7 swa(window=4k)
else keep
assert kv(1Ki) < 50%
"""
SPEC = Path(__file__).parents[1] / "spec"
RECIPES = [
    text
    for path in sorted(SPEC.glob("*.md"))
    for text in re.findall(r"^```lbr\n(.*?)^```\n", path.read_text(encoding="utf-8"), re.M | re.S)
    if len(text) < 2000
]


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(check, [str(argument) for argument in arguments], input=stdin)


def found(text: str) -> tuple[Diagnostic, ...]:
    return recipe_from_text(text, "a.lbr").diagnostics


def test_fixes_are_applied_until_nothing_is_left(tmp_path: Path) -> None:
    file = tmp_path / "a.lbr"
    file.write_text(BAD, encoding="utf-8")
    done = run("--fix", file)
    assert file.read_text(encoding="utf-8") == GOOD
    assert done.exit_code == 0
    assert f"{file}:1: fixed LB001: write `layers`" in done.stderr
    assert f"{file}:4: fixed LB011: write `;`" in done.stderr
    again = run("--fix", file)
    assert file.read_text(encoding="utf-8") == GOOD
    assert "fixed" not in again.stderr


def test_diff_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.lbr"
    file.write_text(BAD, encoding="utf-8")
    done = run("--diff", file)
    assert file.read_text(encoding="utf-8") == BAD
    assert "-layers 0:4 kep\n" in done.stdout
    assert "+layers 0-3 keep\n" in done.stdout
    assert "would fix LB010" in done.stderr
    assert run("--fix", "--diff", file).stdout == done.stdout
    assert file.read_text(encoding="utf-8") == BAD


def test_standard_input_is_fixed_to_standard_output() -> None:
    done = run("--fix", "-", stdin=BAD)
    assert done.stdout == GOOD
    assert run("--fix", "-", stdin=GOOD).stdout == GOOD


def test_what_cannot_be_fixed_stays_and_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "a.lbr"
    file.write_text("layers 0:4 keep\nfrobnicate everything\n", encoding="utf-8")
    done = run("--fix", file)
    assert done.exit_code == 1
    assert "LB001" in done.stdout
    assert file.read_text(encoding="utf-8") == "layers 0-3 keep\nfrobnicate everything\n"


def test_bytes_that_are_not_text_are_kept(tmp_path: Path) -> None:
    """Line ends, the byte-order mark, permissions and links stay."""
    file = tmp_path / "a.lbr"
    file.write_bytes(b"\xef\xbb\xbflayers 0:4 keep\r\nelse keep\r\n")
    file.chmod(0o640)
    link = tmp_path / "link.lbr"
    link.symlink_to(file)
    assert run("--fix", link).exit_code == 0
    assert file.read_bytes() == b"\xef\xbb\xbflayers 0-3 keep\r\nelse keep\r\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["a.lbr", "link.lbr"]
    latin = tmp_path / "latin.lbr"
    latin.write_bytes(b"layers 0:4 keep # \xe9\n")
    assert run("--fix", latin).exit_code == 1
    assert latin.read_bytes() == b"layers 0:4 keep # \xe9\n"
    assert run("--fix", tmp_path / "none.lbr").exit_code == 1


def test_a_fix_that_brings_a_new_error_is_left_out() -> None:
    """A made-up checker: fixing `a` to `b` is an error in itself, `c` to `d` is good."""

    def checker(text: str) -> tuple[Diagnostic, ...]:
        source = Source("x", text)
        out = []
        for index, char in enumerate(text):
            span = Span(source, index, index + 1)
            if char == "a":
                out.append(error("LB101", "an a", span, fix=Fix("write b", (Edit(span, "b"),))))
            elif char == "b":
                out.append(error("LB102", "a b", span))
            elif char == "c":
                out.append(error("LB103", "a c", span, fix=Fix("write d", (Edit(span, "d"),))))
        return tuple(out)

    fixed = fix_text("a\nc\n", checker)
    assert fixed.text == "a\nd\n"
    assert [item.code for item in fixed.applied] == ["LB103"]
    assert [item.code for item in fixed.left_out] == ["LB101"]
    assert [d.code for d in fixed.diagnostics] == ["LB101"]


def test_fixing_ends() -> None:
    """Two fixes that undo each other stop after the rounds allowed."""
    seen = []

    def checker(text: str) -> tuple[Diagnostic, ...]:
        seen.append(text)
        source = Source("x", text)
        other = "b" if text == "a" else "a"
        span = Span(source, 0, 1)
        return (error("LB101", "no", span, fix=Fix(f"write {other}", (Edit(span, other),))),)

    assert fix_text("a", checker).text in "ab"
    assert len(seen) <= 2 * (MAX_ROUNDS + 2)


def test_overlapping_fixes_wait_for_the_next_round() -> None:
    def checker(text: str) -> tuple[Diagnostic, ...]:
        source = Source("x", text)
        if text != "aaaa":
            return ()
        return tuple(
            error(
                "LB101",
                str(start),
                Span(source, start, start + 2),
                fix=Fix("w", (Edit(Span(source, start, start + 2), "x"),)),
            )
            for start in range(3)
        )

    assert fix_text("aaaa", checker).text == "xx"


@pytest.mark.parametrize("number", range(0, len(RECIPES), 6))
def test_no_recipe_gets_a_new_error(number: int) -> None:
    text = RECIPES[number]
    fixed = fix_text(text, found)
    before = [(d.code, d.message) for d in found(text) if d.is_error]
    for problem in [(d.code, d.message) for d in found(fixed.text) if d.is_error]:
        assert problem in before
    assert fix_text(fixed.text, found).text == fixed.text


def test_a_file_that_cannot_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LB047, the old file as it was, and nothing beside it."""
    file = tmp_path / "a.lbr"
    file.write_text(BAD, encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    done = run("--fix", file)
    assert isinstance(done.exception, LbdslError)
    assert [d.code for d in done.exception.diagnostics] == ["LB047"]
    assert "No space left on device" in done.exception.diagnostics[0].message
    assert file.read_text(encoding="utf-8") == BAD
    assert os.listdir(tmp_path) == ["a.lbr"]


def test_included_files_are_not_touched(tmp_path: Path) -> None:
    """A fix belongs to the file that is checked; the included one keeps its mistake, and it is reported."""
    (tmp_path / "core.lbr").write_text("group @core = 0:4\n", encoding="utf-8")
    file = tmp_path / "a.lbr"
    file.write_text('include "core.lbr"\nlayers @core kep\nelse keep\n', encoding="utf-8")
    done = run("--fix", "--format", "concise", file)
    assert (tmp_path / "core.lbr").read_text(encoding="utf-8") == "group @core = 0:4\n"
    assert file.read_text(encoding="utf-8") == 'include "core.lbr"\nlayers @core keep\nelse keep\n'
    assert "core.lbr:1:15: error[LB010]" in done.stdout
    assert done.exit_code == 1


def test_by_the_api() -> None:
    import lbdsl
    from lbdsl.api.explaining import EXAMPLE_MODEL

    assert lbdsl.fix_recipe(BAD).text == GOOD
    patterns = 'modules "*.kproj" keep\nelse keep'
    assert '"*.k_proj"' in lbdsl.fix_recipe(patterns, facts=EXAMPLE_MODEL).text
    # Cut short it would be another set of layers than the one that was written.
    beyond = "layers 20-40 keep\nelse keep"
    assert lbdsl.fix_recipe(beyond, facts=EXAMPLE_MODEL).text == beyond
    assert lbdsl.check_file(Path(__file__).parents[1] / "recipes" / "typo.lbr").diagnostics[0].code == "LB102"
