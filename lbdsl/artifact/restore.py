"""Loading an artifact as a user would, and checking that it is what its record says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lbdsl.artifact.record import Record
from lbdsl.artifact.save import weight_hashes
from lbdsl.core.diagnostic import fail
from lbdsl.model.quiet import quiet_transformers


def check_weights(folder: Path, record: Record) -> None:
    """LB465 when a weight file is missing, new or not the one that was saved."""
    found = weight_hashes(folder)
    for name in sorted({*found, *record.weights}):
        if found.get(name) != record.weights.get(name):
            what = ("is missing" if name not in found else "is not in the record" if name not in record.weights
                    else "changed after it was saved")
            raise fail("LB465", f"{folder / name} {what}")


def load_artifact(folder: Path, *, device: Any, dtype: Any = "auto") -> Any:
    """The saved model in eval mode, through transformers' own loading, with the installed runtime instead of the copy
    of its code in the folder."""
    from transformers import AutoModelForCausalLM

    import lbdsl.hf  # noqa: F401  (registers the model types)

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
    return model.to(device).eval()
