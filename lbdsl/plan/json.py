"""A plan as JSON for other programs. `format_version` rises when a field changes its meaning."""

from __future__ import annotations

from typing import Any

from lbdsl.plan.schema import LayerPlan, Plan

FORMAT_VERSION = 1


def plan_json(plan: Plan) -> dict[str, Any]:
    """The fields that programs may rely on. Bytes and FLOPs are of one sequence, keyed by its tokens as text; `window`
    and `sinks` are in tokens and null where the layer's attention has none; losses are in nats/token."""
    return {
        "format_version": FORMAT_VERSION,
        "lbdsl_version": plan.lbdsl_version,
        "digest": plan.digest,
        "recipe": {
            "name": plan.recipe.name,
            "path": plan.recipe.path,
            "sha256": plan.recipe.sha256,
            "params": dict(plan.recipe.params),
            "set_params": list(plan.recipe.set_params),
        },
        "model": {
            "source": plan.model.source,
            "revision": plan.model.revision,
            "family": plan.model.family,
            "layers": plan.model.layers,
            "dtype": plan.model.dtype,
            "digest": plan.model.digest,
        },
        "measured_on": plan.measured_on.model_dump(mode="json") if plan.measured_on is not None else None,
        "layers": [_layer(layer) for layer in plan.layers],
        "rules": [rule.model_dump(mode="json") for rule in plan.rules],
        "before": plan.before.model_dump(mode="json"),
        "after": plan.after.model_dump(mode="json"),
        "loss": plan.loss.model_dump(mode="json"),
        "asserts": [item.model_dump(mode="json") for item in plan.asserts],
        "heal": plan.heal.model_dump(mode="json") if plan.heal is not None else None,
        "eval": plan.eval.model_dump(mode="json") if plan.eval is not None else None,
        "findings": [finding.model_dump(mode="json") for finding in plan.findings],
        "changes": dict(plan.changes),
        "complete": plan.complete,
        "applyable": plan.applyable,
        "errored": plan.errored,
        "speeds": [speed.model_dump(mode="json") for speed in plan.speeds],
        "estimate": plan.estimate.model_dump(mode="json") if plan.estimate is not None else None,
        "serving": [item.model_dump(mode="json") for item in plan.serving],
    }


def _layer(layer: LayerPlan) -> dict[str, Any]:
    # Rules may share a layer's weights: `modules` says who has which, `rules` names the first that claims some.
    weights = [planned for planned in layer.actions if planned.aspect == "weights"]
    rules: dict[str, int | None] = {}
    for planned in layer.actions:
        if rules.get(planned.aspect) is None:
            rules[planned.aspect] = planned.rule
    return {
        "index": layer.index,
        "attn": layer.spec.get("attn", "full"),
        "mlp": layer.spec.get("mlp", "full"),
        "window": layer.spec.get("window"),
        "sinks": layer.spec.get("sinks"),
        "rules": rules,
        "actions": {
            aspect: " + ".join(dict.fromkeys(p.action.text() for p in layer.actions if p.aspect == aspect))
            for aspect in rules
        },
        "modules": [
            {"names": list(planned.modules), "action": planned.action.text(), "rule": planned.rule} for planned in weights
        ],
        "scores": {name: score.value for name, score in layer.scores.items()},
        "stderr": {name: score.stderr for name, score in layer.scores.items()},
        "params_before": layer.params_before,
        "params_after": layer.params_after,
        "kv_bytes_before": dict(layer.kv_bytes_before),
        "kv_bytes_after": dict(layer.kv_bytes_after),
        "reason": layer.reason,
    }
