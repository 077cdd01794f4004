"""Putting an artifact's files into an export: linked where possible, because weights are large and stay as they are."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lbdsl.core.progress import Report
from lbdsl.core.units import bytes_text
from lbdsl.model.checkpoint import INDEX, SINGLE, weight_files

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
                   "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json")
"""Files of transformers' tokenizers and their chat templates, where there are any."""

GENERATION_FILE = "generation_config.json"
_STEP = 64 * 2**20


def weight_names(artifact: Path) -> tuple[str, ...]:
    """The artifact's weight files, and the index of its shards where there is one."""
    names = weight_files(artifact)
    return names if names == (SINGLE,) else (*names, INDEX)


def companions(artifact: Path) -> tuple[str, ...]:
    """Tokenizer, chat template and generation settings that the artifact has."""
    names = [name for name in (*TOKENIZER_FILES, GENERATION_FILE) if (artifact / name).is_file()]
    names += sorted(f"{folder.name}/{path.name}" for folder in [artifact / "additional_chat_templates"]
                    if folder.is_dir() for path in folder.iterdir())
    return tuple(names)


def link_files(source: Path, output: Path, names: Iterable[str], progress: Report | None = None) -> None:
    """Hard-link files of `source` into `output`, or copy them where the file system cannot link. Raises OSError."""
    names = tuple(names)
    total = sum((source / name).stat().st_size for name in names)
    done = 0
    for name in names:
        (output / name).parent.mkdir(exist_ok=True)
        size = (source / name).stat().st_size
        if not _linked(source / name, output / name):
            _copy(source / name, output / name, done, total, progress)
        done += size
        if progress is not None:
            progress(done, max(total, 1), name)


def copy_files(source: Path, output: Path, names: Iterable[str]) -> None:
    """Copies of small files, which their reader may want to edit."""
    for name in names:
        (output / name).parent.mkdir(exist_ok=True)
        _copy(source / name, output / name, 0, 1, None)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError as problem:
        # Another file system, one without links, or links forbidden to this user: copying does it.
        if problem.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES):
            return False
        raise
    return True


def _copy(source: Path, target: Path, before: int, total: int, progress: Report | None) -> None:
    """Inside the kernel where it can be done; never a whole file in memory."""
    size = source.stat().st_size
    with source.open("rb") as reader, target.open("xb") as writer:
        done = 0
        while done < size:
            moved = _move(reader.fileno(), writer.fileno(), size - done)
            if moved == 0:
                raise OSError(errno.EIO, f"{source.name} became shorter while it was copied")
            done += moved
            if progress is not None:
                progress(before + done, max(total, 1), f"{source.name}: {bytes_text(done)}")


def _move(reader: int, writer: int, left: int) -> int:
    try:
        return os.copy_file_range(reader, writer, min(left, _STEP))
    except OSError as problem:
        if problem.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF):
            raise
    chunk = os.read(reader, min(left, 2**22))
    view = memoryview(chunk)
    while view:
        view = view[os.write(writer, view):]
    return len(chunk)
