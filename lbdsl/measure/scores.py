"""Scores of single layers: the loss with one layer changed, or how much a layer changes its hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from lbdsl.actions import Action
from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.progress import Report
from lbdsl.cost.facts import ModelFacts
from lbdsl.data.blocks import TokenBlocks
from lbdsl.layer.weights import stats_by_layer
from lbdsl.measure.flow import Changes
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.runs import BASE_NLL, Run, measure_runs
from lbdsl.measure.statistics import value_digest
from lbdsl.measure.store import Store
from lbdsl.measure.variant import StatisticsOf, no_statistics
from lbdsl.metrics import ResidualMetric, metrics


def measure_requests(
    model: Callable[[], LayerSource],
    facts: ModelFacts,
    requests: Iterable[Request],
    actions: Mapping[str, Action],
    blocks: TokenBlocks,
    store: Store,
    fingerprint: str,
    *,
    progress: Report | None = None,
    batch: int = 1,
    statistics: StatisticsOf = no_statistics,
) -> dict[Request, Measurement]:
    """Every request's mean over the tokens of `blocks`, and BASE_NLL; stored and resumed as in `measure_runs`.

    model: returns the base. actions: by `Request.action`, for requests that have an action. statistics: used to compute new
    weights. Raises what `measure_runs` raises, and LbdslError LB449 if a layer no longer has what an action needs.
    """
    stored = stored_as(facts, requests, actions, statistics)
    runs: dict[tuple[int, str], list[Request]] = {}
    residuals = []
    for request in sorted(stored, key=lambda r: (r.layer, r.action, r.metric)):
        if issubclass(metrics()[request.metric], ResidualMetric):
            residuals.append(stored[request])
        else:
            runs.setdefault((request.layer, request.action), []).append(stored[request])
    found = measure_runs(
        model,
        [Run(changes_of(actions[action], facts, layer), tuple(asked)) for (layer, action), asked in runs.items()],
        residuals,
        blocks,
        store,
        fingerprint,
        progress=progress,
        batch=batch,
        statistics=statistics,
    )
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
            used = stats_by_layer({layer: dict(change.weights).values() for layer, change in changes.items()})
            values = {
                f"{layer} {stat.text}": value_digest(statistics(layer)[stat.text])
                for layer, stats in used.items()
                for stat in stats
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
