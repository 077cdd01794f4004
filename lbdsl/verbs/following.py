"""Several processes heal one model: the first plans, measures, judges and writes, the others wait and then heal with it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.core.processes import process_count, process_number, process_on_machine, shares_model
from lbdsl.core.progress import Silent
from lbdsl.plan.schema import Plan
from lbdsl.recipe.schema_blocks import Heal
from lbdsl.verbs.options import RunOptions
from lbdsl.verbs.workbench import Workbench


def check_processes(heal: Heal | None) -> None:
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
    check_batches(heal, process_count())


def check_batches(heal: Heal | None, processes: int) -> None:
    """Raise LB457 for a stage whose batch so many processes cannot share equally."""
    for stage in heal.runs if heal is not None else ():
        if stage.batch % processes:
            more = -(-stage.batch // processes) * processes
            message = f"a batch of {stage.batch} sequences cannot be shared by {processes} processes"
            where = stage.set_at.get("batch", stage.span)
            raise fail("LB457", message, where, help=f"write `batch = {more}` in the heal block, or start fewer processes")


def _is(variable: str, value: str = "true") -> bool:
    return os.environ.get(variable, "").lower() == value


@contextmanager
def leading(options: RunOptions) -> Iterator[None]:
    """In the first process: let the others go at the end, if they were not called to heal."""
    if process_count() == 1:
        yield
        return
    from lbdsl.heal import processes
    from lbdsl.model.load import pick_device

    processes.join(pick_device(options.device))
    try:
        yield
    finally:
        processes.leave()


def follow(options: RunOptions, measured: Callable[[], object] | None) -> None:
    """In another process: `measured` takes part in measuring, on the first one's machine; then wait for its call, and heal
    with it."""
    from lbdsl.heal import processes
    from lbdsl.heal.heal import HealInterrupted
    from lbdsl.model.load import pick_device

    # The first process decides when to stop, and says what is wrong.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.join(pick_device(options.device))
    if measured is not None and process_number() == process_on_machine():
        with suppress(LbdslError):
            measured()
    try:
        with processes.together():
            call = processes.called()
            if call is not None:
                plan, output, resume = call
                with suppress(HealInterrupted):
                    _heal(Plan.model_validate_json(plan), Path(output), resume, options)
            processes.leave()
    except LbdslError as problem:
        # What it alone knows.
        for found in problem.diagnostics:
            if found.is_error and found.code != "LB459":
                said = f"error[{found.code}] of process {process_number()}: {found.message}"
                print(said, *found.help, sep="\n  = help: ", file=sys.stderr)
        raise


def _heal(plan: Plan, output: Path, resume: bool, options: RunOptions) -> None:
    from lbdsl.run.changes import apply_changes, made_from
    from lbdsl.run.healing import healed_model
    from lbdsl.run.workdir import WorkFolder
    from lbdsl.verbs.applying import inputs_for
    from lbdsl.verbs.saved_recipe import planned_recipe

    bench = Workbench(plan.model.source, replace(options, dtype=plan.model.dtype))
    inputs = inputs_for(plan, planned_recipe(plan), bench)
    model = inputs.changed()
    apply_changes(model, plan, made_from(inputs.statistics))
    healed_model(plan, inputs, model, WorkFolder(output), resume, Silent(), lambda: False)
