"""What a record claims and its files do, under digests made again: a table of attacks; `verify` holds with none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lbdsl.artifact.contents import file_hashes
from lbdsl.artifact.record import read_record, write_record
from lbdsl.core.digest import digest_of
from tests.tiny_model import RECIPE


def rehashed(folder: Path, **fields: Any) -> None:
    write_record(read_record(folder).unwrap().model_copy(update={"files": file_hashes(folder), **fields}), folder)


def forged(change: Callable[[dict[str, Any]], object], folder: Path) -> None:
    """The fields of the first text changed, in both places where they are."""
    path = folder / "lbdsl.json"
    content = json.loads(path.read_text())
    for place in (content["evaluation"], content["evaluation"]["sources"][0]):
        change(place)
    del content["digest"]
    path.write_text(json.dumps({**content, "digest": digest_of(content)}))


def figure(value: object, error: object, source: dict[str, Any]) -> None:
    source["loss_rise"], source["stderr"]["loss_rise"] = value, error


def score(value: object, error: object, source: dict[str, Any]) -> None:
    source["scores"]["agreement"] |= {"value": value, "stderr": error}


def no_figures(source: dict[str, Any]) -> None:
    for name in ("loss_rise", "ppl_increase", "kl", "agreement"):
        source[name] = source["stderr"][name] = None
    source["perplexity"] = dict.fromkeys(source["perplexity"])
    for each in source["scores"].values():
        each |= {"value": None, "stderr": None}


def perplexity(source: dict[str, Any]) -> None:
    source["perplexity"]["artifact"] = source["perplexity"]["base"] / 2


def not_judged(folder: Path) -> None:
    rehashed(folder, evaluation=None)


def other_text(source: dict[str, Any]) -> None:
    source["data"] = "builtin:wikitext"


def only_the_first(folder: Path) -> None:
    record = read_record(folder).unwrap()
    rehashed(folder, evaluation={**(record.evaluation or {}), "ppl_increase": -0.5})


def permuted(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(content))
    rehashed(folder)


def other_rules(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "normalizer": {"type": "Lowercase"}}))
    rehashed(folder)


def template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ 'Obey: ' + messages[0]['content'] }}")
    rehashed(folder)


def other_end(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "a"}))
    rehashed(folder)


def code(folder: Path) -> None:
    with (folder / "lbdsl_layers.py").open("a") as file:
        file.write("print('ran')\n")
    rehashed(folder)


def more_code(folder: Path) -> None:
    (folder / "modeling_evil.py").write_text("print('ran')\n")
    rehashed(folder)


def other_entry(folder: Path) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["auto_map"]["AutoModelForCausalLM"] = "someone/else--modeling.Model"
    path.write_text(json.dumps(content))
    rehashed(folder)


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a better loss with a large error": (partial(forged, partial(figure, -2.0, 1.0)), "loss rise"),
    "a better loss with a huge error": (partial(forged, partial(figure, -2.0, 1e300)), "loss rise"),
    "a better loss with a negative error": (partial(forged, partial(figure, -2.0, -9.0)), "loss rise"),
    "a better loss without an error": (partial(forged, partial(figure, -2.0, None)), "loss rise"),
    "a loss that is no number": (partial(forged, partial(figure, None, None)), "loss rise"),
    "a better score with a large error": (partial(forged, partial(score, 1.0, 5.0)), "figures"),
    "no figures": (partial(forged, no_figures), "loss rise"),
    "half the perplexity": (partial(forged, perplexity), "figures"),
    "figures of another text alone": (partial(forged, other_text), "loss rise"),
    "the figure shown first": (only_the_first, "figures"),
    "no judgement": (not_judged, "figures"),
    "a permuted tokenizer": (permuted, "tokenizer"),
    "a tokenizer with another rule": (other_rules, "tokenizer"),
    "another end of texts": (other_end, "tokenizer"),
    "another chat template": (template, "tokenizer"),
    "other code": (code, "code"),
    "more code": (more_code, "code"),
    "code of somebody else": (other_entry, "code"),
}


@pytest.fixture
def artifact(workplace: Path, made: Callable[..., object]) -> Path:
    return Path(shutil.copytree(made(RECIPE).place / "out", workplace / "out"))  # type: ignore[attr-defined]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_does_not_follow_does_not_hold(artifact: Path, lbdsl, attack: str) -> None:
    forge, what = ATTACKS[attack]
    forge(artifact)
    done = lbdsl("verify", "out")
    assert done.code in (3, 6), done.err
    assert "error[LB491]" in done.err
    assert f"error[LB491]: {what}" in done.err
    assert "internal" not in done.err


def test_code_of_another_version_is_said(artifact: Path, lbdsl) -> None:
    code(artifact)
    rehashed(artifact, lbdsl_version="9.9.9")
    done = lbdsl("verify", "out", "--json")
    assert done.code == 0, done.err
    (check,) = (each for each in json.loads(done.out)["checks"] if each["what"] == "code")
    assert not check["holds"]
    assert "warning[LB491]: code: not what lbdsl" in done.err
    assert "made by another version, 9.9.9" in " ".join(done.err.split())


def test_all_of_one_version_holds_under_another(artifact: Path, lbdsl) -> None:
    rehashed(artifact, lbdsl_version="9.9.9")
    done = lbdsl("verify", "out")
    assert (done.code, "LB491" in done.err) == (0, False), done.err
