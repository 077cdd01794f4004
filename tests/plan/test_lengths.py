"""Sequences are long enough to show what windows do, and as long as the context that a recipe is about."""

from __future__ import annotations

import pytest

from lbdsl.api.fixing import fix_text
from lbdsl.plan.findings import static_findings
from lbdsl.plan.lengths import joint_tokens, with_lengths
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.schema_blocks import SEQUENCES
from lbdsl.solve.case import Case
from tests.plan_cases import llama_facts, recipe_of, smollm2_facts

SMOL = smollm2_facts()


def settled(text: str, facts=SMOL):
    found = with_lengths(Case(recipe_of(text), facts))
    return found.value and found.value.recipe, [(d.severity.value, d.code) for d in found.diagnostics]


@pytest.mark.parametrize(
    ("window", "seq"), [("256", 1024), ("512", 1024), ("513", 1026), ("1Ki", 2048), ("2Ki", 4096), ("4Ki", 8192)]
)
def test_an_open_seq_is_twice_the_widest_window(window: str, seq: int) -> None:
    for rule in (f"else swa(window={window})", f"lowest 3 by kl(swa(window={window})) swa(window=64)"):
        recipe, found = settled(rule + '\nheal { tokens = 200k; seq = 8Ki }\neval { data = "a.txt" }')
        assert found == []
        assert recipe.measure.seq == seq
        assert recipe.measure.tokens == max(8192, SEQUENCES * seq)
        assert joint_tokens(recipe.measure) == max(4096, SEQUENCES * seq)
        assert recipe.eval.seq == max(2048, seq)


def test_a_model_of_few_positions_has_short_sequences() -> None:
    recipe, found = settled("else drop\nheal {}\neval { tokens = 16Ki }", llama_facts(positions=512))
    assert (recipe.measure.seq, recipe.heal.seq, recipe.eval.seq) == (512, 512, 512)
    assert found == []


@pytest.mark.parametrize("block", ["measure { tokens = 16Ki; seq", "measure { recall_seq", "eval { tokens = 16Ki; seq"])
@pytest.mark.parametrize("rule", ["else swa(window=1Ki)", "lowest 3 by kl(swa(window=1Ki)) drop"])
def test_a_seq_that_a_window_covers_is_an_error_with_a_fix(block: str, rule: str) -> None:
    text = f"{block} = 1Ki }}\n{rule}\nassert nll < 1\n"
    recipe, found = settled(text)
    assert recipe is None
    assert ("error", "LB328") in found
    fixed = fix_text(text, lambda changed: static_findings(Case(recipe_from_text(changed).unwrap(), SMOL)))
    assert f"{block} = 2Ki" in fixed.text
    assert ("error", "LB328") not in settled(fixed.text)[1]


def test_a_parameter_that_makes_the_window_too_wide_is_seen() -> None:
    text = "param $window: tokens = 256\nmeasure { seq = 1Ki }\nelse swa(window=$window)\nassert nll < 1"
    assert with_lengths(Case(recipe_of(text, window="512"), SMOL)).ok
    assert [d.code for d in with_lengths(Case(recipe_of(text, window="1Ki"), SMOL)).diagnostics] == ["LB328"]


def test_a_window_of_the_models_own_asks_for_nothing() -> None:
    facts = llama_facts(positions=8192, native_window=4096)
    recipe, found = settled("else swa(window=4Ki)\nmeasure { seq = 1Ki }", facts)
    assert (recipe.measure.seq, found) == (1024, [])


@pytest.mark.parametrize(("window", "refused"), [("4Ki", False), ("4097", True), ("8Ki", True)])
def test_a_window_of_more_than_half_the_positions_is_refused(window: str, refused: bool) -> None:
    found = static_findings(Case(recipe_of(f"lowest 3 by nll swa(window={window})\nelse keep"), SMOL))
    assert [d.is_error for d in found if d.code == "LB326"] == ([True] if refused else [])


@pytest.mark.parametrize("block", ["measure", "heal", "eval"])
def test_sequences_beyond_the_positions_are_refused(block: str) -> None:
    assert settled(f"{block} {{ seq = 16Ki }}\nelse drop")[1] == [("error", "LB336")]


def test_four_sequences_are_the_fewest_and_it_is_said() -> None:
    recipe, found = settled("measure { tokens = 2Ki; seq = 1Ki }\nelse drop")
    assert (recipe.measure.tokens, found) == (4096, [("note", "LB338")])


@pytest.mark.parametrize(
    ("asserts", "seq"),
    [
        ("", 2048),
        ("assert kv(1Ki) <= 50%", 1024),
        ("assert kv(4Ki) <= 50%\nassert flops(8Ki) <= 90%", 8192),
        ("assert kv(32Ki) <= 50%", 8192),
        ("requires kv(4Ki) <= 99%", 4096),
        ("assert latency(8Ki, 1) <= 90%", 8192),
        ("assert memory(4Ki, 8) <= 90%", 4096),
        ("assert throughput(6Ki, 1Ki, 50) >= 120%", 7168),
        ("assert throughput(32Ki, 1Ki, 50) >= 120%", 8192),
    ],
)
def test_judged_at_the_largest_context_that_asserts_and_budgets_name(asserts: str, seq: int) -> None:
    recipe, found = settled(f"else drop\n{asserts}\nassert ppl_increase < 5%")
    assert (recipe.eval.seq, found) == (seq, [])
    assert recipe.eval.tokens >= SEQUENCES * seq


