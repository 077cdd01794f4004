"""How much memory is free, and whether a model fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from lbdsl.cost.facts import ModelFacts

SHARE = 0.6
"""The fraction of free memory that a model's weights may take; the rest is for activations, logits and other programs."""


CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 2**63


def fits(facts: ModelFacts, device: Any, models: int = 1) -> bool:
    """Whether the weights of `models` models, in `facts.dtype`, fit in SHARE of the memory that is free on `device` now."""
    return models * facts.params * facts.dtype_bytes <= SHARE * free_bytes(device)


def free_bytes(device: Any) -> int:
    """Free bytes, without swapping, of a GPU, or of this machine within its container's limit."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        # What torch holds for later is free, too.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return min(psutil.virtual_memory().available, _left_in_container(CGROUP))


def total_bytes(device: Any) -> int:
    """The bytes of a GPU, or of this machine within its container's limit."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min(psutil.virtual_memory().total, container_limit(CGROUP))


def container_limit(group: Path) -> int:
    """Bytes that the container of this process may take (cgroup 2)."""
    path = group / "memory.max"
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else UNLIMITED


def _left_in_container(group: Path) -> int:
    """Bytes left under the container's limit; file pages that can be dropped count as free."""
    try:
        limit = container_limit(group)
        if limit == UNLIMITED:
            return limit
        used = int((group / "memory.current").read_text())
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(fields.get("inactive_file", 0)))
    except OSError:
        return UNLIMITED
