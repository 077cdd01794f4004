"""Save a changed model so that it loads anywhere: safetensors, tokenizer, configuration and the runtime's code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lbdsl.artifact.contents import file_hashes
from lbdsl.artifact.runtime_files import write_runtime
from lbdsl.core.files import umask
from lbdsl.model.computing import cast_weights
from lbdsl.model.quiet import quiet_transformers

MAX_SHARD = "4GB"
GENERATION = "generation_config.json"


def save_model(model: Any, tokenizer: Any, folder: Path, dtype: str | None = None) -> Mapping[str, str]:
    """Save a hybrid model and its tokenizer into `folder`; returns the sha256 of each file. The weights are first cast to
    `dtype`, in place, if that is given.

    The folder loads with `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` with only torch and
    transformers installed. The caller must handle OSError (full disk, no permission).
    """
    from transformers import GenerationConfig

    import lbdsl.hf  # noqa: F401  (so that the model writes the runtime's code beside its weights)

    folder.mkdir(parents=True, exist_ok=True)
    if dtype is not None:
        cast_weights(model, dtype)
    # Before 5.23 transformers refuses to save some configurations that it has read, such as a temperature without sampling.
    generation, model.generation_config = model.generation_config, GenerationConfig()
    try:
        with quiet_transformers():
            model.save_pretrained(folder, max_shard_size=MAX_SHARD)
            tokenizer.save_pretrained(folder)
    finally:
        model.generation_config = generation
    generation.to_json_file(folder / GENERATION)
    mask = umask()
    for path in folder.rglob("*"):
        # safetensors writes files that only their owner may read, but a server often runs as another user.
        if path.is_file():
            path.chmod(0o666 & ~mask)
    return file_hashes(folder)


def save_all_but_weights(model: Any, tokenizer: Any, dtype: str, folder: Path) -> None:
    """Write all files of `save_model` except the weights. The parameters of `model` may be placeholders (see
    `lbdsl.measure.skeleton`); `dtype` is the dtype of the weights to be saved, by torch's name."""
    model.config.dtype = dtype
    model.config.architectures = [type(model).__name__]
    with quiet_transformers():
        model.config.save_pretrained(folder)
        model.generation_config.to_json_file(folder / GENERATION)
        tokenizer.save_pretrained(folder)
    write_runtime(folder, model.config)
