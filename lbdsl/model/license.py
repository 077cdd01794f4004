"""The license of a base model, as the base says it: in its GGUF header, or in its card and license files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import LbdslError, first_line
from lbdsl.model.digest import model_digest
from lbdsl.model.gguf_header import read_gguf_header
from lbdsl.model.source import hub_repository, resolve_source

FIELDS = ("license", "license_name", "license_link")
"""Fields of a model card, by the hub's documentation."""
FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")
LARGEST = 2**20
"""Bytes of a license file."""


@dataclass(frozen=True)
class License:
    """The fields of its card, such as `license: apache-2.0`, and the files that say it."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def license_of(source: str, revision: str | None, digest: str) -> License:
    """The license of the base at `source`; without fields if nothing says it. A local base must have this digest: what
    names it may be anybody's."""
    repository = hub_repository(source)
    if not Path(source).exists():
        folder = _snapshot(repository, revision) if repository is not None and revision is not None else None
        return License() if folder is None else _of_folder(folder, folder.parent.parent)
    try:
        base = resolve_source(source)
        if model_digest(base) != digest:
            return License()
    except LbdslError:
        return License()
    if base.gguf_path is None:
        return _of_folder(base.path, base.path)
    said = _of_gguf(base.gguf_path)
    # What lies beside a file that was named alone may be another model's.
    beside = _of_folder(base.path, base.path) if Path(source).is_dir() else License()
    return License(said or beside.fields, beside.files)


def card_fields(text: str) -> dict[str, Any]:
    """The front matter of a model card; empty if it has none. Raises ValueError if it cannot be read."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        return dict(ModelCard(text, ignore_metadata_errors=True).data.to_dict())
    except (YAMLError, ValueError, TypeError) as problem:
        raise ValueError(first_line(problem)) from None


def _of_gguf(path: Path) -> dict[str, str]:
    header = read_gguf_header(path).metadata
    said = {name: header.get(f"general.{name.replace('_', '.')}") for name in FIELDS}
    return {name: value for name, value in said.items() if isinstance(value, str) and value}


def _of_folder(folder: Path, within: Path) -> License:
    """`within`: where the files must lie; those of the hub's cache are links to files beside the snapshots."""
    card, known = folder / "README.md", dict[str, Any]()
    if _may_be_read(card, within):
        with suppress(ValueError):
            known = card_fields(card.read_text(encoding="utf-8", errors="replace"))
    found = {path for pattern in FILES for path in folder.glob(pattern) if _may_be_read(path, within)}
    return License({name: known[name] for name in FIELDS if known.get(name)}, tuple(sorted(found)))


def _may_be_read(path: Path, within: Path) -> bool:
    place = path.resolve()
    return place.is_relative_to(within.resolve()) and place.is_file() and place.stat().st_size <= LARGEST


def _snapshot(repository: str, revision: str) -> Path | None:
    """The card and license files of a hub repository."""
    import huggingface_hub
    from huggingface_hub import errors

    transport_error: type[BaseException] = errors.HfHubHTTPError.__bases__[0]
    try:
        wanted = ["README.md", *FILES]
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except (transport_error, errors.HFValidationError, OSError):
        return None
