"""A process of an engine that answers jobs, one JSON object a line; it ends when this process does."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lbdsl.bench.environments import clean_environment
from lbdsl.core.diagnostic import fail

TIMEOUT = 3600.0
"""Seconds after which an engine that has not answered is taken to hang."""


class Worker:
    """`script`, run by the engine's Python with `job`; a context manager that leaves no process behind. Raises LB488 where
    the engine fails, with the error that it printed."""

    def __init__(
        self, python: Path, script: Path, job: Mapping[str, Any], log: Path, environment: Mapping[str, str]
    ) -> None:
        self._log = log
        ours, theirs = os.pipe()
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                [str(python), str(script), json.dumps(job), str(theirs)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
                env=clean_environment(**environment),
                start_new_session=True,
            )
        os.close(theirs)
        self._answers = os.fdopen(ours, "rb")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._answers.close()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def ready(self) -> dict[str, Any]:
        """What the engine says of itself when the model is loaded."""
        return self._answer()

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failed() from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        if not select.select([self._answers], [], [], TIMEOUT)[0]:
            raise fail("LB488", f"the engine has not answered for {TIMEOUT:.0f} seconds", help=f"its log is {self._log}")
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise self._failed()
        return json.loads(line)

    def _failed(self) -> Exception:
        # It may still be printing the error that it ends with.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        # The first error is the reason; the last ones say that the engine's core failed.
        said = next((line for line in lines if "Error: " in line or line.startswith("ERROR")), lines[-1] if lines else "")
        return fail("LB488", f"the engine failed: {said.strip()[-400:]}", help=f"its log is {self._log}")
