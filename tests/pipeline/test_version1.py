"""An artifact of version 1 (made by an earlier lbdsl, its files without weights): shown, and refused with the command that
makes it again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lbdsl.artifact.record import Record, read_record
from lbdsl.artifact.version1 import from_version1
from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.digest import digest_of

VERSION1 = Path(__file__).parents[1] / "data" / "version1"
COMMAND = "lbdsl apply /home/me/tiny.lbr /home/me/model --set window=8 -o old-again"


@pytest.fixture
def old(workplace: Path) -> Path:
    return shutil.copytree(VERSION1, workplace / "old")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the record, with a digest that fits."""
    content = json.loads((folder / "lbdsl.json").read_text())
    del content["digest"]
    change(content)
    (folder / "lbdsl.json").write_text(json.dumps({**content, "digest": digest_of(content)}))


def test_its_plan_and_report_are_shown(old: Path, lbdsl) -> None:
    done = lbdsl("show", "old")
    assert done.code == 0, done.err
    for said in (
        " attn   =--~==\n mlp    =--===\n",
        "~ layer 3  window full → 8 + 2 sinks           KV@8Ki 1.00 MiB → 1.25 KiB",
        "rules 3, 5: ▪  nll(drop) -0.0471: 1st lowest of the rest",
        " params                 64.0 k      45.5 k    -29 %",
        "+0.124 ±0.021 nats/token measured jointly",
        "Plan: 3 of 6 layers unchanged; 2 without attention, 1 windowed, 2 without MLP.",
        "perplexity increase                              5.73 ±3.21 %     5.71 ±3.14 %",
        "asserts  kv(1Ki) <= 80%       pass   385.2 KiB",
        "nll < 5              pass   0.1243",
        "ppl_increase < 300%  pass   5.712 % on builtin:wikitext",
    ):
        assert said in done.out
    said = " ".join(done.err.split())
    assert "note[LB476]" in said
    assert COMMAND in said
    assert "/home/me/tiny.lbr is not there: its text is in lbdsl.json" in said


def test_its_json_is_of_this_version(old: Path, lbdsl) -> None:
    shown = json.loads(lbdsl("show", "old", "--json").out)
    record = Record.model_validate(shown)
    before = json.loads((old / "lbdsl.json").read_text())
    assert (shown["format_version"], shown["plan"]["format_version"]) == (2, 2)
    layers = [[(item.action.text(), item.rule, item.paths) for item in layer.actions] for layer in record.plan.layers]
    assert layers == [
        [("keep", 1, ("mixer", "ffn"))],
        [("drop(block)", 2, ("mixer", "ffn"))],
        [("drop", 5, ("mixer",)), ("drop(mlp)", 3, ("ffn",))],
        [("swa(window=8, sinks=2)", 4, ("mixer.window",))],
        [],
        [],
    ]
    assert record.plan.model.facts.params == record.plan.before.params == before["plan"]["before"]["params"]
    assert record.plan.before.weights == 4 * record.plan.before.params
    assert {name: score.value for name, score in record.plan.loss.scores.items()} == {
        "nll": before["plan"]["loss"]["joint"],
        "kl": before["plan"]["loss"]["joint_kl"],
    }
    kept = {"lbdsl_version", "status", "plan_digest", "files", "layer_map", "changes", "no_heal", "heal"}
    assert {name: shown[name] for name in kept} == {name: before[name] for name in kept}


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "old"),
        ("check", "tiny.lbr", "--model", "old"),
        ("measure", "tiny.lbr", "old"),
        ("plan", "tiny.lbr", "old", "--again"),
        ("apply", "tiny.lbr", "old", "-o", "out", "--yes", "--again"),
        ("eval", "old"),
        ("export", "old", "--to", "native", "-o", "out"),
    ],
    ids=lambda words: words[0],
)
def test_all_else_gives_the_command_that_makes_it_again(old: Path, lbdsl, words: tuple[str, ...]) -> None:
    done = lbdsl(*words)
    said = " ".join((done.out + done.err).split())
    assert (done.code, "error[LB476]" in said) == (6, True), said
    assert COMMAND.removesuffix(" old-again") in said
    assert not Path("out").exists()


def test_from_python(old: Path) -> None:
    import lbdsl

    with pytest.raises(LbdslError) as caught:
        lbdsl.load("old")
    assert [d.code for d in caught.value.diagnostics] == ["LB476"]


def test_without_a_record_it_is_refused_all_the_same(old: Path, lbdsl) -> None:
    (old / "lbdsl.json").unlink()
    done = lbdsl("inspect", "old")
    assert (done.code, "LB476" in done.err) == (6, True), done.err
    assert "make it again from its base model" in done.err


def test_options_that_made_it_are_in_the_command(old: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["no_heal"] = True
        content["plan"]["recipe"] |= {"path": "/home/me/my recipe.lbr", "params": {"fast": True}, "set_params": ["fast"]}

    rewrite(old, change)
    (finding,) = read_record(old).diagnostics
    assert "lbdsl apply '/home/me/my recipe.lbr' /home/me/model --set fast=true --no-heal -o" in finding.help[0]


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "a plug-in's attention": lambda record: record["plan"]["layers"][0].update(spec={"attn": "retention"}),
    "counts that do not fit": lambda record: record["plan"]["model"]["facts"].update(other_params=1),
    "no plan": lambda record: record.update(plan=5),
    "no layers": lambda record: record["plan"].update(layers=None),
    "a layer too few": lambda record: record["plan"]["layers"].pop(),
    "a window without a size": lambda record: record["plan"]["layers"][3].update(spec={"attn": "swa"}),
    "an assert without a text": lambda record: record["asserts"][0].update(text=" "),
    "a score without an error": lambda record: record["evaluation"].update(stderr=[]),
    "an unknown family": lambda record: record["plan"]["model"]["facts"].update(family="none"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_a_coded_error(old: Path, lbdsl, name: str) -> None:
    rewrite(old, BROKEN[name])
    done = lbdsl("show", "old")
    assert (done.code, "LB465" in done.err) == (6, True), done.err
    assert "LB476" in lbdsl("eval", "old").err


def test_an_edited_record_is_refused(old: Path, lbdsl) -> None:
    path = old / "lbdsl.json"
    path.write_text(path.read_text().replace('"accepted"', '"rejected"'))
    done = lbdsl("show", "old")
    assert (done.code, "LB465" in done.err) == (6, True), done.err
    assert "edited" in done.err


def test_a_saved_plan_of_version_1_is_refused(old: Path, lbdsl) -> None:
    plan = json.loads((old / "lbdsl.json").read_text())["plan"]
    Path("old.lbplan").write_text(json.dumps({**plan, "sha256": "0" * 64}))
    done = lbdsl("show", "old.lbplan")
    assert (done.code, "LB333" in done.err) == (3, True), done.err


def test_the_conversion_changes_nothing_that_it_reads() -> None:
    content = json.loads((VERSION1 / "lbdsl.json").read_text())
    again = json.loads(json.dumps(content))
    from_version1(content)
    assert content == again
