"""A user's own questions about texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lbdsl.core.diagnostic import LbdslError
from tests.tiny_model import byte_tokenizer

pytestmark = pytest.mark.torch

PORT = {
    "text": "The harbour of Brest has 41 cranes.\nIts master is Anna Moreau.\n",
    "question": "How many cranes?",
    "answer": "41",
}
MASTER = {**PORT, "question": "Who is its master? ", "answer": " Anna Moreau "}
MILL = {"text": "The mill burned down in 1871.", "question": "When did it burn down?", "answer": "1871"}
TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"


def file_of(folder: Path, records: Sequence[Any], name: str = "mine.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return name


def read(folder: Path, records: Sequence[Any], tokenizer: Any = None, **options: Any):
    from lbdsl.data.records import read_questions

    name = file_of(folder, records)
    return read_questions(name, tokenizer or byte_tokenizer(), base_dir=folder, **{"positions": 512, **options})


def test_a_question_is_its_text_the_question_and_the_answers_tokens(tmp_path: Path) -> None:
    decode = byte_tokenizer().decode
    # Those about one text stand together, wherever they stand in the file.
    found = read(tmp_path, [PORT, MILL, MASTER])
    assert [(decode(one.before), decode(one.answer), one.text) for one in found] == [
        (f"{PORT['text'].rstrip()}\n\nHow many cranes?", " 41", 0),
        (f"{PORT['text'].rstrip()}\n\nWho is its master? ", "Anna Moreau", 0),
        (f"{MILL['text']}\n\nWhen did it burn down?", " 1871", 1),
    ]
    assert {one.kind for one in found} == {"mine.jsonl"}
    assert (
        decode(read(tmp_path, [{"text": "\u5317\u4eac", "question": "\u554f\uff1a", "answer": "\u5317"}])[0].answer)
        == "\u5317"
    )


def test_a_text_begins_with_the_tokenizers_own_token(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    starting = byte_tokenizer()
    starting.bos_token = starting.eos_token
    form = {"single": f"{starting.bos_token} $A", "special_tokens": [(starting.bos_token, starting.bos_token_id)]}
    starting._tokenizer.post_processor = TemplateProcessing(**form)
    (one,) = read(tmp_path, [MILL], starting)
    assert one.before.count(starting.bos_token_id) == 1
    assert one.before[0] == starting.bos_token_id


def test_a_chat_is_asked_through_the_models_template(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE

    def chat(record: dict[str, str]) -> dict[str, Any]:
        asked = {"role": "user", "content": record["text"] + record["question"]}
        return {"messages": [asked, {"role": "assistant", "content": record["answer"]}]}

    found = read(tmp_path, [chat(PORT), chat(MILL), chat(MASTER)], tokenizer)
    assert [one.text for one in found] == [0, 0, 1], "chats that begin alike are about one text"
    assert tokenizer.decode(found[0].before) == f"<user>{PORT['text']}How many cranes?</s><assistant>"
    assert tokenizer.decode(found[0].answer) == "41"
    with pytest.raises(LbdslError) as refused:
        read(tmp_path, [chat(PORT)])
    assert [problem.code for problem in refused.value.diagnostics] == ["LB453"]


class Joining:
    """A tokenizer of whole words, to which a question and its answer may be one."""

    bos_token_id = None

    def num_special_tokens_to_add(self) -> int:
        return 0

    def words(self, text: str) -> list[str]:
        return text.replace("? 4", "?4").split()

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[hash(word) for word in self.words(text)] for text in texts]}


def test_the_answers_tokens_are_those_that_the_question_does_not_decide(tmp_path: Path) -> None:
    (one,) = read(tmp_path, [PORT], Joining())
    assert [one.answer, one.before[-1]] == [[hash("cranes?41")], hash("many")]

    class Deaf(Joining):
        def words(self, text: str) -> list[str]:
            return [word for word in text.split() if not word.isdigit()]

    with pytest.raises(LbdslError) as refused:
        read(tmp_path, [PORT], Deaf())
    (problem,) = refused.value.diagnostics
    assert (problem.code, "line 1" in problem.message, "'41'" in problem.message) == ("LB443", True, True)


ASKED, ANSWERED = {"role": "user", "content": "7 of 9?"}, {"role": "assistant", "content": "9"}


@pytest.mark.parametrize(
    ("record", "code", "said"),
    [
        ({"text": "a"}, "LB443", "no field `question`, but `text`"),
        ({**MILL, "answer": 1871}, "LB443", "`answer` is a number, not a string"),
        ({**MILL, "answer": " "}, "LB443", "`answer` is empty"),
        ({**MILL, "answer": "1872"}, "LB443", "the answer '1872' does not stand in its text"),
        ({**MILL, "question": "\ud800"}, "LB443", "half of a surrogate pair"),
        ([1], "LB443", "a record is an object, not a list"),
        ({"messages": [ANSWERED]}, "LB443", "the last turn is not an answer"),
        ({"messages": []}, "LB443", "the last turn is not an answer"),
        ({"messages": [ASKED, ANSWERED, ASKED]}, "LB443", "the last turn is not an answer"),
        ({"messages": [{**ASKED, "content": "7?"}, ANSWERED]}, "LB443", "does not stand in its earlier turns"),
        ({**MILL, "text": MILL["text"] * 20}, "LB336", "tokens, and the model has 512 positions"),
    ],
)
def test_a_record_that_cannot_be_asked_is_named_by_its_line(tmp_path: Path, record: Any, code: str, said: str) -> None:
    with pytest.raises(LbdslError) as refused:
        read(tmp_path, [PORT, record])
    (problem,) = refused.value.diagnostics
    assert problem.code == code
    assert "mine.jsonl, line 2: " in problem.message
    assert said in problem.message
    assert problem.help


def test_a_file_that_has_no_questions_or_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    from lbdsl.core.place import FileScope
    from lbdsl.data.records import read_questions

    inside = tmp_path / "recipe"
    inside.mkdir()
    file_of(tmp_path, [PORT])
    (inside / "empty.jsonl").write_text("\n\n")
    (inside / "mine.txt").write_text("text")
    place = FileScope(inside, (inside,))
    for name, code in (
        ("empty.jsonl", "LB444"),
        ("mine.txt", "LB440"),
        ("none.jsonl", "LB441"),
        ("../mine.jsonl", "LB479"),
    ):
        with pytest.raises(LbdslError) as refused:
            read_questions(name, byte_tokenizer(), base_dir=place, positions=512)
        assert [problem.code for problem in refused.value.diagnostics] == [code], name
        assert refused.value.diagnostics[0].help
