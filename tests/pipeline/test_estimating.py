"""`lbdsl plan --estimate`: from headers alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
