"""`measure_model` and `plan_recipe`: from a recipe and a model to measurements and a plan."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbdsl.actions import Action
from lbdsl.actions.patches import patches_of
from lbdsl.core.diagnostic import Diagnosed, Diagnostic, LbdslError, fail, warning
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.progress import AnyProgress
from lbdsl.core.units import tokens_of
from lbdsl.layer.weights import Stat
from lbdsl.metrics import metric_of
from lbdsl.plan.build import build
from lbdsl.plan.file import load_plan as read_plan
from lbdsl.plan.file import save_plan
from lbdsl.plan.findings import impossible_untils
from lbdsl.plan.lengths import with_lengths
from lbdsl.plan.schema import AssertResult, Costs, LayerPlan, MeasuredOn, ModelRef, Plan
from lbdsl.recipe.load import load_recipe, recipe_from_text
from lbdsl.recipe.reading import FolderReader
from lbdsl.recipe.schema import Recipe
from lbdsl.recipe.schema_blocks import sources_of
from lbdsl.session.asking import asked_scores, task_of, tokens_of_tasks
from lbdsl.session.choosing import choose
from lbdsl.session.holding import hold
from lbdsl.session.model import OpenModel
from lbdsl.session.options import RunOptions
from lbdsl.session.patching import fingerprint_of, fitted, helpful_patches
from lbdsl.session.predicting import (
    pace_of,
    passes_over_text,
    repeated_text,
    say_measuring,
    with_predictions,
    with_profiles,
)
from lbdsl.session.screening import check_screen, screening
from lbdsl.session.targets import forms_of
from lbdsl.session.whole_plans import joint_loss, joint_recall
from lbdsl.solve.case import Case, metrics_asked
from lbdsl.solve.check import measurable
from lbdsl.solve.choose import engines_of
from lbdsl.solve.select import Selection, select
from lbdsl.verbs.notebook import NotebookResult
from lbdsl.version import VERSION

if TYPE_CHECKING:
    from lbdsl.data.blocks import TokenBlocks
    from lbdsl.measure.statistics import Statistics


@dataclass(frozen=True, repr=False)
class Measured(NotebookResult):
    """All scores that a recipe needs from a model, the text they were measured on, and the text that patches are checked on
    (None: the recipe needs none)."""

    recipe: Recipe
    bench: OpenModel
    scores: Mapping[Request, Measurement]
    on: MeasuredOn | None
    diagnostics: tuple[Diagnostic, ...]
    statistics: Statistics | None = None
    check: TokenBlocks | None = None

    def in_short(self) -> str:
        return f"{len(self.scores)} scores of {self.bench.source.short_name}"

    def to_json(self) -> dict[str, Any]:
        """The JSON of `measure --json`, sorted; a score or a standard error that is not finite is null."""
        rows = [
            {
                "metric": request.metric,
                "action": request.action,
                "layer": request.layer,
                "value": _number(found.value),
                "stderr": _number(found.stderr),
                "unit": found.unit,
                "tokens": found.tokens,
            }
            for request, found in sorted(self.scores.items(), key=lambda item: astuple(item[0]))
        ]
        return {"format_version": 1, "measured_on": self.on.model_dump() if self.on else None, "scores": rows}


@dataclass(frozen=True, repr=False)
class Planned(NotebookResult):
    """A plan with the diagnostics of making it. Without `statistics`, those that it names are read from the cache."""

    plan: Plan
    diagnostics: tuple[Diagnostic, ...]
    recipe: Recipe
    bench: OpenModel
    statistics: Statistics | None = None

    def in_short(self) -> str:
        return f"{self.plan!r}"[len("<Plan: ") : -1]

    @property
    def layers(self) -> tuple[LayerPlan, ...]:
        """What each layer becomes, and why."""
        return self.plan.layers

    @property
    def costs(self) -> Costs:
        """Sizes of the whole model before and after: `costs.kv_bytes[8192].after`."""
        return self.plan.costs

    @property
    def asserts(self) -> tuple[AssertResult, ...]:
        """The recipe's asserts, each with its status and value."""
        return self.plan.asserts

    def save(self, path: str | Path) -> Path:
        """Write the plan (.lbplan), for `apply_saved_plan` or `lbdsl apply`."""
        return save_plan(self.plan, path)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The errors, because of which the plan cannot be applied; warnings and notes are shown with the plan."""
        return tuple(d for d in self.diagnostics if d.is_error)


def measure_model(
    recipe: str | Path,
    model: str | Path,
    *,
    set_params: Mapping[str, object] | None = None,
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
) -> Measured:
    """Measure on `model` every score that the recipe file needs; cached scores are not measured again.

    Raises LbdslError for errors that the user can fix.
    """
    return _measured(read_recipe(recipe, set_params), OpenModel(model, options, progress), again=True)


def plan_recipe(
    recipe: str | Path,
    model: str | Path,
    *,
    set_params: Mapping[str, object] | None = None,
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
    ctx: int | str | Sequence[int | str] = (),
    again: bool = False,
    best_so_far: bool = False,
    ready: Callable[[Recipe, OpenModel], None] | None = None,
) -> Planned:
    """Resolve the recipe on the model, measure the missing scores, and plan the changes and their costs.

    `ctx`: context lengths, as 8192 or "8Ki", that costs are shown at besides those that the recipe names, and 1Ki, 8Ki and
    32Ki within the model's positions. `again` allows an lbdsl artifact as the model. With `best_so_far` a KeyboardInterrupt
    in the search of a `choose` gives the best plan that was found. `ready` is called before anything is read or measured,
    and may raise. Nothing is written to disk except measurements in the cache folder. A failed assert is in the diagnostics
    and makes the plan not applyable; other errors raise LbdslError, and a context that is no number of tokens ValueError.
    """
    contexts = tuple(map(tokens_of, (ctx,) if isinstance(ctx, int | str) else ctx))
    loaded = read_recipe(recipe, set_params)
    bench = OpenModel(model, options, progress)
    if ready is not None:
        ready(loaded.unwrap(), bench)
    return planned_on(loaded, bench, contexts, again, best_so_far)


def plan_text(
    text: str,
    path: str,
    bench: OpenModel,
    *,
    set_params: Mapping[str, object] | None = None,
    contexts: tuple[int, ...] = (),
) -> Planned:
    """`plan_recipe` for a recipe that is not in a file; `path` is the path that it would have."""
    loaded = recipe_from_text(text, path, set_params, reader=FolderReader(Path(path)))
    _raise_errors(loaded.diagnostics)
    return planned_on(loaded, bench, contexts, again=True)


def load_plan(path: str | Path) -> Plan:
    """A saved plan, for inspection; `apply_saved_plan` applies it. Raises LbdslError for a file that is not a plan."""
    return read_plan(path).unwrap()


def planned_on(
    loaded: Diagnosed[Recipe], bench: OpenModel, contexts: tuple[int, ...], again: bool, best_so_far: bool = False
) -> Planned:
    """`plan_recipe` of a recipe that was read, on a model that was opened."""
    from lbdsl.session.texts import unwritten

    measured = _measured(loaded, bench, again=again, planned=True)
    facts, resolved = bench.facts, measured.recipe
    case, choice = Case(resolved, facts), None
    if case.choose is not None:
        best = choose(resolved, bench, measured.scores, measured.statistics, best_so_far=best_so_far)
        chosen, choice = Diagnosed(best.selection, best.diagnostics), best.choice
    elif any(known.while_ is not None for known in case.rules):
        chosen = hold(resolved, bench, measured.scores, measured.statistics)
    else:
        chosen = select(resolved, facts, measured.scores)
    _raise_errors(measured.diagnostics + chosen.diagnostics)
    assert chosen.value is not None
    on = measured.on or _nothing_measured(resolved, bench, chosen.value)
    selection, statistics, on, without = helpful_patches(
        resolved, bench, chosen.value, measured.scores, on, measured.check, measured.statistics
    )
    used = selection.used_statistics
    joint, joint_digest = joint_loss(resolved, bench, selection, statistics)
    on = on.model_copy(update={"joint_digest": joint_digest})
    recall, forgotten = joint_recall(resolved, bench, selection, statistics)
    ref = ModelRef(
        source=_lasting(bench),
        name=bench.source.short_name,
        revision=bench.source.revision,
        digest=bench.digest,
        family=facts.family,
        layers=facts.layers,
        dtype=facts.dtype,
        facts=facts,
    )
    passes = passes_over_text(resolved, bench)
    repeated = repeated_text(resolved, passes) if selection.changed else ()
    found = (*bench.diagnostics, *measured.diagnostics, *chosen.diagnostics, *without, *forgotten, *repeated)
    found += unwritten(resolved.eval, bench)
    built = build(
        resolved,
        facts,
        selection,
        measured.scores,
        joint,
        ref,
        on,
        contexts,
        VERSION,
        found=found,
        statistics=statistics.digests(used) if statistics is not None else {},
        choice=choice,
        recall=recall,
    )
    assert built.value is not None
    diagnostics = (*found, *built.diagnostics)
    asked = tokens_of_tasks(built.value.eval, bench, bench.place(resolved.path))
    asked += recall.tokens if recall is not None and built.value.eval is not None else 0
    return Planned(with_predictions(built.value, bench, passes, asked), diagnostics, resolved, bench)


def _nothing_measured(recipe: Recipe, bench: OpenModel, chosen: Selection) -> MeasuredOn:
    """`MeasuredOn` of a recipe that needs no score; its calibration text may still be needed when weights are stored."""
    from lbdsl.session.texts import score_blocks

    if any(spec.needs_gram for spec in chosen.specs):
        blocks = score_blocks(recipe.measure, bench, bench.place(recipe.path))
        return _measured_on(recipe, bench, blocks, None)
    data, seq = str(recipe.measure.data), recipe.measure.seq or 0
    return MeasuredOn(data=data, digest=None, tokens=0, seq=seq, fingerprint=None, versions=bench.versions)


def _lasting(bench: OpenModel) -> str:
    """The user's model name, as an absolute path for a local model: a plan may be applied from another folder."""
    local = Path(bench.source.text).expanduser()
    return os.path.abspath(local) if local.exists() else bench.source.text


