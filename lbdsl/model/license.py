"""The license of a base model, as the base says it: in its GGUF header, or in its card and license files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import LbdslError
from lbdsl.model.gguf_header import read_gguf_header
from lbdsl.model.source import hub_repository

FIELDS = ("license", "license_name", "license_link")
"""Fields of a model card, by the hub's documentation."""
FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")


@dataclass(frozen=True)
class License:
    """The fields of its card, such as `license: apache-2.0`, and the files that say it."""

    fields: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def license_of(source: str, revision: str | None) -> License:
    """The license of the base at `source`, which may be gone; without fields if nothing says it."""
    path = Path(source)
    if path.suffix.lower() == ".gguf" or next(path.glob("*.gguf"), None) is not None:
        return _of_gguf(path if path.is_file() else min(path.glob("*.gguf")))
    repository = hub_repository(source)
    folder = path if path.is_dir() else _snapshot(repository, revision) if repository is not None else None
    return License() if folder is None else _of_folder(folder)


def card_fields(text: str) -> dict[str, Any]:
    """The front matter of a model card; empty if it has none that can be read."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        return dict(ModelCard(text, ignore_metadata_errors=True).data.to_dict())
    except (YAMLError, ValueError, TypeError):
        return {}


def _of_gguf(path: Path) -> License:
    try:
        header = read_gguf_header(path).metadata
    except LbdslError:
        return License()
    said = {name: header.get(f"general.{name.replace('_', '.')}") for name in FIELDS}
    return License({name: value for name, value in said.items() if isinstance(value, str) and value})


def _of_folder(folder: Path) -> License:
    card = folder / "README.md"
    known = card_fields(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else {}
    files = sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()})
    return License({name: str(known[name]) for name in FIELDS if known.get(name)}, tuple(files))


def _snapshot(repository: str, revision: str | None) -> Path | None:
    """The card and license files of a hub repository."""
    import huggingface_hub
    from huggingface_hub import errors

    transport_error: type[BaseException] = errors.HfHubHTTPError.__bases__[0]
    try:
        wanted = ["README.md", *FILES]
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except (transport_error, errors.HFValidationError, OSError):
        return None
