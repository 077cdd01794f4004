"""Bounds of what a template or a tokenizer may do with a text: both come with a model or a task, and may be of anybody."""

from __future__ import annotations

import ctypes
import resource
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TypeVar

from lbdsl.core.diagnostic import LbdslError, fail, first_line

T = TypeVar("T")

SECONDS, RATE = 2.0, 20_000
"""What it takes at most, besides a second for so many characters that it is given. One that does nothing else takes
milliseconds."""

CHARACTERS = 2**22
"""The longest text that it may make: about a million tokens."""

MEMORY = 2**28
"""Bytes that a template may take, besides what the process has."""

GROWTH = 64
"""The most characters or tokens that it may make of one character."""


def bounded(what: str, work: Callable[[], T], given: int = 0) -> T:
    """The result of `work`, which runs a template (`what`) on so many characters as are `given`; raises what it raises.
    Raises LB495 if it takes longer, or more memory, than it may, or makes a longer text."""
    seconds = SECONDS + given / RATE
    in_time = _in_time if threading.current_thread() is threading.main_thread() else _in_thread
    try:
        with _LITTLE_MEMORY:
            found = in_time(work, seconds)
    except MemoryError:
        raise too_much(f"{what} takes more than {MEMORY // 2**20} MiB of memory") from None
    except _TooLong:
        raise too_much(f"{what} does not end within {seconds:.0f} seconds") from None
    if isinstance(found, str) and len(found) > CHARACTERS:
        raise too_much(f"{what} makes {len(found)} characters, and at most {CHARACTERS} are taken")
    return found


def bounded_outside(what: str, work: Callable[[], T], given: int = 0) -> T:
    """As `bounded`, for work that is not done in Python, and its time alone: where memory ends, Rust ends the process."""
    seconds = SECONDS + given / RATE
    try:
        return _in_thread(work, seconds)
    except _TooLong:
        raise too_much(f"{what} does not end within {seconds:.0f} seconds") from None
    except Exception:
        raise
    except BaseException as problem:
        if isinstance(problem, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        # A panic of Rust, as where a regular expression is given up.
        raise too_much(f"{what} breaks off: {first_line(problem)}") from None


class _TooLong(BaseException):
    """No Exception: Jinja goes on after one where it computes what is constant."""


def _in_time(work: Callable[[], T], seconds: float) -> T:
    """In the main thread: a signal also ends powers and regular expressions of Python."""

    def handler(_number: int, _frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGPROF, handler)
    try:
        # Seconds of work: not those for which the machine does something else.
        timer = signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            return work()
        finally:
            signal.setitimer(signal.ITIMER_PROF, *timer)
    finally:
        # None: one that is not Python's.
        signal.signal(signal.SIGPROF, signal.SIG_DFL if before is None else before)


def _in_thread(work: Callable[[], T], seconds: float) -> T:
    found: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as problem:
            raised.append(problem)

    # It does not keep the process from ending.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        # Ends Python, such as a loop of a template.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_TooLong))
        thread.join(1.0)
        raise _TooLong
    if raised:
        raise raised[0]
    return found[0]


def too_much(said: str) -> LbdslError:
    """LB495."""
    return fail("LB495", said, help="it comes with the model or the task: mend it there, or take another one")


class _LittleMemory:
    """Context in which this process gets `MEMORY` more bytes, where the system tells what it has; one at a time."""

    def __init__(self) -> None:
        self._alone = threading.Lock()

    def __enter__(self) -> None:
        self._alone.acquire()
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        with suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as stream:
            most = int(stream.read().split()[0]) * resource.getpagesize() + MEMORY
            least = min(limit for limit in (*self._before, most) if limit != resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_AS, (least, self._before[1]))

    def __exit__(self, *problem: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._before)
        self._alone.release()


_LITTLE_MEMORY = _LittleMemory()
