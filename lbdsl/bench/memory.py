"""The peak memory of a run."""

from __future__ import annotations

from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What resets the peak of a process's memory: proc(5)."""


class Peak:
    """Bytes that this process, or the GPU, holds at most beyond what it held when this was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0 if device.type == "cuda" else _status("VmRSS")

    def reset(self) -> None:
        """Forget the peak so far."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            CLEAR.write_text(RESET_PEAK)

    @property
    def bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _status("VmHWM") - self._before


def is_known(device: torch.device) -> bool:
    """Whether this machine tells the peak: Linux, or a GPU."""
    return device.type == "cuda" or CLEAR.exists()


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
