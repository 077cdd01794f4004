"""Read the documents of a recipe's `data = "..."`, and split them into parts by use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from lbdsl.core.diagnostic import fail
from lbdsl.core.extras import check_installed
from lbdsl.core.nearest import nearest
from lbdsl.core.paths import did_you_mean
from lbdsl.core.place import FileScope, Folder, file_at
from lbdsl.data import files, hub
from lbdsl.data.installed import installed_documents
from lbdsl.data.split import Split, joined, only_evaluation, split_documents
from lbdsl.recipe.schema_blocks import BUILTIN_TEXTS, JUDGING_ONLY, RECALL, RECALL_HAY

MAX_CHARACTERS = 512 * 2**20
"""All documents are held in memory to split them; about 128 M tokens of English."""

WIKITEXT = "wikitext:"
"""Prefix of the path of a .txt file in WikiText's tokenized form, which is detokenized."""

_WIKITEXT_FILE = Path(__file__).parent / "builtin" / "wikitext.jsonl"

_FORMS = (
    'a source is "builtin:pydoc", a local .txt, .jsonl or .parquet file, or a hub data set '
    '"[stream:]org/name[:config][@split]"'
)


def read_documents(data: str, *, base_dir: Folder = None, offline: bool = False) -> tuple[str, ...]:
    """The documents of a source, in its own order, without blank ones.

    `data`: `builtin:pydoc` (the reference topics in Python's standard library), `builtin:docs` (documentation of lbdsl's
    dependencies), `builtin:recall` (both of them, between what `lbdsl.data.recall` generates), `builtin:wikitext` (20
    articles of Wikipedia, for evaluation only), a path ending in .txt (one document), .jsonl or .parquet (relative to
    `base_dir`, by default the current folder), `wikitext:` and the path of a .txt file in WikiText's tokenized form, or a
    hub data set `org/name[:config][@split]` (default split `train`; with `offline` only a cached copy is used), of which
    `stream:org/name...` reads the beginning alone.
    Raises LbdslError: LB440 unknown form, LB441 unreadable, LB442 not UTF-8, LB443 bad record, LB444 no text,
    LB445 hub, LB447 too large, LB479 a file that a recipe may not name, LB485 a package is missing.
    """
    documents = tuple(text for text in _capped(_read(data, base_dir, offline), data) if text.strip())
    if not documents:
        raise fail("LB444", f"there is no text in {data}", help="give a source with some documents in it")
    return documents


def read_parts(data: str, *, base_dir: Folder = None, offline: bool = False) -> Split:
    """The documents of a source, split into parts by use; see `split_documents`. Raises what `read_documents` raises."""
    if data == RECALL:
        return joined(map(read_parts, RECALL_HAY))
    if data in BUILTIN_TEXTS:
        return _builtin_parts(data)
    return split_documents(read_documents(data, base_dir=base_dir, offline=offline))


@cache
def _builtin_parts(data: str) -> Split:
    """They are the same as long as this process runs."""
    documents = read_documents(data)
    return only_evaluation(documents) if data in JUDGING_ONLY else split_documents(documents)


def check_source(data: str, *, base_dir: Folder = None, offline: bool | None = None) -> None:
    """Raise LB440 for an unknown form, LB441 for a file that is not there, LB479 for one that a recipe may not name, LB485
    for a source that needs a package which is not installed. Fast: nothing is read, and no hub is asked. Where `offline` is
    known, LB445 for a hub data set that would be offline and is not in the cache."""
    if data.startswith("builtin:"):
        if data not in BUILTIN_TEXTS:
            known = nearest(data, BUILTIN_TEXTS) or BUILTIN_TEXTS[0]
            raise fail("LB440", f"there is no built-in text {data!r}", help=f"write {known!r}; {_FORMS}")
        return
    is_file = data.startswith(WIKITEXT) or os.path.splitext(data)[1].lower() in files.READERS
    if not is_file and hub.is_hub_name(data) and not is_there(data, base_dir):
        check_installed("datasets", data)
        if offline is not None:
            hub.check_cached(data, offline=offline)
        return
    path = path_of(data, base_dir)
    if is_file:
        files.must_be_file(path)
        if path.suffix.lower() == ".parquet":
            check_installed("pyarrow", data)
    elif os.path.exists(path):
        what = "a folder" if path.is_dir() else f"a file of unknown kind ({path.suffix or 'no suffix'})"
        raise fail("LB440", f"{data} is {what}", help=_FORMS)
    else:
        close = nearest(data, (name.removeprefix("builtin:") for name in BUILTIN_TEXTS))
        meant = (f'did you mean "builtin:{close}"?',) if close else did_you_mean(path)
        raise fail("LB440", f"{data!r} is not a text source", help=(*meant, _FORMS))


def path_of(data: str, base_dir: Folder = None) -> Path:
    """Where a source is, if it is a file. Raises LB479 as `Place.file` does."""
    return file_at(data.removeprefix(WIKITEXT), base_dir)


def is_there(data: str, base_dir: Folder = None) -> bool:
    """Whether a name is that of a local file or folder, which is then not looked for on a hub."""
    return os.path.exists(path_of(data, base_dir.folder if isinstance(base_dir, FileScope) else base_dir))


def _read(data: str, base_dir: Folder, offline: bool) -> Iterable[str]:
    check_source(data, base_dir=base_dir)
    if data.startswith("builtin:"):
        return _builtin(data)
    reader = files.read_wikitext if data.startswith(WIKITEXT) else files.READERS.get(os.path.splitext(data)[1].lower())
    return reader(path_of(data, base_dir)) if reader is not None else hub.read(data, offline=offline)


def _builtin(data: str) -> Iterable[str]:
    if data == "builtin:wikitext":
        return files.read_jsonl(_WIKITEXT_FILE)
    if data == RECALL:
        return (text for name in RECALL_HAY for text in _builtin(name))
    if data == "builtin:docs":
        return installed_documents()
    from pydoc_data.topics import topics

    return (topics[name] for name in sorted(topics))


def _capped(documents: Iterable[str], data: str) -> Iterable[str]:
    characters = 0
    for text in documents:
        characters += len(text)
        if characters > MAX_CHARACTERS:
            raise fail(
                "LB447",
                f"{data} holds more than {MAX_CHARACTERS // 2**20} Mi characters",
                help=(
                    'take a slice of a hub data set, "org/name@train[:1%]", or its beginning, "stream:org/name"'
                    if hub.is_hub_name(data)
                    else "give a smaller file"
                ),
            )
        yield text
