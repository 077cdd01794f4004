"""`quantize` on SmolLM2-135M as mechanics; docs/quantize.md has its quality."""

from __future__ import annotations

from pathlib import Path

import pytest

import lbdsl
from lbdsl.api.applying import ApplyOptions
from lbdsl.session.options import RunOptions
from tests.containers import same_in_every_container

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("all_cores")]

RECIPE = """measure { data = "builtin:pydoc"; tokens = 2Ki; seq = 512 }
layers 5, 6, 8, 21 drop
modules "*.mlp.*" quantize(bits=4, method=gptq)
layers 0-9 quantize(bits=8, activations=8)
else quantize(bits=8)
"""


def test_the_same_integers_in_every_container(smollm2: str, tmp_path: Path) -> None:
    (tmp_path / "r.lbr").write_text(RECIPE)
    planned = lbdsl.plan_recipe(tmp_path / "r.lbr", smollm2, options=RunOptions(cache_dir=tmp_path / "cache"))
    done = lbdsl.apply_plan(planned, chosen=ApplyOptions(output=tmp_path / "out"))
    assert done.exit_code == 0, done.diagnostics
    assert same_in_every_container(done.folder, planned.plan, tmp_path) == 30 * 3 + 26 * 4
