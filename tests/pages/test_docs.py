"""What README, docs and examples show is what there is; `make docs` writes it anew (docs/generate.py).

Measured numbers may differ a little between machines, so in a slow test the words must agree, and the numbers nearly.
"""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from docs.generate import MEASURED, PAGES, ROOT, measured, page_now
from lbdsl.cli import VERBS

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")
BAR = re.compile("[▁-█]")  # eight steps, next to each other in Unicode
DOTS = re.compile("▪+")  # a score in steps, too
OF_MACHINE = re.compile(r"^ (?:decode bound|apply takes about).*\n(?:  .*\n)*", re.MULTILINE)
"""What a plan says of this machine's speed."""

CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_shown_files_outputs_and_tables_are_the_real_ones(page: Path) -> None:
    shown = page.read_text(encoding="utf-8")
    assert page_now(shown) == shown, "`make docs` writes it anew"


def without_values(text: str) -> str:
    return BAR.sub("▁", DOTS.sub("▪", NUMBER.sub("#", text)))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if MEASURED.search(page.read_text(encoding="utf-8"))], ids=name_of)
def test_shown_measurements_are_the_real_ones(smollm2: str, page: Path) -> None:
    for match in MEASURED.finditer(page.read_text(encoding="utf-8")):
        now_text, then_text = (OF_MACHINE.sub("", text) for text in (measured(match["what"]), match["text"]))
        assert without_values(now_text) == without_values(then_text)
        for now, then in zip(BAR.findall(now_text), BAR.findall(then_text), strict=True):
            assert abs(ord(now) - ord(then)) <= 1, "a score near the edge of a step"
        for now, then in zip(DOTS.findall(now_text), DOTS.findall(then_text), strict=True):
            assert abs(len(now) - len(then)) <= 1, "a score near the edge of a step"
        for now, then in zip(NUMBER.findall(now_text), NUMBER.findall(then_text), strict=True):
            assert float(now) == pytest.approx(float(then), rel=0.05, abs=0.05)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_recipes_in_the_pages_check(page: Path) -> None:
    from lbdsl import check_recipe
    from lbdsl.recipe.load import load_recipe

    for path, recipe in re.findall(r"(?:<!-- file: (\S+) -->\n)?```lbr\n(.*?)```", page.read_text(), re.DOTALL):
        found = load_recipe(ROOT / path) if path else check_recipe(recipe)
        assert found.ok, found.diagnostics


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_pages_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    written: set[str] = set()
    for block in CONSOLE.findall(page.read_text()):
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "))
            if words[0] == "make":
                assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
            elif "lbdsl" in words:
                rest = words[words.index("lbdsl") + 1 :]
                assert rest[0] in VERBS, line
                written |= {word for option, word in pairwise(rest) if option == "-o"}
                for word in rest[1:]:
                    if word.endswith(".lbr"):
                        assert word in written or (ROOT / word).is_file(), line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_architecture_names_each_file_once() -> None:
    named = re.findall(r"lbdsl/[a-z_/]+\.py", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert len(named) == len(set(named)) > 30
    assert [name for name in named if not (ROOT / name).is_file()] == []
