"""From a recipe and a model to a plan: its stages, in the order in which they run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lbdsl.actions.base import made_weights
from lbdsl.core.diagnostic import Diagnosed, Diagnostic, fail, raise_errors
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.weights import AnyExpr, Largest, substituted
from lbdsl.measure.taken import LayerStatistics, Statistics
from lbdsl.model.source import is_artifact
from lbdsl.plan.build import build
from lbdsl.plan.findings import impossible_asserts, impossible_untils
from lbdsl.plan.lengths import with_lengths
from lbdsl.plan.made_from import ModelRef
from lbdsl.plan.schema import LayerPlan, Plan
from lbdsl.recipe.schema import Recipe
from lbdsl.recipe.schema_blocks import sources_of
from lbdsl.session.asking import check_own_questions, tokens_of_tasks
from lbdsl.session.choosing import choose_layers
from lbdsl.session.measuring import check_screen, measure
from lbdsl.session.model import OpenModel
from lbdsl.session.patching import helpful_patches
from lbdsl.session.predicting import passes_over_text, repeated_text, say_all_measuring, with_predictions, with_profiles
from lbdsl.session.session import Session
from lbdsl.session.targets import forms_of
from lbdsl.session.whole_plans import join
from lbdsl.solve.case import Case
from lbdsl.solve.choose import engines_of
from lbdsl.solve.select import PlannedAction
from lbdsl.version import VERSION


def plan(
    loaded: Diagnosed[Recipe],
    model: OpenModel,
    contexts: tuple[int, ...] = (),
    *,
    again: bool = False,
    best_so_far: bool = False,
) -> tuple[Plan, Session, tuple[Diagnostic, ...]]:
    """The plan with the diagnostics of making it. Raises LbdslError; a failed assert is in the diagnostics."""
    from lbdsl.session.texts import judging_digests, unwritten

    session, settled = settle(loaded, model, again=again)
    say_all_measuring(session)
    scored = measure(session)
    selected = choose_layers(session, scored, (*settled, *scored.diagnostics), best_so_far=best_so_far)
    patched = helpful_patches(session, scored.scores, selected)
    loss, on, recall, forgotten = join(session, patched)
    passes = passes_over_text(session)
    found = (*model.diagnostics, *settled, *scored.diagnostics, *patched.diagnostics, *forgotten)
    found += tuple(repeated_text(session, passes)) if patched.selection.changed else ()
    found += unwritten(session.recipe.eval, model)
    built = build(
        session.case,
        patched.selection,
        scored.scores,
        loss,
        _reference(model),
        on,
        contexts,
        VERSION,
        found=found,
        statistics=patched.statistics.digests(patched.selection.used_statistics),
        choice=patched.choice,
        recall=recall,
    )
    assert built.value is not None, "a plan whose asserts fail is a plan, too"
    made = _decided(built.value, model.facts, patched.statistics)
    made = made.model_copy(update={"judged_on": judging_digests(made.eval, model, session.place)})
    asked = tokens_of_tasks(made.eval, model, session.place)
    asked += recall.tokens if recall is not None and made.eval is not None else 0
    return with_predictions(made, model, passes, asked), session, (*found, *built.diagnostics)


def settle(
    loaded: Diagnosed[Recipe], model: OpenModel, *, again: bool, planned: bool = True
) -> tuple[Session, tuple[Diagnostic, ...]]:
    """The recipe on the model with all that it leaves open, and findings on it. What cannot be planned, or (not `planned`)
    measured, raises LbdslError before anything is measured."""
    from lbdsl.session.texts import check_sources, check_texts

    if any(spec.packs for spec in model.facts.layer_specs):
        raise fail("LB404", f"the weights of {model.source.text} are quantized already", help="start from its base model")
    if is_artifact(model.source) and not again:
        raise fail(
            "LB467",
            f"{model.source.text} is already an artifact of lbdsl",
            help="give its base model, or add --again to change it once more",
        )
    recipe = loaded.unwrap()
    case = Case(with_profiles(recipe, model) if planned else recipe, model.facts)
    needed = case.measurable()
    raise_errors(loaded.diagnostics + needed.diagnostics)
    lengths = with_lengths(case)
    raise_errors(loaded.diagnostics + lengths.diagnostics)
    session = Session(lengths.unwrap(), model)
    recipe = session.recipe
    if not model.options.recall and "recall" in recipe.metrics_asked:
        raise fail("LB361", "the recipe asks for `recall`, and `--no-recall` leaves it out", help="leave out one of them")
    if planned:
        choosing = session.case.choosing
        forms = forms_of(model.source, model.facts, engines_of(choosing)) if choosing is not None else None
        raise_errors(loaded.diagnostics + impossible_untils(session.case, forms))
        if session.case.requests:
            raise_errors(loaded.diagnostics + impossible_asserts(session.case))
        check_texts(recipe, model)
        check_own_questions(session)
    else:
        check_sources(sources_of(recipe.measure.data), model, session.place)
    check_screen(session)
    # `build` says of the layers that get windows, and of the model's positions, what a recipe alone leaves open.
    of_recipe = (d for d in loaded.diagnostics if d.code != "LB360")
    return session, (*of_recipe, *lengths.diagnostics, *needed.diagnostics)


def _decided(plan: Plan, facts: ModelFacts, statistics: Statistics) -> Plan:
    """With what statistics decided of a layer, such as which KV heads stay full, as arguments of its actions."""
    layers = tuple(
        _decided_layer(layer, facts, statistics(layer.index)) if layer.change.stats else layer for layer in plan.layers
    )
    found = plan.model_copy(update={"layers": layers})
    return found.model_copy(update={"statistics": statistics.digests(found.used_statistics)})


def _decided_layer(layer: LayerPlan, facts: ModelFacts, known: LayerStatistics) -> LayerPlan:
    import torch

    from lbdsl.measure.expressions import tensor_of

    if any(stat.text not in known for stat in layer.change.stats):
        return layer

    def places(largest: Largest) -> tuple[int, ...]:
        return tuple(largest.indices(tensor_of(largest.of, known.__getitem__, known, torch.float64)).tolist())

    def decided(planned: PlannedAction) -> PlannedAction:
        action = planned.action.decided(layer.before, layer.after, places) if planned.effective else planned.action
        return planned.model_copy(update={"action": action})

    def made(actions: Iterable[PlannedAction]) -> dict[str, AnyExpr]:
        acting = dict.fromkeys(planned.action for planned in actions if planned.effective)
        return dict(made_weights(acting, layer.before, layer.after, facts))

    actions = tuple(map(decided, layer.actions))
    if actions == layer.actions:
        return layer
    open_, named = made(layer.actions), made(actions)

    def weight(name: str) -> AnyExpr:
        # A patch may stand around what an action makes.
        return substituted(layer.weights[name], lambda part: named[name] if part == open_.get(name) else None)

    return layer.model_copy(update={"actions": actions, "weights": {name: weight(name) for name in layer.weights}})


def _reference(model: OpenModel) -> ModelRef:
    facts, local = model.facts, Path(model.source.text).expanduser()
    return ModelRef(
        # A plan may be applied from another folder.
        source=os.path.abspath(local) if local.exists() else model.source.text,
        name=model.source.short_name,
        revision=model.source.revision,
        digest=model.digest,
        family=facts.family,
        layers=facts.layers,
        dtype=facts.dtype,
        facts=facts,
    )
