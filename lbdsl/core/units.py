"""Units of the language's numbers, and how these are formatted for display."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum


class Unit(StrEnum):
    """What a number counts. `RATIO` is written with `%` or as a fraction; `NONE` is a bare number."""

    NONE = "number"
    RATIO = "ratio"
    TOKENS = "tokens"
    BYTES = "bytes"
    PARAMS = "params"
    FLOPS = "flops"
    NATS = "nats/token"
    SECONDS = "seconds"
    RATE = "tokens/s"


class Share(float):
    """A ratio such as 0.875, written as `87.5%`; its value is rounded to the precision of its text."""

    def __new__(cls, value: float) -> Share:
        return super().__new__(cls, float(f"{100 * value:.9f}") / 100)

    def __str__(self) -> str:
        return f"{100 * self:.9f}".rstrip("0").rstrip(".") + "%"


DECIMAL = {"k": 10**3, "M": 10**6, "G": 10**9}
MAX_DIGITS = 18
"""Of a number in a recipe."""

BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


_NUMBER_AND_SUFFIX = re.compile(r"([0-9][0-9_]{0,20}(?:\.[0-9]{1,20})?)[ \t]*([A-Za-z]*)")
_SUFFIX = re.compile("([kmg]?)(i?)(b?)", re.IGNORECASE)


def readings(written: str, *, in_bytes: bool = True, compared: bool = False) -> Mapping[str, str]:
    """How a number in a wrong form may be meant, and what each reading is: `200_000` as `200k`, `4ki` as `4Ki`, `8K` as
    `8Ki` or `8k`. Empty when there is no guess. Without `in_bytes`, a `B` is left out; where it is `compared`,
    `1.5x` is a share."""
    match = _NUMBER_AND_SUFFIX.fullmatch(written)
    if match is None:
        return {}
    digits, suffix = match[1].replace("_", ""), match[2]
    if suffix.lower() in ("pct", "percent"):
        return {f"{digits}%": "a share"}
    if suffix == "x" and compared:
        return {f"{100 * float(digits):.12g}%": "a share"}
    if suffix == "ms":
        return {f"{float(digits) / 1000:.12g}": "seconds"}
    if not suffix:
        return {tokens_text(int(digits)) if digits.isdigit() else digits: digits}
    unit = _SUFFIX.fullmatch(suffix)
    if unit is None or unit[0].lower() in ("i", "ib"):
        return {}
    if not unit[1]:
        return {f"{digits}G": f"{digits} billion", f"{digits}B": f"{digits} bytes"}
    letter, ending = unit[1].upper(), "B" if unit[3] and in_bytes else ""
    prefixes = [f"{letter}i"] if unit[2] else ["Ki", "k"] if letter == "K" else [letter]
    if suffix.removesuffix("B") in BINARY | DECIMAL:
        prefixes = [suffix.removesuffix("B")]
    return {
        f"{digits}{prefix}{ending}": f"{float(digits) * (BINARY | DECIMAL)[prefix]:.12g}{' bytes' if ending else ''}"
        for prefix in prefixes
    }


def readings_text(found: Mapping[str, str]) -> str:
    """``write `4Ki` ``, ``write `0.02` (seconds)``, ``write `8Ki` (8192) or `8k` (8000)``."""
    shown = len(found) > 1 or "seconds" in found.values()
    listed = [f"`{text}` ({meaning})" if shown else f"`{text}`" for text, meaning in found.items()]
    return f"write {' or '.join(listed)}"


def without_prefix(text: str) -> tuple[str, int]:
    """`8Ki` as its digits and the factor 1024."""
    for prefix, factor in (BINARY | DECIMAL).items():
        if text.endswith(prefix):
            return text.removesuffix(prefix), factor
    return text, 1


def tokens_of(value: object) -> int:
    """The number of tokens that 512, "512", "8Ki" or "10k" means. Raises ValueError."""
    text, factor = without_prefix(str(value))
    if not (text.isascii() and text.isdigit()) or len(text) > MAX_DIGITS or int(text) < 1:
        found = readings(str(value), in_bytes=False)
        meant = f"; {readings_text(found).replace('`', '')}" if found else ""
        raise ValueError(f"{value!r} is not a number of tokens (512, 8Ki, 10k){meant}")
    return int(text) * factor


def tokens_text(n: int) -> str:
    """8192 -> `8Ki`, 200000 -> `200k`, 777 -> `777`."""
    for table in (BINARY, DECIMAL):
        for suffix, factor in reversed(table.items()):
            if n >= factor and n % factor == 0:
                return f"{n // factor}{suffix}"
    return str(n)


def bytes_text(n: float) -> str:
    """Binary prefixes, three significant digits: 23592960 -> `22.5 MiB`."""
    return _scaled(n, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def count_text(n: float) -> str:
    """Decimal prefixes: 134515008 -> `134.5 M`."""
    return _scaled(n, 1000, ("", "k", "M", "G", "T")).rstrip()


def amount_text(value: float, unit: Unit | None) -> str:
    """A value as text, with its unit: `6.6 MiB`, `128.3 M`, `12.3 %`."""
    match unit:
        case Unit.BYTES:
            return bytes_text(value)
        case Unit.PARAMS:
            return count_text(value)
        case Unit.FLOPS:
            return f"{count_text(value)}FLOPs"
        case Unit.RATIO:
            return f"{100 * value:.1f} %"
        case Unit.SECONDS | Unit.RATE:
            return f"{value:.4g} {unit}"
        case _:
            return f"{value:.4g}"


def duration_text(seconds: float) -> str:
    """40 -> `40 s`, 400 -> `7 min`, 8000 -> `2.2 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plural(count: int, one: str, ending: str = "s") -> str:
    return f"{count} {one}" if count == 1 else f"{count} {one}{ending}"


def ordinal(n: int) -> str:
    """1 -> `1st`, 12 -> `12th`."""
    return f"{n}{'th' if n % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def layers_text(layers: Collection[int]) -> str:
    """`layer 3`, `layers 0-2, 5`."""
    return f"{'layer' if len(layers) == 1 else 'layers'} {ranges_text(layers)}"


def ranges_text(layers: Iterable[int]) -> str:
    """{0, 1, 2, 5} -> `0-2, 5`."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _scaled(n: float, base: int, names: tuple[str, ...]) -> str:
    value, index = float(n), 0
    while abs(value) >= base and index < len(names) - 1:
        value, index = value / base, index + 1
    text = f"{value:.0f}" if index == 0 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{text} {names[index]}"
