"""Writing a changed model so that it loads anywhere: safetensors, tokenizer, configuration and the runtime's code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lbdsl.artifact.runtime_files import write_runtime
from lbdsl.core.files import umask
from lbdsl.model.computing import cast_weights
from lbdsl.model.quiet import quiet_transformers
from lbdsl.model.source import TEMPLATE_FOLDER

MAX_SHARD = "4GB"
SUFFIXES = (
    ".safetensors",
    ".json",
    ".py",
    ".jinja",
    ".model",
    ".txt",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".h5",
    ".msgpack",
    ".so",
)
"""Kinds of files that some program loads with a model; those of the second line are never saved, and so never expected."""


def save_model(model: Any, tokenizer: Any, folder: Path, dtype: str | None = None) -> Mapping[str, str]:
    """Save a hybrid model and its tokenizer into `folder`; returns the sha256 of each file. `dtype` is what the weights
    are cast to first, in place, where they are in another one.

    The folder loads with `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` where only torch and
    transformers are installed. OSError (a full disk, no permission) is the caller's to report.
    """
    import lbdsl.hf  # noqa: F401  (so that the model writes the runtime's code beside its weights)

    folder.mkdir(parents=True, exist_ok=True)
    if dtype is not None:
        cast_weights(model, dtype)
    with quiet_transformers():
        model.save_pretrained(folder, max_shard_size=MAX_SHARD)
        tokenizer.save_pretrained(folder)
    mask = umask()
    for path in folder.rglob("*"):
        # safetensors writes files that only their owner may read; a server often runs as somebody else.
        if path.is_file():
            path.chmod(0o666 & ~mask)
    return file_hashes(folder)


def save_all_but_weights(model: Any, tokenizer: Any, dtype: str, folder: Path) -> None:
    """What `save_model` writes beside the weights of `model`, whose parameters may be stand-ins (see
    `lbdsl.measure.skeleton`); they will be in `dtype`, by torch's name."""
    model.config.dtype = dtype
    model.config.architectures = [type(model).__name__]
    with quiet_transformers():
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    write_runtime(folder, model.config)


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of everything in `folder` that a loaded model depends on, by name: not the record, card or pictures."""
    hashes = {}
    for path in sorted([*folder.iterdir(), *(folder / TEMPLATE_FOLDER).glob("*")]):
        name = path.relative_to(folder).as_posix()
        if path.suffix in SUFFIXES and name != "lbdsl.json":
            if not path.is_file():
                # A folder, or a pipe that would be waited for: no record has such a hash.
                hashes[name] = "not a regular file"
                continue
            with path.open("rb") as stream:
                hashes[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes
