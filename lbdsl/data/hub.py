"""Data sets on the Hugging Face hub, through `datasets`."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import fail, first_line
from lbdsl.core.extras import check_installed
from lbdsl.data.files import READERS, text_of_record

_NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?::(?P<config>[\w.-]+))?"
    r"(?:@(?P<split>[\w.-]+(?:\[[\d:%-]*\])?))?"
)


STREAM = "stream:"
"""Prefix of a data set whose beginning is read from the hub, instead of the whole from disk."""

STREAMED_CHARACTERS = 128 * 2**20
"""Characters that are read of a stream: about 32 M tokens of English."""


def is_hub_name(data: str) -> bool:
    """Whether `data` has the form `[stream:]org/name[:config][@split]`."""
    return Path(data).suffix.lower() not in READERS and _NAME.fullmatch(data.removeprefix(STREAM)) is not None


def read(data: str, *, offline: bool) -> Iterable[str]:
    """The documents of `org/name[:config][@split]`; the default split is `train`; slices such as `@train[:1%]` work. Of
    `stream:org/name...` the first, up to STREAMED_CHARACTERS.

    Never runs code of a data set. With `offline` only the local cache is used. Raises LB485, LB445, LB443, and LB440 for a
    folder that would be read in its place.
    """
    return _beginning(data, offline) if data.startswith(STREAM) else _documents(data, _load(data, offline))


def _documents(data: str, rows: Any) -> Iterator[str]:
    # A stream need not know its columns before its first record.
    with undecoded():
        names = rows.column_names or list(next(iter(rows), {}))
    column = next((name for name in ("text", "messages") if name in names), None)
    if column is None:
        raise fail(
            "LB443",
            f"{data} has no column `text` or `messages`, only {', '.join(names[:8])}",
            help="choose a data set, or a configuration of it, with a column `text` or `messages`",
        )
    records = enumerate(rows.select_columns([column]), 1)
    while True:
        with undecoded():
            number, record = next(records, (0, None))
        if not number:
            return
        yield text_of_record(record, f"{data}, row {number}")


@contextlib.contextmanager
def undecoded() -> Iterator[None]:
    """Context in which `datasets` opens no file or address that a row names, as a picture's: the row keeps what it says."""
    from datasets import features

    kinds = [kind for name, kind in vars(features).items() if isinstance(kind, type) and name not in ("Features", "Json")]
    own = {kind: kind.decode_example for kind in kinds if hasattr(kind, "decode_example")}
    for kind in own:
        kind.decode_example = lambda self, value, **more: value
    try:
        yield
    finally:
        for kind, decode in own.items():
            kind.decode_example = decode


@lru_cache(maxsize=16)
def _beginning(data: str, offline: bool) -> tuple[str, ...]:
    """The first documents of a stream, which a process reads once."""
    found: list[str] = []
    characters = 0
    try:
        for text in _documents(data, _load(data, offline)):
            found.append(text)
            characters += len(text)
            if characters >= STREAMED_CHARACTERS:
                break
    except _failures() as problem:
        message = f"{data} broke off after {len(found)} documents: {_reason(problem)}"
        raise fail("LB445", message, help="check the network, and run the same command again") from problem
    return tuple(found)


def check_cached(data: str, *, offline: bool) -> None:
    """Raise LB485 without `datasets`, LB445 if offline, by `offline` or HF_HUB_OFFLINE, and the data set is not in the
    local cache. Fast, because it makes no connection and reads no row."""
    check_installed("datasets", data)
    import datasets

    if offline or datasets.config.HF_HUB_OFFLINE:
        _load(data, offline)


def _load(data: str, offline: bool) -> Any:
    check_installed("datasets", data)
    import datasets
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    streamed = data.startswith(STREAM)
    match = _NAME.fullmatch(data.removeprefix(STREAM))
    assert match is not None, "callers ask is_hub_name first"
    repo, config, split = match["repo"], match["config"], match["split"] or "train"
    if os.path.isdir(repo):
        # datasets would read it, and a path is relative to the recipe.
        help = "name a file of it; for the data set of the hub, run where there is no such folder"
        raise fail("LB440", f"{repo} is a folder of the working directory", help=help)
    settings = datasets.config
    before = settings.HF_HUB_OFFLINE
    if streamed and (offline or before):
        help = f"without {STREAM} a copy in the cache is used, or give a local file"
        raise fail("LB445", f"{data} is read from the network", help=help)
    bar = is_progress_bar_enabled()
    # `datasets` reads HF_HUB_OFFLINE only at import; a switch per call has to set its config value.
    settings.HF_HUB_OFFLINE = bool(before or offline)
    disable_progress_bar()
    try:
        rows = datasets.load_dataset(
            repo,
            config,
            split=split,
            streaming=streamed,
            download_config=datasets.DownloadConfig(local_files_only=offline),
        )
        if not isinstance(rows, datasets.IterableDataset if streamed else datasets.Dataset):
            raise fail("LB445", f"choose one split of {data}", help='name it after @, as in "org/name@train"')
        return rows
    except _failures() as problem:
        raise fail(
            "LB445", f"{data} cannot be loaded: {_reason(problem)}", help=_advice(problem, offline, before)
        ) from problem
    except RuntimeError as problem:
        # What datasets says of a set that is made by a program.
        if "Dataset scripts" not in str(problem):
            raise
        help = "take a set of plain files, or give a local .txt, .jsonl or .parquet file"
        raise fail("LB445", f"{data} is made by a program of its own, which is never run", help=help) from problem
    finally:
        settings.HF_HUB_OFFLINE = before
        if bar:
            enable_progress_bar()


def _failures() -> tuple[type[Exception], ...]:
    """Exceptions of loading that are caused by the user or the network; any other exception is a bug and propagates."""
    import pyarrow
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors

    # The hub client's alias for its HTTP library's base error; the library changes between versions.
    http_error = getattr(errors, "HTTPError", OSError)
    return (DatasetsError, OSError, ValueError, EOFError, http_error, pyarrow.ArrowException)


def _reason(problem: BaseException) -> str:
    name, first = type(problem).__name__, first_line(problem)
    return first if first == name else f"{name}: {first}"


def _advice(problem: BaseException, offline: bool, by_environment: bool) -> tuple[str, ...]:
    if offline or by_environment:
        how = "without --offline" if offline else "HF_HUB_OFFLINE is set; without it"
        return (f"{how} it would be downloaded; or give a local .txt, .jsonl or .parquet file",)
    name = type(problem).__name__
    if "Gated" in name:
        return ("accept the data set's terms on the hub and log in: hf auth login",)
    if isinstance(problem, ValueError):
        return ('check the configuration and the split: "org/name:config@split"',)
    return ("check the name and the network, or give a local .txt, .jsonl or .parquet file",)
