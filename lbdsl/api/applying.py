"""`apply_plan` and `apply_saved_plan`: apply a plan that was just made or that was saved."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lbdsl.api.notebook import NotebookResult
from lbdsl.api.planning import Planned
from lbdsl.artifact.record import Record, healing_stages, read_record, rise_of
from lbdsl.core.diagnostic import Diagnostic, LbdslError, error, fail, note, raise_errors, warning
from lbdsl.core.extras import check_installed
from lbdsl.core.paths import plain_name
from lbdsl.core.place import Folder
from lbdsl.core.processes import process_count, shares_model
from lbdsl.core.progress import AnyProgress, progress_of
from lbdsl.data.sources import is_there, path_of
from lbdsl.model.inspect import normal_dtype
from lbdsl.plan.estimate import HEAL_FORWARDS
from lbdsl.plan.gates import failures, gate_of
from lbdsl.plan.made_from import RecipeRef
from lbdsl.plan.schema import Plan
from lbdsl.plan.verify import staleness
from lbdsl.recipe.schema import Recipe
from lbdsl.recipe.schema_blocks import Heal, SelfText, sources_of
from lbdsl.run.output import Input, check_free, check_places
from lbdsl.session import texts
from lbdsl.session.asking import recall_questions_of
from lbdsl.session.claims import check_plan, read_plan
from lbdsl.session.model import OpenModel
from lbdsl.session.options import RunOptions
from lbdsl.session.predicting import pace_of
from lbdsl.session.saved_recipe import came_from, files_of, planned_recipe
from lbdsl.version import VERSION

if TYPE_CHECKING:
    from lbdsl.data.blocks import TokenBlocks
    from lbdsl.evaluate.tasks import Test
    from lbdsl.measure.statistics import Statistics
    from lbdsl.run.inputs import RunInputs


@dataclass(frozen=True)
class ApplyOptions:
    """output: the artifact's folder (None: ./<model>-<recipe>). no_heal: skip the heal block. resume: continue a run
    that was interrupted. force: move an existing output aside. report_to:
    where else the healing loss is shown: `tensorboard`, `wandb`, `mlflow` or `trackio`."""

    output: Path | None = None
    no_heal: bool = False
    resume: bool = False
    force: bool = False
    report_to: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Applied(NotebookResult):
    """The artifact's record and folder; exit code 4 when a quality gate failed and the artifact was set aside."""

    record: Record
    folder: Path
    diagnostics: tuple[Diagnostic, ...]

    def in_short(self) -> str:
        return f"{self.record.status}, in {self.folder}"


def output_of(recipe: Recipe | RecipeRef, bench: OpenModel, chosen: ApplyOptions) -> Path:
    """The artifact's output folder."""
    # A recipe must not choose the output path: only characters that are safe in a folder name are kept of its name.
    name = plain_name(recipe.name or Path(recipe.path).stem, "recipe")
    return Path(os.path.abspath(chosen.output or f"{bench.source.short_name}-{name}"))


def check_place(recipe: Recipe, bench: OpenModel, chosen: ApplyOptions, *others: Input) -> None:
    """Raise LB460, before anything is measured, when writing the output would move an input of the run (or one of
    `others`), or when the output already exists and cannot be this run's artifact; LB485 for
    a tracker that is not installed."""
    _check_processes(None if chosen.no_heal else recipe.heal)
    for tracker in chosen.report_to:
        check_installed(tracker, f"`--report-to {tracker}`")
    output, source = output_of(recipe, bench, chosen), bench.source
    folder = bench.place(recipe.path)
    own = recipe.eval.own_questions if recipe.eval is not None else ()
    named = (*texts.texts_of(recipe), *(questions.file for questions in own))
    files = [path_of(text, folder) for text in named if is_there(text, folder)]
    check_places(
        output,
        (
            Input("the model", source.gguf_path or source.path, source.gguf_path is None),
            *(Input("the recipe", Path(text.name)) for text in recipe.sources),
            *(Input("a text of the recipe", path) for path in files),
            *others,
        ),
    )
    before = read_record(output).value
    if before is None or before.plan.recipe.sha256 != recipe.sha256 or before.plan.recipe.params != recipe.params:
        check_free(output, chosen.force)


