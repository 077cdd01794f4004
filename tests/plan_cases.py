"""Recipes, facts and scores written by hand, shared by the planner's tests."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from lbdsl.actions import Action
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.units import Unit
from lbdsl.cost.cost import ModelCost, model_cost
from lbdsl.cost.facts import ModelFacts
from lbdsl.cost.profile import Profile
from lbdsl.layer.spec import LayerSpec
from lbdsl.metrics import metrics
from lbdsl.parts.attention import Attention, Window
from lbdsl.parts.gated_mlp import GatedMLP
from lbdsl.plan.build import build
from lbdsl.plan.made_from import MeasuredOn, ModelRef
from lbdsl.plan.schema import Loss, Plan, ScoreValue
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.schema import Recipe
from lbdsl.solve.case import Case
from lbdsl.solve.choose import engines_of
from lbdsl.solve.select import select


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
    window = None if native_window is None else Window(size=native_window)
    mixer = Attention(heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window)
    return ModelFacts(
        family="llama",
        architecture="LlamaForCausalLM",
        hidden=hidden,
        vocab=vocab,
        positions=positions,
        tied=tied,
        dtype=dtype,
        layer_specs=(LayerSpec(mixer=mixer, ffn=GatedMLP(width=intermediate)),) * layers,
    )


MODULES = tuple(f"self_attn.{name}_proj" for name in "qkvo") + tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))
"""The linear maps of a layer."""


def windowed(facts: ModelFacts, windows: Sequence[int | None]) -> ModelFacts:
    """The same model with these native windows, in tokens: None for none, 0 for a layer without attention."""
    specs = []
    for spec, size in zip(facts.layer_specs, windows, strict=True):
        window = None if size is None else Window(size=size or 1)
        specs.append(spec.replace(mixer=None if size == 0 else spec.mixer.replace(window=window)))
    return replace(facts, layer_specs=tuple(specs))


def changed_cost(facts: ModelFacts, actions: Sequence[Sequence[Action]]) -> ModelCost:
    """The cost of the model whose layers have these actions."""
    specs = list(facts.layer_specs)
    for layer, chosen in enumerate(actions):
        for action in chosen:
            specs[layer] = action.change(specs[layer], facts.linear_maps[layer])
    return model_cost(facts, specs)


def token_bytes(facts: ModelFacts) -> int:
    """Bytes of one token's keys and values in one layer."""
    return facts.layer_specs[0].mixer.token_bytes(facts)


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
    requests = Case(recipe, facts).measurable().unwrap().requests
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
    contexts: tuple[int, ...] = (),
    profiles: Mapping[str, Profile] = MappingProxyType({}),
) -> Plan:
    """The plan of a recipe with the scores of `scores_for`, also when an assert fails; every engine can serve it."""
    recipe = replace(recipe_of(text), profiles=profiles)
    scores = scores_for(recipe, facts, nll)
    rule = Case(recipe, facts).choose
    engines = engines_of(rule.choosing) if rule is not None and rule.choosing is not None else ()
    selection, found = select(Case(recipe, facts), scores, forms=dict.fromkeys(engines, (lambda specs: True,)))
    assert selection is not None, found
    ref = ModelRef(
        source="HuggingFaceTB/SmolLM2-135M",
        digest="b968" * 16,
        family=facts.family,
        layers=facts.layers,
        dtype=facts.dtype,
        facts=facts,
    )
    on = MeasuredOn(data="builtin:pydoc", digest="41af" * 16, tokens=8192, seq=1024, fingerprint="7c" * 32)
    plan = build(Case(recipe, facts), selection, scores, joint, ref, on, contexts, "0.1.0", found=found).value
    assert plan is not None
    return plan


def write_without_data(path: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """A safetensors file of bfloat16 tensors: its header, and then nothing, as long as their data would be."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
