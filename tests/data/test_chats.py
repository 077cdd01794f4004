"""Chats by the tokenizer's template, and which of their tokens an assistant wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lbdsl.core.diagnostic import LbdslError
from lbdsl.data.blocks import pack, token_blocks
from lbdsl.data.chat import Chat, chat_ids
from lbdsl.data.sources import read_documents, read_parts
from lbdsl.data.split import TextPart
from lbdsl.heal.text import HealingText
from lbdsl.recipe.schema_blocks import HealSettings
from tests.tiny_model import byte_tokenizer

pytestmark = pytest.mark.torch

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"
"""A template as most are: each turn has a mark before and behind it."""

LAST_ALONE = "{{ messages[-1].content }}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"


def tokenizer(template: str | None = TEMPLATE):
    found = byte_tokenizer()
    found.chat_template = template
    return found


def chat(number: int = 0) -> Chat:
    said = (
        ("system", "be brief"),
        ("user", f"what is {number}?"),
        ("assistant", f"a number, {number}"),
        ("user", "so?"),
        ("assistant", "yes"),
    )
    return Chat(tuple({"role": role, "content": content} for role, content in said))


def file_of(folder: Path, count: int) -> Path:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": list(chat(number).messages)}) + "\n" for number in range(count)))
    return path


def test_the_template_is_the_tokenizers_and_answers_are_marked() -> None:
    ids, wrote = chat_ids(chat(7), tokenizer(), "t")
    assert (
        tokenizer().decode(ids)
        == "<system>be brief</s><user>what is 7?</s><assistant>a number, 7</s><user>so?</s><assistant>yes</s>"
    )
    assert tokenizer().decode([token for token, mine in zip(ids, wrote, strict=True) if mine]) == "a number, 7</s>yes</s>"


@pytest.mark.parametrize("template", [None, NO_SYSTEM])
def test_a_template_that_cannot_be_used_is_a_coded_error(template: str | None) -> None:
    with pytest.raises(LbdslError) as caught:
        chat_ids(chat(), tokenizer(template), "chats.jsonl")
    assert [d.code for d in caught.value.diagnostics] == ["LB453"]
    assert "chats.jsonl" in caught.value.diagnostics[0].message


def test_turns_that_cannot_be_told_apart_are_an_error_only_where_they_matter(tmp_path: Path) -> None:
    assert chat_ids(chat(), tokenizer(LAST_ALONE), "t")[1] is None
    blocks = token_blocks(str(file_of(tmp_path, 20)), TextPart.HEAL, tokenizer(LAST_ALONE), 32, 16)
    assert HealingText.of(blocks, HealSettings()).counts_SN is None
    with pytest.raises(LbdslError) as caught:
        HealingText.of(blocks, HealSettings(loss_on="assistant"))
    assert [d.code for d in caught.value.diagnostics] == ["LB454"]


def test_documents_apart_have_the_start_token_each() -> None:
    starting = byte_tokenizer()
    starting.bos_token = starting.eos_token
    from tokenizers.processors import TemplateProcessing

    bos = starting.bos_token_id
    form = {"single": f"{starting.bos_token} $A", "special_tokens": [(starting.bos_token, bos)]}
    starting._tokenizer.post_processor = TemplateProcessing(**form)
    apart = pack(["abc", "defgh", "ij"], TextPart.HEAL, starting, 16, 16, apart=True)
    firsts = [apart.ids[0, at].item() for at, start in enumerate(apart.starts[0].tolist()) if start]
    assert firsts == [bos] * len(firsts)
    assert len(firsts) >= 3
    assert not ((apart.ids[0, 1:] == bos) & (apart.ids[0, :-1] == bos) & apart.starts[0, :-1]).any(), "it stands once"
    joined = pack(["abc", "defgh", "ij"], TextPart.HEAL, starting, 16, 16)
    assert (joined.ids == bos).sum() < (apart.ids == bos).sum()


def test_chats_of_a_file_stay_whole_and_are_marked_in_blocks(tmp_path: Path) -> None:
    """Few chats: each is more than a twentieth of the file, and none is cut."""
    data = str(file_of(tmp_path, 6))
    assert all(isinstance(text, Chat) for text in read_documents(data))
    pieces = read_parts(data).pieces
    assert sum(len(found) for found in pieces.values()) == 6
    assert all(piece.whole for found in pieces.values() for piece in found)
    blocks = token_blocks(data, TextPart.HEAL, tokenizer(), 256, 64)
    assert blocks.answers is not None
    assert blocks.starts is not None
    for row in range(blocks.sequences):
        ids = blocks.ids[row].tolist()
        starts = [at for at, start in enumerate(blocks.starts[row].tolist()) if start]
        assert starts[0] == 0
        assert all(tokenizer().decode(ids[at : at + 8]).startswith("<system>"[: 64 - at]) for at in starts[1:])
        text = tokenizer().decode([token for token, mine in zip(ids, blocks.answers[row].tolist(), strict=True) if mine])
        assert not any(word in text for word in ("what", "brief"))


def test_text_has_no_answers_and_its_documents_begin_behind_an_end() -> None:
    blocks = pack(["abc", "defgh", "ij"], TextPart.HEAL, byte_tokenizer(), 12, 12)
    assert blocks.answers is None
    ids, end = blocks.ids[0].tolist(), byte_tokenizer().eos_token_id
    assert [at for at, start in enumerate(blocks.starts[0].tolist()) if start] == [
        0,
        *(at + 1 for at, token in enumerate(ids[:-1]) if token == end),
    ]


def test_a_template_that_writes_the_date_gives_the_same_text_every_day() -> None:
    dated = tokenizer("Today is {{ strftime_now('%d %B %Y') }}. " + TEMPLATE)
    ids, wrote = chat_ids(chat(7), dated, "t")
    several = tokenizer()
    several.chat_template = {"default": dated.chat_template, "tools": "none"}
    assert chat_ids(chat(7), several, "t") == (ids, wrote)
    assert dated.decode(ids).startswith("Today is 01 January 2025. <system>be brief</s>")
    assert wrote is not None
    assert sum(wrote) > 0
