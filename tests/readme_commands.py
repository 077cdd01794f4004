"""What README tells a reader to do after `make demo`, in its order."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ACTIVATE = ". .venv/bin/activate"


def readme_steps() -> list[tuple[str, str]]:
    """Blocks of commands, a line each, and of Python, whole: (`console` or `python`, text)."""
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split("## The main job")[1]
    steps: list[tuple[str, str]] = []
    for kind, text in re.findall(r"```(console|python)\n(.*?)```", shown, re.DOTALL):
        steps += [(kind, text)] if kind == "python" else [(kind, line.removeprefix("$ ")) for line in text.splitlines()]
    # `make demo` makes the environment, and no other command works before it is active.
    assert steps[0] == ("console", ACTIVATE)
    assert len(steps) >= 10
    assert all(text.startswith("lbdsl ") for kind, text in steps[1:] if kind == "console")
    return steps[1:]