def read_recipe(recipe: str | Path, set_params: Mapping[str, object] | None) -> Diagnosed[Recipe]:
    """Raises LbdslError for its errors."""
    path = os.path.abspath(recipe)
    if not path.isascii() and path != path.encode(errors="replace").decode():
        raise fail("LB020", "the recipe's path is not UTF-8, and a plan holds it", help="rename the file or its folder")
    loaded = load_recipe(path, set_params or {})
    _raise_errors(loaded.diagnostics)
    return loaded


def _measured(loaded: Diagnosed[Recipe], bench: OpenModel, *, again: bool, planned: bool = False) -> Measured:
    """Measure what the recipe needs. With `planned`, an impossible plan raises before anything is measured."""
    from lbdsl.evaluate.harness import check_tasks
    from lbdsl.model.source import is_artifact
    from lbdsl.session.texts import check_blocks, check_sources, check_texts

    if any(spec.packs for spec in bench.facts.layer_specs):
        raise fail("LB404", f"the weights of {bench.source.text} are quantized already", help="start from its base model")
    if is_artifact(bench.source) and not again:
        raise fail(
            "LB467",
            f"{bench.source.text} is already an artifact of lbdsl",
            help="give its base model, or add --again to change it once more",
        )
    recipe = loaded.unwrap()
    if planned:
        recipe = with_profiles(recipe, bench)
    needed = measurable(recipe, bench.facts)
    _raise_errors(loaded.diagnostics + needed.diagnostics)
    assert needed.value is not None
    requests, actions = needed.value.requests, needed.value.score_actions
    settled = with_lengths(recipe, bench.facts)
    _raise_errors(loaded.diagnostics + settled.diagnostics)
    recipe = settled.unwrap()
    if not bench.options.recall and "recall" in metrics_asked(recipe):
        raise fail("LB361", "the recipe asks for `recall`, and `--no-recall` leaves it out", help="leave out one of them")
    # `build` says of the layers that get windows, and of the model's positions, what a recipe alone leaves open.
    of_recipe = (d for d in loaded.diagnostics if d.code != "LB360")
    diagnostics = (*of_recipe, *settled.diagnostics, *needed.diagnostics)
    if planned:
        case = Case(recipe, bench.facts)
        choosing = None if case.choose is None else case.choose.choosing
        forms = forms_of(bench, engines_of(choosing)) if choosing is not None else None
        _raise_errors(loaded.diagnostics + impossible_untils(case, forms))
        check_texts(recipe, bench)
    else:
        check_sources(sources_of(recipe.measure.data), bench, bench.place(recipe.path))
    check_screen(recipe, bench)
    wanted = Case(recipe, bench.facts).statistics(planned=planned)
    patching = any(action.patched for action in (*actions.values(), *(a for rule in recipe.rules for a in rule.actions)))
    if not requests and not wanted and not (planned and patching):
        return Measured(recipe, bench, {}, None, diagnostics)
    check = check_blocks(recipe.measure, bench, bench.place(recipe.path)) if patching else None
    flattered = next((text for text, action in actions.items() if action.patched), None)
    if flattered is not None:
        said = f"scores of `{flattered}` are of the text that its patches are fitted on, and flatter it"
        diagnostics += (warning("LB352", said, help="rank by the score without `patch=linear`"),)
    screened = Case(recipe, bench.facts).screened
    measured = tuple(request for request in requests if request not in screened)
    of_answers = tuple(request for request in measured if metric_of(request.metric).asks)
    tasks = tuple(dict.fromkeys(task for request in of_answers if (task := task_of(request.metric))))
    if tasks:
        check_tasks(tasks, bench.place(recipe.path))
    of_text = tuple(request for request in measured if request not in of_answers)
    scores, on, statistics = _scores(recipe, bench, of_text, actions, wanted, check)
    asked, known = asked_scores(recipe, bench, of_answers, actions, statistics)
    scores, diagnostics = {**scores, **asked}, (*diagnostics, *known)
    estimated = screening(recipe, bench, statistics)
    if estimated is not None:
        scores = {**scores, **estimated.scores}
    return Measured(recipe, bench, scores, on, diagnostics, statistics, check)


