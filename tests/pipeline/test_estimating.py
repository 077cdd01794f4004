"""`lbdsl plan --estimate`: from headers alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lbdsl.plan.estimate import head_layers
from lbdsl.plan.lengths import with_lengths
from lbdsl.recipe.load import recipe_from_text
from lbdsl.session import predicting
from lbdsl.session.predicting import measuring_tokens
from lbdsl.solve.case import Case
from tests.plan_cases import llama_facts
from tests.tiny_model import RECIPE

STAGES = "heal { batch = 4; stage match { tokens = 4Ki }; stage distill { tokens = 4Ki; method = full } }\n"


def estimated(lbdsl, devices: str, text: str = RECIPE) -> dict:
    Path("r.lbr").write_text(text)
    done = lbdsl("plan", "r.lbr", "model", "--estimate", devices, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_shares_are_smaller_and_machines_hold_all(workplace: Path, lbdsl) -> None:
    found = estimated(lbdsl, "2xRTX4090")
    assert set(found["ways"]) == {"whole", "whole, cached", "shared", "shared, cached"}
    assert found["ways"]["shared"]["device_bytes"] < found["ways"]["whole"]["device_bytes"]
    assert found["ways"]["whole"]["fits"] is True
    assert found["hours"]["healing"] == pytest.approx(found["flops"]["healing"] / (2 * 165e12) / 0.4 / 3600)
    assert not found["batch_raised"]
    alone = estimated(lbdsl, "1xRTX4090")
    assert set(alone["ways"]) == {"whole", "whole, cached"}
    # The first process judges alone.
    assert alone["hours"]["judging"] == found["hours"]["judging"]
    assert not list(Path().glob("*.lbdsl-work"))


def test_batches_are_raised_and_said(workplace: Path, lbdsl) -> None:
    assert estimated(lbdsl, "3x24GB")["batch_raised"]
    said = lbdsl("plan", "r.lbr", "model", "--estimate", "3x24GB").out
    assert "with a batch that so many processes can share" in said
    assert "FLOPs" in said
    assert all(len(line) <= 80 for line in said.splitlines())


def test_a_stage_that_needs_the_whole_base_has_no_cached_teacher(workplace: Path, lbdsl) -> None:
    start = RECIPE.index("heal {")
    text = RECIPE[:start] + STAGES + RECIPE[RECIPE.index("}\n", start) + 2 :]
    assert set(estimated(lbdsl, "2x80GB", text)["ways"]) == {"whole", "shared"}
    healed = estimated(lbdsl, "2xcpu", text)
    assert healed["ways"]["whole"]["machine_bytes"] == 0
    assert healed["hours"]["healing"] > 0


def test_choosing_takes_what_its_strategy_measures(workplace: Path, lbdsl) -> None:
    among = "keep, swa(window=16), swa(window=32), kv_heads(1), drop minimizing kl subject to kv(64) <= 50%"
    found = []
    for way in ("strategy = screen; tries = 0", "tries = 0", "tries = 50", "strategy = greedy; tries = 50"):
        text = f"lbr 1\nmeasure {{ tokens = 4Ki; seq = 128; {way} }}\nchoose for layers all among {among}\nelse keep\n"
        found.append(estimated(lbdsl, "cpu", text)["flops"]["measuring"])
    assert found == sorted(set(found))


def test_without_healing_there_is_one_way(workplace: Path, lbdsl) -> None:
    assert set(estimated(lbdsl, "4xH100", "lbr 1\nlayers 1 drop\nelse keep\n")["ways"]) == {"whole"}


@pytest.mark.parametrize(
    ("devices", "more", "said"),
    [
        ("2x24", (), "did you mean `24GB`"),
        ("8xH1000", (), "did you mean `H100`"),
        ("0xH100", (), "write 1 or more"),
        ("8xH100", ("-o", "x.lbplan"), "--estimate makes no plan"),
    ],
)
def test_what_is_no_device(workplace: Path, lbdsl, devices: str, more: tuple[str, ...], said: str) -> None:
    done = lbdsl("plan", "tiny.lbr", "model", "--estimate", devices, *more)
    assert (done.code, said in done.err) == (2, True), done.err


def test_a_plan_says_first_how_long_it_measures(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "measuring takes about"
    assert said not in lbdsl("plan", "tiny.lbr", "model").err, "a second is not worth a line"
    monkeypatch.setattr(predicting, "LONG", 0.0)
    err = lbdsl("plan", "tiny.lbr", "model").err
    assert "s in all, less what is kept from before" in err
    assert err.index(said) < err.index("measuring layers")


def test_scores_and_questions_are_counted_in_tokens() -> None:
    facts = llama_facts(layers=6)
    head = head_layers(facts)
    of_one = "measure {{ tokens = 4Ki; seq = 512; recall_questions = 80; recall_seq = 512{} }}\n{} drop\nelse keep"

    def tokens(ranking: str, more: str = "") -> float:
        case = Case(recipe_from_text(of_one.format(more, ranking)).unwrap(), facts)
        settled = with_lengths(case).unwrap()
        return measuring_tokens(settled.recipe, settled, facts)

    # Joint loss and recall, of the base and of the whole plan: on half the text, and on 80 questions.
    whole = 2 * (2048 + 80 * 512 / 8)
    assert tokens("layers 0") == whole
    # The base, and from each layer to the end.
    passes = 1 + sum(6 - layer + head for layer in range(6)) / (6 + head)
    assert tokens("lowest 2 by nll(drop)") == pytest.approx(whole + passes * 4096)
    assert tokens("lowest 2 by recall(drop)") == pytest.approx(whole + passes * 80 * 512 / 8)
