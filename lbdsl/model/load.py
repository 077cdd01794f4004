"""Load a base model and its tokenizer with transformers, after checking the headers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lbdsl.core.diagnostic import fail
from lbdsl.core.processes import process_count, process_on_machine
from lbdsl.cost.facts import ModelFacts
from lbdsl.model.checkpoint import read_tensors
from lbdsl.model.gguf_copy import gguf_model_folder, gguf_tokenizer_folder
from lbdsl.model.inspect import inspect_model
from lbdsl.model.load_check import check_loaded, loading
from lbdsl.model.quiet import quiet_transformers
from lbdsl.model.source import ModelSource, is_artifact
from lbdsl.model.tensor_names import MXFP4, PREFIXES, model_config


def pick_device(name: str | None = None) -> torch.device:
    """The device called `name`; by default the first CUDA device, or that of this process, else the CPU. Raises
    LbdslError with LB416."""
    if name is None:
        if process_count() > 1 and torch.cuda.is_available():
            return torch.device("cuda", process_on_machine())
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as problem:
        meant = ("did you mean cuda?",) if name.lower().startswith("gpu") else ()
        raise fail("LB416", f"{name} is not a device", help=(*meant, "devices are cpu, cuda, cuda:1 or mps")) from problem
    if device.type == "cpu":
        return device
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise fail(
                "LB416", f"device {name} not found: torch sees {count} CUDA devices", help="--device cpu works everywhere"
            )
        return device
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise fail("LB416", "there is no mps device here", help="--device cpu works everywhere")
        return device
    raise fail("LB416", f"{name} is not a device that lbdsl runs on", help="cpu, cuda or mps")


def stock_class(facts: ModelFacts) -> Any:
    """transformers' class of a model that lbdsl did not change."""
    return getattr(transformers, facts.family_data.architecture)


def stock_config(folder: Path, facts: ModelFacts) -> Any:
    """Its configuration; of a language model beside others, its own."""
    return getattr(transformers, facts.family_data.classes.config).from_dict(model_config(folder))


def load_base(
    source: ModelSource,
    *,
    dtype: str | None = None,
    device: torch.device | str | None = None,
    cache_dir: Path | None = None,
) -> PreTrainedModel:
    """The stock transformers model in eval mode on `device`, with SDPA attention unless the model needs eager attention.

    `dtype` as in `inspect_model`. Weights come from safetensors, or from a GGUF file, whose dequantized copy is cached
    below `cache_dir`. Raises LbdslError: what `inspect_model` finds, LB416 for the device, LB417 if the loaded model does
    not match the headers (no weight is ever left at its random initialization).
    """
    facts = inspect_model(source, dtype).unwrap()
    if is_artifact(source):
        raise fail(
            "LB417",
            f"{source.text} is an artifact of lbdsl, not a base model",
            help="give the model that it was made from; its name is in lbdsl.json",
        )
    where = pick_device(str(device) if device is not None else None)
    folder = source.path if source.gguf_file is None else gguf_model_folder(source, facts, cache_dir)
    with loading("LB417", f"{source.text} cannot be loaded"), quiet_transformers():
        config = stock_config(folder, facts)
        loaded: Any = stock_class(facts).from_pretrained(
            folder,
            config=config,
            key_mapping={f"^{re.escape(old)}": new for old, new in PREFIXES.items()},
            dtype=getattr(torch, facts.dtype),
            attn_implementation=facts.family_data.attention_implementation,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **_dequantized(folder, config),
        )
        model, report = loaded
        if hasattr(model.config, "quantization_config"):
            # Its weights are no longer packed; transformers would refuse to save it.
            model.hf_quantizer = None
            del model.config.quantization_config
        model = model.to(where).eval()
        for parameter in model.parameters():
            # Some classes keep norms in float32, whatever the files have.
            parameter.data = parameter.data.to(getattr(torch, facts.dtype))
    # The other models beside a language model are not loaded.
    report["unexpected_keys"] = read_tensors(folder).keys() & report["unexpected_keys"]
    check_loaded(model, report, facts, source)
    return model


def _dequantized(folder: Path, config: Any) -> dict[str, Any]:
    """Arguments by which transformers reads weights in MXFP4 as numbers in the model's dtype; its `config` says of them."""
    if not any(info.packing for info in read_tensors(folder).values()):
        return {}
    from transformers.utils.quantization_config import Mxfp4Config

    config.quantization_config = {"quant_method": MXFP4}
    return {"quantization_config": Mxfp4Config(dequantize=True)}


def load_tokenizer(
    source: ModelSource, *, trust_remote_code: bool = False, cache_dir: Path | None = None
) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, chat template included. Raises LbdslError with LB418."""
    folder = source.path if source.gguf_file is None else gguf_tokenizer_folder(source, cache_dir)
    needs = "the folder needs tokenizer.json or tokenizer.model, and tokenizer_config.json"
    with loading("LB418", f"the tokenizer of {source.text} cannot be loaded", help=needs), quiet_transformers():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    return tokenizer
