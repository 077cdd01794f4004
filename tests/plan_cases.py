"""Recipes, facts and scores written by hand, shared by the planner's tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from lbdsl.core.facts import ModelFacts
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.units import Unit
from lbdsl.metrics import metrics
from lbdsl.plan.build import build
from lbdsl.plan.requests import requests_of
from lbdsl.plan.schema import Loss, MeasuredOn, ModelRef, Plan, ScoreValue
from lbdsl.plan.select import select
from lbdsl.recipe import recipe_from_text
from lbdsl.recipe.schema import Recipe

MODULES = tuple(f"self_attn.{name}_proj" for name in "qkvo") + tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))
"""The modules of a layer that hold a weight matrix."""


def llama_facts(
    *,
    layers=4,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate=128,
    vocab=256,
    positions=512,
    tied=True,
    dtype="bfloat16",
    native_window=None,
) -> ModelFacts:
    """Facts of a Llama of these shapes: two norms a layer and a final one, no biases."""
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads) + hidden
    mlp = 3 * hidden * intermediate + hidden
    return ModelFacts(
        family="llama",
        architecture="LlamaForCausalLM",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocab=vocab,
        positions=positions,
        tied=tied,
        dtype=dtype,
        attention_params=(attention,) * layers,
        mlp_params=(mlp,) * layers,
        other_params=vocab * hidden * (1 if tied else 2) + hidden,
        native_window=(native_window,) * layers,
        modules=tuple(f"model.layers.{i}.{part}" for i in range(layers) for part in MODULES),
    )


def smollm2_facts() -> ModelFacts:
    return llama_facts(
        layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocab=49152, positions=8192
    )


SMOLLM2_NLL = (
    2.355,
    3.110,
    0.136,
    0.049,
    0.063,
    0.016,
    0.027,
    0.022,
    0.024,
    0.035,
    0.058,
    0.086,
    0.037,
    0.117,
    0.053,
    0.087,
    0.234,
    0.055,
    0.070,
    0.092,
    0.092,
    0.080,
    0.046,
    0.141,
    0.322,
    0.032,
    0.030,
    0.078,
    0.181,
    0.040,
)
"""Rise of the loss when one layer's attention is removed from SmolLM2-135M, in nats/token."""


def recipe_of(text: str, **set_params: str) -> Recipe:
    """The recipe in a text that is right."""
    return recipe_from_text(text, "recipe.lbr", set_params).unwrap()


def scores_for(recipe: Recipe, facts: ModelFacts, nll: Sequence[float] = SMOLLM2_NLL) -> dict[Request, Measurement]:
    """All that the recipe needs: `nll` under `drop`, a third of it under other actions, a half for other metrics."""
    requests, _ = requests_of(recipe, facts).unwrap()
    scores = {}
    for request in requests:
        value = nll[request.layer] * (1.0 if request.action == "drop" else 1 / 3)
        value *= 1.0 if request.metric == "nll" else 0.5
        scores[request] = Measurement(value, 0.004, metrics()[request.metric].unit, 8192, 8)
    return scores


def joint_loss(
    nll: float, kl: float | None = None, stderr: float | None = None, base_nll: float | None = None, tokens: int = 4096
) -> Loss:
    """What was measured of the whole changed model; `stderr` is of `nll`."""
    scores = {"nll": ScoreValue(value=nll, stderr=stderr, unit=Unit.NATS)}
    if kl is not None:
        scores["kl"] = ScoreValue(value=kl, unit=Unit.NATS)
    return Loss(scores=scores, base_nll=base_nll, tokens=tokens)


def plan_of(
    text: str,
    facts: ModelFacts,
    nll: Sequence[float] = SMOLLM2_NLL,
    joint: Loss | None = None,
    contexts: tuple[int, ...] = (1024, 8192, 32768),
) -> Plan:
    """The plan of a recipe with the scores of `scores_for`, also when an assert fails."""
    recipe = recipe_of(text)
    scores = scores_for(recipe, facts, nll)
    selection, found = select(recipe, facts, scores)
    assert selection is not None, found
    ref = ModelRef(
        source="HuggingFaceTB/SmolLM2-135M",
        digest="b968" * 16,
        family=facts.family,
        layers=facts.layers,
        dtype=facts.dtype,
        facts=asdict(facts),
    )
    on = MeasuredOn(data="builtin:pydoc", digest="41af" * 16, tokens=8192, seq=1024, fingerprint="7c" * 32)
    plan = build(recipe, facts, selection, scores, joint, ref, on, contexts, "0.1.0", found=found).value
    assert plan is not None
    return plan
