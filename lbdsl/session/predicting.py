"""Predictions for a plan on this machine: speed, time, memory, disk, and which engines can serve its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from lbdsl.core.diagnostic import Diagnostic, LbdslError, warning
from lbdsl.core.measurement import Request
from lbdsl.core.processes import process_count, shares_model
from lbdsl.core.units import bytes_text, duration_text, plural, tokens_text
from lbdsl.cost.cost import model_cost
from lbdsl.cost.facts import ModelFacts
from lbdsl.cost.profile import calibrate_line
from lbdsl.data import TextPart, read_parts
from lbdsl.data.chat import tokenized
from lbdsl.measure.machine import machine_for
from lbdsl.measure.pace import Pace
from lbdsl.metrics import metric_of
from lbdsl.plan.estimate import MANY, REACHED, decode_bounds, estimate, measuring_units, units
from lbdsl.plan.lengths import joint_tokens
from lbdsl.plan.memory import Held, healing_bytes
from lbdsl.plan.schema import Plan
from lbdsl.recipe.schema import Recipe
from lbdsl.recipe.schema_blocks import RECALL, Mix, SelfText, sources_of
from lbdsl.session.model import OpenModel
from lbdsl.session.session import Session
from lbdsl.solve.case import Case
from lbdsl.solve.evaluate import World, evaluate

SAMPLE = 100_000
"""Characters of text from which tokens per character are estimated."""

SHARED = 0.125
"""Tokens of a question of recall, as a share of those of its text: about eight questions share what stands before them."""

SCREEN = 3.0
"""Forward passes that take as long as the screen of one action by answers: one, and a backward pass."""

LONG = 30.0
"""Seconds of measuring that are said before it begins."""

SPEED_CONTEXT = 8192
SPEED_BATCHES = (1, 16)


def with_predictions(plan: Plan, bench: OpenModel, passes: Mapping[str, float | None], asked: float = 0.0) -> Plan:
    """The plan with the predictions for this machine, and the engines that could serve its result. `passes`: see
    `passes_over_text`; `asked`: see `tokens_of_tasks`."""
    from lbdsl.measure.memory import total_bytes
    from lbdsl.run.apply import room_needed
    from lbdsl.session.targets import serving_of

    pace = pace_of(bench)
    found = estimate(
        plan,
        forward=pace.known("forward"),
        healing=pace.known("heal"),
        passes=None if None in passes.values() else max(filter(None, passes.values()), default=None),
        room=room_needed(plan, bench.facts, bench.computed.dtype),
        memory=healing_bytes(plan.heal, bench.computed, Held(process_count(), shares_model()), bench.device.type),
        machine=total_bytes(bench.device) // (1 if bench.device.type == "cuda" else process_count()),
        asked=asked,
    )
    with bench.progress.stage("calibrating the machine"):
        machine = machine_for(bench.device, bench.computed, bench.cache_dir)
    cells = [(min(SPEED_CONTEXT, bench.facts.positions), batch) for batch in SPEED_BATCHES]
    speeds = decode_bounds(bench.computed.cost, model_cost(bench.computed, plan.specs), machine, cells)
    return plan.model_copy(update={"speeds": speeds, "estimate": found, "serving": serving_of(plan, bench)})


def measuring_tokens(recipe: Recipe, case: Case, facts: ModelFacts) -> float:
    """Tokens through the whole model and its head that the scores take, and the whole plan or those that `choose` tries.
    Questions of tasks and of one's own are not counted."""
    measure = recipe.measure
    questions = measure.recall_questions * (measure.recall_seq or 0) * SHARED

    def passes(asks: bool) -> float:
        """Of the scores by text, or by questions."""
        requests = [r for r in case.requests if r.action and metric_of(r.metric).asks == asks]
        runs = {(r.layer, r.action) for r in requests if r not in case.screened}
        found = measuring_units(facts, [layer for layer, _ in runs], 1) / units(facts, 1) if requests else 0.0
        screened = {(r.layer, r.action) for r in requests if r in case.screened}
        if screened and asks:
            return found + SCREEN * len({action for _, action in screened})
        if screened:
            from lbdsl.measure.screen import SAMPLES

            # A backward pass for the hidden states alone takes as long as one forward.
            found += 1 + SAMPLES + len(screened) / facts.layers
        return found

    wholes = 0
    if case.choose is not None:
        wholes += measure.tries * (2 if measure.strategy == "greedy" else 1)
    if any(known.while_ is not None for known in case.rules):
        wholes += facts.layers.bit_length()
    asked = questions if "recall" in recipe.metrics_asked else 0.0
    return (
        passes(asks=False) * measure.tokens
        + passes(asks=True) * questions
        + wholes * (measure.tokens + asked)
        + 2 * (joint_tokens(measure) + questions)
    )


