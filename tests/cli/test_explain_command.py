"""`lbdsl explain`: every topic has a page, unknown ones a suggestion, and torch is not needed."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from lbdsl.cli.explain import explain
from lbdsl.core.codes import code_ids
from lbdsl.core.diagnostic import LbdslError
from lbdsl.language.words import keywords
from lbdsl.report.diagnostics import Style
from lbdsl.report.explain import nearest_topics, pages_of, pages_text, topics, topics_by_kind


def run(*arguments: str) -> Result:
    return CliRunner().invoke(explain, list(arguments))


def test_a_code_shows_example_diagnostic_reason_and_fix() -> None:
    assert (
        run("LB203").stdout
        == """\
LB203: conflicting actions

Why: Two actions of one rule may not change the same part of a layer.

This fails:

    layers 3 drop + swa(window=64)

    error[LB203]: `drop` and `swa` both change the mixer of a layer
     ──▶ recipe.lbr:1:17
      │
    1 │ layers 3 drop + swa(window=64)
      │          ----   ^^^^^^^^^^^^^^
      │          changes it first
      │
      = help: use one of them

This is right:

    layers 3 drop(mlp) + swa(window=64)
"""
    )
    assert run("lb203").stdout == run("LB203").stdout


def test_actions_metrics_and_words_have_pages() -> None:
    action = run("swa").stdout
    assert action.startswith("swa (action)\n\n    swa(window, sinks=0, full_heads=0)\n")
    assert "Why: " in action
    assert "Source: Longformer" in action
    assert "window: in tokens" in action
    metric = run("kl").stdout
    assert "Unit: nats/token" in metric
    assert "`kl` means `kl(drop)`" in metric
    assert "LayerBoost" in run("keep").stdout
    assert "heal { lr = ... }" in run("heal.lr").stdout
    assert "0.001" in run("heal.lr").stdout
    assert "model.layers (fact)" in run("model.layers").stdout
    assert "until (keyword)" in run("until").stdout
    assert run("tokens").stdout.count("(setting)") == 3
    values = run("fp8").stdout
    assert values.count("fp8 (value)") == 2
    assert "floats of 4 bits of exponent and 3 of mantissa" in values
    assert "measure { strategy = screen }" in run("screen").stdout


@pytest.mark.parametrize("first", sorted({topic[0] for topic in topics()}))
def test_every_topic_has_a_page_that_fits(first: str) -> None:
    for topic in (topic for topic in topics() if topic[0] == first):
        pages = pages_of(topic)
        assert pages, topic
        for width in (80, 40):
            text = pages_text(pages, Style(width, colour=False, unicode=False))
            assert text.isascii() or topic in text, topic
            lines = [line for line in text.splitlines() if len(line) > width and " " in line.strip()]
            assert not lines or "LB" in topic, topic
        assert "\x1b" not in pages_text(pages, Style()), topic
        assert "\x1b[" in pages_text(pages, Style(colour=True)), topic
        json.dumps([page.to_json() for page in pages])


def test_topics_hold_all_codes_and_keywords() -> None:
    kinds = dict(topics_by_kind())
    assert set(kinds["keywords"]) == set(keywords())
    assert kinds["codes"] == code_ids()
    listed = run().stdout
    for topic in ("LB001", "swa", "sensitivity", "model.kv_heads", "heal.loss", "until"):
        assert topic in listed


def test_unknown_topics() -> None:
    for topic, near in (
        ("sensitvity", "sensitivity"),
        ("untill", "until"),
        ("LB2O3", "LB203"),
        ("lb20", "LB20"),
        ("windw", "window"),
    ):
        found = CliRunner().invoke(explain, [topic])
        assert isinstance(found.exception, LbdslError)
        assert found.exception.exit_code == 2
        assert found.exception.diagnostics[0].code == "LB052"
        assert near in found.exception.diagnostics[0].help[0]
    assert nearest_topics("frobnicate") == ()


@pytest.mark.parametrize("topic", ["foo", "x", "teh", "recipe.lbr"])
def test_a_topic_that_is_near_nothing_gets_the_kinds_of_topics(topic: str) -> None:
    found = CliRunner().invoke(explain, [topic])
    assert isinstance(found.exception, LbdslError)
    (hint,) = found.exception.diagnostics[0].help
    assert "did you mean" not in hint
    assert all(kind in hint for kind, _ in topics_by_kind())


def test_a_command_is_no_topic() -> None:
    found = CliRunner().invoke(explain, ["plan"])
    assert isinstance(found.exception, LbdslError)
    assert found.exception.diagnostics[0].help == ("`lbdsl plan --help` explains the command",)


def test_json() -> None:
    data = json.loads(run("LB102", "--json").stdout)
    assert data["format_version"] == 1
    page = data["pages"][0]
    assert (page["kind"], page["name"], page["fixed"]) == ("code", "LB102", "where sensitivity < 0.1 drop")
    assert page["findings"][0]["code"] == "LB102"
    assert page["facts"]["Why"]
    assert "swa" in json.loads(run("--json").stdout)["topics"]


def test_keywords_have_examples_that_parse() -> None:
    from lbdsl.core.span import Source
    from lbdsl.language.lexer import lex
    from lbdsl.language.parse import parse

    for word, keyword in keywords().items():
        assert parse(Source("x", keyword.example)).ok, keyword.example
        assert word in {token.text for token in lex(keyword.example).tokens}


@pytest.mark.parametrize("word", ["search", "tune"])
def test_words_that_the_language_does_not_have(word: str) -> None:
    (page,) = pages_of(word)
    assert page.title.startswith("Not in the language: `choose` ")
