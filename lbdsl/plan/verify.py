"""Is a saved plan still about this recipe, this model and this text?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.digest import short
from lbdsl.plan.schema import Plan

_AGAIN = "make a new plan with `lbdsl plan`"


def staleness(
    plan: Plan,
    *,
    files: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    model_digest: str | None = None,
    lbdsl_version: str | None = None,
    fingerprint: str | None = None,
    data_digest: str | None = None,
    joint_digest: str | None = None,
    statistics: Mapping[str, str] | None = None,
) -> tuple[Diagnostic, ...]:
    """Every difference between what the plan was made of and what is there now, as errors of exit code 3.

    Each argument is the present value; None means that it is not compared. `files` gives the sha256 of the recipe's text
    and of the files it includes by their path, those that are there. `fingerprint` covers model, text, length,
    precision and device of the scores, `data_digest` their text alone, `joint_digest` the text of the joint loss;
    `statistics` are the sha256 of those that are kept.
    """
    found: list[Diagnostic] = []
    for path, was in plan.recipe.files if files is not None else ():
        now = files.get(path, was) if files is not None else was
        if now != was:
            what = "the recipe" if path == plan.recipe.path else "the included file"
            found.append(error("LB340", f"{what} {path} changed: {short(was)} when planned, {short(now)} now", help=_AGAIN))
    if params is not None:
        found += _param_differences(plan, params)
    if model_digest is not None and model_digest != plan.model.digest:
        found.append(
            error(
                "LB342",
                f"the model {plan.model.source} changed: {short(plan.model.digest)} when planned, "
                f"{short(model_digest)} now",
                help=_AGAIN,
            )
        )
    found += _measurement_differences(plan, fingerprint, data_digest, joint_digest)
    if statistics is not None:
        found += [
            error(
                "LB347",
                f"the calibration statistic {name} "
                + ("is another one than when planned" if name in statistics else "is not in the cache folder"),
                help=(
                    "new weights need the statistics that they are made from: give the --cache-dir of the plan",
                    "`lbdsl plan` takes them here; where they come out the same, this plan can then be applied",
                ),
            )
            for name, digest in plan.statistics.items()
            if statistics.get(name) != digest
        ]
    if lbdsl_version is not None and lbdsl_version != plan.lbdsl_version:
        found.append(
            error("LB344", f"the plan was made by lbdsl {plan.lbdsl_version}, and this is {lbdsl_version}", help=_AGAIN)
        )
    return tuple(found)


def _param_differences(plan: Plan, params: Mapping[str, Any]) -> list[Diagnostic]:
    planned = plan.recipe.params
    found = []
    for name in sorted({*planned, *params}):
        was, now = planned.get(name), params.get(name)
        if was != now or type(was) is not type(now):
            found.append(
                error(
                    "LB341", f"${name.removeprefix('$')} was {_said(was)} when planned and is {_said(now)} now", help=_AGAIN
                )
            )
    return found


def _measurement_differences(
    plan: Plan,
    fingerprint: str | None,
    data: str | None,
    joint: str | None,
) -> list[Diagnostic]:
    on = plan.measured_on
    pairs = (
        ("calibration text", on.digest if on else None, data),
        ("text of the joint loss", on.joint_digest if on else None, joint),
        ("fingerprint of the measurements (model, text, precision, device)", on.fingerprint if on else None, fingerprint),
    )
    return [
        error("LB343", f"the {name} changed: {short(was) if was else 'none'} when planned, {short(now)} now", help=_AGAIN)
        for name, was, now in pairs
        if now is not None and now != was
    ]


def _said(value: Any) -> str:
    return "absent" if value is None else repr(value)
