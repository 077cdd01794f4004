"""Saved plans (`.lbplan`): canonical JSON of the plan's fields and their digest."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lbdsl.core.diagnostic import Diagnosed, LbdslError, fail, first_line
from lbdsl.core.digest import canonical_json, digest_of
from lbdsl.core.files import replace_file
from lbdsl.core.paths import did_you_mean
from lbdsl.model.config_file import read_json_object
from lbdsl.plan.schema import FORMAT_VERSION, PREDICTED, Plan

DIGEST_KEY = "sha256"


def save_plan(plan: Plan, path: str | Path) -> Path:
    """Write a plan to `path` atomically, so that a reader never sees a partial file. Raises LbdslError LB335, also if
    `path` exists and is not a plan."""
    path = Path(path)
    check_place(path)
    text = canonical_json({**plan.model_dump(mode="json"), DIGEST_KEY: plan.digest})
    try:
        replace_file(path, f"{text}\n".encode())
    except OSError as problem:
        raise fail("LB335", f"cannot write {path}: {_reason(problem)}") from problem
    return path


def check_place(path: str | Path) -> None:
    """LB335 unless a plan can be written to `path` without loss: the file does not exist, or is a saved plan of any format
    version."""
    path = Path(path)
    try:
        if os.path.lexists(path) and not _is_plan(path):
            message = f"{path} already exists, and it is not a saved plan"
            help = "choose another name with -o, such as x.lbplan: only a saved plan is replaced by a new one"
            raise fail("LB335", message, help=help)
        folder = path.absolute().parent
        if not folder.is_dir():
            raise fail("LB335", f"cannot write {path}: there is no folder {folder}", help=did_you_mean(folder))
    except (OSError, ValueError) as problem:
        raise fail("LB335", f"cannot write {path}: {_reason(problem)}") from problem


def load_plan(path: str | Path) -> Diagnosed[Plan]:
    """Read a saved plan and check its digest. Errors: LB330 unreadable, LB331 not a plan, LB332 edited, LB333 another
    format, LB334 fields that are not valid."""
    try:
        return Diagnosed(_checked(Path(path), _fields(Path(path))))
    except LbdslError as problem:
        return Diagnosed(None, problem.diagnostics)


def _is_plan(path: Path) -> bool:
    try:
        _fields(path)
    except LbdslError:
        return False
    return True


def _fields(path: Path) -> dict[str, Any]:
    """The fields of a saved plan of any format version, without checking its digest. Raises LB330 and LB331."""
    try:
        # Not by `path.is_dir`, for which what cannot be reached is not there.
        if stat.S_ISDIR(path.stat().st_mode):
            raise IsADirectoryError(0, "it is a folder")
        fields = read_json_object(path, "LB331")
    except LbdslError as problem:
        if isinstance(problem.__cause__, OSError):
            raise fail("LB330", f"cannot read {path}: {_reason(problem.__cause__)}") from problem
        raise _not_a_plan(path, problem.diagnostics[0].message) from problem
    except FileNotFoundError:
        raise fail("LB330", f"cannot read {path}: no such file", help=did_you_mean(path)) from None
    except (OSError, ValueError) as problem:
        raise fail("LB330", f"cannot read {path}: {_reason(problem)}") from problem
    if "format_version" not in fields or DIGEST_KEY not in fields:
        raise _not_a_plan(path, "it is JSON, but not what `lbdsl plan -o` writes")
    return fields


def _checked(path: Path, fields: dict[str, Any]) -> Plan:
    version = fields["format_version"]
    if version != FORMAT_VERSION or isinstance(version, bool):
        writer = f"it was written by lbdsl {fields.get('lbdsl_version', 'unknown')}"
        message = f"{path} has plan format {version!r}, and this lbdsl reads {FORMAT_VERSION}"
        raise fail("LB333", message, help=(writer, "make the plan again with this version"))
    said = fields.pop(DIGEST_KEY)
    try:
        same = digest_of({name: value for name, value in fields.items() if name not in PREDICTED}) == said
    except ValueError:
        # A number or a text that no plan has.
        same = False
    if not same:
        message = f"{path} was changed after lbdsl wrote it: its digest does not match"
        raise fail("LB332", message, help="change the recipe and run `lbdsl plan` again; a plan is never edited")
    try:
        return Plan.model_validate(fields)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        if isinstance(problem, ValidationError):
            first = problem.errors()[0]
            message = f"{path} is not valid at {'.'.join(map(str, first['loc']))}: {first['msg']}"
        else:
            # What an action makes of values that it does not have.
            message = f"{path} is not valid: {first_line(problem)}"
        help = "an action of a plug-in needs that plug-in installed, or named in LBDSL_PLUGINS"
        raise fail("LB334", message, help=help) from problem


def _not_a_plan(path: Path, why: str) -> LbdslError:
    if path.name == "lbdsl.json":
        return fail(
            "LB331", f"{path} is an artifact's record, not a plan", help=f"give the artifact's folder, {path.parent}"
        )
    if path.suffix == ".lbr":
        help = f"`lbdsl plan {path} MODEL -o {path.with_suffix('.lbplan')}` saves its plan"
        return fail("LB331", f"{path} is a recipe, not a plan", help=help)
    return fail("LB331", f"{path} is not a plan: {why}", help="save one with `lbdsl plan RECIPE MODEL -o x.lbplan`")


def _reason(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem)
