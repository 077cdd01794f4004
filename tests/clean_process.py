"""Scripts in processes of their own that do not have to load torch and transformers first: one process loads them, once,
and forks for each script. It never loads lbdsl, so a script is where a user's would be."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
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

gc.freeze()
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        code = 1
        try:
            run(*json.loads(line))
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """`returncode` is minus the signal's number for a process that a signal ended."""

    returncode: int
    stdout: str
    stderr: str


class CleanProcess:
    """Starts scripts, one at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self._count = 0
        self._logs = tempfile.TemporaryDirectory()
        command, pipe = [sys.executable, "-c", SERVER], subprocess.PIPE
        self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=environment)

    def start(self, script: str, *words: object, cwd: Path, **environment: Any) -> int:
        """Start `python -c SCRIPT WORDS`, with changes to the environment; gives the process's id."""
        self._count += 1
        log = str(Path(self._logs.name, str(self._count)))
        changed = {**os.environ, **{name: str(value) for name, value in environment.items()}}
        order = (script, [str(word) for word in words], str(cwd), changed, log)
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._log = Path(log)
        return int(self._line())

    def ended(self, seconds: float) -> bool:
        """Whether what was started ends within so many seconds."""
        return bool(select.select([self._server.stdout], [], [], seconds)[0])

    def wait(self) -> Done:
        code = int(self._line())
        return Done(code, *(self._log.with_suffix(f".{name}").read_text(encoding="utf-8") for name in ("out", "err")))

    def run(self, script: str, *words: object, cwd: Path, **environment: Any) -> Done:
        self.start(script, *words, cwd=cwd, **environment)
        return self.wait()

    def lbdsl(self, *words: object, cwd: Path, **environment: Any) -> Done:
        return self.run(LBDSL, *words, cwd=cwd, **environment)

    def close(self) -> None:
        self._server.communicate()
        self._logs.cleanup()

    def _line(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()


LBDSL = "import sys; from lbdsl.cli.app import main; main(sys.argv[1:])"