def say_all_measuring(session: Session) -> None:
    """Report how long all that a plan measures will take, if that is long."""
    bench = session.model
    seconds = measuring_tokens(session.recipe, session.case, bench.facts) / forward_pace(bench)
    if seconds >= LONG:
        bench.progress.say(f"measuring takes about {duration_text(seconds)} in all, less what is kept from before")


def say_measuring(bench: OpenModel, missing: list[Request], tokens: int) -> None:
    """Report the time and memory that measuring will take, before it starts; nothing when no score is missing."""
    if not missing:
        return
    # One forward pass from the layer to the end gives every metric of an action.
    runs = sorted({(request.layer, request.action) for request in missing if request.action})
    passes = measuring_units(bench.facts, (layer for layer, _ in runs), tokens) / units(bench.facts, tokens)
    pace = pace_of(bench).known("forward")
    time = "" if pace is None else f", about {duration_text(passes * tokens / pace)}"
    bench.progress.say(
        f"measuring {plural(len(missing), 'score')} on {tokens_text(tokens)} tokens: "
        f"{plural(round(passes), 'forward pass', 'es')}{time}, "
        f"{bytes_text(bench.computed.params * bench.computed.dtype_bytes)} of weights in memory"
    )


def with_profiles(recipe: Recipe, bench: OpenModel) -> Recipe:
    """The recipe with the profiles of the engines that its values are predicted for. Raises LB353, with the command that
    measures all that is asked of an engine, if one of them cannot be predicted."""
    asked = recipe.predictions_asked
    if not asked:
        return recipe
    recipe = replace(recipe, profiles=bench.profiles(asked))
    world = World(bench.facts, cost=bench.facts.cost, profiles=recipe.profiles)
    found = []
    for engine, values in asked.items():
        line = calibrate_line(engine, [(value.name, value.arguments) for value in values], bench.source.text)
        problems = [problem for value in values for problem in evaluate(value, world).diagnostics]
        help: tuple[str, ...] = (f"measure it: {line}",)
        if engine == "vllm":
            help += ("for a vLLM of your own, also on GPUs, add its --engine-python and --engine-args",)
        found += [replace(problem, help=help) for problem in problems]
    if found:
        raise LbdslError(tuple(found))
    return recipe


def passes_over_text(session: Session) -> Mapping[str, float | None]:
    """The number of epochs of healing over each of its sources (None: not known), with tokens per character estimated from
    its beginning."""
    recipe, bench, folder = session.recipe, session.model, session.place

    def of(data: str | SelfText, tokens: float) -> float | None:
        if isinstance(data, SelfText):
            return tokens / min(tokens, data.tokens or tokens)
        if data == RECALL:
            return 1.0
        parts = read_parts(data, base_dir=folder, offline=bench.options.offline)
        texts = parts.texts(TextPart.HEAL)
        sample = "\n\n".join(text[:SAMPLE] for text in texts[:8])[:SAMPLE]
        if not sample.strip():
            return None
        tokens_a_character = len(tokenized(bench.tokenizer, [sample], special=True)[0]) / len(sample)
        return tokens / max(1.0, parts.characters(TextPart.HEAL) * tokens_a_character)

    tokens: dict[str | SelfText, float] = {}
    for run in recipe.heal.runs if recipe.heal is not None else ():
        weights = run.data.weights if isinstance(run.data, Mix) else (1.0,)
        for source, weight in zip(sources_of(run.data), weights, strict=True):
            tokens[source] = tokens.get(source, 0.0) + run.tokens_seen * weight / sum(weights)
    return {str(source): of(source, seen) for source, seen in tokens.items()}


def repeated_text(session: Session, passes: Mapping[str, float | None]) -> Iterator[Diagnostic]:
    """LB446 for each source that healing passes over too often."""
    heal = session.recipe.heal
    for source, times in passes.items():
        if times is not None and times > MANY:
            message = f"healing passes about {times:.1f} times over {source}"
            help = f"after {MANY} passes each is worth less: name more text, or fewer tokens"
            yield warning("LB446", message, heal.span if heal is not None else None, help=help)


def forward_pace(bench: OpenModel) -> float:
    """Tokens per second through the model: as they were here, else from what this machine can do."""
    known = pace_of(bench).known("forward")
    if known is not None:
        return known
    machine = machine_for(bench.device, bench.computed, bench.cache_dir)
    return REACHED * machine.flops / (2 * bench.computed.params)


def pace_of(bench: OpenModel) -> Pace:
    return Pace(bench.digest, bench.computed, bench.device, bench.cache_dir)
