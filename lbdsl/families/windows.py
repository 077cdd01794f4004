"""Native windows of a family: from a config.json to the window size of each layer in tokens, None for full attention.

Each is called with the config's fields and the number of layers, and returns one entry per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lbdsl.core.diagnostic import fail

Config = Mapping[str, Any]
Windows = Callable[[Config, int], tuple[int | None, ...]]


def positive_int(config: Config, field: str, *, default: int | None = None, cap: int = 2**31 - 1) -> int:
    """A positive integer of the config, or `default` if it is absent or null. Raises LbdslError with LB402."""
    value = config.get(field)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 0 < value <= cap:
        shown = "missing" if value is None else f"{str(value)[:40]}, not a whole number between 1 and {cap}"
        raise fail("LB402", f"{field} in the configuration is {shown}")
    return value


@dataclass(frozen=True)
class NoWindows:
    """The family has no windows."""

    def __call__(self, config: Config, layers: int) -> tuple[int | None, ...]:
        return (None,) * layers


NO_WINDOWS = NoWindows()


@dataclass(frozen=True)
class OneWindow:
    """`sliding_window` applies to every layer; `default` and `switch` as in WindowsByType."""

    default: int | None
    switch: str | None = None

    def __call__(self, config: Config, layers: int) -> tuple[int | None, ...]:
        window = _window(config, self.default)
        return (window if self.switch is None or config.get(self.switch) else None,) * layers


@dataclass(frozen=True)
class WindowsByType:
    """`layer_types` gives the layers to which `sliding_window` applies; if it is absent, `is_windowed(layer, config)` does.

    `default` is the window if `sliding_window` is absent. `switch` names a boolean field (false if absent) that must be
    true for the window to be used.
    """

    default: int | None
    is_windowed: Callable[[int, Config], bool]
    switch: str | None = None

    def __call__(self, config: Config, layers: int) -> tuple[int | None, ...]:
        window = _window(config, self.default)
        if self.switch is not None and not config.get(self.switch):
            window = None
        types = config.get("layer_types")
        if types is None:
            types = [
                "sliding_attention" if window is not None and self.is_windowed(i, config) else "full_attention"
                for i in range(layers)
            ]
        if not isinstance(types, list) or len(types) != layers:
            raise fail(
                "LB402", f"layer_types in the configuration must be a list with an entry for each of {layers} layers"
            )
        for kind in types:
            if kind not in ("full_attention", "sliding_attention"):
                raise fail(
                    "LB404", f"layer_types holds {str(kind)[:40]!r}; full_attention and sliding_attention are understood"
                )
        if window is None and "sliding_attention" in types:
            switched = f" and {self.switch}" if self.switch else ""
            raise fail(
                "LB404",
                "layer_types has sliding_attention, but the window is switched off in this model",
                help=f"set sliding_window{switched}, or change those entries to full_attention",
            )
        return tuple(window if kind == "sliding_attention" else None for kind in types)


def _window(config: Config, default: int | None) -> int | None:
    value = config.get("sliding_window", default)
    if value is not None and (type(value) is not int or value < 1):
        raise fail("LB402", f"sliding_window in the configuration is {str(value)[:40]}, not a positive whole number")
    return value
