"""How layer numbers, ranks and costs are said in messages."""

from __future__ import annotations

from collections.abc import Iterable

from lbdsl.core.units import Unit, bytes_text, count_text


def ranges_text(layers: Iterable[int]) -> str:
    """{0, 1, 2, 5} -> `0-2, 5`."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def ordinal(n: int) -> str:
    """1 -> `1st`, 12 -> `12th`."""
    suffix = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


def score_text(value: float) -> str:
    """A score with its sign, to three significant digits: `+0.016`."""
    return f"{value:+.3g}"


def plural(count: int, one: str) -> str:
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def amount_text(value: float, unit: Unit) -> str:
    """A value in words of its unit: `6.6 MiB`, `128.3 M`, `12.3 %`."""
    match unit:
        case Unit.BYTES:
            return bytes_text(value)
        case Unit.PARAMS | Unit.FLOPS:
            return f"{count_text(value)}{'FLOPs' if unit is Unit.FLOPS else ''}"
        case Unit.RATIO:
            return f"{100 * value:.1f} %"
        case _:
            return f"{value:.4g}"


PREFILL = "windows make it no faster in transformers, often slower: it masks a dense attention"
"""What a plan and a model card say of reading a prompt, where layers have windows."""


AS_SAVED = "as saved"
"""Among the formats of an engine: the artifact itself, without an export."""


def duration_text(seconds: float) -> str:
    """40 -> `40 s`, 400 -> `7 min`, 8000 -> `2.2 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
