"""Devices that a recipe may be applied on, by the names that users know them by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lbdsl.core.nearest import nearest


@dataclass(frozen=True)
class Devices:
    """`count` devices of one kind, each with `memory` in bytes; `flops`: FLOP/s of dense products in bfloat16, and
    `bandwidth`: bytes/s of its memory, by the data sheet, and `capability`, CUDA's compute capability; None where they are
    not known. A process runs on each."""

    count: int
    kind: str
    memory: float | None
    flops: float | None
    capability: float | None = None
    bandwidth: float | None = None

    def is_called(self, name: str, device: str) -> bool:
        """Whether torch calls a device of this kind so: `NVIDIA A100-SXM4-40GB` on `cuda`."""
        if self.kind == "cpu":
            return device == "cpu"
        kind, _, memory = self.kind.partition("-")
        others = [other.partition("-")[2] for other in KINDS if other.startswith(f"{kind}-")]
        word = re.sub(r"(?<=[A-Z])(?=\d)", r"\\s?", kind)
        found = re.search(rf"(?<![A-Z0-9]){word}(?![A-Z0-9])", name, re.IGNORECASE)
        return found is not None and (memory in name if memory else not any(other in name for other in others))


KINDS: Mapping[str, tuple[float, float, float, float]] = {
    "RTX3090": (24, 71, 8.6, 936),
    "RTX4090": (24, 165, 8.9, 1008),
    "RTX5090": (32, 209, 12.0, 1792),
    "A10": (24, 125, 8.6, 600),
    "L4": (24, 121, 8.9, 300),
    "L40S": (48, 362, 8.9, 864),
    "A100-40GB": (40, 312, 8.0, 1555),
    "A100": (80, 312, 8.0, 2039),
    "H100": (80, 989, 9.0, 3350),
    "H200": (141, 989, 9.0, 4800),
    "B200": (180, 2250, 10.0, 8000),
}
"""GB of memory, TFLOP/s of dense products in bfloat16 with sums in fp32, by NVIDIA data sheets, the compute capability, by
its list of GPUs, and GB/s of memory bandwidth, by the data sheets (SXM where there are several)."""

_FORM = re.compile(r"(?:(\d+)\s*x\s*)?(.*)", re.IGNORECASE | re.DOTALL)
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*(GB|GiB)", re.IGNORECASE)


def devices_of(text: str) -> Devices:
    """`8xH100`, `2x24GB`, `cpu`. Raises ValueError for what is none."""
    match = _FORM.fullmatch(text.strip())
    assert match is not None, "every text has this form"
    count, kind = int(match[1] or 1), match[2]
    memory = _MEMORY.fullmatch(kind)
    known = next((name for name in KINDS if name.lower() == kind.lower()), None)
    if not count:
        raise ValueError(f"`{text}` has no devices: write 1 or more")
    if memory is not None:
        return Devices(count, kind, float(memory[1]) * (2**30 if memory[2].lower() == "gib" else 1e9), None)
    if kind.lower() == "cpu":
        return Devices(count, "cpu", None, None)
    if known is None:
        near = nearest(kind, KINDS)
        meant = f"; did you mean `{kind}GB`?" if kind.isdigit() else f"; did you mean `{near}`?" if near else ""
        raise ValueError(
            f"`{kind or text}` is not known{meant} - write `8xH100`, `1x24GB` or `2xcpu`; known are {', '.join(KINDS)}"
        )
    memory_gb, teraflops, capability, bandwidth_gb = KINDS[known]
    return Devices(count, known, memory_gb * 1e9, teraflops * 1e12, capability, bandwidth_gb * 1e9)
