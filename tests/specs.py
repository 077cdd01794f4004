"""Entries of `lbdsl.layers` in an artifact's config.json."""

from __future__ import annotations


def attention_layer(heads: int, kv_heads: int, head_dim: int, width: int) -> dict:
    """A layer with full attention and an MLP."""
    mixer = {"kind": "attention", "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "window": None}
    return {"mixer": mixer, "ffn": {"kind": "gated_mlp", "width": width}, "weights": {}}


LEARNED = -1
"""As a number of sinks: learned ones."""


def layer_of(
    base: dict, window: int | None = None, sinks: int = 0, attention: bool = True, mlp: bool = True, full_heads: int = 0
) -> dict:
    """`base` with a window where one is given, and without its attention or its MLP where that is said."""
    said = {"sink_tokens": 0, "sink_logits": True} if sinks == LEARNED else {"sink_tokens": sinks}
    heads = {"full_heads": full_heads} if full_heads else {}
    windowed = window is not None and base["mixer"]["kind"] == "attention"
    mixer = {**base["mixer"], "window": {"size": window, **said, **heads}} if windowed else base["mixer"]
    return {**base, "mixer": mixer if attention else None, "ffn": base["ffn"] if mlp else None}


def window_of(entry: dict) -> dict | None:
    """The window of a layer's attention, None where it has none or there is no attention."""
    return entry["mixer"] and entry["mixer"].get("window")
