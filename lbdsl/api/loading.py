"""`load`: load an artifact as a model and a tokenizer, ready to use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lbdsl.artifact.record import read_record


def load(artifact: str | Path, *, device: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
    """The model of an artifact's folder in eval mode, and its tokenizer, without running any code of the folder.

    `device` as in `RunOptions`; `dtype` defaults to the one it was saved in, or float32 on a CPU without fast matrix
    products in that one. Raises LbdslError (LB465, LB466) for a folder that is not an artifact, or was edited since it was
    saved.
    """
    from transformers import AutoTokenizer

    import lbdsl.hf  # noqa: F401  (registers the model types)
    from lbdsl.artifact.contents import check_files
    from lbdsl.artifact.restore import load_artifact
    from lbdsl.model.computing import compute_dtype
    from lbdsl.model.load import pick_device

    folder = Path(artifact)
    record = read_record(folder).unwrap()
    check_files(folder, record)
    where = pick_device(device)
    compute = dtype or compute_dtype(record.plan.model.dtype, where)
    model = load_artifact(folder, record.plan, device=where, compute=compute)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)