def _scores(
    recipe: Recipe,
    bench: OpenModel,
    requests: tuple[Request, ...],
    actions: Mapping[str, Action],
    wanted_statistics: Mapping[int, tuple[Stat, ...]],
    check: TokenBlocks | None,
) -> tuple[Mapping[Request, Measurement], MeasuredOn, Statistics]:
    from lbdsl.measure.pace import Timed
    from lbdsl.measure.scores import changes_of, measure_requests, stored_as
    from lbdsl.measure.statistics import NO_STATISTICS, take_statistics
    from lbdsl.measure.store import open_store
    from lbdsl.session.texts import score_blocks

    wanted, folder = recipe.measure, bench.place(recipe.path)
    blocks = score_blocks(wanted, bench, folder)
    fingerprint = fingerprint_of(bench, blocks.digest)
    on = _measured_on(recipe, bench, blocks, fingerprint)
    if check is not None:
        on = on.model_copy(update={"check": check.data, "check_digest": check.digest})
    statistics = NO_STATISTICS
    if wanted_statistics:
        with bench.progress.stage("taking statistics") as report:
            statistics = take_statistics(
                lambda: bench.measured_base,
                bench.facts,
                wanted_statistics,
                blocks,
                bench.cache_dir,
                on.statistics_key,
                progress=report,
                batch=bench.options.batch,
            )
    if not requests:
        return {}, on, statistics
    alone = {r: changes_of(actions[r.action], bench.facts, r.layer) for r in requests if r.action in actions}
    if any(patches_of(bench.facts, changes) for changes in alone.values()):
        models = list({(r.action, r.layer): changes for r, changes in alone.items()}.values())
        assert check is not None, "patches are checked"
        statistics = fitted(recipe, bench, models, on, check, wanted_statistics)
    with open_store(bench.cache_dir) as store:
        stored = stored_as(bench.facts, requests, actions, statistics)
        missing = [r for r in requests if len(store.get(fingerprint, stored[r])) < blocks.sequences]
    say_measuring(bench, missing, blocks.tokens)
    with open_store(bench.cache_dir) as store, bench.progress.stage("measuring layers") as report:
        scores = measure_requests(
            lambda: bench.measured_base,
            bench.facts,
            requests,
            actions,
            blocks,
            store,
            fingerprint,
            progress=Timed(report, pace_of(bench), bench.facts, blocks.seq),
            batch=bench.options.batch,
            statistics=statistics,
        )
    return scores, on, statistics


def _measured_on(recipe: Recipe, bench: OpenModel, blocks: TokenBlocks, fingerprint: str | None) -> MeasuredOn:
    return MeasuredOn(
        data=str(recipe.measure.data),
        digest=blocks.digest,
        tokens=blocks.tokens,
        seq=blocks.seq,
        fingerprint=fingerprint,
        versions=bench.versions,
    )


def _number(value: float) -> float | None:
    """None for values that JSON cannot express: infinity, and the standard error of a single sequence (NaN)."""
    return value if math.isfinite(value) else None


def _raise_errors(diagnostics: tuple[Diagnostic, ...]) -> None:
    if any(d.is_error for d in diagnostics):
        raise LbdslError(diagnostics)
