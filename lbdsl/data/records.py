"""A user's own questions about texts: a .jsonl file of records with `text`, `question` and `answer`, or of chats.

A record's answer is a part of its text, so that a model can only know it from there.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.core.place import Folder
from lbdsl.data.chat import Chat, prefix_of, prompt_of, token_ids
from lbdsl.data.files import check_characters, jsonl_records, kind_of, must_be_file, normal_newlines, text_of_record
from lbdsl.data.sources import path_of
from lbdsl.recipe.schema_blocks import QUESTIONS_FILE

FORM = (
    'a question is {"text": ..., "question": ..., "answer": ...}, or a chat {"messages": [...]} whose last turn is the '
    "assistant's answer"
)

BETWEEN = "\n\n"
"""Between a text and its question."""

SHARED = 0.5
"""Chats that begin with so much of the same text are about one text."""


@dataclass(frozen=True)
class Question:
    """One question about a text. `before`: token ids up to the answer (the text, then the question); `answer`: its own.
    `kind`: a kind of fact, or the source of a user's own records. `text`: which text it is about, by which errors are
    clustered; questions about one text share their beginning. `line`: of the file of a user's own."""

    before: list[int]
    answer: list[int]
    kind: str
    text: int
    line: int = 0


@dataclass(frozen=True)
class Record:
    """A question as it is written. `turns` is the chat before the answer, and then `text` and `question` are its words."""

    where: str
    text: str
    question: str
    answer: str
    line: int = 0
    turns: tuple[dict[str, str], ...] = ()


def read_records(source: str, base_dir: Folder = None) -> list[Record]:
    """The records of a file of questions. Raises LB440 for another kind of file, LB441 for one that is not there, LB479 for
    one that a recipe may not name, LB442 for one that is not UTF-8, LB443 for a record that is no question, or whose answer
    does not stand in its text, LB444 for a file without any."""
    path = path_of(source, base_dir)
    if path.suffix.lower() != QUESTIONS_FILE:
        raise fail("LB440", f"{source} is not a {QUESTIONS_FILE} file, and questions are lines of one", help=FORM)
    must_be_file(path)
    records = [replace(_record(record, where), line=line) for record, where, line in jsonl_records(path)]
    if not records:
        raise fail("LB444", f"there is no question in {source}", help=FORM)
    return records


def read_questions(source: str, tokenizer: Any, *, base_dir: Folder, positions: int) -> tuple[Question, ...]:
    """The questions of a file, those about one text one after another.

    Raises what `read_records` raises; LB336 for a text and question of more than `positions` tokens, LB443 for a record of
    which the tokenizer leaves no token, LB453 for chats that the model has no template for.
    """
    records = read_records(source, base_dir)
    prefix = prefix_of(tokenizer)
    by_text: dict[int, list[tuple[Record, list[int], list[int]]]] = {}
    texts: dict[str, int] = {}
    for record in records:
        if record.turns:
            before, answer = split_answer(tokenizer, prompt_of(record.turns, tokenizer, source), record.answer)
        else:
            before, answer = split_answer(
                tokenizer, record.text + BETWEEN + record.question, _gap(record.question, record.answer) + record.answer
            )
            before = prefix + before
        if not answer or not before:
            message = f"{record.where}: the tokenizer has no token of the answer {record.answer!r} behind its question"
            raise fail("LB443", message, help="write a longer answer, or another question")
        if len(before) + len(answer) > positions:
            message = f"{record.where}: {len(before) + len(answer)} tokens, and the model has {positions} positions"
            raise fail("LB336", message, help="shorten the text, or leave the record out")
        number = _same_chat(before, by_text) if record.turns else texts.setdefault(record.text, len(by_text))
        by_text.setdefault(len(by_text) if number is None else number, []).append((record, before, answer))
    return tuple(
        Question(before, answer, source, text, record.line)
        for text, of_one in enumerate(by_text.values())
        for record, before, answer in of_one
    )


def split_answer(tokenizer: Any, before_text: str, answer_text: str) -> tuple[list[int], list[int]]:
    """Token ids of both texts, one behind the other, without special tokens: up to the answer, and those of the answer that
    the text before it does not decide. A tokenizer may join its end with the answer's beginning, and then the token is the
    answer's."""
    whole, start = token_ids(tokenizer, before_text + answer_text), token_ids(tokenizer, before_text)
    same = common_start(whole, start)
    return whole[:same], whole[same:]


def common_start(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))


def _record(record: Any, where: str) -> Record:
    if not isinstance(record, dict):
        raise fail("LB443", f"{where}: a record is an object, not {kind_of(record)}", help=FORM)
    if "messages" in record and "question" not in record:
        return _chat(record, where)
    text, question, answer = (_text(record, name, where) for name in ("text", "question", "answer"))
    if answer not in text:
        raise _not_there(where, answer, "text")
    return Record(where, text.rstrip(), question, answer)


def _chat(record: dict[str, Any], where: str) -> Record:
    chat = text_of_record({"messages": record["messages"]}, where)
    assert isinstance(chat, Chat), "a record of messages is a chat"
    *turns, last = chat.messages or ({"role": "nobody", "content": ""},)
    answer = last["content"].strip()
    if not turns or last["role"] != "assistant" or not answer:
        raise fail("LB443", f"{where}: the last turn is not an answer of an assistant to turns before it", help=FORM)
    text = "\n".join(turn["content"] for turn in turns)
    if answer not in text:
        raise _not_there(where, answer, "earlier turns")
    return Record(where, text, turns[-1]["content"], answer, turns=tuple(turns))


def _text(record: dict[str, Any], name: str, where: str) -> str:
    if name not in record:
        names = ", ".join(f"`{name}`" for name in list(record)[:8]) or "no field"
        raise fail("LB443", f"{where}: no field `{name}`, but {names}", help=FORM)
    value = record[name]
    if not isinstance(value, str):
        raise fail("LB443", f"{where}: `{name}` is {kind_of(value)}, not a string", help=FORM)
    if not value.strip():
        raise fail("LB443", f"{where}: `{name}` is empty", help=FORM)
    check_characters(value, where)
    value = normal_newlines(value)
    return value if name == "text" else value.strip() if name == "answer" else value


def _not_there(where: str, answer: str, place: str) -> LbdslError:
    shown = answer if len(answer) <= 60 else f"{answer[:57]}..."
    return fail(
        "LB443",
        f"{where}: the answer {shown!r} does not stand in its {place}",
        help=(
            "write it letter for letter as it stands there: a model that has lost the text must not be able to know it",
            'questions whose answers stand nowhere are a task: `task("mine.yaml")`',
        ),
    )


def _gap(question: str, answer: str) -> str:
    """A space, unless the question ends in one or the answer's script has none."""
    return "" if question[-1].isspace() or unicodedata.east_asian_width(answer[0]) in "WF" else " "


def _same_chat(before: list[int], by_text: dict[int, list[tuple[Record, list[int], list[int]]]]) -> int | None:
    """The text whose chats begin as this one."""
    for number, ((record, other, _), *_) in by_text.items():
        if record.turns and common_start(before, other) >= SHARED * max(len(before), len(other)):
            return number
    return None