def _check_processes(heal: Heal | None) -> None:
    """Raise LB457 for a stage whose batch the processes cannot share equally, and for a way to share the model that lbdsl
    does not have."""
    if process_count() == 1:
        return
    for name, asked, help in (
        ("DeepSpeed", _is("ACCELERATE_USE_DEEPSPEED"), "use `distributed_type: FSDP` with `fsdp_version: 2`"),
        ("FSDP1", shares_model() and not _is("FSDP_VERSION", "2"), "set `fsdp_version: 2`"),
        ("weights on the CPU", shares_model() and _is("FSDP_OFFLOAD_PARAMS"), "set `fsdp_offload_params: false`"),
    ):
        if asked:
            raise fail("LB457", f"accelerate's configuration asks for {name}, which lbdsl does not have", help=help)
    for stage in heal.runs if heal is not None else ():
        if stage.batch % process_count():
            more = -(-stage.batch // process_count()) * process_count()
            message = f"a batch of {stage.batch} sequences cannot be shared by {process_count()} processes"
            where = stage.set_at.get("batch", stage.span)
            raise fail("LB457", message, where, help=f"write `batch = {more}` in the heal block, or start fewer processes")


def _is(variable: str, value: str = "true") -> bool:
    return os.environ.get(variable, "").lower() == value


def check_output(planned: Planned, chosen: ApplyOptions) -> bool:
    """False when the output is already the artifact of this plan and of the texts that heal and judge it, True when there
    is work to do. Raises LB460 when something else is there and `force` is not given."""
    check_place(planned.recipe, planned.bench, chosen)
    output, other = output_of(planned.recipe, planned.bench, chosen), ""
    record = None if chosen.force else _made_as_planned(output, planned.plan, chosen.no_heal)
    if record is not None:
        other = _other_texts(record, texts.text_digests(planned.plan, planned.bench, heal=not chosen.no_heal))
        if not other:
            return False
    check_free(output, chosen.force, other)
    return True


def _made_as_planned(output: Path, plan: Plan, no_heal: bool) -> Record | None:
    """The record of `output` if that is the accepted artifact of exactly this plan, with its weights unmodified."""
    from lbdsl.artifact.contents import check_files

    record = read_record(output).value
    if record is None:
        return None
    # Its texts, of which more is known, are compared apart.
    asked = ("accepted", plan.model_copy(update={"judged_on": record.plan.judged_on}).digest, no_heal)
    if (record.status, record.plan_digest, record.no_heal) != asked:
        return None
    try:
        check_files(output, record)
    except LbdslError:
        return None
    return record


def _other_texts(record: Record, now: Mapping[str, str]) -> str:
    """What of an artifact's texts is another one now; empty if nothing is."""
    if record.texts is None:
        return "does not say what its texts were"
    changed = [name for name in sorted({*record.texts, *now}) if record.texts.get(name) != now.get(name)]
    return f"was made with another text: {', '.join(changed)}" if changed else ""


def apply_plan(
    planned: Planned,
    *,
    chosen: ApplyOptions | None = None,
    progress: AnyProgress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Applied:
    """Change, heal, evaluate and save the model as planned.

    `should_stop` is called after each healing step; when it returns True, a checkpoint is saved and KeyboardInterrupt
    is raised. Raises LbdslError for errors that the user can fix; the output folder is never left half-written.
    """
    from lbdsl.heal.heal import HealInterrupted
    from lbdsl.run.apply import run_plan

    if not isinstance(planned, Planned):
        raise TypeError(f"apply_plan takes what plan_recipe returns, not {planned!r}; apply_saved_plan takes a file")
    if not isinstance(chosen, ApplyOptions | None):
        raise TypeError(f"chosen is lbdsl.ApplyOptions(output=...), not {chosen!r}")
    chosen, progress = chosen or ApplyOptions(), progress_of(progress)
    plan, bench = planned.plan, planned.bench
    if not plan.applyable:
        raise LbdslError(planned.diagnostics if planned.errors else _refusal(plan))
    output = output_of(planned.recipe, bench, chosen)
    if not check_output(planned, chosen):
        progress.say(f"{output} is up to date with this plan: nothing to do")
        return Applied(read_record(output).unwrap(), output, ())
    inputs = inputs_for(plan, planned.recipe, bench, planned.statistics, chosen)
    try:
        result = run_plan(
            plan,
            inputs,
            output,
            lbdsl_version=VERSION,
            no_heal=chosen.no_heal,
            resume=chosen.resume,
            force=chosen.force,
            progress=progress,
            should_stop=should_stop,
        )
    except HealInterrupted:
        raise KeyboardInterrupt from None
    heal = result.record.heal
    if heal is not None and not chosen.resume and heal["seconds"] > 0:
        pace_of(bench).note("heal", _healing_work(result.record) / heal["seconds"])
    found = [note("LB469", f"the previous {was} was moved to {now}") for was, now in result.moved_aside]
    if heal is not None and all(stage.get("kept") == 0 for stage in healing_stages(heal)):
        rose = any(map(rise_of, healing_stages(heal)))
        advice = "lower `lr` in the heal block" + ("" if rose else ", or heal on more tokens")
        what = "healing did not help on text that it did not see: the weights before it are kept"
        found.append(warning("LB477", what, help=advice))
    found += texts.seen_findings(inputs.eval_blocks, inputs.seen)
    if result.record.evaluation is None:
        help = "add an `eval` block or an assert such as `assert ppl_increase < 5%`"
        found.append(warning("LB470", "the finished model was not judged", help=help))
    found += failures(result.record.asserts, where=f"the result was set aside in {result.folder}")
    return Applied(result.record, result.folder, tuple(found))


def _healing_work(record: Record) -> float:
    """Tokens of healing that take as long as it did: the text that it is watched on goes forward through two models, where
    a step takes `HEAL_FORWARDS` passes. It is much of a short run, and little of a long one."""
    from lbdsl.heal.validation import validation_sequences

    heal, runs = record.heal, record.plan.heal.runs if record.plan.heal is not None else ()
    assert heal is not None, "it was healed"
    stages = zip(healing_stages(heal), runs, strict=True)
    watched = sum(len(stage["validation"]) * validation_sequences(run) * run.seq for stage, run in stages)
    return float(heal["tokens"] + watched * 2 / HEAL_FORWARDS)


def inputs_for(
    plan: Plan,
    recipe: Recipe,
    bench: OpenModel,
    statistics: Statistics | None = None,
    chosen: ApplyOptions | None = None,
) -> RunInputs:
    """The inputs of a run; without `statistics`, those of the plan in the cache. Raises LB347 if one is not as planned."""
    from lbdsl.run.inputs import RunInputs

    chosen, folder = chosen or ApplyOptions(), bench.place(plan.recipe.path)
    healing: tuple[TokenBlocks, ...] = ()
    validation: tuple[TokenBlocks | None, ...] = ()
    if plan.heal is not None and not chosen.no_heal:
        bench.check_room_to_heal()
        healing = texts.heal_blocks(plan.heal, bench, folder)
        validation = texts.validation_blocks(plan.heal, bench, folder)
    judging = texts.eval_blocks(plan.eval, plan.measure, plan.heal, bench, folder) if plan.eval is not None else ()
    calibration = texts.score_blocks(plan.measure, bench, folder) if any(spec.needs_inputs for spec in plan.specs) else None
    scored = (texts.score_blocks(plan.measure, bench, folder),) if plan.scored and judging else ()
    # What is shared is taken from there, layer by layer: the device may not have room for all.
    whole = bench.in_machine_memory() if shares_model() and healing else bench
    if whole is not bench:
        bench.release()
    if statistics is None:
        statistics = _statistics(plan, bench)
        raise_errors(staleness(plan, statistics=statistics.digests(plan.used_statistics)))
    return RunInputs(
        facts=bench.facts,
        tokenizer=bench.tokenizer,
        base=lambda: whole.base,
        judged_base=lambda: bench.judged_base,
        changed=whole.fresh_copy,
        release=whole.release,
        texts=texts.text_digests(plan, bench, heal=not chosen.no_heal),
        seen=texts.seen_shares(judging, [*scored, *healing, *filter(None, validation)]),
        trackers=chosen.report_to,
        weights=lambda: bench.weights_folder,
        heal_blocks=healing,
        validation=validation,
        eval_blocks=judging,
        tasks=_tests(plan, bench, folder),
        gate=gate_of(plan, recipe, bench.facts, no_heal=chosen.no_heal),
        calibration=calibration,
        device=bench.device,
        statistics=statistics,
        batch=bench.options.batch,
        compute=bench.computed.dtype,
    )


def _tests(plan: Plan, bench: OpenModel, folder: Folder) -> tuple[Test, ...]:
    """What the finished model is asked: what judges it, and what was asked of the plan before healing."""
    if plan.eval is None:
        return ()
    from lbdsl.evaluate.needle import NeedleTest

    tests = texts.eval_tests(plan.eval, bench, folder)
    if plan.recall is None or not bench.options.recall:
        return tests
    questions = recall_questions_of(plan.measure, bench, folder)
    return (*tests, NeedleTest.recall(questions, bench.facts.positions, bench.options.batch))


def apply_saved_plan(
    path: str | Path,
    *,
    set_params: Mapping[str, object] | None = None,
    model: str | Path | None = None,
    chosen: ApplyOptions | None = None,
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Applied:
    """Apply exactly the plan saved at `path`, without selecting layers again.

    Raises LbdslError with exit code 3 that names everything that changed since: recipe, parameters, model, calibration
    text or version. `model` is the model's new location when it moved.
    """
    plan = read_plan(Path(path))
    # A plan does not fix the device, but it does fix the dtype: it runs in the dtype it was made for.
    options = options or RunOptions()
    if options.dtype is not None and normal_dtype(options.dtype) != plan.model.dtype:
        raise fail(
            "LB471", f"the plan was made in {plan.model.dtype}, not in {options.dtype}", help="make a new plan with --dtype"
        )
    options = replace(options, dtype=plan.model.dtype)
    try:
        bench = OpenModel(model or plan.model.source, options, progress, came_from(plan, Path(path)))
    except LbdslError as problem:
        moved = "if the plan's model was moved, name its place with --model"
        raise LbdslError(
            replace(d, help=(moved, *d.help)) if model is None and d.code == "LB400" else d for d in problem.diagnostics
        ) from problem
    recipe = planned_recipe(plan, set_params)
    check_place(recipe, bench, chosen or ApplyOptions(), Input("the saved plan", Path(path)))
    texts.check_texts(recipe, bench, heal=not (chosen and chosen.no_heal))
    check_plan(plan, str(path), bench.facts if bench.digest == plan.model.digest else None)
    files, found = files_of(plan)
    statistics = _statistics(plan, bench)
    folder, on, measure = bench.place(recipe.path), plan.measured_on, plan.measure
    # Text that the model writes may come out differently here, and the plan does not change by it.
    written = any(isinstance(source, SelfText) for source in sources_of(measure.data))
    stale = staleness(
        plan,
        files=files,
        params=recipe.params,
        model_digest=bench.digest,
        model=str(model or ""),
        lbdsl_version=VERSION,
        data_digest=texts.score_blocks(measure, bench, folder).digest if plan.scored and not written else None,
        joint_digest=texts.joint_blocks(measure, bench, folder).digest if on and on.joint_digest and not written else None,
        recall_digest=recall_questions_of(measure, bench, folder).blocks.digest if plan.recall is not None else None,
        judged_on=texts.judging_digests(plan.eval, bench, folder),
        statistics=statistics.digests(plan.used_statistics),
        profiles=bench.profiles(plan.profiles, of=plan.profiles),
        versions=bench.versions,
    )
    if any(difference.is_error for difference in stale):
        raise LbdslError(stale)
    found += stale
    planned = Planned(plan, found, recipe, bench, statistics)
    done = apply_plan(planned, chosen=chosen, progress=progress, should_stop=should_stop)
    return Applied(done.record, done.folder, (*found, *done.diagnostics))


def _statistics(plan: Plan, bench: OpenModel) -> Statistics:
    """The cached statistics that the plan's new weights are computed from."""
    from lbdsl.measure.statistics import kept_statistics

    on = plan.measured_on
    return kept_statistics(bench.cache_dir, on.statistics_key if on else "", plan.used_statistics)


def _refusal(plan: Plan) -> tuple[Diagnostic, ...]:
    """The reasons why a plan cannot be applied, from the plan itself."""
    found = [error(item.code, item.message, help=item.help) for item in plan.findings if item.severity == "error"]
    found += [
        error("LB321" if item.phase == "static" else "LB322", f"`assert {item.text}` fails")
        for item in plan.asserts
        if item.failed and not any(item.text in d.message for d in found)
    ]
    incomplete = "the plan is not complete: the loss of the whole changed model is not measured"
    return tuple(found) or (error("LB323", incomplete, help="make it again with `lbdsl plan`"),)
