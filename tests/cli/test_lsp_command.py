"""`lbdsl lsp` without the extra that it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_without_pygls_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['pygls'] = None; from lbdsl.cli.app import main; main(['lsp'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "LB485" in done.stderr
    assert "pip install pygls" in done.stderr
    assert done.stdout == ""
