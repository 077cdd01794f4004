"""Several processes heal one model: the first plans, measures, judges and writes, the others wait and then heal with it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from lbdsl.core.cache import UNFINISHED
from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.printed import printable
from lbdsl.core.processes import process_count, process_number
from lbdsl.core.progress import progress_of
from lbdsl.model.digest import default_cache_dir
from lbdsl.plan.schema import Plan
from lbdsl.session.model import OpenModel
from lbdsl.session.options import RunOptions


@contextmanager
def leading(options: RunOptions) -> Iterator[None]:
    """In the first process: let the others go at the end, if they were not called to heal."""
    if process_count() == 1:
        yield
        return
    from lbdsl.heal import processes
    from lbdsl.model.load import pick_device

    processes.join(pick_device(options.device))
    mark = _mark(options, f"run-{uuid4().hex}")
    # Where it cannot be written, what uses the folder says so.
    with suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    processes.shared(mark.name)
    try:
        yield
    finally:
        with suppress(OSError):
            mark.unlink(missing_ok=True)
        processes.leave()


def _mark(options: RunOptions, name: str) -> Path:
    """A file by which the others know that their cache folder is the first one's."""
    return UNFINISHED.path(options.cache_dir or default_cache_dir(), name)


def follow(options: RunOptions, relocated: str | None, measured: Callable[[], object] | None) -> None:
    """In another process: `measured` takes part in measuring, if it sees the first one's cache folder; then wait for its
    call, and heal with it, with the model at `relocated` if it is no longer where the plan says."""
    from lbdsl.heal import processes
    from lbdsl.heal.heal import HealInterrupted
    from lbdsl.model.load import pick_device

    # The first process decides when to stop, and says what is wrong.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.join(pick_device(options.device))
    try:
        with processes.together():
            if _mark(options, processes.shared("")).is_file() and measured is not None:
                with suppress(LbdslError):
                    measured()
            call = processes.called()
            if call is not None:
                plan, output, resume = call
                with suppress(HealInterrupted):
                    _heal(Plan.model_validate_json(plan), relocated, Path(output), resume, options)
            processes.leave()
    except LbdslError as problem:
        # What it alone knows.
        for found in problem.diagnostics:
            if found.is_error and found.code != "LB459":
                said = f"error[{found.code}] of process {process_number()}: {found.message}"
                print(*map(printable, (said, *found.help)), sep="\n  = help: ", file=sys.stderr)
        raise


def _heal(plan: Plan, relocated: str | None, output: Path, resume: bool, options: RunOptions) -> None:
    from lbdsl.api.applying import inputs_for
    from lbdsl.run.changes import apply_changes, made_from
    from lbdsl.run.healing import healed_model
    from lbdsl.run.inputs import Run
    from lbdsl.run.workdir import WorkFolder
    from lbdsl.session.saved_recipe import planned_recipe

    bench = OpenModel(relocated or plan.model.source, replace(options, dtype=plan.model.dtype))
    inputs = inputs_for(plan, planned_recipe(plan), bench)
    model = inputs.changed()
    apply_changes(model, plan, made_from(inputs.statistics))
    healed_model(Run(plan, inputs, WorkFolder(output), progress_of(None), resume), model)
