"""Calibration: plausible constants, kept once, measured again when what is kept cannot be read."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
import torch

from lbdsl.core.diagnostic import LbdslError
from lbdsl.cost.cost import Machine
from lbdsl.cost.facts import ModelFacts
from lbdsl.measure import calibrate as calibration
from lbdsl.measure.machine import machine_for

FACTS = ModelFacts("llama", "LlamaForCausalLM", 0, 0, 0, False, "float32", ())


def test_constants_are_measured_and_plausible(monkeypatch):
    monkeypatch.setattr(calibration, "_BUDGET", 0.05)
    monkeypatch.setattr(calibration, "_COPY_BYTES", {"cpu": 2**24})
    monkeypatch.setattr(calibration, "_GEMM_SIZE", {"cpu": 256})
    start = time.perf_counter()
    machine = calibration.calibrate("cpu", "float32")
    assert time.perf_counter() - start < 20
    assert 1e8 < machine.bandwidth < 1e13
    assert 1e8 < machine.flops < 1e15
    assert 2**28 < machine.mem_bytes < 2**50
    assert 1e-6 < machine.t_attn + machine.t_mlp < 0.1
    assert 0 < machine.t_mlp < machine.t_attn
    assert machine.t_head >= 0


def test_kept_by_machine_dtype_and_threads(tmp_path, monkeypatch):
    made = []

    def calibrate(device, dtype):
        made.append(dtype)
        return Machine(float(len(made)), 2.0, 3.0, 4.0, 5.0, 6.0)

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    first = machine_for("cpu", FACTS, tmp_path / "new")
    assert machine_for(torch.device("cpu"), FACTS, tmp_path / "new") == first
    assert made == ["float32"]
    machine_for("cpu", dataclasses.replace(FACTS, dtype="bfloat16"), tmp_path / "new")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        machine_for("cpu", FACTS, tmp_path / "new")
    finally:
        torch.set_num_threads(threads)
    assert made == ["float32", "bfloat16", "float32"]
    files = list((tmp_path / "new").iterdir())
    assert len(files) == 3
    for file in files:
        assert json.loads(file.read_text())["identity"]["device"] == "cpu"
        file.write_text(file.read_text()[:40])
    assert machine_for("cpu", FACTS, tmp_path / "new").bandwidth == 4.0


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "calibrate", lambda device, dtype: Machine(1, 2, 3, 4, 5, 6))
    (tmp_path / "file").write_text("")
    with pytest.raises(LbdslError) as caught:
        machine_for("cpu", FACTS, tmp_path / "file")
    assert caught.value.diagnostics[0].code == "LB448"
