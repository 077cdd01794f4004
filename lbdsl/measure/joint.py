"""The joint loss: the whole changed model against the base, since scores of single layers do not add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.progress import Report
from lbdsl.data.blocks import TokenBlocks
from lbdsl.measure.flow import Changes
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.runs import BASE_NLL, Run, measure_runs
from lbdsl.measure.store import MODEL_LAYER, Store
from lbdsl.measure.variant import StatisticsOf, no_statistics
from lbdsl.metrics import Of, metrics_of


@dataclass(frozen=True)
class JointLoss:
    """Scores of the whole changed model: every metric that applies to it, by name, including `nll` and `kl`; and the base's
    loss on the same text, in nats per token."""

    scores: Mapping[str, Measurement]
    base_nll: Measurement


def measure_joint(
    model: Callable[[], LayerSource],
    changes: Changes,
    blocks: TokenBlocks,
    store: Store,
    fingerprint: str,
    selection_digest: str,
    *,
    progress: Report | None = None,
    batch: int = 1,
    statistics: StatisticsOf = no_statistics,
) -> JointLoss:
    """Measure the model with all of `changes`, possibly none, on JOINT text. Results are stored and resumed as in
    `measure_runs`, under `selection_digest`, which must identify `changes`.

    model: returns the base, which is not changed. statistics: used to compute new weights.
    """
    names = tuple(metrics_of(Of.CHANGED))
    (loss,) = measure_plans(
        model, {selection_digest: changes}, names, blocks, store, fingerprint, progress=progress, batch=batch,
        statistics=statistics,
    )  # fmt: skip
    return loss


def measure_plans(
    model: Callable[[], LayerSource],
    plans: Mapping[str, Changes],
    metrics: Sequence[str],
    blocks: TokenBlocks,
    store: Store,
    fingerprint: str,
    *,
    progress: Report | None = None,
    batch: int = 1,
    statistics: StatisticsOf = no_statistics,
) -> tuple[JointLoss, ...]:
    """The same for several plans at once, by digest: the base runs once for all, and each of them from its first changed
    layer on. Of `metrics` alone."""
    requests = {digest: {name: Request(name, f"joint {digest}", MODEL_LAYER) for name in metrics} for digest in plans}
    runs = [Run(changes, tuple(requests[digest].values())) for digest, changes in plans.items()]
    found = measure_runs(model, runs, (), blocks, store, fingerprint, progress=progress, batch=batch, statistics=statistics)
    return tuple(
        JointLoss(MappingProxyType({name: found[request] for name, request in asked.items()}), found[BASE_NLL])
        for asked in requests.values()
    )
