"""What is offered at a cursor, written `|` in the texts below."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lbdsl.actions import actions
from lbdsl.core.resources import resource_folder
from lbdsl.editor.analysis import Analysis
from lbdsl.editor.completion import Item, complete
from lbdsl.language.words import keywords, statements
from lbdsl.recipe.load import recipe_from_text
from tests.plan_cases import smollm2_facts

DEFINITIONS = "param $window: tokens in 64..8Ki = 256\nlet $n = 4\ngroup @core = first 2, last 1\n"


def offered(text: str, before: str = DEFINITIONS) -> dict[str, Item]:
    whole = before + text
    cursor, items = complete(Analysis(whole.replace("|", "")), whole.index("|"))
    assert cursor is not None or not items
    return {item.label: item for item in items}


@pytest.mark.parametrize(
    ("text", "wanted", "unwanted"),
    [
        ("|", "layers where else heal param assert lowest", "keep sensitivity and because $window"),
        ("lay|", "layers", "keep"),
        ("layers 0-3 keep\n|", "layers else", "keep because"),
        ("layers 0-3 keep\n  |", "layers because", "keep"),
        ("layers 0-3 keep;|", "layers else", "keep because"),
        ("layers |", "all first last middle every not lowest @core $window", "keep and by"),
        ("layers 0-3 |", "keep drop swa except and or where", "sensitivity $n"),
        ("layers @|", "@core", "keep"),
        ("layers first |", "$n", "@core keep all"),
        ("else keep |", "because", "keep and"),
        ("where |", "sensitivity nll kl influence $window model.layers not", "keep ppl_increase kv"),
        ("where nll < 0.1 |", "keep drop swa and or", "sensitivity"),
        ("where nll(|", "drop swa", "keep sensitivity not $n"),
        ("where kl(swa(|", "window= sinks= $window", "drop nll"),
        ("where kl(swa(window=4, |", "sinks=", "window= drop"),
        ("lowest 4 |", "of by", "keep"),
        ("lowest 4 of rest by |", "sensitivity nll kl influence", "keep kv"),
        ("lowest of rest by nll until |", "kv flops params", "keep sensitivity influence"),
        ("lowest by nll while |", "nll kl kv", "keep influence"),
        ("choose for layers all among |", "keep drop swa", "kv influence"),
        ("choose for layers all among keep, |", "keep drop swa", "kv influence"),
        ("choose for layers all among keep, drop minimizing |", "nll kl kv", "drop needle"),
        (
            "choose for layers all among keep, drop minimizing kl subject to |",
            "kv weights serves kl recall",
            "drop influence needle",
        ),
        ("lowest of rest by nll until kv(32Ki) <= 50% |", "keep drop swa and", "kv"),
        ("else drop(|", "attention mlp block target=", "keep not"),
        ("where influence(|", "attention block", "drop keep"),
        ("measure { metric = influence(|", "attention block", "drop"),
        ('modules "*.q_proj" |', "quantize keep in where", "drop swa"),
        ('modules "*.q_proj" quantize(bits=|', "4 8", "drop"),
        ("param $x: |", "tokens int ratio str bool bytes float", "keep $window"),
        ("param $x: tokens = |", "$window $n", "$x keep"),
        ("group @x = |", "all first @core", "@x keep"),
        ("let |", "", "$window $n"),
        ("assert ppl_increase(|", "", "drop keep"),
        ("let $x = |", "$window sensitivity kv ppl_increase model.layers true not", "$x keep @core"),
        ("assert |", "kv flops params ppl_increase agreement kl nll model.layers", "sensitivity keep serves"),
        ("requires model.fam|", "model.family model.layers", "keep"),
        ('requires model.family in ["|"]', '"llama" "qwen3"', "keep"),
        ("heal { |", "data tokens method loss lr seq batch", "metric keep $n"),
        ("heal { tokens = 4; |", "data stage", "tokens"),
        ("heal { stage |", "match distill", "tokens keep"),
        ("heal { tokens = 4; stage match { lr = 1; |", "data tokens", "lr stage"),
        ("heal { stage match { lr = 1 }; |", "data tokens lr stage", "match"),
        ("heal { stage match { schedule = |", "cosine linear", "kl keep"),
        ("heal { teacher = |", "loaded cached", "kl keep"),
        ("heal { tok|ens = 4 }", "tokens data", "keep"),
        ("heal { method = |", "lora full", "kl keep $n not"),
        ("heal { method = lora(|", "rank= alpha=", "window="),
        ("heal { loss = kl + 0.1 * |", "hidden kl", "keep $n perplexity"),
        ("heal { tokens = |", "$window $n", "kl keep"),
        ("heal { data = |", "self mix", "kl keep"),
        ("eval { data = |", "$window", "self mix"),
        ('heal { data = mix("a.txt", |', '"builtin:docs" self weights=', "kl mix"),
        ('heal { data = "|" }', '"builtin:pydoc"', '"builtin:wikitext"'),
        ('eval { data = "|" }', '"builtin:wikitext"', "keep"),
        ('heal { data = "|" }', '"builtin:recall"', '"builtin:wikitext"'),
        ('heal { data = mix("builtin:pydoc", "|") }', '"builtin:recall"', '"builtin:wikitext"'),
        ('measure { data = "|" }', '"builtin:docs"', '"builtin:recall"'),
        ('eval { data = "|" }', '"builtin:docs"', '"builtin:recall"'),
        ("measure { metric = |", "nll kl influence", "sensitivity keep ppl_increase agreement"),
        ("eval { metrics = [|", "perplexity kl agreement", "nll hidden"),
        ("# wh|", "", "where layers"),
        ("where nll <<< |", "", "keep nll"),
    ],
)
def test_offers(text: str, wanted: str, unwanted: str) -> None:
    labels = {label.removesuffix(" =") for label in offered(text)}
    assert set(wanted.split()) <= labels
    assert not set(unwanted.split()) & labels


def test_functions_are_written_with_their_arguments() -> None:
    text = "choose for layers all among keep, drop minimizing kl subject to "
    _, items = complete(Analysis(text), len(text))
    written = {item.label: item.text for item in items}
    assert written["kv"] == "kv(${1:8Ki})"
    assert written["latency"] == "latency(${1:8Ki}, ${2:BATCH})"
    assert written["serves"] == 'serves(${1:"ENGINE"})'
    assert written["weights"] == "weights"


def test_modules_of_the_model_are_offered() -> None:
    text = 'modules "'
    _, items = complete(Analysis(text, facts=smollm2_facts()), len(text))
    found = {item.label: item for item in items}
    assert found['"*.q_proj"'].detail == "30 modules of this model"
    assert complete(Analysis(text), len(text))[1] == ()


@pytest.mark.parametrize("text", ['modules "', "layers ", "else ", "measure { metric = ", "layers 0-3 "])
def test_the_protocol_has_each_kind(text: str) -> None:
    kinds = pytest.importorskip("lsprotocol.types").CompletionItemKind
    _, items = complete(Analysis(text, facts=smollm2_facts()), len(text))
    assert {item.kind for item in items} <= {kind.name for kind in kinds}
    assert items


def test_recipes_beside_are_offered_to_include(tmp_path: Path) -> None:
    for name in ("common.lbr", "mine.lbr", "notes.txt"):
        (tmp_path / name).write_text("", encoding="utf-8")
    text = 'include "'
    _, items = complete(Analysis(text, path=tmp_path / "mine.lbr"), len(text))
    assert [item.label for item in items] == ['"common.lbr"']
    assert complete(Analysis(text, path=tmp_path / "no" / "mine.lbr"), len(text))[1] == ()
    assert complete(Analysis(text), len(text))[1] == ()


@pytest.mark.parametrize("text", ['eval { needle = "', 'eval { needle = [1Ki, "', 'assert recovery(needle("'])
def test_files_of_questions_beside_are_offered_to_needles(tmp_path: Path, text: str) -> None:
    for name in ("mine.jsonl", "other.lbr"):
        (tmp_path / name).write_text("", encoding="utf-8")
    _, items = complete(Analysis(text, path=tmp_path / "mine.lbr"), len(text))
    assert [item.label for item in items] == ['"mine.jsonl"']


def test_names_are_offered_below_their_definition_only() -> None:
    assert "@core" not in offered("layers @|\ngroup @core = all", "")
    assert "$w" in offered("let $w = \nlayers $|", "")  # also from a statement that does not parse


def test_completion_replaces_the_word_at_the_cursor() -> None:
    text = "layers 0-3 ke"
    cursor, _ = complete(Analysis(text), len(text))
    assert cursor is not None
    assert (cursor.start, cursor.end) == (11, 13)
    dotted = "assert model.lay > 3"
    cursor, _ = complete(Analysis(dotted), 16)
    assert cursor is not None
    assert dotted[cursor.start : cursor.end] == "model.lay"


def test_an_action_brings_what_it_needs_and_its_page() -> None:
    item = offered("else |")["swa"]
    assert item.text == "swa(window=${1:512})"
    assert item.snippet
    assert "sinks=0" in item.page
    assert "**Why**" in item.page
    assert not offered("else |")["drop"].snippet
    assert offered("else |").keys() >= set(actions())


def test_every_keyword_has_a_page_and_can_be_offered() -> None:
    assert set(statements()) <= set(offered("|"))


RECIPES = [path.read_text(encoding="utf-8") for path in sorted(resource_folder("recipes").glob("*.lbr"))]
SPEC = (Path(__file__).parents[1] / "spec" / "valid.md").read_text(encoding="utf-8")
RECIPES += re.findall(r"^```lbr\n(.*?)^```\n", SPEC, re.M | re.S)


def test_what_stands_in_good_recipes_is_offered_there() -> None:
    """At every keyword, action, metric, variable and group of good recipes, that very word is among the offers."""
    checked = 0
    for text in RECIPES:
        analysis = Analysis(text)
        if not recipe_from_text(text).ok:
            continue
        for token in analysis.lexed.tokens:
            kind = token.type
            before = [other for other in analysis.lexed.tokens if other.end <= token.start]
            defines = bool(before) and before[-1].type in ("PARAM", "LET", "GROUP")
            if (token.text in keywords() and kind != "KEY") or (kind in ("NAME", "VAR", "REF") and not defines):
                _, items = complete(analysis, token.start + 1)
                assert token.text in {item.label for item in items}, (token, text[token.start - 30 : token.end])
                checked += 1
    assert checked > 100
