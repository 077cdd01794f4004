"""The processes of one run, as `torchrun` and `accelerate launch` start them."""

from __future__ import annotations

import os


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_on_machine() -> int:
    """This process's number among those on the same machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def process_number() -> int:
    """0 is the process that plans, measures, judges and writes."""
    return int(os.environ.get("RANK", "0"))
