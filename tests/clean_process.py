"""Scripts in processes of their own that do not have to load torch and transformers first: one process loads them, once,
and forks for each script. It never loads lbdsl, so a script is where a user's would be."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER = """
import gc, json, os, sys, traceback
import accelerate, click, datasets, lark, matplotlib, peft, psutil, pydantic, sqlite3, torch
import rich.console, rich.progress, rich.table, rich.text
matplotlib.use("Agg")
import matplotlib.pyplot
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, Trainer, dynamic_module_utils
assert "lbdsl" not in sys.modules

def run(script, words, folder, environment, log):
    for number, path in enumerate((os.devnull, log + ".out", log + ".err")):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    dynamic_module_utils.HF_MODULES_CACHE = environment.get("HF_MODULES_CACHE", dynamic_module_utils.HF_MODULES_CACHE)
    sys.argv = ["-c", *words]
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})

def start(order):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            run(*order)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return pid

gc.freeze()
for line in sys.stdin:
    pids = [start(order) for order in json.loads(line)]
    print(*pids, flush=True)
    print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """`returncode` is minus the signal's number for a process that a signal ended."""

    returncode: int
    stdout: str
    stderr: str


class CleanProcess:
    """Starts scripts, one at a time, or several that work together."""

    def __init__(self) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self._count = 0
        self._logs = tempfile.TemporaryDirectory()
        command, pipe = [sys.executable, "-c", SERVER], subprocess.PIPE
        self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=environment)

    def start(self, script: str, *words: object, cwd: Path, **environment: Any) -> int:
        """Start `python -c SCRIPT WORDS`, with changes to the environment; gives the process's id."""
        self._order(script, words, cwd, [environment])
        return int(self._line())

    def ended(self, seconds: float) -> bool:
        """Whether what was started ends within so many seconds."""
        return bool(select.select([self._server.stdout], [], [], seconds)[0])

    def wait(self) -> Done:
        (done,) = self._done()
        return done

    def run(self, script: str, *words: object, cwd: Path, **environment: Any) -> Done:
        self.start(script, *words, cwd=cwd, **environment)
        return self.wait()

    def together(self, script: str, *words: object, cwd: Path, processes: Sequence[Mapping[str, Any]]) -> list[Done]:
        """Run a script in several processes at once, each with its own changes to the environment."""
        self._order(script, words, cwd, processes)
        self._line()
        return self._done()

    def lbdsl(self, *words: object, cwd: Path, **environment: Any) -> Done:
        return self.run(LBDSL, *words, cwd=cwd, **environment)

    def close(self) -> None:
        self._server.communicate()
        self._logs.cleanup()

    def _order(self, script: str, words: Sequence[object], cwd: Path, processes: Sequence[Mapping[str, Any]]) -> None:
        orders = []
        for environment in processes:
            self._count += 1
            log = str(Path(self._logs.name, str(self._count)))
            changed = {**os.environ, **{name: str(value) for name, value in environment.items()}}
            orders.append((script, [str(word) for word in words], str(cwd), changed, log))
        self._written = [order[-1] for order in orders]
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(orders) + "\n")

    def _done(self) -> list[Done]:
        def said(log: str, name: str) -> str:
            return Path(f"{log}.{name}").read_text(encoding="utf-8")

        codes = map(int, self._line().split())
        return [Done(code, said(log, "out"), said(log, "err")) for code, log in zip(codes, self._written, strict=True)]

    def _line(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()


LBDSL = "import sys; from lbdsl.cli.app import main; main(sys.argv[1:])"
