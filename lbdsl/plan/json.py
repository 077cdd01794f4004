"""A plan as JSON for other programs. `format_version` rises when a field changes its meaning."""

from __future__ import annotations

from typing import Any

from lbdsl.layer.difference import differences
from lbdsl.plan.schema import LayerPlan, Plan

FORMAT_VERSION = 2


def plan_json(plan: Plan) -> dict[str, Any]:
    """The fields that programs may rely on. Bytes of cache and FLOPs are of one sequence, keyed by its tokens as text;
    `weights` is in bytes; `changes` gives [before, after] by path; losses are in nats/token."""
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
        "statistics": dict(plan.statistics),
        "changes": dict(plan.changes),
        "complete": plan.complete,
        "applyable": plan.applyable,
        "errored": plan.errored,
        "speeds": [speed.model_dump(mode="json") for speed in plan.speeds],
        "estimate": plan.estimate.model_dump(mode="json") if plan.estimate is not None else None,
        "serving": [item.model_dump(mode="json") for item in plan.serving],
    }


def _layer(layer: LayerPlan) -> dict[str, Any]:
    return {
        "index": layer.index,
        "before": layer.before.to_json(),
        "after": layer.after.to_json(),
        "changes": {path: list(pair) for path, pair in differences(layer.before, layer.after).items()},
        "actions": [{"action": item.action.text(), "rule": item.rule, "paths": list(item.paths)} for item in layer.actions],
        "new_weights": sorted(layer.weights),
        "scores": {name: score.value for name, score in layer.scores.items()},
        "stderr": {name: score.stderr for name, score in layer.scores.items()},
        "params_before": layer.params_before,
        "params_after": layer.params_after,
        "weights_before": layer.weights_before,
        "weights_after": layer.weights_after,
        "kv_bytes_before": dict(layer.kv_bytes_before),
        "kv_bytes_after": dict(layer.kv_bytes_after),
        "reason": layer.reason,
    }
