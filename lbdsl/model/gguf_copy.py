"""Cached, dequantized copies of GGUF files as model folders: GGUF takes ten times as long to read as safetensors."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lbdsl.core.cache import GGUF
from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import digest_file
from lbdsl.core.files import json_entry, umask
from lbdsl.cost.facts import ModelFacts
from lbdsl.model.digest import default_cache_dir, file_digest, model_digest
from lbdsl.model.gguf_header import read_gguf_header
from lbdsl.model.gguf_splitting import restore_splitting
from lbdsl.model.load_check import check_loaded, loading
from lbdsl.model.quiet import quiet_transformers
from lbdsl.model.source import ModelSource

DIGESTS = "lbdsl-digests.json"
"""The sha256 of each file of a copy."""


def gguf_model_folder(source: ModelSource, facts: ModelFacts, cache_dir: Path | None = None) -> Path:
    """A folder with the model in `facts.dtype`, as written by save_pretrained. Raises LB417, LB419."""
    return _copy(source, cache_dir, facts.dtype, lambda place: _convert(source, facts, place))


def gguf_tokenizer_folder(source: ModelSource, cache_dir: Path | None = None) -> Path:
    """A folder with the tokenizer of a GGUF file. Raises LB418, LB419."""
    return _copy(source, cache_dir, "splitting-tokenizer", lambda place: _convert_tokenizer(source, place))


def _copy(source: ModelSource, cache_dir: Path | None, part: str, fill: Callable[[Path], None]) -> Path:
    """The cache folder, named after the file's digest and the transformers version, since versions convert differently.
    It is filled if it is not there, or is not as it was written."""
    import transformers

    cache = cache_dir or default_cache_dir()
    folder = GGUF.path(cache, f"{model_digest(source, cache)[:32]}/{part}-transformers-{transformers.__version__}")
    if _as_written(folder, cache):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    return _make(folder, fill)


def _as_written(folder: Path, cache: Path) -> bool:
    """Whether the files of a copy have the digests that are kept beside them."""
    try:
        kept = json_entry(folder / DIGESTS)
    except (OSError, ValueError):
        return False
    return kept == {name: file_digest(folder / name, cache) for name in _files(folder)}


def _files(folder: Path) -> list[str]:
    return [
        path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != DIGESTS
    ]


def _seal(place: Path) -> None:
    """Write the digests of all files. Nothing is written there again: a copy that was edited would be another base."""
    digests = {name: digest_file(place / name) for name in _files(place)}
    (place / DIGESTS).write_text(json.dumps(digests, indent=1))
    for name in (*digests, DIGESTS):
        (place / name).chmod(0o444 & ~umask())


def _make(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Fill a temporary folder and rename it to `folder`; if another process was faster, use its folder."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-", ignore_cleanup_errors=True) as place:
            fill(Path(place))
            _seal(Path(place))
            try:
                os.rename(place, folder)
            except OSError:
                if not folder.is_dir():
                    raise
    except OSError as problem:
        raise fail(
            "LB419",
            f"cannot write to the cache {folder.parent}: {problem.strerror or problem}",
            help="choose another place with --cache-dir or LBDSL_CACHE_DIR",
        ) from problem
    return folder


def _convert(source: ModelSource, facts: ModelFacts, place: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    with loading("LB417", f"{source.text} cannot be dequantized"), quiet_transformers(bars=True):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.path,
            gguf_file=source.gguf_file,
            dtype=getattr(torch, facts.dtype),
            local_files_only=True,
            output_loading_info=True,
            **_dense(),
        )
        model, report = loaded
    check_loaded(model, report, facts, source)
    # transformers refuses to save a model that is marked as quantized; these weights no longer are.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    model.config._name_or_path = source.short_name
    _save(model, place)


def _convert_tokenizer(source: ModelSource, place: Path) -> None:
    from transformers import AutoTokenizer

    with loading("LB418", f"the tokenizer in {source.text} cannot be read"), quiet_transformers(bars=True):
        tokenizer = AutoTokenizer.from_pretrained(source.path, gguf_file=source.gguf_file, local_files_only=True)
    assert source.gguf_path is not None, "this is for GGUF files"
    restore_splitting(tokenizer, read_gguf_header(source.gguf_path).metadata.get("tokenizer.ggml.pre"))
    _save(tokenizer, place)


def _save(value: Any, place: Path) -> None:
    with quiet_transformers(bars=True):
        value.save_pretrained(place)


def _dense() -> dict[str, Any]:
    """Arguments that make transformers dequantize: newer versions may keep weights packed, older ones never do."""
    try:
        from transformers.utils.quantization_config import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}
