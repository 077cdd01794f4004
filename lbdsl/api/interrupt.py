"""Ctrl-C as a request to stop: long work saves a checkpoint and prints the command that resumes. A kill ends as cleanly."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from lbdsl.core.printed import printable
from lbdsl.core.processes import Killed, process_count


@contextmanager
def stop_on_ctrl_c(resume_command: str) -> Iterator[Callable[[], bool]]:
    """Handle SIGINT: the first one ends work that cannot checkpoint, and asks other work to stop; a second one ends it.

    Yields a function that returns True when work should stop. Work that has called it (each healing step, between stages)
    is expected to stop on its own. On KeyboardInterrupt the command that resumes is printed.
    """
    asked = polled = False

    def handler(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked or not polled:
            raise KeyboardInterrupt
        asked = True
        print("stopping as soon as what was done is on disk; Ctrl-C again ends at once", file=sys.stderr)

    def poll() -> bool:
        nonlocal polled
        polled = True
        return asked

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, handler) if in_main_thread else None
    try:
        yield poll
    except KeyboardInterrupt:
        print(printable(f"to resume, run:  {resume_command}"), file=sys.stderr)
        raise
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, before)


@contextmanager
def ended_by_kill() -> Iterator[None]:
    """SIGTERM ends this process by `Killed`, so that temporary files and engines go with it. Of several
    processes that work together each ends at once: another one may wait for it."""
    if process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(_number: int, _frame: FrameType | None) -> None:
        raise Killed

    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
