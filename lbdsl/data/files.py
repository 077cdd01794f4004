"""Readers of local text files; each yields documents."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lbdsl.core.diagnostic import fail, first_line
from lbdsl.core.extras import check_installed
from lbdsl.core.paths import did_you_mean
from lbdsl.data.chat import Chat
from lbdsl.data.wikitext import articles

_FIELDS = 'a record needs "text": a string, or "messages": [{"role": ..., "content": ...}, ...]'


def read_txt(path: Path) -> Iterator[str]:
    """Yield the whole file as one document."""
    yield _text_of(path)


def read_wikitext(path: Path) -> Iterator[str]:
    """Yield one document per article of a file in WikiText's tokenized form; see `wikitext.articles`."""
    yield from articles(_text_of(path))


def read_jsonl(path: Path) -> Iterator[str]:
    """Yield one document per line, each a JSON object; blank lines are skipped."""
    for record, where, _ in jsonl_records(path):
        yield text_of_record(record, where)


def jsonl_records(path: Path) -> Iterator[tuple[Any, str, int]]:
    """Yield the JSON of each line, what messages call the line, and its number; blank lines are skipped."""
    # Only "\n" ends a line: str.splitlines also breaks at U+2028, which is legal inside a JSON string.
    for number, line in enumerate(_text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise fail("LB443", f"{where}: not JSON ({problem})", help="a .jsonl file has one JSON object a line") from None
        yield record, where, number


def read_parquet(path: Path) -> Iterator[str]:
    """Yield one document per row of a parquet file with a column `text` or `messages`. Raises LB485 without pyarrow."""
    check_installed("pyarrow", str(path))
    import pyarrow as arrow
    from pyarrow import parquet

    must_be_file(path)
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in ("text", "messages") if name in file.schema_arrow.names][:1]
            if not columns:
                raise fail(
                    "LB443",
                    f"{path} has no column `text` or `messages`, only {', '.join(file.schema_arrow.names[:8]) or 'none'}",
                    help=_FIELDS,
                )
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield text_of_record(record, f"{path}, row {number}")
    except UnicodeDecodeError as problem:
        raise fail("LB442", f"{path} holds text that is not UTF-8 ({problem.reason})", help=_REENCODE) from None
    except (arrow.ArrowException, OSError) as problem:
        raise fail(
            "LB441",
            f"{path} cannot be read as parquet: {first_line(problem)}",
            help="the file may be truncated; copy or download it again",
        ) from None


READERS: Mapping[str, Callable[[Path], Iterable[str]]] = MappingProxyType(
    {".txt": read_txt, ".jsonl": read_jsonl, ".parquet": read_parquet}
)
"""Readers by lower-case file suffix."""

_REENCODE = "re-encode the file: iconv -f latin1 -t utf-8 OLD > NEW"


def text_of_record(record: Any, where: str) -> str:
    """The text of `{"text": ...}`, or the chat of `{"messages": [...]}`. LB443 names `where`."""
    if not isinstance(record, dict):
        raise fail("LB443", f"{where}: a record is an object, not {kind_of(record)}", help=_FIELDS)
    if "text" in record:
        text = record["text"]
        if not isinstance(text, str):
            raise fail("LB443", f"{where}: `text` is {kind_of(text)}, not a string", help=_FIELDS)
    elif "messages" in record:
        messages = record["messages"]
        if not isinstance(messages, list):
            raise fail("LB443", f"{where}: `messages` is {kind_of(messages)}, not a list", help=_FIELDS)
        text = Chat(tuple(_message(message, where) for message in messages))
    else:
        names = ", ".join(f"`{name}`" for name in list(record)[:8]) or "no field"
        raise fail("LB443", f"{where}: no field `text` or `messages`, but {names}", help=_FIELDS)
    check_characters(text, where)
    return text if isinstance(text, Chat) else normal_newlines(text)


def check_characters(text: str, where: str) -> None:
    """Raise LB443 for a text that is not of whole characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise fail(
            "LB443",
            f"{where}: half of a surrogate pair, which is not a character",
            help="write the character itself, or both \\u escapes of the pair",
        ) from None


def _message(message: Any, where: str) -> dict[str, str]:
    if isinstance(message, dict) and isinstance(message.get("role"), str):
        content = message.get("content")
        if isinstance(content, list):  # the multi-part form; other parts than text are an error
            parts = [
                part["text"]
                for part in content
                if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
            ]
            content = "".join(parts) if len(parts) == len(content) else None
        if isinstance(content, str):
            return {"role": message["role"], "content": normal_newlines(content)}
    raise fail("LB443", f"{where}: a message needs a `role` and a text `content`", help=_FIELDS)


def normal_newlines(text: str) -> str:
    r"""Replace `\r\n` and `\r` by `\n`, so that a text has the same digest on every system."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _text_of(path: Path) -> str:
    must_be_file(path)
    try:
        raw = path.read_bytes()
    except OSError as problem:
        raise fail("LB441", f"{path} cannot be read: {problem.strerror}", help="check the file's permissions") from None
    try:
        return normal_newlines(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise fail(
            "LB442", f"{path} is not UTF-8: byte 0x{raw[problem.start]:02x} in line {line}", help=_REENCODE
        ) from None


def must_be_file(path: Path) -> None:
    """Raise LB441 for a path that is not a file which can be read."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        help = (*did_you_mean(path), "a relative path starts at the folder of the recipe")
        raise fail("LB441", f"there is no file {path}", help=help) from None
    except (OSError, ValueError) as problem:
        said = getattr(problem, "strerror", None) or problem
        raise fail("LB441", f"{path} cannot be read: {said}", help="name a file that this user may read") from None
    if not stat.S_ISREG(mode):
        raise fail("LB441", f"{path} is not a regular file", help="name one file")


def kind_of(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)
