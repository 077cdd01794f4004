"""Check whether a saved plan still matches its recipe, model and calibration text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lbdsl.core.diagnostic import Diagnostic, error, note
from lbdsl.core.digest import short
from lbdsl.cost.profile import Profile
from lbdsl.plan.made_from import PLUG_IN
from lbdsl.plan.schema import Plan

_AGAIN = "make a new plan with `lbdsl plan`"


def staleness(
    plan: Plan,
    *,
    files: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    model_digest: str | None = None,
    model: str = "",
    lbdsl_version: str | None = None,
    data_digest: str | None = None,
    joint_digest: str | None = None,
    recall_digest: str | None = None,
    judged_on: Mapping[str, str] | None = None,
    statistics: Mapping[str, str] | None = None,
    profiles: Mapping[str, Profile] | None = None,
    versions: Mapping[str, str] | None = None,
) -> tuple[Diagnostic, ...]:
    """Every difference between the inputs of the plan and the current ones, as errors of exit code 3; of another version
    of torch, which changes what is measured by rounding, a note.

    Each argument is the current value; None means that it is not compared. `files` has the sha256 of the recipe's text
    and of the files it includes, by path, for those that exist. `data_digest` is of the text of the scores,
    `joint_digest` of that of the joint loss, `recall_digest` of what the plan was asked; `judged_on` has those of what
    judges the result, by name; `statistics` has the sha256 of the stored calibration statistics, `profiles` those of
    engines on this machine; `versions` as in `MeasuredOn`. `model` is where the user says that the model is now.
    """
    found = [
        difference
        for file in plan.recipe.files
        for what in ["the recipe" if file.path == plan.recipe.path else "the included file"]
        for difference in _changed("LB340", f"{what} {file.path}", file.sha256, (files or {}).get(file.path))
    ]
    for name in sorted({*plan.recipe.params, *params}) if params is not None else ():
        was, now = plan.recipe.params.get(name), (params or {}).get(name)
        if was != now or type(was) is not type(now):
            message = f"${name.removeprefix('$')} was {_said(was)} when planned and is {_said(now)} now"
            found.append(error("LB341", message, help=_AGAIN))
    on = plan.measured_on
    if model and model_digest is not None and model_digest != plan.model.digest:
        # Another place was named for it.
        was, now = short(plan.model.digest), short(model_digest)
        message = f"{model} is not the model that was planned, {plan.model.source}: {now}, not {was}"
        found.append(error("LB342", message, help=("--model takes the same model at another place", _AGAIN)))
    else:
        found += _changed("LB342", f"the model {plan.model.source}", plan.model.digest, model_digest)
    for name, was in (on.versions if on else {}).items():
        now = (versions or {}).get(name, was)
        if now != was and name == "transformers":
            message = f"the model {plan.model.source} changed: transformers {was} converted it when planned, {now} does now"
            found.append(error("LB342", message, help=_AGAIN))
        elif name.startswith(PLUG_IN):
            found += _changed("LB344", f"the {name}", was, now)
        elif now != was:
            message = f"the plan was measured with {name} {was}, and this is {now}"
            said = f"its scores and statistics are taken as they are; weights, healing and judging are computed with {now}"
            found.append(note("LB344", message, help=said))
    found += _changed("LB343", "the calibration text", on.digest if on else None, data_digest)
    found += _changed("LB343", "the text of the joint loss", on.joint_digest if on else None, joint_digest)
    found += _changed("LB343", "what recall asks", plan.recall.digest if plan.recall else None, recall_digest)
    if plan.judged_on is None and judged_on:
        said = "the plan is of an earlier version: it does not say on which text the result was to be judged"
        found.append(note("LB343", f"{said}, and that may be another one now", help=_AGAIN))
    elif plan.judged_on is not None:
        for name, now in sorted((judged_on or {}).items()):
            found += _changed("LB343", f"{name}, which judges the result,", plan.judged_on.get(name), now)
    for name, digest in plan.statistics.items():
        if statistics is not None and statistics.get(name) != digest:
            said = "is another one than when planned" if name in statistics else "is not in the cache folder"
            help = (
                "new weights need the statistics that they are made from: give the --cache-dir of the plan",
                "`lbdsl plan` takes them here; where they come out the same, this plan can then be applied",
            )
            found.append(error("LB347", f"the calibration statistic {name} {said}", help=help))
    for engine, profile in plan.profiles.items():
        # What was measured of this plan alone is in no profile.
        own = replace(profile, confirmed={})
        if profiles is not None and profiles.get(engine, own) != own:
            message = f"the profile of {engine} is another one than when planned"
            found.append(error("LB354", message, help=_AGAIN))
    if lbdsl_version is not None and lbdsl_version != plan.lbdsl_version:
        message = f"the plan was made by lbdsl {plan.lbdsl_version}, and this is {lbdsl_version}"
        found.append(error("LB344", message, help=_AGAIN))
    return tuple(found)


def _changed(code: str, what: str, was: str | None, now: str | None) -> list[Diagnostic]:
    """The error for a digest that has changed; none if the current one is not known."""
    if now is None or now == was:
        return []
    return [error(code, f"{what} changed: {short(was) if was else 'none'} when planned, {short(now)} now", help=_AGAIN)]


def _said(value: Any) -> str:
    return "absent" if value is None else repr(value)
