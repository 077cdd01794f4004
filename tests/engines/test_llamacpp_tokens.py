"""Tokenizers exported to GGUF, in real llama.cpp: the same tokens for tricky texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lbdsl.export.gguf_tensors import OutTensor
from lbdsl.export.gguf_tokenizer import tokenizer_fields
from lbdsl.export.gguf_writer import write_gguf
from lbdsl.model.gguf_splitting import GPT_4O, ONE_DIGIT, QWEN_35, TEKKEN, THREE_DIGITS
from tests.engines.test_llamacpp import python, run_llamacpp  # noqa: F401  (the fixture)

pytestmark = pytest.mark.engine

TEXTS = [
    "Hello world",
    "  3 33  333 3333 a1b2 1,234.5",
    "I'm sure they'LL say it'd've been 'tis",
    "x\n\n\n\t y \r\n  z   ",
    "ünïcödé naïve ΑΒΓ абв",
    "日本語のテキスト 한국어 ไทย",
    "🚀🦙👩\u200d👩\u200d👧 (emoji)",
    "def f(x):\n\treturn x**2  # ok\n\n\n",
    "a/b\\c //path\n/",
    "<|end|>the end<|end|>",
    "...!!??--==++ <= >= ->",
    "MixedCASE camelCaseWord HTTPServer",
    " leading and trailing ",
    "",
    "٣٤ १२ ½ Ⅷ",
    "\u00a0nbsp\u2003em",
    "the\nthe  the",
]


def byte_level(pre: dict[str, Any] | None, **model: Any) -> dict[str, Any]:
    """A tokenizer.json of a thousand merges, trained on Python's reference, with the pre-tokenizer `pre`."""
    import pydoc_data.topics

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1300,
        special_tokens=["<|end|>"],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    texts = [*list(pydoc_data.topics.topics.values())[:30], *TEXTS * 5]
    tokenizer.train_from_iterator(texts, trainer)
    value = json.loads(tokenizer.to_str())
    value["pre_tokenizer"] = pre
    value["model"].update(model)
    return value


def split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PRE_TOKENIZERS = {
    "gpt-2": (BYTES, False),
    "smollm": ({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]}, False),
    "llama-bpe": (split(THREE_DIGITS), True),
    "dbrx": (split(THREE_DIGITS), False),
    "qwen2": (split(ONE_DIGIT), False),
    "qwen35": (split(QWEN_35), False),
    "tekken": (split(TEKKEN), True),
    "gpt-4o": (split(GPT_4O), False),
}


def compare(python: Path, place: Path, value: dict[str, Any], texts: list[str]) -> dict[str, Any]:  # noqa: F811
    """Write tokenizer.json and the GGUF of its fields; assert equal tokens; returns the fields."""
    from tokenizers import Tokenizer

    (place / "tokenizer.json").write_text(json.dumps(value))
    (place / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "bos_token": "<s>"}))
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    fields = tokenizer_fields(place, tokenizer.get_vocab_size() + 3, {})
    write_gguf(place / "vocab.gguf", {"general.architecture": "llama", **fields}, [OutTensor("x", (32, 32))], place)
    answer = run_llamacpp(python, place, model=str(place / "vocab.gguf"), context=64, vocab_only=True, texts=texts)
    for text, tokens in zip(texts, answer["tokens"], strict=True):
        assert tokens == tokenizer.encode(text).ids, text
    return fields


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_byte_level_tokens_are_the_same(name, python, tmp_path):  # noqa: F811
    pre, ignore_merges = PRE_TOKENIZERS[name]
    fields = compare(python, tmp_path, byte_level(pre, ignore_merges=ignore_merges), TEXTS)
    assert fields["tokenizer.ggml.pre"] == name


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_tokens_are_the_same(prefix, python, tmp_path):  # noqa: F811
    value = pieces(tmp_path, prefix)
    # Texts with added tokens are left out: engines differ in whether a space comes after one, and say so.
    texts = [text for text in TEXTS if "<|" not in text and text]
    fields = compare(python, tmp_path, value, texts)
    assert fields["tokenizer.ggml.model"] == "llama"
    assert fields["tokenizer.ggml.add_bos_token"]


def pieces(place: Path, prefix: bool) -> dict[str, Any]:
    """A tokenizer.json of a small SentencePiece BPE model, as transformers converts Llama's."""
    import pydoc_data.topics

    sentencepiece = pytest.importorskip("sentencepiece")
    text = place / "text.txt"
    text.write_text("\n".join([*list(pydoc_data.topics.topics.values())[:30], *TEXTS * 5]))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(place / "pieces"),
        vocab_size=1200,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        add_dummy_prefix=prefix,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(str(place / "pieces.model"))
    tokens = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = []
    for token in tokens:
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in vocab and token[i:] in vocab]
        if not token.startswith("<"):
            merges += sorted(cuts, key=lambda cut: (vocab[cut[0]], vocab[cut[1]]))
    normalizers = [{"type": "Prepend", "prepend": "\u2581"}] * prefix
    normalizers.append({"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"})
    special = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, token in enumerate(tokens[:3])
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "ByteFallback"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(cut) for cut in merges],
        },
    }
