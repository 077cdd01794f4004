"""The processes of one run, as `torchrun` and `accelerate launch` start them."""

from __future__ import annotations

import os

SHARED = "ACCELERATE_USE_FSDP"
"""Set by `accelerate launch`, and taken from there by `take_sharing`."""
_TAKEN = "LBDSL_USE_FSDP"


class Killed(KeyboardInterrupt):
    """SIGTERM: unlike Ctrl-C, which may end a part of the work, it ends all of it."""


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_on_machine() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def process_on_machine() -> int:
    """This process's number among those on the same machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def process_number() -> int:
    """0 is the process that plans, measures, judges and writes."""
    return int(os.environ.get("RANK", "0"))


def shares_model() -> bool:
    """Whether the processes are to hold a share of the model each (FSDP), not the whole."""
    return process_count() > 1 and any(os.environ.get(name, "").lower() == "true" for name in (SHARED, _TAKEN))


def take_sharing() -> None:
    """lbdsl shares models itself (see `heal/sharding.py`): accelerate and transformers are not to do it, too."""
    if shares_model():
        os.environ.update({_TAKEN: "true", SHARED: "false"})
