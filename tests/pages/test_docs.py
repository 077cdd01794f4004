"""What README, docs and examples show is what there is; `make docs` writes it anew (docs/generate.py).

Of what was measured on the real model, text, sizes, costs and choices must be the same, in a slow test, and measured values
within rounding: in float32, as `docs.generate` asks for them, a plan shows the same digits with one thread and with two.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from docs import generate
from docs.generate import MEASURED, PAGES, RECIPES, ROOT, measured, page_now
from lbdsl.cli import VERBS

NUMBER = r"\d+(?:\.\d+)?(?:e[-+]?\d+)?"
VALUE = re.compile(rf"(?P<before>▁ |█ |\) [+-]|loss: [+-]|±|perplexity |KL )(?P<one>{NUMBER})(?: → (?P<other>{NUMBER}))?")
"""What depends on the order in which floats are added, which threads and CPUs change: scores, losses with their errors."""
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


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_figures_in_recipes_are_those_of_their_rows(recipe: Path) -> None:
    shown = recipe.read_text(encoding="utf-8")
    assert page_now(shown) == shown, "`make docs` writes it anew"


def test_a_figure_in_prose_is_its_rows() -> None:
    """Between its marks, whatever stood there; and one that no row has is an error."""
    figures = json.loads((ROOT / "benchmarks" / "results" / "judged" / "quickstart.json").read_text("utf-8"))["figures"]
    rise, error = 100 * figures["increase"], 100 * figures["error"]
    for before, behind in (("loses **<!-- row: {} -->", "<!-- end --> of** it"), ("# row: {} = ", "\n# more\n")):
        now = page_now(before.format("judged/quickstart increase ± error") + "+1 %" + behind)
        assert now.endswith(f"{rise:+.1f} % ± {error:.1f}{behind}")
        for what in ("nothing/quickstart increase", "judged/nothing increase", "judged/quickstart nothing", "judged"):
            with pytest.raises(ValueError, match=r"there is no row|has no figure"):
                page_now(before.format(what) + behind)


def test_pages_are_checked_without_being_written(tmp_path: Path, monkeypatch, capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- row: judged/quickstart kv -->1 %<!-- end -->\n")
    for name, value in (("ROOT", tmp_path), ("PAGES", [page]), ("RECIPES", [])):
        monkeypatch.setattr(generate, name, value)
    monkeypatch.setattr(sys, "argv", ["docs.generate", "--check"])
    assert (generate.main(), "page.md" in capsys.readouterr().out, "-->1 %<" in page.read_text()) == (1, True, True)
    monkeypatch.setattr(sys, "argv", ["docs.generate"])
    assert (generate.main(), generate.main(), "-->1 %<" in page.read_text()) == (0, 0, False)
    monkeypatch.setattr(sys, "argv", ["docs.generate", "--check"])
    assert generate.main() == 0


def values_of(text: str) -> list[str]:
    return [value for match in VALUE.finditer(text) for value in match.group("one", "other") if value]


def last_digit(value: str) -> float:
    """What one more in the last digit is worth: 0.001 of 0.213, 1e-07 of 4.36e-05."""
    digits, _, exponent = value.partition("e")
    return float(10.0 ** (int(exponent or 0) - len(digits.partition(".")[2])))


def without_values(text: str) -> str:
    return BAR.sub("▁", DOTS.sub("▪", VALUE.sub(r"\g<before>#", text)))


def assert_agree(now: str, then: str) -> None:
    """Two outputs are the same but for rounding: by one in the last digit that a measured value shows."""
    assert without_values(now) == without_values(then)
    for value, shown in zip(values_of(now), values_of(then), strict=True):
        assert float(value) == pytest.approx(float(shown), rel=0, abs=1.01 * last_digit(shown))
    for one, other in zip(BAR.findall(now), BAR.findall(then), strict=True):
        assert abs(ord(one) - ord(other)) <= 1, "a score near the edge of a step"
    for one, other in zip(DOTS.findall(now), DOTS.findall(then), strict=True):
        assert abs(len(one) - len(other)) <= 1, "a score near the edge of a step"


SCORED = """ ~ layer  3  window full → 256  KV@8Ki 6.00 MiB → 0.02 MiB
             rule 2: ▪▪  nll(drop) +0.0744: 11th lowest of the rest
 loss: +0.166 ±0.0072 nats/token measured jointly, before healing
       perplexity 15.77 → 18.61 on 4092 tokens, KL 0.213 nats/token
"""


@pytest.mark.parametrize(
    ("written", "wrong"),
    [
        ("0.02 MiB", "0.03 MiB"),
        ("0.0744", "0.0746"),
        ("0.0072", "0.0074"),
        ("18.61", "18.63"),
        ("11th", "12th"),
        ("▪▪", "▪▪▪▪"),
    ],
)
def test_another_cost_or_score_is_no_rounding(written: str, wrong: str) -> None:
    assert_agree(SCORED, SCORED.replace("0.0744", "0.0745"))
    with pytest.raises(AssertionError):
        assert_agree(SCORED, SCORED.replace(written, wrong))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if MEASURED.search(page.read_text(encoding="utf-8"))], ids=name_of)
def test_shown_measurements_are_the_real_ones(smollm2: str, page: Path) -> None:
    for match in MEASURED.finditer(page.read_text(encoding="utf-8")):
        assert_agree(*(OF_MACHINE.sub("", text) for text in (measured(match["what"]), match["text"])))


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


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_import_public_modules_alone(path: Path) -> None:
    named = set(re.findall(r"^\s*(?:from|import) (lbdsl\S*)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= {"lbdsl", "lbdsl.plugins"}


def test_architecture_names_each_file_once() -> None:
    named = re.findall(r"lbdsl/[a-z_/]+\.py", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert len(named) == len(set(named)) > 20
    assert [name for name in named if not (ROOT / name).is_file()] == []
