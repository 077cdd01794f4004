"""Carry out `measure { strategy = screen }`: the scores of a `choose`, and what two of its changes do together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lbdsl.core.diagnostic import fail
from lbdsl.core.measurement import Measurement, Request, clustered_mean
from lbdsl.core.units import Unit
from lbdsl.layer.weights import Stat
from lbdsl.measure.taken import Statistics
from lbdsl.session.session import Session
from lbdsl.solve.choose import LayerOption
from lbdsl.solve.evaluate import scores_in


@dataclass(frozen=True)
class Screening:
    """Estimated scores, and pair terms by two places with the lower layer first; both in nats a token."""

    scores: Mapping[Request, Measurement]
    pairs: Mapping[tuple[LayerOption, LayerOption], float]


def check_screen(session: Session) -> None:
    """Raise LB481 where a screen is asked for, and the model's layers are read from disk one after the other."""
    if session.case.screened and session.model.streamed:
        why = "`--low-memory` reads it layer by layer" if session.model.options.low_memory else "it does not fit"
        raise fail(
            "LB481",
            f"a screen needs the whole model in memory, for its backward pass, and {why}",
            help="leave out `strategy = screen`",
        )


def screening(session: Session, statistics: Statistics) -> Screening | None:
    """The `kl` of a `choose`; None if the recipe asks for none. The scores are those that need not be measured."""
    from lbdsl.measure.screen import screen

    case, model = session.case, session.model
    if case.recipe.measure.strategy != "screen" or case.choosing is None:
        return None
    places, changes, requests = [], [], []
    for number, (by, layers) in enumerate(zip(case.choosing.scores, case.possible, strict=True)):
        score = next((one for one in scores_in(by) if one.metric == "kl"), None) if by is not None else None
        if score is None or score.action is None:
            continue
        for layer in sorted(layers):
            change = score.action.under(session.facts, layer)
            assert change is not None, "the alternative is possible there"
            places.append((layer, number))
            changes.append((layer, change))
            requests.append(Request(score.metric, score.action_text, layer))
    if not places:
        return None
    blocks = session.text
    used: dict[int, tuple[Stat, ...]] = {}
    for layer, change in changes:
        used[layer] = tuple(dict.fromkeys((*used.get(layer, ()), *change.stats)))
    with session.progress.stage("screening") as report:
        found = screen(
            lambda: model.measured_base,
            changes,
            blocks,
            model.cache_dir,
            model.fingerprint(blocks.digest),
            seed=session.recipe.measure.seed,
            progress=report,
            batch=model.options.batch,
            statistics=statistics,
            statistics_digests=statistics.digests(used),
        )
    counts = [found.positions] * len(found.squares_SP)
    scores = {
        request: clustered_mean((0.5 * found.squares_SP[:, number]).tolist(), counts, Unit.NATS)
        for number, request in enumerate(requests)
        if request in case.screened
    }
    products = (found.products_PP / sum(counts)).tolist()
    pairs = {
        (one, other): products[i][j] for i, one in enumerate(places) for j, other in enumerate(places) if one[0] < other[0]
    }
    return Screening(scores, pairs)
