"""`load`: an artifact as a model and a tokenizer, ready to use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lbdsl.artifact.record import read_record


def load(artifact: str | Path, *, device: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
    """The model of an artifact's folder in eval mode, and its tokenizer, without running any code of the folder.

    `device` as in `RunOptions`; `dtype` is the one it was saved in unless given. Raises LbdslError (LB465, LB466) for a
    folder that is not an artifact, or was edited since it was saved.
    """
    import torch
    from transformers import AutoTokenizer

    import lbdsl.hf  # noqa: F401  (registers the model types)
    from lbdsl.artifact.restore import check_files, load_artifact
    from lbdsl.model.load import pick_device

    folder = Path(artifact)
    record = read_record(folder).unwrap()
    check_files(folder, record)
    model = load_artifact(folder, record.plan, device=pick_device(device), dtype=getattr(torch, dtype) if dtype else "auto")
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)
