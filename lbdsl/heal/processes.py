"""What the processes of one run tell each other, by `accelerate`; in a single one, nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from lbdsl.core.diagnostic import fail
from lbdsl.core.processes import process_count, take_sharing

T = TypeVar("T")

LOST = ("gloo", "nccl", "connection", "socket")
"""Words in the errors of a collective whose other side is gone."""

PATIENCE = timedelta(days=30)
"""The first process measures and judges while the others wait. One that dies is noticed by the launcher."""


def join(device: torch.device) -> None:
    """Meet the other processes."""
    if process_count() > 1:
        take_sharing()
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu", timeout=PATIENCE)


_called = False


def call(message: object) -> None:
    """In the first process: tell the others to heal, once."""
    global _called
    if not _called:
        _called = True
        shared(message)


def leave() -> None:
    """Part; those that were not called learn it."""
    if process_count() > 1:
        call(None)
        torch.distributed.destroy_process_group()


@contextmanager
def together() -> Iterator[None]:
    """Context that turns a collective which fails, as another process has ended, into LB459."""
    try:
        yield
    except RuntimeError as problem:
        if process_count() == 1 or not any(word in str(problem).lower() for word in LOST):
            raise
        help = "the first error above says why; the same command with --resume continues from the last checkpoint"
        raise fail("LB459", "another process of this run has ended", help=help) from problem


def called() -> Any:
    """In the others: what the first process says."""
    global _called
    _called = True
    return shared(None)


def shared(value: T) -> T:
    """The first process's value, in every process; all of them must ask for it."""
    if process_count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    found: list[Any] = broadcast_object_list([value])
    return found[0]


def average(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradients."""
    if process_count() == 1:
        return value
    from accelerate.utils import reduce

    return reduce(value.detach().clone(), "mean")


def any_of(flags: Sequence[bool]) -> list[bool]:
    """Each flag, if it is set in any process."""
    if process_count() == 1:
        return list(flags)
    from accelerate import PartialState
    from accelerate.utils import reduce

    found = reduce(torch.tensor(flags, dtype=torch.int64, device=PartialState().device), "sum")
    return [bool(flag) for flag in found.tolist()]
