"""What a CPU computes in."""

from __future__ import annotations

import pytest
import torch

from lbdsl.model import computing


@pytest.mark.parametrize(
    ("speed", "computed", "said"),
    [
        (2.1, "bfloat16", "computing in bfloat16, 2.1 times as fast as float32 here, on "),
        (0.9, "bfloat16", "computing in bfloat16, 0.9 times as fast as float32 here, on "),
        (0.013, "float32", "computing in float32: bfloat16 is 0.013 times as fast as float32 here; "),
    ],
)
def test_a_cpu_computes_in_what_a_trial_finds_faster(monkeypatch, speed, computed, said):
    monkeypatch.setattr(computing, "bfloat16_speed", lambda: speed)
    assert computing.compute_dtype("bfloat16", "cpu") == computed
    assert computing.computing_text("bfloat16", computed, "cpu").startswith(said)


def test_what_needs_no_trial(monkeypatch):
    monkeypatch.setattr(computing, "bfloat16_speed", lambda: pytest.fail("tried"))
    for dtype in ("float32", "bfloat16", "float16"):
        assert computing.compute_dtype(dtype, "cuda") == dtype
        assert computing.computing_text(dtype, dtype, "cuda") == ""
    assert computing.compute_dtype("float32", "cpu") == "float32"
    assert computing.computing_text("float32", "float32", "cpu") == ""
    assert computing.compute_dtype("float16", "cpu") == "float32"
    assert "computing in float32" in computing.computing_text("float16", "float32", "cpu")


def test_the_trial_tells_fast_from_slow_and_leaves_the_threads(monkeypatch):
    monkeypatch.setattr(computing, "TRIALS", 2)
    threads = torch.get_num_threads()
    ticks = iter((0, 1, 0, 4, 0, 2, 0, 3))
    monkeypatch.setattr(computing.time, "thread_time", lambda: next(ticks))
    # float32: 1 and 2 seconds; bfloat16: 4 and 3.
    assert computing.bfloat16_speed.__wrapped__() == pytest.approx(1 / 3)
    assert torch.get_num_threads() == threads
