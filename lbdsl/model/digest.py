"""The identity of a model: a hash over the bytes of its files."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lbdsl.core.cache import HASHES
from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import digest_of, digest_text
from lbdsl.core.files import json_entry, replace_entry
from lbdsl.core.progress import Report, unreported
from lbdsl.model.checkpoint import INDEX, SINGLE, TEMPLATE_FOLDER, weight_files
from lbdsl.model.source import ModelSource

IDENTITY_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""The files, besides the weights, that determine tokenization and what the model computes."""


_CHUNK = 2**24
_FRESH_NS = 2_000_000_000
"""A file changed within this time may change again without a new time stamp (file systems have a resolution of up to 2 s),
so its hash is not cached."""


def default_cache_dir() -> Path:
    """$LBDSL_CACHE_DIR, else $XDG_CACHE_HOME/lbdsl, else ~/.cache/lbdsl. Nothing is created."""
    own = os.environ.get("LBDSL_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says to ignore relative paths.
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "lbdsl"


def identity_files(source: ModelSource) -> tuple[str, ...]:
    """Sorted names of the files that define a model: a GGUF file, or weights, configuration and tokenizer."""
    if source.gguf_file is not None:
        return (source.gguf_file,)
    weights = weight_files(source.path)
    index = () if weights == (SINGLE,) else (INDEX,)
    beside = tuple(name for name in IDENTITY_FILES if (source.path / name).is_file())
    templates = (f"{TEMPLATE_FOLDER}/{path.name}" for path in (source.path / TEMPLATE_FOLDER).glob("*.jinja"))
    return tuple(sorted({*weights, *index, *beside, *templates}))


def model_digest(source: ModelSource, cache_dir: Path | None = None, *, progress: Report = unreported) -> str:
    """sha256 (64 hex digits) over names and hashes of `identity_files`; one flipped byte changes it.

    Hashes of single files are cached below `cache_dir` by path, size, inode, mtime and ctime.
    `progress` gets (bytes done, total bytes, file name). Raises LbdslError: LB401-LB408 for weights that cannot be
    listed, LB419 if a file changes while it is read or cannot be read.
    """
    cache = cache_dir or default_cache_dir()
    names = identity_files(source)
    paths = [source.path / name for name in names]
    total = sum(path.stat().st_size for path in paths)
    hashes, done = [], 0
    for name, path in zip(names, paths, strict=True):

        def report(read: int, before: int = done, name: str = name) -> None:
            progress(before + read, total, name)

        hashes.append([name, file_digest(path, cache, report)])
        done += path.stat().st_size
        progress(done, total, name)
    # A renamed GGUF file is still the same model, but file names within a folder matter.
    return digest_of(hashes if source.gguf_file is None else [["gguf", hashes[0][1]]])


def file_digest(path: Path, cache_dir: Path, report: Callable[[int], None] = lambda read: None) -> str:
    """sha256 of one file's bytes, taken from the cache if the file has not changed. Raises LB419."""
    try:
        real = path.resolve(strict=True)
        before = _fingerprint(real)
        entry = HASHES.path(cache_dir, f"{digest_text(str(real))}.json")
        known = _read_entry(entry)
        if known is not None and known.get("file") == before:
            return str(known["sha256"])
        sha = hashlib.sha256()
        read = 0
        with real.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                sha.update(chunk)
                read += len(chunk)
                report(read)
        after = _fingerprint(real)
    except OSError as problem:
        raise fail("LB419", f"cannot read {path}: {problem.strerror}") from problem
    if after != before:
        raise fail("LB419", f"{path.name} changed while it was read", help="wait until it is written, then run again")
    if time.time_ns() - max(before["mtime_ns"], before["ctime_ns"]) > _FRESH_NS:
        # If the cache cannot be written, the next run hashes again: slower, but correct.
        with suppress(OSError):
            replace_entry(entry, json.dumps({"file": before, "sha256": sha.hexdigest()}).encode())
    return sha.hexdigest()


def _fingerprint(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {
        "path": str(path),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
    }


def _read_entry(path: Path) -> dict[str, Any] | None:
    """The cache entry, or None if it is missing or invalid; then the file is hashed again."""
    try:
        value = json_entry(path)
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("sha256"), str) or len(value["sha256"]) != 64:
        return None
    return value
