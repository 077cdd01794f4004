"""Scores of single layers: the loss with one layer changed, or how much a layer changes its hidden states; and of models
with all changes of a plan, since scores of single layers do not add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lbdsl.actions import Action
from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Measurement, Request
from lbdsl.cost.facts import ModelFacts
from lbdsl.measure.flow import Changes
from lbdsl.measure.runs import BASE_NLL, Measuring, Run
from lbdsl.measure.statistics import value_digest
from lbdsl.measure.store import MODEL_LAYER
from lbdsl.measure.taken import StatisticsOf
from lbdsl.metrics import ResidualMetric, metrics


def measure_requests(
    measuring: Measuring, facts: ModelFacts, requests: Iterable[Request], actions: Mapping[str, Action]
) -> dict[Request, Measurement]:
    """Every request's mean over the tokens, and BASE_NLL. `actions`: by `Request.action`, for requests that have an action.
    Raises what `Measuring` raises, and LbdslError LB449 if a layer no longer has what an action needs."""
    stored = stored_as(facts, requests, actions, measuring.statistics)
    runs: dict[tuple[int, str], list[Request]] = {}
    residuals = []
    for request in sorted(stored, key=lambda r: (r.layer, r.action, r.metric)):
        if issubclass(metrics()[request.metric], ResidualMetric):
            residuals.append(stored[request])
        else:
            runs.setdefault((request.layer, request.action), []).append(stored[request])
    changed = [Run(changes_of(actions[action], facts, layer), tuple(asked)) for (layer, action), asked in runs.items()]
    found = measuring.means(changed, residuals)
    return {**{request: found[kept] for request, kept in stored.items()}, BASE_NLL: found[BASE_NLL]}


def stored_as(
    facts: ModelFacts, requests: Iterable[Request], actions: Mapping[str, Action], statistics: StatisticsOf
) -> dict[Request, Request]:
    """The key under which each request is stored. Where an action computes new weights, the key has a digest of their
    expressions and statistics, so that a score of other weights is never reused."""
    found = {}
    for request in set(requests):
        action = actions.get(request.action)
        changes = {} if action is None else changes_of(action, facts, request.layer)
        if any(change.weights for change in changes.values()):
            values = {
                f"{layer} {stat.text}": value_digest(statistics(layer)[stat.text])
                for layer, change in changes.items()
                for stat in change.stats
            }
            digest = digest_of([[[layer, change.to_json()] for layer, change in sorted(changes.items())], values])
            found[request] = replace(request, action=f"{request.action} {digest}")
        else:
            found[request] = request
    return found


def changes_of(action: Action, facts: ModelFacts, layer: int) -> Changes:
    """The changes of a model in which an action is used on one layer alone. Raises LB449 if it lacks a part for it."""
    changes = action.alone(facts, layer)
    if changes is None:
        raise fail(
            "LB449",
            f"`{action.text()}` cannot be measured at layer {layer}: it has no `{'`, `'.join(action.claims())}`",
            help="rank or choose among the layers that have one",
        )
    return changes


@dataclass(frozen=True)
class JointLoss:
    """Scores of the whole changed model by the name of the metric, and the base's loss on the same text, in nats per
    token."""

    scores: Mapping[str, Measurement]
    base_nll: Measurement


def measure_plans(measuring: Measuring, plans: Mapping[str, Changes], metrics: Sequence[str]) -> tuple[JointLoss, ...]:
    """Measure models with all changes of a plan, possibly none, on JOINT text: the base runs once for all, and each of them
    from its first changed layer on. Results are stored and resumed under the plan's key in `plans`, which must identify its
    changes. `metrics`: of the whole changed model, on a text."""
    requests = {digest: {name: Request(name, f"joint {digest}", MODEL_LAYER) for name in metrics} for digest in plans}
    found = measuring.means([Run(changes, tuple(requests[digest].values())) for digest, changes in plans.items()])
    return tuple(
        JointLoss({name: found[request] for name, request in asked.items()}, found[BASE_NLL]) for asked in requests.values()
    )
