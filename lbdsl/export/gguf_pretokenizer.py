"""Find llama.cpp's pre-tokenizer that matches a tokenizer.json. Only exact matches count; it never guesses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lbdsl.model.gguf_splitting import SPLITTERS

KNOWN = tuple(sorted(SPLITTERS))


def pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for the pre-tokenizer of a byte-level BPE tokenizer.json, or None if llama.cpp has no equivalent.

    An NFC normalizer is ignored: llama.cpp has none, but text is almost always in NFC. Any other gives None.
    """
    normalizer = tokenizer.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        return None
    found = _steps(tokenizer.get("pre_tokenizer")), bool(tokenizer["model"].get("ignore_merges"))
    return next((name for name, splitter in SPLITTERS.items() if splitter == found), None)


def described(tokenizer: Mapping[str, Any]) -> str:
    """A short description of the pre-tokenizer for messages."""
    steps = " then ".join(_steps(tokenizer.get("pre_tokenizer"))) or "none"
    before = tokenizer.get("normalizer")
    text = f"{before.get('type')} then {steps}" if isinstance(before, Mapping) else steps
    return text if len(text) <= 120 else text[:117] + "..."


def _steps(step: Any) -> tuple[str, ...]:
    if step is None:
        return ()
    kind = step.get("type")
    if kind == "Sequence":
        return tuple(name for inner in step["pretokenizers"] for name in _steps(inner))
    if kind == "ByteLevel" and not step.get("add_prefix_space", True):
        return ("bytes+regex",) if step.get("use_regex", True) else ("bytes",)
    if kind == "Digits" and step.get("individual_digits"):
        return ("digits",)
    if kind == "Split" and step.get("behavior") in ("Isolated", "Removed"):
        pattern = step.get("pattern", {})
        # "Removed" with `invert` keeps the matches and drops the text between them; these patterns match all text.
        if (step["behavior"] == "Removed") == bool(step.get("invert")) and isinstance(pattern.get("Regex"), str):
            return (pattern["Regex"],)
    return (str(kind),)
