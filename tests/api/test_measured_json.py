"""What `measure` and `plan` write is JSON and UTF-8, whatever was measured and however a file is called."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lbdsl.api.planning import Measured, plan_recipe
from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.measurement import Measurement, Request
from tests.plan_cases import recipe_of


def test_scores_that_are_no_numbers_are_null() -> None:
    scores = {
        Request("nll", "drop", 0): Measurement(math.nan, math.nan, "nats/token", 64, 1),
        Request("nll", "drop", 1): Measurement(math.inf, math.inf, "nats/token", 64, 1),
        Request("nll", "drop", 2): Measurement(0.5, 0.1, "nats/token", 64, 2),
    }
    measured = Measured(recipe_of("lowest 1 by nll drop\nelse keep"), None, scores, None, ())  # type: ignore[arg-type]
    rows = json.loads(json.dumps(measured.to_json(), allow_nan=False))["scores"]
    assert [(row["value"], row["stderr"]) for row in rows] == [(None, None), (None, None), (0.5, 0.1)]
    other_order = replace(measured, scores=dict(reversed(scores.items())))
    assert json.dumps(other_order.to_json()) == json.dumps(measured.to_json())


@pytest.mark.torch
def test_a_recipe_whose_name_no_plan_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "\udcff.lbr"
    path.write_text("else keep\n", encoding="utf-8")
    with pytest.raises(LbdslError, match="LB020"):
        plan_recipe(path, "nowhere")
    path = tmp_path / "größe.lbr"
    path.write_text("else keep\n", encoding="utf-8")
    with pytest.raises(LbdslError, match="LB400"):
        plan_recipe(path, "nowhere")
