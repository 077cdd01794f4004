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


@dataclass(frozen=True)
class JointLoss:
    """Scores of the whole changed model by the name of the metric, and the base's loss on the same text, in nats per
    token."""

    scores: Mapping[str, Measurement]
    base_nll: Measurement


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
    """Measure models with all changes of a plan, possibly none, on JOINT text: the base runs once for all, and each of them
    from its first changed layer on. Results are stored and resumed as in `measure_runs`, under the plan's key in `plans`,
    which must identify its changes.

    model: returns the base, which is not changed. metrics: of the whole changed model, on a text. statistics: used to
    compute new weights.
    """
    requests = {digest: {name: Request(name, f"joint {digest}", MODEL_LAYER) for name in metrics} for digest in plans}
    runs = [Run(changes, tuple(requests[digest].values())) for digest, changes in plans.items()]
    found = measure_runs(model, runs, (), blocks, store, fingerprint, progress=progress, batch=batch, statistics=statistics)
    return tuple(
        JointLoss(MappingProxyType({name: found[request] for name, request in asked.items()}), found[BASE_NLL])
        for asked in requests.values()
    )
