"""The page of an artifact: what it shows, in the browser too, and text that means harm."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lbdsl.artifact.record import Record
from lbdsl.core.units import Unit
from lbdsl.plan.schema import AssertResult, Plan
from lbdsl.recipe.schema import Phase
from lbdsl.report.page import is_page, page_of
from tests.plan_cases import joint_loss, plan_of, smollm2_facts

HARM = "</pre><script>alert(1)</script><img src=http://x.example/y>"
VOID = {"meta", "col", "br", "hr", "path", "use", "rect"}


class Elements(HTMLParser):
    """The elements of a page; raises where one is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


def score(value: float | None, unit: str) -> dict[str, Any]:
    return {"value": value, "stderr": 0.01, "unit": unit}


def judged(data: str = "builtin:wikitext") -> dict[str, Any]:
    parts = {f"{depth}%": {"base": 1.0, "artifact": share} for depth, share in ((10, 0.0), (50, 0.5), (90, 1.0))}
    shares = {"base": 1.0, "artifact": 0.5, "recovery": 0.5}
    needle = {"name": "needle(1Ki)", "metric": "answers found", "questions": 6, **shares, "parts": parts}
    return {
        "data": data,
        "tokens": 4096,
        "perplexity": {"base": 15.0, "artifact": 16.5},
        "loss_rise": 0.0953,
        "stderr": {"perplexity_base": 0.5, "perplexity_artifact": 0.6, "loss_rise": 0.01},
        "scores": {"ppl_increase": score(0.1, Unit.RATIO), "kl_healed": score(0.08, Unit.NATS)},
        "tasks": [needle | {"stderr": dict.fromkeys(shares, 0.05)}],
    }


def benched() -> dict[str, Any]:
    cell = {"context": 1024, "batch": 50, "metric": "throughput", "unit": "tokens/s", "base": 100.0, "artifact": 150.0}
    cell |= {"ratio": 1.5, "low": 1.4, "high": 1.6, "again": 1.01, "output": 256, "predicted": 1.45, "bound": False}
    machine = {"name": "a machine", "threads": 2, "dtype": "bfloat16"}
    return {"engine": "vllm", "engine_version": "1", "export": "granite", "machine": machine, "cells": [cell]}


def record_of(plan: Plan, **parts: Any) -> Record:
    heal = {"data": "a.txt", "steps": 3, "tokens": 3072, "passes": 1.0, "trained_params": 1000, "seconds": 9.0}
    heal |= {"curve": [[1024, 0.9], [2048, 0.5], [3072, 0.4]], "validation": [[0, 0.8], [3072, 0.5]], "kept": 3072}
    gate = AssertResult(text="ppl_increase < 12%", phase=Phase.POST, status="pass", value=0.1, unit=Unit.RATIO)
    known: dict[str, Any] = {
        **{"lbdsl_version": "0", "status": "accepted", "plan_digest": "0", "plan": plan, "files": {}, "layer_map": ()},
        **{"changes": (), "no_heal": False, "heal": heal, "evaluation": judged(), "asserts": (gate,)},
        **{"bench": {"vllm": benched()}},
    }
    return Record(**{**known, **parts})


@pytest.fixture(scope="module")
def plan() -> Plan:
    text = "layers 0-1 keep\nlowest 7 of rest by nll drop\nelse swa(window=256, sinks=4)"
    return plan_of(text, smollm2_facts(), joint=joint_loss(0.47, 0.41, stderr=0.02, base_nll=2.88))


@pytest.fixture(scope="module")
def page(plan: Plan) -> str:
    return page_of(record_of(plan))


def test_strips_show_each_layer_and_bars_each_score(plan: Plan, page: str) -> None:
    elements = Elements(page)
    said = [attrs["title"] or "" for attrs in elements.of("td") if "title" in attrs]
    of_marks, of_scores = said[: len(plan.layers)], said[-len(plan.layers) :]
    (key,) = plan.layers[-1].scores
    scored = {layer.index: layer.scores[key].value for layer in plan.layers if layer.scores}
    for layer in plan.layers:
        assert of_marks[layer.index].startswith(f"layer {layer.index}: ")
        assert ("attention dropped" in of_marks[layer.index]) == (layer.after.mixer is None)
        value = f": {scored[layer.index]:+.3g}" if layer.index in scored else ""
        assert of_scores[layer.index].startswith(f"layer {layer.index}{value}")
    heights = [float((attrs["style"] or "").removeprefix("height: ").removesuffix("%")) for attrs in elements.of("i")]
    by_score = [height for _, height in sorted(zip(scored.values(), heights, strict=True))]
    assert by_score == sorted(by_score)
    assert by_score[0] < by_score[-1] == 100


def test_it_says_what_the_card_says(page: str) -> None:
    for text in ("+10.0 ±1.0 %", "50 ±5 %", "x1.50", "a machine", "assert ppl_increase", "needle(1Ki)", "accepted"):
        assert text in page, text
    # Losses of healing, needles by depth, speed.
    assert len(Elements(page).of("svg")) == 3
    assert "thousand tokens seen" in page


def test_the_same_record_gives_the_same_page(plan: Plan, page: str) -> None:
    assert page_of(record_of(plan)) == page


def test_what_was_not_measured_is_left_out(plan: Plan) -> None:
    page = page_of(record_of(plan, heal=None, evaluation=None, bench=None, asserts=(), status="rejected"))
    assert not Elements(page).of("svg")
    assert "rejected by a quality gate" in page


def test_a_page_runs_nothing_and_loads_nothing(plan: Plan) -> None:
    recipe = plan.recipe.model_copy(update={"text": f"# {HARM}\n", "name": HARM})
    model = plan.model.model_copy(update={"name": HARM})
    layers = tuple(layer.model_copy(update={"reason": f'" onclick="x {HARM}'}) for layer in plan.layers)
    hostile = plan.model_copy(update={"recipe": recipe, "model": model, "layers": layers})
    elements = Elements(page_of(record_of(hostile, evaluation=judged(f"![x](http://x.example/y) {HARM}"))))
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in elements.found}
    assert not [attrs for _, attrs in elements.found if any(name.startswith("on") for name in attrs)]
    assert not [attrs for tag, attrs in elements.found for name in ("href", "src") if "http" in (attrs.get(name) or "")]


def test_another_file_is_not_a_page(tmp_path: Path, page: str) -> None:
    for name, text, said in (("a.html", page, True), ("b.html", "<!doctype html>", False)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert is_page(tmp_path / name) is said
    assert not is_page(tmp_path / "none.html")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize("width", [420, 1000])
def test_a_browser_shows_it_without_a_complaint(tmp_path: Path, page: str, width: int, scheme: int) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={width},2000"]
    words += [f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={tmp_path / 'page.png'}"]
    done = subprocess.run([browser, *words, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, check=True)
    assert "CONSOLE" not in done.stderr
    import matplotlib.image

    pixels = matplotlib.image.imread(tmp_path / "page.png")
    assert pixels.shape[1] >= width
    # The page is dark where that is preferred, and not empty.
    assert (pixels[2, 2, :3].mean() < 0.5) == (scheme == 0)
    assert pixels[..., :3].std() > 0.05
