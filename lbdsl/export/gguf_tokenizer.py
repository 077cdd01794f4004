"""Convert a tokenizer.json to the `tokenizer.*` fields of a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.model.config_file import read_json_object
from lbdsl.model.gguf_splitting import SPLITTERS

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama.cpp's token types."""

_SPACE = "\u2581"
_SPECIAL = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def tokenizer_fields(folder: Path, vocab: int, config: Mapping[str, Any], name: str = "model") -> dict[str, Any]:
    """Metadata of the tokenizer in `folder` for a model with `vocab` embedding rows, and the model's name, from which
    llama.cpp infers how added tokens treat spaces.

    Raises LbdslError with LB522 if llama.cpp would tokenize differently: it never guesses.
    """
    if not (folder / "tokenizer.json").is_file():
        raise fail(
            "LB522",
            f"{folder} has no tokenizer.json",
            help="load the tokenizer with transformers and save it as a fast one",
        )
    tokenizer = read_json_object(folder / "tokenizer.json", "LB522")
    beside = folder / "tokenizer_config.json"
    settings = read_json_object(beside, "LB522") if beside.is_file() else {}
    model = tokenizer.get("model") or {}
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    if model.get("type") != "BPE" or any(map(model.get, odd)):
        raise fail(
            "LB522",
            f"the tokenizer is a {model.get('type', 'model without type')} with settings that the export does not write",
            help="byte-pair tokenizers are written: byte-level ones and SentencePiece's",
        )
    if not model.get("merges"):
        help = "llama.cpp serves no model of single bytes; serve this one with vLLM or transformers"
        raise fail("LB522", "the tokenizer has no merges; llama.cpp does not load one without", help=help)
    tokens, types = _tokens(tokenizer, vocab)
    pieces = bool(model.get("byte_fallback"))
    fields = _pieces(tokenizer, tokens, types) if pieces else _byte_level(tokenizer)
    fields = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types, **fields}
    ids = {token: i for i, token in enumerate(tokens)}
    special = _special_ids(settings, config, ids)
    fields["general.name"] = _engine_name(name, tokenizer)
    return {**fields, **special, **_added_around(tokenizer, special, ids), **_chat_template(folder, settings)}


def _tokens(tokenizer: Mapping[str, Any], vocab: int) -> tuple[list[str], list[int]]:
    tokens = [f"[PAD{i}]" for i in range(vocab)]
    types = [UNUSED] * vocab
    entries = [(token, i, NORMAL) for token, i in tokenizer["model"]["vocab"].items()]
    added = tokenizer.get("added_tokens", ())
    entries += ((token["content"], token["id"], CONTROL if token.get("special") else USER_DEFINED) for token in added)
    for token, i, kind in entries:
        if not 0 <= i < vocab:
            raise fail("LB522", f"the tokenizer has the token {token[:40]!a} at {i}, the model has {vocab} rows")
        tokens[i], types[i] = token, kind
    return tokens, types


def _engine_name(name: str, tokenizer: Mapping[str, Any]) -> str:
    """`name`, modified if needed. If a model's name contains phi-3, llama.cpp strips spaces after added tokens, except
    after <s>, <unk> and <|endoftext|>; otherwise it keeps all spaces."""
    added = tokenizer.get("added_tokens", ())
    stripping = {token["content"] for token in added if token.get("rstrip")}
    if any(token.get("lstrip") for token in added):
        raise fail("LB522", "an added token of the tokenizer strips the spaces before it; llama.cpp cannot")
    plain = re.sub(
        "(phi)-?(3)|(modern)-(bert)", lambda found: "_".join(filter(None, found.groups())), name, flags=re.IGNORECASE
    )
    if not stripping:
        return plain
    if stripping != {token["content"] for token in added} - {"<s>", "<unk>", "<|endoftext|>"} or "</s>" not in stripping:
        raise fail(
            "LB522",
            f"{len(stripping)} added tokens of the tokenizer strip the spaces after them, others do not; "
            "llama.cpp does so only for Phi-3's",
        )
    return name if re.search("phi-?3", name, re.IGNORECASE) else f"{name} (Phi-3)"


def _byte_level(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    name = pre_tokenizer_name(tokenizer)
    if name is None:
        raise fail(
            "LB522",
            f"llama.cpp's way of splitting text like this tokenizer is not known: {_described(tokenizer)}",
            help=f"known: {', '.join(sorted(SPLITTERS))}",
        )
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name, "tokenizer.ggml.merges": merges}


