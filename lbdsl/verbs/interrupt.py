"""Ctrl-C as a request: long work leaves a checkpoint and says how to go on."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_ctrl_c(resume_command: str) -> Iterator[Callable[[], bool]]:
    """Within, the first SIGINT ends work that cannot checkpoint, and asks work that can to do so; a second one ends it.

    Yields a function that tells whether to stop. Work that calls it (each healing step, between stages) says thereby
    that it will stop by itself. Leaving by KeyboardInterrupt prints the command that resumes.
    """
    state = _State()

    def handler(_number: int, _frame: FrameType | None) -> None:
        if state.asked or not state.polled:
            raise KeyboardInterrupt
        state.asked = True
        print("stopping as soon as what was done is on disk; Ctrl-C again ends at once", file=sys.stderr)

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, handler) if in_main_thread else None
    try:
        yield state.poll
    except KeyboardInterrupt:
        print(f"to resume, run:  {resume_command}", file=sys.stderr)
        raise
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, before)


class _State:
    def __init__(self) -> None:
        self.asked = False
        self.polled = False

    def poll(self) -> bool:
        self.polled = True
        return self.asked
