"""A process of an engine that answers jobs, one JSON object a line; it ends when this process does."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import LbdslError, fail

TIMEOUT = 3600.0
"""Seconds after which an engine that has not answered is taken to hang."""


class Worker:
    """A command that is run with `job` and the number of a file to answer to; a context manager that leaves no process
    behind. Raises LB487 where the command cannot be run, LB486 where the system ends it, LB488 where it fails, with the
    error that it printed."""

    def __init__(self, engine: str, command: Sequence[str], job: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._engine = engine
        said, name = tempfile.mkstemp(prefix=f"lbdsl-{engine}-", suffix=".log")
        self._log, self._keep_log = Path(name), False
        ours, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(job), str(theirs)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as problem:
            os.close(ours)
            self._log.unlink()
            raise fail("LB487", f"{command[0]} cannot be run: {problem.strerror}") from None
        finally:
            os.close(theirs)
            os.close(said)
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
        if not self._keep_log:
            self._log.unlink(missing_ok=True)

    def ready(self) -> dict[str, Any]:
        """Its first answer: what the engine says of itself when the model is loaded."""
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
            raise self._error("LB488", f"{self._engine} has not answered for {TIMEOUT:.0f} seconds")
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise self._failed()
        answer = json.loads(line)
        if "failed" in answer:
            raise self._failed(answer["failed"])
        return answer

    def _failed(self, why: str | None = None) -> LbdslError:
        """`why`: what it answered, before it ended itself."""
        # It may still be printing the error that it ends with.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        if why is None and self._process.returncode == -signal.SIGKILL:
            return self._error("LB486", f"the system ended {self._engine}: most likely there was no memory left")
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        # The first error is the reason; the last ones say that the engine's core failed.
        last = why or (lines[-1] if lines else "")
        said = next((line for line in lines if "Error: " in line or line.startswith("ERROR")), last)
        return self._error("LB488", f"{self._engine} failed: {said.strip()[-400:]}")

    def _error(self, code: str, message: str) -> LbdslError:
        self._keep_log = True
        return fail(code, message, help=f"its log is {self._log}")
