"""Plans and artifacts that commit c6adc41f saved are still read, and what they lack is said."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from lbdsl.artifact.record import read_record
from lbdsl.data import read_documents, sources
from lbdsl.plan.file import load_plan

FILES = Path(__file__).parents[1] / "data" / "c6adc41f.zip"
NAMES = ("window", "healed")


@pytest.fixture
def old(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files, and the text that they were made with. What was written by an earlier version is refused as such."""
    place = workplace / "old"
    with zipfile.ZipFile(FILES) as files:
        files.extractall(place)
    texts = list(islice(read_documents("builtin:wikitext"), 12))
    monkeypatch.setattr("pydoc_data.topics.topics", {f"{number:02}": text for number, text in enumerate(texts)})
    written_by = load_plan(place / "window.lbplan").unwrap().lbdsl_version
    monkeypatch.setattr("lbdsl.api.applying.VERSION", written_by)
    monkeypatch.chdir(place)
    sources._builtin_parts.cache_clear()
    yield place
    sources._builtin_parts.cache_clear()


def test_plans_are_shown_and_compared(old: Path, lbdsl) -> None:
    for name in NAMES:
        done = lbdsl("show", f"{name}.lbplan")
        assert (done.code, "Plan: 2 of 3 layers unchanged; 1 windowed." in done.out) == (0, True), done.err
        plan = load_plan(Path(f"{name}.lbplan")).unwrap()
        assert (plan.digest, plan.judged_on) == (json.loads(Path(f"{name}.lbplan").read_text())["sha256"], None)
    done = lbdsl("diff", "window.lbplan", "healed.lbplan")
    assert (done.code, "heal: only in the second" in done.out) == (0, True), done.err


@pytest.mark.parametrize("name", NAMES)
def test_plans_are_applied(old: Path, lbdsl, name: str) -> None:
    done = lbdsl("apply", f"{name}.lbplan", "-o", "out", "--model", "model")
    assert done.code == 0, done.err
    said = " ".join(done.err.split())
    assert "note[LB472]" in said
    assert "note[LB343]: the plan is of an earlier version: it does not say on which text" in said
    assert read_record(Path("out")).unwrap().plan.specs == read_record(Path(name)).unwrap().plan.specs


@pytest.mark.parametrize("name", NAMES)
def test_artifacts_are_shown_and_verified(old: Path, lbdsl, name: str) -> None:
    done = lbdsl("show", name)
    assert (done.code, "builtin:pydoc, 504 tokens" in " ".join(done.out.split())) == (0, True), done.err
    done = lbdsl("verify", name, "--against", "model", "--json")
    checks = {check["what"]: check["holds"] for check in json.loads(done.out)["checks"]}
    # The code that loads an artifact changes.
    assert checks.pop("code") or done.code
    assert all(checks.values()), done.err
    assert len(checks) >= 5
    assert "note[LB492]" in done.err
    assert "of an earlier version" in " ".join(done.err.split())