def _pieces(tokenizer: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Any]:
    """Fields of SentencePiece BPE. Engines merge the pair whose result scores best, so scores are negated merge ranks."""
    ranks: dict[str, int] = {}
    last = ""
    for rank, pair in enumerate(tokenizer["model"]["merges"]):
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        merged = left + right
        if merged != last and merged in ranks:
            raise fail("LB522", "the merges of this tokenizer are not in the order of their results as SentencePiece's are")
        ranks.setdefault(merged, rank)
        last = merged
    scores = [float(-ranks[token]) if token in ranks else 0.0 for token in tokens]
    for i, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types[i] = BYTE
        elif types[i] == USER_DEFINED:
            # llama.cpp searches for added tokens before it replaces spaces.
            tokens[i] = token.replace(_SPACE, " ")
    unknown = tokenizer["model"].get("unk_token")
    if unknown in tokens:
        types[tokens.index(unknown)] = UNKNOWN
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.add_space_prefix": _space_first(tokenizer),
    }


def _space_first(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a space is prepended to the text. Raises LB522 if text is normalized unlike SentencePiece's default."""
    normalizer, splitter = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    steps = normalizer.get("normalizers", [normalizer]) if normalizer else []
    first, replaced = False, False
    for step in steps:
        if step == {"type": "Prepend", "prepend": _SPACE}:
            first = True
        elif step.get("type") == "Replace" and step.get("content") == _SPACE and step["pattern"] == {"String": " "}:
            replaced = True
        else:
            raise _odd_pieces(tokenizer)
    if splitter is None and replaced:
        return first
    if splitter is not None and splitter.get("type") == "Metaspace" and not steps and not splitter.get("split", True):
        scheme = splitter.get("prepend_scheme", "always")
        if scheme in ("always", "first", "never"):
            return scheme != "never"
    # Gemma 3 splits at spaces after replacing all of them, which has no effect.
    if replaced and splitter is not None and splitter.get("pattern") == {"String": " "}:
        return first
    raise _odd_pieces(tokenizer)


def _odd_pieces(tokenizer: Mapping[str, Any]) -> LbdslError:
    return fail(
        "LB522",
        f"llama.cpp does not prepare text as this SentencePiece tokenizer does: {_described(tokenizer)}",
        help="known: spaces replaced by U+2581, with or without one before the text",
    )


def _special_ids(settings: Mapping[str, Any], config: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    fields = {}
    for name, key in _SPECIAL.items():
        token = settings.get(key)
        token = token.get("content") if isinstance(token, Mapping) else token
        found: Any = ids.get(token) if token is not None else None
        if found is None and key in ("bos_token", "eos_token"):
            value: Any = config.get(f"{key}_id")
            found = value[0] if isinstance(value, list) and value else value
        if isinstance(found, int) and not isinstance(found, bool):
            fields[f"tokenizer.ggml.{name}_token_id"] = found
    return fields


def _added_around(tokenizer: Mapping[str, Any], special: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    """Whether a token is added before and after a text, from the post-processor; the settings are ignored."""
    processor = tokenizer.get("post_processor")
    steps = processor.get("processors", [processor]) if processor else []
    around: dict[str, bool] = {"bos": False, "eos": False}
    for step in steps:
        if step.get("type") == "TemplateProcessing":
            where = "bos"
            for item in step["single"]:
                if "Sequence" in item:
                    where = "eos"
                    continue
                token = item["SpecialToken"]["id"]
                if around[where] or ids.get(token) != special.get(f"tokenizer.ggml.{where}_token_id"):
                    raise fail(
                        "LB522",
                        f"the tokenizer puts {token[:40]!a} around a text; llama.cpp puts one "
                        "begin-of-text token before it and one end-of-text token behind",
                    )
                around[where] = True
        elif step.get("type") != "ByteLevel":
            raise fail("LB522", f"the tokenizer's post-processor {step.get('type')} is not known")
    return {f"tokenizer.ggml.add_{name}_token": on for name, on in around.items()}


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    if isinstance(template, list):
        template = next((item["template"] for item in template if item.get("name") == "default"), None)
    return {"tokenizer.chat_template": template} if isinstance(template, str) else {}


def pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for the pre-tokenizer of a byte-level BPE tokenizer.json, or None if llama.cpp has no equivalent.

    An NFC normalizer is ignored: llama.cpp has none, but text is almost always in NFC. Any other gives None.
    """
    normalizer = tokenizer.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        return None
    found = _steps(tokenizer.get("pre_tokenizer")), bool(tokenizer["model"].get("ignore_merges"))
    return next((name for name, splitter in SPLITTERS.items() if splitter == found), None)


def _described(tokenizer: Mapping[str, Any]) -> str:
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
