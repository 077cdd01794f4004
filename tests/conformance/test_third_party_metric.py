"""A metric from outside is one file, wherever it may stand: `examples/metrics`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clean_process import CleanProcess, Done

FOLDER = Path(__file__).parents[2] / "examples" / "metrics"
PLUG_INS = os.pathsep.join(str(FOLDER / name) for name in ("flips.py", "loss_factor.py"))
RECIPE = FOLDER / "flips.lbr"

JOINT_FLIPS = """
import sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
from lbdsl.api.planning import load_plan
from lbdsl.session.texts import joint_blocks
from lbdsl.session.model import OpenModel

plan = load_plan("x.lbplan")
ids = joint_blocks(plan.measure, OpenModel("model"), Path("model")).ids
with torch.no_grad():
    base, changed = (
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()(ids).logits[:, :-1].argmax(-1)
        for folder in ("model", "out")
    )
assert plan.loss.tokens == base.numel()
print((base != changed).double().mean().item())
"""
"""The share of tokens that flip on the joint text, by full forward passes of the base and of the result, which is as the
plan's model because nothing heals it."""


@dataclass(frozen=True)
class Place:
    """A folder with a tiny model, and the command line in it with the plug-ins."""

    folder: Path
    process: CleanProcess

    def lbdsl(self, *words: object, plug_ins: str = PLUG_INS, code: int = 0) -> Done:
        done = self.process.lbdsl(*words, cwd=self.folder, **self.environment(plug_ins))
        assert done.returncode == code, done.stderr
        return done

    def environment(self, plug_ins: str = PLUG_INS) -> dict[str, Any]:
        return {
            "LBDSL_PLUGINS": plug_ins,
            "LBDSL_CACHE_DIR": self.folder / "cache",
            "HF_MODULES_CACHE": self.folder / "modules",
        }

    def refused(self, recipe: str, plug_ins: str = PLUG_INS) -> list[tuple[str, str]]:
        """The codes and messages of a recipe's errors."""
        (self.folder / "bad.lbr").write_text(recipe, encoding="utf-8")
        found = json.loads(self.lbdsl("check", "bad.lbr", "--format", "json", plug_ins=plug_ins, code=1).stdout)
        return [(item["code"], item["message"]) for item in found["diagnostics"] if item["severity"] == "error"]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, clean_process: CleanProcess, new_cache: Callable[[Path], Path]
) -> Place:
    from tests.tiny_model import save_tiny_model

    folder = tmp_path_factory.mktemp("metrics")
    save_tiny_model(folder / "model")
    new_cache(folder / "cache")
    return Place(folder, clean_process)


@pytest.fixture(scope="module")
def plan(place: Place) -> dict[str, Any]:
    return json.loads(place.lbdsl("plan", RECIPE, "model", "-o", "x.lbplan", "--json").stdout)


@pytest.fixture(scope="module")
def applied(place: Place, plan: dict[str, Any]) -> str:
    return place.lbdsl("apply", "x.lbplan", "-o", "out").stdout


@pytest.mark.torch
def test_layers_are_chosen_by_it(plan: dict[str, Any]) -> None:
    windowed = [layer["scores"]["flips(swa(window=16))"] < 0.2 for layer in plan["layers"][1:]]
    assert ["mixer.window" in layer["changes"] for layer in plan["layers"][1:]] == windowed
    assert 0 < sum(windowed) < 5
    # `lowest ... by sensitivity`, which `measure` makes it, and `lowest of rest by flips until` a cost.
    left = [layer for layer in plan["layers"][1:] if "mixer.window" not in layer["changes"]]
    ranked = sorted(left, key=lambda layer: (layer["scores"]["flips(drop)"], layer["index"]))
    dropped = {layer["index"] for layer in left if layer["after"]["mixer"] is None}
    assert dropped == {layer["index"] for layer in ranked[: len(dropped)]}
    assert [len(rule["claims"]) for rule in plan["rules"]] == [
        1,
        sum(windowed),
        1,
        len(dropped) - 1,
        len(left) - len(dropped),
    ]
    assert plan["after"]["kv_bytes"]["1024"] <= 0.4 * plan["before"]["kv_bytes"]["1024"]


@pytest.mark.torch
def test_it_is_measured_of_the_whole_changed_model(place: Place, plan: dict[str, Any], applied: str) -> None:
    assert set(plan["loss"]["scores"]) == {"flips", "kl", "nll"}
    flips = plan["loss"]["scores"]["flips"]
    assert flips["unit"] == "ratio"
    assert 0 < flips["value"] < 1
    assert 0 < flips["stderr"] < 0.5
    done = place.process.run(JOINT_FLIPS, cwd=place.folder, **place.environment())
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(flips["value"], abs=1.01 / plan["loss"]["tokens"])  # one near tie


@pytest.mark.torch
def test_it_gates_the_plan_and_stands_in_its_picture(place: Place, plan: dict[str, Any]) -> None:
    kv, flips, post = plan["asserts"]
    assert (kv["unit"], kv["status"]) == ("ratio", "pass")
    assert flips == {
        "text": "flips < 99%",
        "phase": "measured",
        "status": "pass",
        "value": plan["loss"]["scores"]["flips"]["value"],
        "unit": "ratio",
        "on": None,
    }
    assert (post["phase"], post["status"], post["value"], post["unit"]) == ("post", "after healing", None, None)
    shown = " ".join(place.lbdsl("show", "x.lbplan").stdout.split())
    error = plan["loss"]["scores"]["flips"]["stderr"]
    assert f"4 x 64 tokens, flips {100 * flips['value']:.3g} ±{100 * error:.2g} %, KL " in shown
    assert f"flips < 99% pass {100 * flips['value']:.4g} %" in shown
    (place.folder / "strict.lbr").write_text(RECIPE.read_text(encoding="utf-8").replace("flips < 99%", "flips < 0.1%"))
    failed = place.lbdsl("plan", "strict.lbr", "model", code=5)
    assert f"`flips` is {100 * flips['value']:.1f} %" in failed.stderr


@pytest.mark.torch
def test_a_metric_of_the_finished_model_gates_the_save_and_is_evaluated(place: Place, applied: str) -> None:
    judged = json.loads(place.lbdsl("eval", "out", "--json").stdout)
    fields = "data data_digest tokens sequences perplexity nll loss_rise ppl_increase kl agreement scores stderr"
    assert set(judged) == {*fields.split(), "format_version", "sources", "asserts"}
    score = judged["scores"]["loss_factor"]
    assert score["unit"] == "number"
    assert score["value"] == pytest.approx(judged["nll"]["artifact"] / judged["nll"]["base"])
    assert score["stderr"] == pytest.approx(judged["stderr"]["loss_rise"] / judged["nll"]["base"])
    assert set(judged["scores"]) == {"agreement", "kl_healed", "loss_factor", "ppl_increase"}
    assert {name: judged[name] for name in ("agreement", "ppl_increase", "kl")} == {
        "agreement": judged["scores"]["agreement"]["value"],
        "ppl_increase": judged["scores"]["ppl_increase"]["value"],
        "kl": judged["scores"]["kl_healed"]["value"],
    }
    last = judged["asserts"][-1]
    assert (last["status"], last["value"], last["unit"]) == ("pass", score["value"], "number")
    for text in (applied, place.lbdsl("eval", "out").stdout, (place.folder / "out" / "README.md").read_text("utf-8")):
        assert "loss_factor" in text
        assert f"{score['value']:.4f}" in text


@pytest.mark.torch
def test_a_gate_on_it_that_fails_sets_the_result_aside(place: Place, applied: str) -> None:
    text = RECIPE.read_text(encoding="utf-8").replace("loss_factor < 1.5 and agreement > 1%", "loss_factor > 1.5")
    (place.folder / "gated.lbr").write_text(text, encoding="utf-8")
    done = place.lbdsl("apply", "gated.lbr", "model", "-o", "gated", "--yes", code=4)
    assert "assert loss_factor > 1.5" in done.stderr
    assert (place.folder / "gated.rejected").is_dir()


@pytest.mark.torch
def test_it_stands_nowhere_else(place: Place) -> None:
    assert place.refused("lowest of rest by flips until flips < 5% drop\nelse keep") == [
        ("LB315", "`until` cannot use `flips`: it is of the whole changed model, and measured after layers are chosen")
    ]
    assert place.refused("where loss_factor < 1 drop\nelse keep") == [
        ("LB108", "`loss_factor` is known only after healing")
    ]
    assert place.refused("else drop\nassert flips < 5")[0] == ("LB107", "`flips` is a share, and `5` without `%` is 500 %")
    unknown = [message for code, message in place.refused("else drop\nassert flips < 5%\nassert loss_factor < 1", "")]
    assert unknown == ["no metric `flips`", "no metric `loss_factor`"]


ONLY_OF_THE_MODEL = """
from lbdsl.metrics import LogitsMetric, Of, Unit

class Whole(LogitsMetric):
    kind = "whole"
    unit = Unit.NATS
    of = frozenset({Of.CHANGED})

    @staticmethod
    def per_token(base_logp_NV, changed_logp_NV, target_N):
        return target_N.double()
"""


@pytest.mark.torch
def test_a_metric_of_the_changed_model_alone_ranks_no_layers(place: Place) -> None:
    (place.folder / "whole.py").write_text(ONLY_OF_THE_MODEL, encoding="utf-8")
    for recipe in ("where whole < 1 drop\nelse keep", "lowest 1 by whole drop\nelse keep"):
        assert place.refused(recipe, "whole.py") == [
            ("LB109", "`whole` is a value of the whole changed model; expected a value of one layer")
        ]
    assert [code for code, _ in place.refused("measure { metric = whole }\nelse keep", "whole.py")] == ["LB115"]
    (place.folder / "good.lbr").write_text("else drop\nassert whole < 1\n", encoding="utf-8")
    place.lbdsl("check", "good.lbr", plug_ins="whole.py")
