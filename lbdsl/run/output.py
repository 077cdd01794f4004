"""Checks of the output path. Inputs of the run, and anything that is not a folder, are never moved, even with `--force`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lbdsl.core.diagnostic import LbdslError, fail


class Input(NamedTuple):
    """A file or folder that a run reads. `whole`: nothing may be written inside that folder."""

    what: str
    path: Path
    whole: bool = False


def rejected_of(output: Path) -> Path:
    """Where a result goes that fails a gate."""
    return output.with_name(output.name + ".rejected")


def work_of(output: Path) -> Path:
    """Where a result is made."""
    return output.with_name(output.name + ".lbdsl-work")


def check_places(output: Path, inputs: Iterable[Input]) -> None:
    """`check_place` of all that an `apply` into `output` creates, moves aside or clears."""
    read = tuple(inputs)
    check_place(output, read)
    check_place(rejected_of(output), read, ", where a result that fails a gate goes,")
    check_place(work_of(output), read, ", where the result is made,")


def check_place(output: Path, inputs: Iterable[Input], role: str = "") -> None:
    """Raise LB460 if `output` cannot be created or moved aside without loss: it contains an input, is inside an input's
    folder, or is not a folder; LB463 if it cannot be looked at. Called before any work. `role` is what `output` is for."""
    named = f"{output}{role}"
    try:
        str(output).encode()
    except UnicodeEncodeError:
        raise fail("LB463", f"{named} is no name in UTF-8", help="choose another folder with -o") from None
    try:
        output.exists()
    except OSError as problem:
        raise fail(
            "LB463", f"{named} cannot be looked at: {problem.strerror}", help="choose another folder with -o"
        ) from None
    if os.path.lexists(output) and not output.exists():
        raise _refused(f"{named} is a link to {os.readlink(output)}, which does not exist")
    if output.exists() and not output.is_dir():
        raise _refused(f"{named} already exists, and it is not a folder")
    place = _resolved(output)
    for what, path, whole in (*inputs, Input("the present folder", Path.cwd())):
        read = _resolved(path)
        if place == read:
            raise _refused(f"{named} is {what}")
        if place in read.parents:
            raise _refused(f"{named} holds {what}, {path}")
        if whole and read in place.parents:
            raise _refused(f"{named} is in {what}, {path}")


def check_free(output: Path, force: bool, why: str = "") -> None:
    """Raise LB460 if `output` exists and `force` is not set; `why` says why that is not the output that is asked for."""
    if is_taken(output) and not force:
        help = "choose another folder with -o", "add --force to move it aside first"
        raise fail("LB460", f"{output} exists{why and f', and {why}'}", help=help)


def is_taken(path: Path) -> bool:
    """Whether `path` has something that would be lost: anything except an empty folder."""
    if path.is_symlink() or not path.is_dir():
        return os.path.lexists(path)
    return any(path.iterdir())


def move_aside(path: Path) -> Path:
    """Rename `path` to the first of `path.old`, `path.old-2`, ... that does not exist."""
    aside, count = path.with_name(f"{path.name}.old"), 1
    while os.path.lexists(aside):
        count += 1
        aside = path.with_name(f"{path.name}.old-{count}")
    return path.rename(aside)


def _resolved(path: Path) -> Path:
    """Where links lead; what can be no path is left as it is: nothing is there."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path.absolute()


def _refused(message: str) -> LbdslError:
    return fail("LB460", message, help="choose another folder with -o; --force does not move this one")
