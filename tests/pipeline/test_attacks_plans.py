"""Plans, records and other small files that no lbdsl has written, under digests made again: tables of attacks. Each ends
in an error with its place, or changes nothing; none is a bug of lbdsl, takes long, or passes a gate."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.digest import digest_of
from lbdsl.plan.file import DIGEST_KEY, PREDICTED
from lbdsl.plan.schema import Plan
from tests.pipeline.conftest import Made
from tests.tiny_model import RECIPE

pytestmark = pytest.mark.timeout(60)

GONE = object()
"""The field is left out."""


def put(content: Any, path: str, value: object) -> None:
    """Change what lies at `a.b.0.c`."""
    *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
    for part in way:
        content = content[part]
    if value is GONE:
        del content[last]
    else:
        content[last] = value


def forged_plan(path: Path, changes: dict[str, object]) -> None:
    fields = json.loads(path.read_text())
    for where, value in changes.items():
        put(fields, where, value)
    fields.pop(DIGEST_KEY)
    fields[DIGEST_KEY] = digest_of({name: value for name, value in fields.items() if name not in PREDICTED})
    path.write_text(json.dumps(fields))


def forged_record(folder: Path, changes: dict[str, object]) -> None:
    path = folder / "lbdsl.json"
    content = json.loads(path.read_text())
    for where, value in changes.items():
        put(content, where, value)
    del content["digest"]
    if any(where.startswith("plan.") for where in changes):
        content["plan_digest"] = Plan.model_validate(content["plan"]).digest
    path.write_text(json.dumps({**content, "digest": digest_of(content)}))


def raw(change: Callable[[str], str]) -> Callable[[Path], object]:
    """The text of the file, as it cannot be written from values."""
    return lambda path: path.write_text(change(path.read_text()), encoding="utf-8", errors="surrogatepass")


DEEP = "[" * 100_000 + "]" * 100_000
RAW: dict[str, Callable[[Path], object]] = {
    "nested deep": raw(lambda text: text.replace('"asserts":', f'"deep":{DEEP},"asserts":')),
    "a key twice": raw(lambda text: '{"format_version":2,' + text.lstrip()[1:]),
    "NaN": raw(lambda text: text.replace('"asserts":', '"x":NaN,"asserts":')),
    "infinity by its digits": raw(lambda text: text.replace('"asserts":', '"x":1e999,"asserts":')),
    "a number of 5,000 digits": raw(lambda text: text.replace('"asserts":', f'"x":{"9" * 5000},"asserts":')),
    "half of a character": raw(lambda text: text.replace('"asserts":', '"x":"\\ud800","asserts":')),
    "half of a character, as bytes": raw(lambda text: text.replace('"asserts":', '"x":"\ud800","asserts":')),
    "nothing": raw(lambda text: ""),
    "null": raw(lambda text: "null"),
    "a list": raw(lambda text: f"[{text}]"),
    "other bytes": lambda path: path.write_bytes(b"\x80\xff\x00"),
}

PLANS: dict[str, tuple[dict[str, object], str]] = {
    "no asserts": ({"asserts": []}, "LB366"),
    "an assert twice": ({"asserts.1.text": "kv(1Ki) <= 80%"}, "LB366"),
    "a text as a number": ({"layers.0.params_after": "12"}, "LB366"),
    "no layers": ({"layers": []}, "LB366"),
    "a layer that is none": ({"layers.0": []}, "LB334"),
    "a huge width": ({"model.facts.hidden": 10**60}, "LB366"),
    "a huge number of layers": ({"model.facts.layers": 10**60}, "LB334"),
    "heads that are a list": ({"layers.4.actions.0.action.full_heads": [[]]}, "LB"),
    "no length to measure on": ({"measure": {}}, "LB366"),
    "no length to judge on": ({"eval.seq": None}, "LB366"),
    "a zero byte in a text's name": ({"measure.data": "a\0.txt"}, "LB366"),
    "no vocabulary": ({"model.facts.vocab": 0}, "LB366"),
    "contexts below 0": ({"contexts": [-1]}, "LB366"),
    "a recipe that is none": ({"recipe.text": "}" * 1000, "recipe.sha256": "0" * 64}, "LB"),
    "a recipe that is too large": ({"recipe.text": "# " + "x" * 5_000_000}, "LB"),
    "a recipe that includes itself": ({"recipe.text": 'include "x.lbr"\n'}, "LB"),
    "parameters that are none": ({"recipe.params": {"$window": 10**60}}, "LB"),
}

LEFT: dict[str, dict[str, object]] = {
    "a zero byte in its recipe's path": {"recipe.path": "/tmp/a\0b.lbr"},
    "the memory as its recipe": {"recipe.path": "/proc/self/mem"},
    "a device as its recipe": {"recipe.path": "/dev/zero"},
    "the messages of the system as its recipe": {"recipe.path": "/proc/kmsg"},
    "a pipe as its recipe": {"recipe.path": "pipe.lbr"},
    "a folder as its recipe": {"recipe.path": "/"},
    "a path of 5,000 characters": {"recipe.path": f"/{'a' * 5000}.lbr"},
    "the memory as an included file": {
        "recipe.included": [{"path": "/proc/self/mem", "text": "", "sha256": "0" * 64}],
    },
}
"""What does no harm: the recipe is not there, and the text in the plan is used."""


@pytest.fixture
def plan(workplace: Path, made: Callable[..., Made]) -> Path:
    """That of an artifact, as a file."""
    record = json.loads((made(RECIPE).place / "out" / "lbdsl.json").read_text())
    fields = Plan.model_validate(record["plan"])
    path = workplace / "x.lbplan"
    path.write_text(json.dumps({**fields.model_dump(mode="json"), DIGEST_KEY: fields.digest}))
    return path


@pytest.fixture
def artifact(workplace: Path, made: Callable[..., Made]) -> Path:
    return Path(shutil.copytree(made(RECIPE).place / "out", workplace / "out"))


def refused(lbdsl: Callable[..., Any], words: tuple[object, ...], code: str) -> None:
    done = lbdsl(*words)
    assert done.code in (1, 3, 6), (words, done)
    assert f"error[{code}" in done.err, (words, done.err)
    assert "internal error" not in done.err


@pytest.mark.parametrize("attack", RAW)
def test_a_plan_that_is_not_one(plan: Path, lbdsl, attack: str) -> None:
    RAW[attack](plan)
    for words in (("show", plan), ("diff", plan, plan), ("apply", plan, "-o", "o")):
        refused(lbdsl, words, "LB33")
    assert not Path("o").exists()


@pytest.mark.parametrize("attack", PLANS)
def test_a_plan_that_says_what_none_does(plan: Path, lbdsl, attack: str) -> None:
    changes, code = PLANS[attack]
    forged_plan(plan, changes)
    for words in (("show", plan), ("diff", plan, plan), ("apply", plan, "-o", "o")):
        refused(lbdsl, words, code)
    assert not Path("o").exists()


@pytest.mark.parametrize("attack", LEFT)
def test_a_plan_whose_recipe_is_nowhere(plan: Path, lbdsl, attack: str) -> None:
    os.mkfifo("pipe.lbr")
    forged_plan(plan, LEFT[attack])
    assert lbdsl("show", plan).code == 0
    done = lbdsl("apply", plan, "-o", "o", "--no-heal")
    assert done.code in (0, 3), done.err


RECORDS: dict[str, tuple[dict[str, object], str]] = {
    "asserts of another recipe": (
        {"plan.recipe.text": RECIPE.replace("<= 80%", "<= 70%")},
        "LB366",
    ),
    "no asserts": ({"asserts": []}, "LB366"),
    "a negative count": ({"heal.steps": -4, "heal.tokens": -1}, "LB465"),
    "a negative count of tokens": ({"evaluation.tokens": -1, "evaluation.sources.0.tokens": -1}, "LB465"),
    "a count of 60 digits": ({"heal.trained_params": 10**60}, "LB465"),
    "a count that is a text": ({"heal.steps": "4"}, "LB465"),
    "a loss that is a text": ({"evaluation.loss_rise": "-2.0", "evaluation.sources.0.loss_rise": "-2.0"}, "LB465"),
    "a loss that is a list": ({"evaluation.sources.0.loss_rise": []}, "LB465"),
    "errors that are none": ({"evaluation.stderr": None, "evaluation.sources.0.stderr": None}, "LB465"),
    "errors that are a list": ({"evaluation.sources.0.stderr": [[]]}, "LB465"),
    "one error that is none": ({"evaluation.sources.0.stderr.loss_rise": GONE}, "LB465"),
    "a score with more fields": ({"evaluation.sources.0.scores.agreement.color": "red"}, "LB465"),
    "a score in another unit": ({"evaluation.sources.0.scores.agreement.unit": "apples"}, "LB465"),
    "a score without a value": ({"evaluation.sources.0.scores.agreement.value": GONE}, "LB465"),
    "no texts": ({"evaluation.sources": []}, "LB465"),
    "texts that are none": ({"evaluation.sources": [[]]}, "LB465"),
    "tasks that are none": ({"evaluation.tasks": "x"}, "LB465"),
    "a task without a name": ({"evaluation.tasks": [{"name": None}]}, "LB465"),
    "shares of states that are none": ({"evaluation.sources.0.state_shares": {"0": None}}, "LB465"),
    "a share above 1": ({"evaluation.sources.0.seen": 7}, "LB465"),
    "what was before healing is none": ({"evaluation.sources.0.before_healing": {}}, "LB465"),
    "a curve that is none": ({"heal.curve": [[1]]}, "LB465"),
    "stages that are none": ({"heal.stages": [{}]}, "LB465"),
    "an engine without cells": (
        {"bench": {"x": {"engine": "x", "engine_version": "1", "export": None, "machine": {}, "cells": []}}},
        "LB465",
    ),
    "a map of layers that is none": ({"layer_map": [0, "x"]}, "LB465"),
    "a status that is none": ({"status": "\0"}, "LB366"),
    "files that are none": ({"files": {"config.json": None}}, "LB465"),
}


@pytest.mark.parametrize("attack", RECORDS)
def test_a_record_that_says_what_none_does(artifact: Path, lbdsl, attack: str) -> None:
    changes, code = RECORDS[attack]
    forged_record(artifact, changes)
    for words in (("show", "out"), ("verify", "out"), ("report", "out"), ("export", "out", "--to", "native", "-o", "e")):
        refused(lbdsl, words, code)
    assert not Path("e").exists()
    assert not Path("out.html").exists()


@pytest.mark.parametrize("attack", RAW)
def test_a_record_that_is_not_one(artifact: Path, lbdsl, attack: str) -> None:
    RAW[attack](artifact / "lbdsl.json")
    for words in (("show", "out"), ("verify", "out")):
        refused(lbdsl, words, "LB465")


@pytest.mark.parametrize("attack", ["the memory as its recipe", "a zero byte in its recipe's path", "a pipe as its recipe"])
def test_a_record_whose_recipe_is_nowhere(artifact: Path, lbdsl, attack: str) -> None:
    os.mkfifo("pipe.lbr")
    forged_record(artifact, {f"plan.{where}": value for where, value in LEFT[attack].items()})
    done = lbdsl("verify", "out")
    assert done.code == 0, done.err


def test_a_figure_beside_its_score_is_compared(artifact: Path, lbdsl) -> None:
    both = ("evaluation.agreement", "evaluation.sources.0.agreement")
    forged_record(artifact, dict.fromkeys(both, 1.0))
    done = lbdsl("verify", "out")
    assert (done.code, "field agreement" in done.err) == (6, True), done.err


SETTINGS = {
    "nested deep": "x = " + "[" * 5000 + "]" * 5000,
    "many parts of a name": "a" + ".a" * 50_000 + " = 1",
    "a long number": "batch = " + "9" * 5000,
    "a large file": "#" * 2**20,
    "a zero byte": 'device = "\0"',
    "other bytes": "\udcff",
}


@pytest.mark.parametrize("attack", SETTINGS)
def test_settings_that_are_none(workplace: Path, lbdsl, attack: str) -> None:
    Path("lbdsl.toml").write_text(SETTINGS[attack], errors="surrogateescape")
    refused(lbdsl, ("check", "tiny.lbr"), "LB480")


@pytest.mark.parametrize("verb", ["apply", "export"])
def test_an_output_whose_name_is_no_text(workplace: Path, artifact: Path, lbdsl, verb: str) -> None:
    name = os.fsdecode(b"o\xff")
    words = ("apply", "tiny.lbr", "model", "--yes") if verb == "apply" else ("export", "out", "--to", "native")
    refused(lbdsl, (*words, "-o", name), "LB463")
    assert not [path for path in os.listdir() if path.startswith("o\udcff")]


HEADERS = {
    "10^18 bytes": b"Content-Length: 1000000000000000000\r\n\r\n{}",
    "a length of 5,000 digits": b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "an endless line": b"x" * 100_000,
}


@pytest.mark.parametrize("attack", HEADERS)
def test_a_message_that_no_editor_sends(attack: str) -> None:
    pytest.importorskip("pygls")
    from lbdsl.editor.server import Messages

    with pytest.raises(LbdslError) as found:
        Messages(io.BytesIO(HEADERS[attack])).readline()
    assert found.value.diagnostics[0].code == "LB062"


def test_the_language_server_ends_at_one(workplace: Path) -> None:
    pytest.importorskip("pygls")
    command = [sys.executable, "-m", "lbdsl", "lsp"]
    done = subprocess.run(command, input=HEADERS["10^18 bytes"], capture_output=True, timeout=60, check=False)
    assert (done.returncode, b"error[LB062]" in done.stderr, done.stdout) == (1, True, b""), done.stderr
