"""Load an artifact as a user would, and check that it has the layers of its plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lbdsl.artifact.quantization import FIELD
from lbdsl.core.diagnostic import fail
from lbdsl.families import ARTIFACT_PREFIX
from lbdsl.measure.layer_source import LayerSource, LoadedModel
from lbdsl.measure.streamed_model import StreamedModel
from lbdsl.model.computing import cast_weights
from lbdsl.model.config_file import read_json_object
from lbdsl.model.inspect import inspect_model
from lbdsl.model.load_check import loading
from lbdsl.model.quiet import quiet_transformers
from lbdsl.model.source import ModelSource
from lbdsl.plan.schema import Plan


def load_artifact(
    folder: Path, plan: Plan | None = None, *, device: Any, dtype: Any = "auto", compute: str | None = None
) -> Any:
    """The saved model in eval mode, loaded by transformers with the installed runtime instead of the copy of its code in
    the folder. Weights are loaded in `dtype`, then cast to `compute` if that is given. Raises LB465 if it does not load,
    or does not match `plan`."""
    from transformers import AutoModelForCausalLM

    import lbdsl.hf  # noqa: F401  (registers the model types)

    config = read_json_object(folder / "config.json", "LB465")
    if FIELD in config or config.get("lbdsl", {}).get("packed"):
        # transformers reads packed weights with compressed-tensors, and unpacks them only in a forward of the whole model;
        # experts stay packed.
        return _streamed(folder, plan, device, None if dtype == "auto" else str(dtype), compute).loaded()
    with loading("LB465", f"{folder} does not load"), quiet_transformers():
        # Explicit, because without trust_remote_code transformers asks at the terminal whether to run the folder's code.
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    hybrid = model.config.model_type.startswith(ARTIFACT_PREFIX)
    if not hybrid or (plan is not None and not _as_planned(model, plan)):
        raise fail("LB465", f"{folder / 'config.json'} describes other layers than the plan in lbdsl.json")
    return (model if compute is None else cast_weights(model, compute)).to(device).eval()


def artifact_beside(
    base: LayerSource, folder: Path, plan: Plan, *, dtype: str | None = None, compute: str | None = None
) -> LayerSource:
    """The saved model to evaluate against `base`: in memory if `base` is, else streamed from disk too.

    `dtype` is the dtype of its weights, None for that of its files; `compute` as in `load_artifact`. Raises LbdslError
    LB40x if the files do not fit together, LB465 if it does not match `plan`."""
    if base.in_memory:
        return LoadedModel(load_artifact(folder, plan, device=base.device, dtype=dtype or "auto", compute=compute))
    return _streamed(folder, plan, base.device, dtype, compute)


def _streamed(folder: Path, plan: Plan | None, device: Any, dtype: str | None, compute: str | None) -> StreamedModel:
    facts = inspect_model(ModelSource(str(folder), folder, None, None, folder.name), dtype).unwrap()
    model = StreamedModel(folder, facts, device, compute)
    if plan is not None and not _as_planned(model.hybrid, plan):
        raise fail("LB465", f"{folder / 'config.json'} describes other layers than the plan in lbdsl.json")
    return model


def _as_planned(model: Any, plan: Plan) -> bool:
    """Whether the model's configuration has the plan's layers."""
    return bool(model.config.lbdsl["layers"] == [spec.to_json() for spec in plan.specs])
