"""Measure the scores that a recipe needs: on a text, by answers, or by a screen; and the statistics for new weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lbdsl.actions.patches import patches_of
from lbdsl.core.diagnostic import Diagnostic, fail, warning
from lbdsl.core.measurement import Measurement, Request, clustered_mean
from lbdsl.core.units import Unit
from lbdsl.layer.weights import Stat
from lbdsl.measure.taken import NO_STATISTICS, Statistics
from lbdsl.metrics import metric_of
from lbdsl.plan.made_from import MeasuredOn
from lbdsl.session.asking import asked_scores, task_of
from lbdsl.session.patching import fitted
from lbdsl.session.predicting import pace_of, say_measuring
from lbdsl.session.session import Session
from lbdsl.solve.choose import LayerOption
from lbdsl.solve.evaluate import scores_in

if TYPE_CHECKING:
    from lbdsl.data.blocks import TokenBlocks

Pairs = Mapping[tuple[LayerOption, LayerOption], float]
"""What two changes do together, in nats a token, by their places with the lower layer first."""


@dataclass(frozen=True)
class Scored:
    """All scores that a recipe needs of a model, and the text they were measured on (None: the recipe needs none).
    `pairs` are of a screen."""

    scores: Mapping[Request, Measurement]
    on: MeasuredOn | None = None
    statistics: Statistics = NO_STATISTICS
    pairs: Pairs = field(default_factory=dict)
    diagnostics: tuple[Diagnostic, ...] = ()


def measure(session: Session, *, planned: bool = True) -> Scored:
    """What is in the cache is not measured again. With `planned` also the statistics that rules may need."""
    from lbdsl.evaluate.harness import check_tasks

    case = session.case
    wanted, actions = case.statistics(planned=planned), case.score_actions
    if not case.requests and not wanted and not (planned and session.patches):
        return Scored({})
    found: tuple[Diagnostic, ...] = ()
    flattered = next((text for text, action in actions.items() if action.patched), None)
    if flattered is not None:
        said = f"scores of `{flattered}` are of the text that its patches are fitted on, and flatter it"
        found += (warning("LB352", said, help="rank by the score without `patch=linear`"),)
    of_answers = tuple(request for request in case.requests if metric_of(request.metric).asks)
    tasks = tuple(dict.fromkeys(task for request in of_answers if (task := task_of(request.metric))))
    if tasks:
        check_tasks(tasks, session.place)
    of_text = tuple(r for r in case.requests if r not in case.screened and not metric_of(r.metric).asks)
    scored = _on_text(session, of_text, wanted)
    asked, known = asked_scores(session, of_answers, actions, scored.statistics)
    estimated, pairs = _screened(session, scored.statistics)
    assert scored.on is not None, "there is always a text"
    texts = {score.text for score, _ in case.scores if (score.metric, score.action_text) in case.screens}
    return replace(
        scored,
        scores={**scored.scores, **asked, **estimated},
        on=scored.on.model_copy(update={"estimated": tuple(sorted(texts))}),
        pairs=pairs,
        diagnostics=(*found, *known),
    )


def _on_text(session: Session, requests: tuple[Request, ...], wanted: Mapping[int, tuple[Stat, ...]]) -> Scored:
    from lbdsl.measure.pace import Timed
    from lbdsl.measure.scores import changes_of, measure_requests, stored_as
    from lbdsl.measure.statistics import take_statistics
    from lbdsl.measure.store import open_store

    model, facts, actions, blocks = session.model, session.facts, session.case.score_actions, session.text
    fingerprint = model.fingerprint(blocks.digest)
    on = measured_on(session, blocks, fingerprint)
    if session.check_text is not None:
        on = on.model_copy(update={"check": session.check_text.data, "check_digest": session.check_text.digest})
    statistics = NO_STATISTICS
    if wanted:
        with session.progress.stage("taking statistics") as report:
            statistics = take_statistics(
                lambda: model.measured_base,
                facts,
                wanted,
                blocks,
                model.cache_dir,
                on.statistics_key,
                progress=report,
                batch=model.options.batch,
            )
    if not requests:
        return Scored({}, on, statistics)
    alone = {r: changes_of(actions[r.action], facts, r.layer) for r in requests if r.action in actions}
    if any(patches_of(facts, changes) for changes in alone.values()):
        models = list({(r.action, r.layer): changes for r, changes in alone.items()}.values())
        statistics = fitted(session, models, on, wanted)
    with open_store(model.cache_dir) as store:
        stored = stored_as(facts, requests, actions, statistics)
        missing = [r for r in requests if len(store.get(fingerprint, stored[r])) < blocks.sequences]
    say_measuring(model, missing, blocks.tokens)
    with model.measuring(blocks, "measuring layers", statistics) as measuring:
        timed = replace(measuring, progress=Timed(measuring.progress, pace_of(model), facts, blocks.seq))
        scores = measure_requests(timed, facts, requests, actions)
    return Scored(scores, on, statistics)


def measured_on(session: Session, blocks: TokenBlocks | None, fingerprint: str | None = None) -> MeasuredOn:
    """Without `blocks`: of a recipe that needs no text."""
    measure = session.recipe.measure
    return MeasuredOn(
        data=str(measure.data),
        digest=None if blocks is None else blocks.digest,
        tokens=0 if blocks is None else blocks.tokens,
        seq=measure.seq or 0 if blocks is None else blocks.seq,
        fingerprint=fingerprint,
        versions=session.model.versions,
    )


def check_screen(session: Session) -> None:
    """Raise LB481 where a screen is asked for, and the model's layers are read from disk one after the other."""
    if session.case.screened and session.model.streamed:
        why = "`--low-memory` reads it layer by layer" if session.model.options.low_memory else "it does not fit"
        raise fail(
            "LB481",
            f"a screen needs the whole model in memory, for its backward pass, and {why}",
            help="leave out `strategy = screen`",
        )


def _screened(session: Session, statistics: Statistics) -> tuple[Mapping[Request, Measurement], Pairs]:
    """The `kl` of a `choose` where a screen is asked for: those scores that need not be measured, and the pair terms."""
    from lbdsl.measure.screen import screen

    case, model = session.case, session.model
    if case.recipe.measure.strategy != "screen" or case.choosing is None:
        return {}, {}
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
        return {}, {}
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
    return scores, pairs
