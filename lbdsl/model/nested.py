"""Checkpoints that hold a language model beside an image or audio model: of them the language model is read.

Its configuration is `text_config`; its tensors have one of PREFIXES before the names that the language model saved alone
has. Source: transformers 5.24, models/mistral3 and models/gemma3; files of transformers 4 have the second form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lbdsl.families import FAMILIES
from lbdsl.model.config_file import read_json_object
from lbdsl.model.safetensors_header import TensorInfo

PREFIXES = {"model.language_model.": "model.", "language_model.model.": "model.", "language_model.lm_head.": "lm_head."}
"""Beginnings of names in files, and what the language model saved alone has in their place."""
SHARED = ("dtype", "torch_dtype", "quantization_config")
"""Fields that hold for the language model, too, where it does not have them."""
TIED = "tie_word_embeddings"
"""Of the whole, where it says so: its class ties them, whatever its language model would do."""


def model_config(folder: Path) -> dict[str, Any]:
    """The fields of config.json, of the language model if it is of a supported family. Raises LB402."""
    config = read_json_object(folder / "config.json")
    return text_config(config) or config


def text_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Those of a language model of a supported family inside another model; None if there is none."""
    text = config.get("text_config")
    if not isinstance(text, dict) or text.get("model_type") not in FAMILIES or config.get("model_type") in FAMILIES:
        return None
    shared = {name: config[name] for name in SHARED if name in config}
    tied = {TIED: config[TIED]} if TIED in config else {}
    return {**shared, **text, **tied, "architectures": [FAMILIES[text["model_type"]].architecture]}


def language_tensors(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Those of the language model, by the names that it has alone; all where there is no other model."""
    found = {}
    for name, info in tensors.items():
        start = next((start for start in PREFIXES if name.startswith(start)), None)
        if start is not None:
            alone = PREFIXES[start] + name.removeprefix(start)
            found[alone] = replace(info, name=alone, stored=name)
    if not found:
        return dict(tensors)
    return {**{name: info for name, info in tensors.items() if name.startswith("lm_head.")}, **found}
