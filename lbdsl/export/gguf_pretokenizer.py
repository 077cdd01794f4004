"""Which of llama.cpp's ways to split text before byte-pair merges a tokenizer.json asks for. Recognised, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*")
_CASED_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

THREE_DIGITS = f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}{{1,3}}|{_REST}"
ONE_DIGIT = f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}|{_REST}"
TEKKEN = f"{_CASED[0]}|{_CASED[1]}|\\p{{N}}|{_CASED_REST}"
GPT_4O = f"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?|\\p{{N}}{{1,3}}|{_CASED_REST}"
"""Published patterns of well-known tokenizers, as they stand in their tokenizer.json."""

_BY_STEPS: Mapping[tuple[str, ...], Mapping[bool, str]] = {
    ("bytes+regex",): {False: "gpt-2"},
    ("digits", "bytes+regex"): {False: "smollm"},
    (THREE_DIGITS, "bytes"): {True: "llama-bpe", False: "dbrx"},
    (ONE_DIGIT, "bytes"): {False: "qwen2"},
    (TEKKEN, "bytes"): {True: "tekken"},
    (GPT_4O, "bytes"): {False: "gpt-4o"},
}
"""llama.cpp's name by the steps and by `ignore_merges` (a word that is a token stays whole)."""

KNOWN = tuple(sorted({name for names in _BY_STEPS.values() for name in names.values()}))


def pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for the pre-tokenizer of a byte-level BPE tokenizer.json, or None when it has none for it.

    An NFC normalizer is passed over: llama.cpp has none, and text is in that form almost always. Any other is not.
    """
    normalizer = tokenizer.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        return None
    names = _BY_STEPS.get(_steps(tokenizer.get("pre_tokenizer")))
    return names.get(bool(tokenizer["model"].get("ignore_merges"))) if names is not None else None


def described(tokenizer: Mapping[str, Any]) -> str:
    """The pre-tokenizer for a message, shortened."""
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
        # "Removed" with `invert` keeps the matches and drops what is between, of which these patterns leave nothing.
        if (step["behavior"] == "Removed") == bool(step.get("invert")) and isinstance(pattern.get("Regex"), str):
            return (pattern["Regex"],)
    return (str(kind),)
