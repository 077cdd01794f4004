"""Convert the record of a version 1 artifact to the fields of the current version; used only by `show`.

In version 1 a layer was a mapping such as {"attn": "swa", "window": 256, "sinks": 0}, with one head count and one MLP width
for the whole model; actions had aspects of a layer instead of paths; an evaluation had three fields instead of `scores`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from lbdsl.artifact.record import FORMAT_VERSION
from lbdsl.core.digest import canonical_json
from lbdsl.core.units import Unit
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.plan.schema import FORMAT_VERSION as PLAN_VERSION
from lbdsl.plan.schema import LayerPlan, counted_changes
from lbdsl.recipe.schema import action_from

Json = dict[str, Any]

_FINISHED = (
    ("ppl_increase", "ppl_increase", Unit.RATIO),
    ("kl_healed", "kl", Unit.NATS),
    ("agreement", "agreement", Unit.RATIO),
)
"""For each metric of the finished model: its name, its field in a version 1 evaluation, and its unit."""

_UNITS = {
    "kv": Unit.BYTES,
    "flops": Unit.FLOPS,
    "params": Unit.PARAMS,
    "nll": Unit.NATS,
    "kl": Unit.NATS,
    **{name: unit for name, _, unit in _FINISHED},
}
"""The unit of an assert's value, by the first word of the assert."""


def from_version1(record: Json) -> Json:
    """The fields of a `Record`. ValueError, LookupError, TypeError or AttributeError if `record` is not of version 1."""
    plan, evaluation = record["plan"], record["evaluation"]
    return {
        **record,
        "format_version": FORMAT_VERSION,
        "plan": _plan(plan),
        "evaluation": None if evaluation is None else _evaluation(evaluation),
        "asserts": [_assert(item) for item in record["asserts"]],
    }


def _plan(plan: Json) -> Json:
    facts = _facts(plan["model"]["facts"])
    specs = zip(facts.layer_specs, plan["layers"], strict=True)
    layers = [_layer(layer, before, plan["model"]["facts"], facts.dtype_bytes) for before, layer in specs]
    loss = plan["loss"]
    joint = (("nll", loss["joint"], loss["joint_stderr"]), ("kl", loss["joint_kl"], None))
    return {
        **plan,
        "format_version": PLAN_VERSION,
        "model": {**plan["model"], "facts": facts},
        "layers": layers,
        "before": _totals(plan["before"], facts),
        "after": _totals(plan["after"], facts),
        "loss": {
            "scores": {
                name: {"value": value, "stderr": stderr, "unit": Unit.NATS}
                for name, value, stderr in joint
                if value is not None
            },
            **{name: loss[name] for name in ("base_nll", "sum", "tokens")},
        },
        "asserts": [_assert(item) for item in plan["asserts"]],
        "changes": counted_changes(tuple(LayerPlan.model_validate(layer) for layer in layers)),
    }


def _totals(totals: Json, facts: ModelFacts) -> Json:
    return {**totals, "weights": totals["params"] * facts.dtype_bytes}


def _facts(facts: Json) -> ModelFacts:
    """The facts. Version 1 stored parameter counts instead of `flags`: the flags are those that give the same count."""
    specs = tuple(_spec(dict(pairs), facts) for pairs in facts["layer_specs"])
    shared = {name: facts[name] for name in ("family", "architecture", "hidden", "vocab", "positions", "tied", "dtype")}
    counted = sum(facts["attention_params"]) + sum(facts["mlp_params"]) + facts["other_params"]
    off = ModelFacts(**shared, layer_specs=specs)
    flags = tuple(off.family_data.flags)
    for on in (chosen for count in range(len(flags) + 1) for chosen in combinations(flags, count)):
        found = ModelFacts(**shared, layer_specs=specs, flags=on)
        if found.params == counted:
            return found
    raise ValueError(f"the base model has {counted} parameters there, and its layers have {off.params}")


def _spec(spec: Mapping[str, Any], facts: Json) -> LayerSpec:
    kind = spec.get("attn", "full")
    if kind not in ("full", "swa", "none"):
        raise ValueError(f"attention of the kind {kind!r} is a plug-in's of an earlier version")
    window = {"size": spec["window"], "sink_tokens": spec.get("sinks", 0)} if kind == "swa" else None
    sizes = {name: facts[name] for name in ("heads", "kv_heads", "head_dim")}
    mixer = None if kind == "none" else {"kind": "attention", **sizes, "window": window}
    ffn = None if spec.get("mlp") == "none" else {"kind": "gated_mlp", "width": facts["intermediate"]}
    return LayerSpec.model_validate({"mixer": mixer, "ffn": ffn})


def _layer(layer: Json, before: LayerSpec, facts: Json, dtype_bytes: int) -> Json:
    kept = {name: layer[name] for name in ("index", "scores", "reason")}
    costs = {f"{cost}_{when}": layer[f"{cost}_{when}"] for cost in ("params", "kv_bytes") for when in ("before", "after")}
    weights = {f"weights_{when}": layer[f"params_{when}"] * dtype_bytes for when in ("before", "after")}
    after = _spec(layer["spec"], facts)
    return {**kept, **costs, **weights, "before": before, "after": after, "actions": _actions(layer["actions"])}


def _actions(rows: Iterable[Json]) -> list[Json]:
    """One entry per action of a rule. Version 1 had one per aspect, and `keep` for aspects that no rule claimed."""
    found: dict[str, Json] = {}
    for row in rows:
        if row["rule"] is not None:
            key = canonical_json([row["action"], row["rule"]])
            acts = not action_from(row["action"]).keeps
            entry = found.setdefault(key, {"action": row["action"], "rule": row["rule"], "paths": [], "effective": acts})
            entry["paths"] += _paths(row)
    return list(found.values())


def _paths(row: Json) -> list[str]:
    aspect, modules = row["aspect"], row["modules"]
    if modules:
        return [f"{aspect}.{module}" for module in modules]
    claims = [path for path in action_from(row["action"]).claims() if path.split(".")[0] == aspect]
    return claims or [aspect]


def _assert(item: Json) -> Json:
    """An assert; a condition of several parts has no unit."""
    several = {"and", "or", "not"} & set(item["text"].split())
    word = item["text"].lstrip().split("(")[0].split()[0]
    return {**item, "unit": None if several or item["value"] is None else _UNITS.get(word)}


def _evaluation(quality: Json) -> Json:
    found = {**quality, "scores": {name: _score(quality, field, unit) for name, field, unit in _FINISHED}}
    if "sources" in quality:
        found["sources"] = [_evaluation(source) for source in quality["sources"]]
    if quality.get("before_healing"):
        found["before_healing"] = _evaluation(quality["before_healing"])
    return found


def _score(quality: Json, field: str, unit: Unit) -> Json:
    return {"value": quality[field], "stderr": quality["stderr"][field], "unit": unit}
