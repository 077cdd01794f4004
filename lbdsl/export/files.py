"""Put an artifact's files into an export: hard-linked if possible, because weights are large and unchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lbdsl.core.progress import Report
from lbdsl.model.checkpoint import INDEX, SINGLE, TEMPLATE_FOLDER, weight_files
from lbdsl.model.config_file import read_json_object
from lbdsl.model.digest import IDENTITY_FILES
from lbdsl.run.copying import link_or_copy

CODE_FIELDS = {"auto_map", "custom_generate"}
"""Fields of configurations by which transformers finds code."""


def weight_names(artifact: Path) -> tuple[str, ...]:
    """The artifact's weight files, and its shard index if there is one."""
    names = weight_files(artifact)
    return names if names == (SINGLE,) else (*names, INDEX)


def companions(artifact: Path) -> tuple[str, ...]:
    """The artifact's files of tokenizer, chat templates and generation settings."""
    names = [name for name in IDENTITY_FILES if name != "config.json" and (artifact / name).is_file()]
    templates = (path for path in (artifact / TEMPLATE_FOLDER).glob("*") if path.is_file())
    names += sorted(f"{TEMPLATE_FOLDER}/{path.name}" for path in templates)
    return tuple(names)


def link_files(source: Path, output: Path, names: Iterable[str], progress: Report | None = None) -> None:
    """Hard-link files of `source` into `output`, or copy them where the file system cannot link. Raises OSError."""
    names = tuple(names)
    total = max(sum((source / name).stat().st_size for name in names), 1)
    done = 0
    for name in names:

        def tell(count: int, name: str = name) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(min(done, total), total, name)

        (output / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source / name, output / name, tell)


def copy_files(source: Path, output: Path, names: Iterable[str]) -> None:
    """Copy small files, so that editing them does not change the artifact. What in them names code is left out: an engine
    that is trusted with the code of an export would run it, also from a hub."""
    for name in names:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        content = read_json_object(source / name, "LB465") if name.endswith("_config.json") else {}
        if CODE_FIELDS & content.keys():
            write_json(output / name, {field: value for field, value in content.items() if field not in CODE_FIELDS})
        else:
            shutil.copyfile(source / name, output / name)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
