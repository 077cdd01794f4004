"""This machine's constants for the cost formulas: measured on it, never taken from data sheets."""

from __future__ import annotations

import json
import math
import os
import platform
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from lbdsl.core.cache import MACHINES
from lbdsl.core.digest import digest_of, short
from lbdsl.core.files import json_entry, keep_in_cache
from lbdsl.cost.cost import Machine
from lbdsl.cost.facts import ModelFacts

CALIBRATION_VERSION = 2
"""Increase it when the calibration method changes."""


def machine_for(device: Any, facts: ModelFacts, cache_dir: Path) -> Machine:
    """The constants of `device` in the model's dtype, calibrated in a second or two if they are not cached yet.

    Cached in `cache_dir` by machine, device, dtype, number of threads and torch version. Raises LbdslError LB448 if that
    folder cannot be written.
    """
    identity = machine_identity(device, facts.dtype)
    path = MACHINES.path(cache_dir, f"machine-{short(digest_of(identity), 16)}.json")
    known = _read(path)
    if known is None:
        from lbdsl.measure.calibrate import calibrate

        known = calibrate(device, facts.dtype)
        keep_in_cache(path, json.dumps({"identity": identity, "machine": asdict(known)}, indent=1).encode())
    return known


def machine_identity(device: Any, dtype: str) -> dict[str, Any]:
    """The properties that identify a machine: two runs with equal values share its constants."""
    import torch

    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "version": CALIBRATION_VERSION,
        "host": platform.node(),
        "device": device.type,
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "torch": torch.__version__,
    }


def machine_described(device: Any, dtype: str) -> dict[str, Any]:
    """What is said of a machine in files that others may read: nothing that names it."""
    identity = machine_identity(device, dtype)
    return {name: identity[name] for name in ("name", "device", "cores", "threads", "dtype", "torch")}


def _cpu_name() -> str:
    """The model of the processor where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, named), platform.processor() or platform.machine())


def _read(path: Path) -> Machine | None:
    """The cached constants; None if there are none or they are unreadable: measuring again takes only a second."""
    try:
        known = Machine(**json_entry(path)["machine"])
        numbers = (value for value in astuple(known) if value is not None)
        sensible = all(map(math.isfinite, numbers)) and min(known.bandwidth, known.flops, known.mem_bytes) > 0
        return known if sensible else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
