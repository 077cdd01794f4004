"""Writing a changed model so that it loads anywhere: safetensors, tokenizer, configuration and the runtime's code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lbdsl.model.quiet import quiet_transformers

MAX_SHARD = "4GB"


def save_model(model: Any, tokenizer: Any, folder: Path) -> Mapping[str, str]:
    """Save a hybrid model and its tokenizer into `folder`; returns the sha256 of each weight file.

    The folder loads with `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` where only torch and
    transformers are installed. OSError (a full disk, no permission) is the caller's to report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    import lbdsl.hf  # noqa: F401  (so that the model writes the runtime's code beside its weights)

    with quiet_transformers():
        model.save_pretrained(folder, max_shard_size=MAX_SHARD)
        tokenizer.save_pretrained(folder)
    return weight_hashes(folder)


def weight_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every safetensors file in `folder`, by name."""
    hashes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            hashes[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes
