"""Recipe, facts and fixed scores -> the plan, a line a layer, and its picture, word for word.

After a wanted change: `LBDSL_UPDATE_GOLDEN=1 pytest tests/golden`, then read the difference.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from lbdsl.core.resources import resource_folder
from lbdsl.cost.facts import ModelFacts
from lbdsl.model.layout import layout_of
from lbdsl.model.tensor_names import text_config
from lbdsl.plan.schema import Loss, Plan, Speed
from lbdsl.report.console import make_console
from lbdsl.report.plan import render_plan
from tests.golden.plan_text import plan_text
from tests.plan_cases import SMOLLM2_NLL, joint_loss, llama_facts, plan_of, smollm2_facts

WIDE = ("half-kv", "eighty")
"""Those that say something else on a wide screen."""

FOLDER = Path(__file__).parent / "plans"
ROOT = Path(__file__).parents[2]
SPEEDS = (Speed(context=8192, batch=1, bound=1.6), Speed(context=8192, batch=16, bound=4.57))
JOINT = joint_loss(0.4731, 0.4108, stderr=0.0213, base_nll=2.8827)


@dataclass(frozen=True)
class Case:
    recipe: str
    facts: ModelFacts
    scores: tuple[float, ...] = SMOLLM2_NLL
    joint: Loss | None = JOINT

    def plan(self) -> Plan:
        return plan_of(self.recipe, self.facts, self.scores, self.joint)


EIGHTY = llama_facts(
    layers=80,
    hidden=8192,
    heads=64,
    kv_heads=8,
    head_dim=128,
    intermediate=28672,
    vocab=128256,
    positions=131072,
    tied=False,
)
CASES = {
    "quickstart": Case("layers 0-3 keep; where sensitivity<0.1 drop; else swa(window=512)\n", smollm2_facts()),
    "half-kv": Case(
        """\
lbr 1
recipe "smollm2-half-kv"
requires model.family in ["llama", "qwen3"] and model.layers >= 24
param $window: tokens in 64..8Ki = 256
group @core = first 2, last 1
measure { metric = nll; data = "builtin:pydoc"; tokens = 8Ki; seq = 1Ki }
layers @core keep because "attention sinks form here"
lowest 6 by sensitivity drop
lowest of rest by kl(swa(window=$window, sinks=4)) until kv(32Ki) <= 50% swa(window=$window, sinks=4)
else keep
heal   { data = "builtin:pydoc"; tokens = 200k; method = lora(rank=16); loss = kl + 0.1 * hidden; lr = 1e-3; seq = 1Ki }
eval   { data = "builtin:pydoc"; tokens = 16Ki; seq = 2Ki }
assert kv(32Ki) <= 50%
assert ppl_increase < 5%
""",
        smollm2_facts(),
    ),
    "eighty": Case(
        """\
layers first 4, last 4 keep
lowest 25% of rest by influence drop
layers every 2 swa(window=4Ki, sinks=4)
assert nll < 0.2
""",
        EIGHTY,
        tuple(0.02 + ((i * 37) % 80) / 80 for i in range(80)),
    ),
    "nothing": Case("layers all keep\n", smollm2_facts(), joint=None),
}


def _of_model(recipe: str) -> tuple[ModelFacts, tuple[float, ...]]:
    """SmolLM2, or the model that the recipe is for; and scores of its layers."""
    model = {"gemma-3": "gemma-3-4b", "qwen3-30b-a3b": "qwen3-30b-a3b"}.get(recipe)
    if model is None:
        return smollm2_facts(), SMOLLM2_NLL
    config = json.loads((ROOT / "benchmarks" / "configurations" / f"{model}.json").read_text(encoding="utf-8"))
    facts = layout_of(text_config(config) or config).facts("bfloat16")
    return facts, tuple(0.02 + ((i * 37) % 48) / 48 for i in range(facts.layers))


CASES |= {
    f"shipped-{path.stem}": Case(path.read_text(encoding="utf-8"), *_of_model(path.stem))
    for path in sorted(resource_folder("recipes").glob("*.lbr"))
}


def picture(plan: Plan, width: int) -> str:
    out = io.StringIO()
    render_plan(plan.model_copy(update={"speeds": SPEEDS}), make_console(out, width))
    return out.getvalue()


def without_digests(plan: Plan, text: str) -> str:
    """So that an edited comment in a recipe changes no picture."""
    for digest in (plan.recipe.sha256[:4], plan.model.digest[:4]):
        assert f"@{digest} " in text
        text = text.replace(f"@{digest} ", "@.... ")
    return text


@pytest.mark.parametrize("name", CASES)
def test_golden(name):
    plan = CASES[name].plan()
    texts = {
        f"{name}.plan.txt": plan_text(plan),
        f"{name}.80.txt": without_digests(plan, picture(plan, 80)),
    }
    if name in WIDE:
        texts[f"{name}.120.txt"] = without_digests(plan, picture(plan, 120))
    for file, text in texts.items():
        path = FOLDER / file
        if os.environ.get("LBDSL_UPDATE_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{file} changed; see the head of this file"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", CASES)
def test_no_line_is_too_long(name, width):
    text = picture(CASES[name].plan(), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert not any(line != line.rstrip() for line in text.splitlines())
    assert "\x1b" not in text
