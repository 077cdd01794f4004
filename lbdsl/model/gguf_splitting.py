"""Pre-tokenization of a GGUF file's tokenizer (how it splits text before BPE merges), which transformers does not read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lbdsl.core.diagnostic import fail

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)
_CASED_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

THREE_DIGITS = f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}{{1,3}}|{_REST}"
ONE_DIGIT = f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}|{_REST}"
QWEN_35 = (
    f"{_CONTRACTIONS}|"
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = f"{_CASED[0]}|{_CASED[1]}|\\p{{N}}|{_CASED_REST}"
GPT_4O = f"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?|\\p{{N}}{{1,3}}|{_CASED_REST}"
"""Published patterns of well-known tokenizers, as in their tokenizer.json."""

SPLITTERS: Mapping[str, tuple[tuple[str, ...], bool]] = {
    "gpt-2": (("bytes+regex",), False),
    "smollm": (("digits", "bytes+regex"), False),
    "llama-bpe": ((THREE_DIGITS, "bytes"), True),
    "dbrx": ((THREE_DIGITS, "bytes"), False),
    "qwen2": ((ONE_DIGIT, "bytes"), False),
    "qwen35": ((QWEN_35, "bytes"), False),
    "tekken": ((TEKKEN, "bytes"), True),
    "gpt-4o": ((GPT_4O, "bytes"), False),
}
"""By llama.cpp's name: the steps (single digits, a pattern, bytes, bytes with GPT-2's pattern), and `ignore_merges`, that
is whether a word that is a token is not split."""


def restore_splitting(tokenizer: Any, name: Any) -> None:
    """Make a fast BPE tokenizer that was read from a GGUF file split text as in the file's `tokenizer.ggml.pre`.

    A file without that field and tokenizers of another kind are left unchanged. Raises LB418 for a pre-tokenizer that is
    not in the table: the text would silently become other tokens.
    """
    from tokenizers import Regex, models, pre_tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.model, models.BPE) or backend.model.byte_fallback:
        return
    if name in (None, "default"):
        return
    if name not in SPLITTERS:
        raise fail(
            "LB418",
            f"the tokenizer splits text as llama.cpp's {str(name)[:40]!r}, which lbdsl does not know",
            help=(f"known: {', '.join(SPLITTERS)}", "give the model's safetensors folder instead"),
        )
    steps, ignore_merges = SPLITTERS[name]
    made = {
        "digits": lambda: pre_tokenizers.Digits(individual_digits=True),
        "bytes+regex": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        "bytes": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    }
    parts = [made[step]() if step in made else pre_tokenizers.Split(Regex(step), "isolated") for step in steps]
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts) if len(parts) > 1 else parts[0]
    backend.model.ignore_merges = ignore_merges
