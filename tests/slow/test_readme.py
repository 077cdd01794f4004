"""README, command by command, on the real model, as after `make demo`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lbdsl.cli.demo import MODEL
from tests.readme_commands import ROOT, readme_steps
from tests.real_model import run_lbdsl


@pytest.mark.slow
def test_what_readme_says_to_do_after_the_demo(smollm2: str, tmp_path: Path) -> None:
    (tmp_path / MODEL).parent.mkdir(parents=True)
    (tmp_path / MODEL).symlink_to(smollm2)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    run_lbdsl("demo", "demo-out", cwd=tmp_path)
    for kind, text in readme_steps():
        if kind == "python":
            path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
            subprocess.run([sys.executable, "-c", text], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, check=True)
        else:
            run_lbdsl(*shlex.split(text)[1:], cwd=tmp_path)