def test_an_until_is_a_budget_too() -> None:
    recipe, _ = settled("lowest by nll until kv(4Ki) <= 50% drop\nassert ppl_increase < 5%")
    assert recipe.eval.seq == 4096


def test_a_predicted_budget_of_choose_is_one_too() -> None:
    choose = "choose for layers all among keep, drop minimizing kl subject to latency(4Ki, 1) <= 90%"
    recipe, _ = settled(f"{choose}\nassert ppl_increase < 5%")
    assert recipe.eval.seq == 4096


@pytest.mark.parametrize("value", ["kv(8Ki) <= 50%", "latency(8Ki, 1) <= 50%", "throughput(7Ki, 1Ki, 2) >= 150%"])
def test_judging_on_shorter_sequences_is_said(value: str) -> None:
    recipe, found = settled(f"else drop\neval {{ seq = 1Ki }}\nassert {value}\nassert ppl_increase < 5%")
    assert (recipe.eval.seq, found) == (1024, [("warning", "LB329")])


@pytest.mark.parametrize("choose", [True, False])
@pytest.mark.parametrize(
    ("measure", "eval", "gate", "said"),
    [
        ("seq = 1Ki", "", "assert kv(8Ki) <= 99%", "8Ki"),
        ("seq = 1Ki", "", "assert latency(4Ki, 1) <= 99%", "4Ki"),
        ("seq = 1Ki", "eval { seq = 2Ki }", "", "2Ki"),
        ("seq = 2Ki", "eval { seq = 2Ki }", "", None),
        ("seq = 8Ki", "", "assert kv(32Ki) <= 99%", None),
        ("tokens = 8Ki", "", "assert kv(8Ki) <= 99%", None),
    ],
)
def test_scoring_on_shorter_text_than_is_judged_is_said_with_a_fix(
    choose: bool, measure: str, eval: str, gate: str, said: str | None
) -> None:
    rules = "choose for layers all among keep, drop minimizing kl subject to weights <= 90%"
    rules = rules if choose else "lowest 3 by nll drop\nelse keep"
    text = f"measure {{ {measure} }}\n{rules}\nheal {{}}\n{eval}\n{gate}\nassert ppl_increase < 5%\n"
    found = [d for d in with_lengths(Case(recipe_of(text), SMOL)).diagnostics if d.code == "LB359"]
    assert [d.severity.value for d in found] == (["warning"] if said else [])
    if said is not None:
        fixed = fix_text(text, lambda changed: static_findings(Case(recipe_from_text(changed).unwrap(), SMOL))).text
        assert f"measure {{ seq = {said} }}" in fixed
        assert "LB359" not in {d.code for d in with_lengths(Case(recipe_of(fixed), SMOL)).diagnostics}


def test_what_no_score_chose_or_nothing_judges_may_be_measured_on_short_text() -> None:
    for text in (
        "layers 0-3 drop\nelse keep\nassert kv(8Ki) <= 99%\nassert ppl_increase < 5%",
        "lowest 3 by nll drop\neval {}\nassert kv(8Ki) <= 99%",
    ):
        assert settled(f"measure {{ seq = 1Ki }}\n{text}")[1] == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('"builtin:pydoc"', True),
        ('["builtin:pydoc"]', True),
        ('["builtin:pydoc", "builtin:wikitext"]', False),
        ('"builtin:wikitext"', False),
    ],
)
def test_judging_on_the_healing_source_alone_is_said(data: str, said: bool) -> None:
    text = f'else drop\nheal {{ data = "builtin:pydoc" }}\neval {{ data = {data} }}\nassert ppl_increase < 5%'
    assert settled(text)[1] == ([("warning", "LB337")] if said else [])
    # Texts of recall are made of it.
    assert settled(text.replace('heal { data = "builtin:pydoc"', 'heal { data = "builtin:recall"'))[1] == settled(text)[1]


def test_healing_within_the_window_is_said() -> None:
    assert settled("else swa(window=1Ki)\nheal { seq = 1Ki }")[1] == [("warning", "LB328")]
    # What asks for things that stand far back needs room for them.
    recall = "else swa(window=512)\nheal {{ data = {}; seq = {} }}"
    for data in ('"builtin:recall"', 'mix("builtin:docs", "builtin:recall")'):
        assert settled(recall.format(data, "1Ki"))[1] == [("warning", "LB328")]
        assert settled(recall.format(data, "2Ki"))[1] == []
    assert settled(recall.format('"builtin:docs"', "1Ki"))[1] == []


def test_nothing_is_judged_where_nothing_asks_for_it() -> None:
    assert settled("else drop")[0].eval is None
