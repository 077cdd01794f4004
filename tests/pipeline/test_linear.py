"""Linear attention, from the recipe to the report: its stages of healing, and how much of the result comes from a state."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

import lbdsl
from lbdsl.artifact.record import cautions_of, read_record
from lbdsl.model.hybrid import lbdsl_part_linear
from lbdsl.report.report import render_report
from lbdsl.session.options import RunOptions
from tests.clean_process import CleanProcess
from tests.pipeline.test_experts_together import assert_whole
from tests.pipeline.test_quantize import applied
from tests.tiny_model import save_tiny_model

RECIPE = """lbr 1
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
layers 1 linear(window=16)
layers 2 linear(window=16, sinks=learned)
layers 4 linear(window=8, features=elu)
heal {
    data = "builtin:pydoc"; seq = 64; batch = 2; method = lora(rank=4, alpha=8); lr = 2e-3
    stage match { tokens = 1024; method = sinks }
    stage distill { tokens = 1024 }
}
eval { data = "builtin:pydoc"; tokens = 256; seq = 64 }
assert ppl_increase < 1000%
"""
MOMENTS = (
    ("lbdsl.measure.statistics:keep_value", "after", 1),
    ("lbdsl.heal.loop:save_state", "before", 1),
    ("lbdsl.heal.losses:_ChunkedKL.backward", "before", 3),
)


@pytest.mark.slow
def test_killed_and_resumed_and_by_two_processes(
    tmp_path: Path, clean_process: CleanProcess, new_cache: Callable[[Path], Path]
) -> None:
    save_tiny_model(tmp_path / "model")
    (tmp_path / "tiny.lbr").write_text(RECIPE)
    assert_whole(tmp_path, MOMENTS, clean_process, new_cache)


@pytest.mark.torch
def test_how_much_comes_from_a_state_is_said_before_healing_and_after(
    tmp_path: Path, new_cache: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the definition, from what each call gave; where it is hardly anything, with a caution."""
    seen: dict[int, list[torch.Tensor]] = {}
    own = lbdsl_part_linear._note

    def note(layer: int, near: torch.Tensor, far: torch.Tensor) -> None:
        sizes = [states.double().square().sum(-1).sqrt() for states in (near, far)]
        seen.setdefault(layer, []).append((sizes[1] / (sizes[0] + sizes[1])).flatten())
        own(layer, near, far)

    monkeypatch.setattr(lbdsl_part_linear, "_note", note)
    save_tiny_model(tmp_path / "model")
    _, done = applied(RECIPE.removeprefix("lbr 1"), tmp_path / "model", tmp_path)
    record = read_record(done.folder).unwrap()
    (source,) = record.evaluation["sources"]
    shares, before = source["state_shares"], source["before_healing"]["state_shares"]
    assert set(shares) == set(before) == {"1", "2", "4"}
    assert shares != before
    for layer, parts in seen.items():
        # Judged twice on as much text; nothing else is noted.
        was, now = (half.mean() for half in torch.cat(parts).chunk(2))
        assert (before[str(layer)], shares[str(layer)]) == (pytest.approx(float(was)), pytest.approx(float(now)))
    out = io.StringIO()
    render_report(record, done.folder, Console(file=out, width=160))
    mean = sum(shares.values()) / 3
    assert f"{100 * mean:.1f} % (" in next(line for line in out.getvalue().splitlines() if "attention from a state" in line)
    hardly = dict.fromkeys(shares, 0.019)
    source["state_shares"] = hardly
    assert any("1.9% of their attention" in caution for caution in cautions_of(record))
    source["state_shares"] = dict.fromkeys(shares, 0.021)
    assert not any("of their attention" in caution for caution in cautions_of(record))
    found = lbdsl.evaluate_artifact(done.folder, options=RunOptions(cache_dir=new_cache(tmp_path / "other")))
    assert found.to_json()["sources"][0]["state_shares"] == pytest.approx(shares)
