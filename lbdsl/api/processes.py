"""Whether the processes that a launcher has started can heal together."""

from __future__ import annotations

import os

from lbdsl.core.diagnostic import fail
from lbdsl.core.processes import process_count, shares_model
from lbdsl.recipe.schema_blocks import Heal


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
    for stage in heal.runs if heal is not None else ():
        if stage.batch % process_count():
            more = -(-stage.batch // process_count()) * process_count()
            message = f"a batch of {stage.batch} sequences cannot be shared by {process_count()} processes"
            where = stage.set_at.get("batch", stage.span)
            raise fail("LB457", message, where, help=f"write `batch = {more}` in the heal block, or start fewer processes")


def _is(variable: str, value: str = "true") -> bool:
    return os.environ.get(variable, "").lower() == value
