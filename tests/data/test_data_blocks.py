"""Packing: counts, order, separators, digests, and what happens when text runs out."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lbdsl.core.diagnostic import LbdslError
from lbdsl.data import TextPart
from lbdsl.data.blocks import pack, token_blocks

EOS, BOS = 256, 257


def byte_tokenizer(*, eos: bool = True, starts_with_bos: bool = False) -> PreTrainedTokenizerFast:
    """One token a byte: 0-255 in the alphabet's order, then <eos>, <bos>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: i for i, char in enumerate(alphabet)} | {"<eos>": EOS, "<bos>": BOS}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    if starts_with_bos:
        raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>" if eos else None, bos_token="<bos>")


DOCUMENTS = tuple(f"document number {i}, " + "abc " * i for i in range(20))


def test_counts_are_whole_sequences():
    tokenizer = byte_tokenizer()
    for tokens, seq, shape in (
        (640, 64, (10, 64)),
        (700, 64, (10, 64)),
        (50, 64, (1, 50)),
        (64, 64, (1, 64)),
        (2, 2, (1, 2)),
    ):
        blocks = pack(DOCUMENTS, TextPart.SCORE, tokenizer, tokens, seq)
        assert tuple(blocks.ids.shape) == shape
        assert (blocks.sequences, blocks.seq, blocks.tokens) == (*shape, shape[0] * shape[1])
        assert blocks.passes == 1


def test_every_document_is_there_once_with_its_end():
    tokenizer = byte_tokenizer()
    total = sum(len(d) + 1 for d in DOCUMENTS)
    blocks = pack(DOCUMENTS, TextPart.EVAL, tokenizer, total, total)
    row = blocks.ids[0].tolist()
    texts, current = [], []
    for token in row:
        if token == EOS:
            texts.append(tokenizer.decode(current))
            current = []
        else:
            current.append(token)
    assert sorted(texts) == sorted(DOCUMENTS)
    assert texts != sorted(texts)
    assert current == []


def test_without_an_end_token_documents_are_joined_bare():
    blocks = pack(DOCUMENTS, TextPart.EVAL, byte_tokenizer(eos=False), 400, 100)
    assert blocks.ids.max() < EOS


def test_sequences_start_with_bos_where_the_tokenizer_does():
    blocks = pack(DOCUMENTS, TextPart.EVAL, byte_tokenizer(starts_with_bos=True), 400, 100)
    bare = pack(DOCUMENTS, TextPart.EVAL, byte_tokenizer(), 396, 99)
    assert (blocks.ids[:, 0] == BOS).all()
    assert (blocks.ids[:, 1:] == bare.ids).all()


def test_digest_follows_content_seed_part_and_shape():
    tokenizer = byte_tokenizer()
    base = pack(DOCUMENTS, TextPart.SCORE, tokenizer, 640, 64)
    assert base.digest == pack(tuple(reversed(DOCUMENTS)), TextPart.SCORE, tokenizer, 640, 64).digest
    others = [
        pack(DOCUMENTS, TextPart.SCORE, tokenizer, 640, 64, seed=1),
        pack(DOCUMENTS, TextPart.JOINT, tokenizer, 640, 64),
        pack(DOCUMENTS, TextPart.SCORE, tokenizer, 640, 32),
        pack(DOCUMENTS[1:], TextPart.SCORE, tokenizer, 640, 64),
    ]
    assert len({base.digest, *(b.digest for b in others)}) == 5
    assert (others[0].ids != base.ids).any()


def test_healing_text_is_repeated_in_another_order_and_it_is_said():
    tokenizer = byte_tokenizer()
    total = sum(len(d) + 1 for d in DOCUMENTS)
    blocks = pack(DOCUMENTS, TextPart.HEAL, tokenizer, 2 * total + 30, 2 * total + 30)
    assert (blocks.passes, blocks.available) == (3, total)
    row = blocks.ids[0]
    first, second = row[:total], row[total : 2 * total]
    assert (first != second).any()
    assert sorted(first.tolist()) == sorted(second.tolist())
    exact = pack(DOCUMENTS, TextPart.HEAL, tokenizer, total, total)
    assert exact.passes == 1


@pytest.mark.parametrize("part", [TextPart.SCORE, TextPart.JOINT, TextPart.EVAL])
def test_other_text_is_not(part):
    total = sum(len(d) + 1 for d in DOCUMENTS)
    with pytest.raises(LbdslError, match=f"{total} tokens") as caught:
        pack(DOCUMENTS, part, byte_tokenizer(), 4 * 400, 400)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "LB446"
    assert f"seq = {total // 4}`" in diagnostic.help[0]
    assert total < 4 * 400


@pytest.mark.parametrize(
    ("documents", "tokens", "seq", "part"),
    [
        ((), 100, 10, TextPart.SCORE),
        ((), 100, 10, TextPart.HEAL),
        (("ab",), 100, 10, TextPart.EVAL),
        (DOCUMENTS, 1, 10, TextPart.EVAL),
    ],
)
def test_nothing_to_pack_is_a_coded_error(documents, tokens, seq, part):
    with pytest.raises(LbdslError) as caught:
        pack(documents, part, byte_tokenizer(), tokens, seq)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "LB446"
    assert diagnostic.help


def test_parts_of_one_source_share_no_document(tmp_path):
    text = "\n\n".join(f"paragraph {i:03} " + f"word{i:03} " * 40 for i in range(600))
    (tmp_path / "a.txt").write_text(text)
    tokenizer = byte_tokenizer()
    seen: dict[str, TextPart] = {}
    for part in TextPart:
        blocks = token_blocks("a.txt", part, tokenizer, 4000, 500, base_dir=tmp_path)
        for word in set(tokenizer.decode(blocks.ids.flatten()).split()):
            if word.startswith("word") and word[4:].isdigit() and len(word) == 7:
                assert seen.setdefault(word, part) == part
    assert len(set(seen.values())) == 4


def test_reading_and_splitting_load_no_torch():
    code = (
        "import sys; import lbdsl.data as d; d.split_documents(d.read_documents('builtin:pydoc'));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
