"""How much memory is free, and whether a model fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lbdsl.layer.facts import ModelFacts

SHARE = 0.6
"""The fraction of free memory that a model's weights may take; the rest is for activations, logits and other programs."""


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
    return min(_available(Path("/proc/meminfo")), _left_in_container(Path("/sys/fs/cgroup")))


def _available(meminfo: Path) -> int:
    """Available bytes as the kernel estimates them; on systems without that estimate, all of the machine's memory."""
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    import os

    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_in_container(group: Path) -> int:
    """Bytes left under the container's limit (cgroup 2); file pages that can be dropped count as free."""
    unlimited = 2**63
    try:
        limit = (group / "memory.max").read_text().strip()
        if not limit.isdigit():
            return unlimited
        used = int((group / "memory.current").read_text())
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(fields.get("inactive_file", 0)))
    except OSError:
        return unlimited
