"""Small changed models of every family on disk, as an artifact would lie there, and as exporters see them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbdsl.artifact.save import save_model
from lbdsl.export import Subject
from lbdsl.export.base import subject_of
from lbdsl.families import FAMILIES
from lbdsl.layer.spec import LayerSpec
from lbdsl.model.config_file import read_json_object
from lbdsl.model.inspect import inspect_model
from lbdsl.model.source import resolve_source
from lbdsl.model.surgery import to_hybrid
from tests.layer_changes import Layer, changed_specs

SINKS = "self_attn.sinks"
SIZES = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "pad_token_id": 258,
    "bos_token_id": None,
    "eos_token_id": 258,
}

DELTA_NETS = {
    "head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
"""Of Qwen 3.5: gated delta nets whose heads of values share heads of keys, and attention by turns."""

GPT_OSS = {
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "sliding_window": 20,
    "head_dim": 16,
    "intermediate_size": 64,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


def small_tokenizer() -> Any:
    """Bytes, two merges, and an end-of-text token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, "th", "the"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("t", "h"), ("th", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")


@dataclass(frozen=True)
class Changed:
    """The model in transformers, the folder that it was saved to, and its description."""

    model: Any
    folder: Path
    subject: Subject


def base_model(family: str, seed: int = 0, **options: Any) -> Any:
    """A stock model in eval mode; norms and all biases are random, too, so that a lost one is seen."""
    import torch
    import transformers
    from transformers import AutoConfig

    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**SIZES, **options})
    config._attn_implementation = "eager"
    model = getattr(transformers, FAMILIES[family].architecture)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or name.endswith("_bias"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def base_facts(family: str, **options: Any) -> tuple[dict[str, Any], Any]:
    """Configuration and facts of a base model, made on disk and removed."""
    with tempfile.TemporaryDirectory() as folder:
        base_model(family, **options).save_pretrained(folder)
        return read_json_object(Path(folder) / "config.json"), inspect_model(resolve_source(folder)).unwrap()


def base_subject(family: str, layers: list[Layer], **options: Any) -> Subject:
    """A description as exporters get it; nothing is on disk."""
    config, facts = base_facts(family, **options)
    return subject_of(config, facts, changed_specs(facts, layers))


def changed_model(place: Path, family: str, changes: dict[int, Layer], **options: Any) -> Changed:
    """A base model with `changes` by layer, saved below `place`."""
    base = base_model(family, **options)
    base.save_pretrained(place / "base")
    facts = inspect_model(resolve_source(str(place / "base"))).unwrap()
    model = to_hybrid(base)
    for index, layer in changes.items():
        spec = layer.of(facts.layer_specs[index].to_json())
        model.set_layer(index, spec, _new_weights(facts, index, spec))
    save_model(model, small_tokenizer(), place / "artifact")
    return Changed(model, place / "artifact", artifact_subject(place / "artifact", facts))


def _new_weights(facts: Any, index: int, spec: dict[str, Any]) -> dict[str, Any]:
    """Random weights for what has another shape than in the base's layer `index`; vectors are around 0."""
    import torch

    chance = torch.Generator().manual_seed(index)
    had = {tensor.name: tensor.shape for tensor in facts.layer_specs[index].tensors(facts)}
    return {
        tensor.name: torch.randn(tensor.shape, generator=chance)
        * (2 if SINKS in tensor.name else SIZES["initializer_range"])
        for tensor in LayerSpec.model_validate(spec).tensors(facts)
        if tensor.shape != had.get(tensor.name)
    }


def artifact_subject(folder: Path, facts: Any) -> Subject:
    """As `lbdsl.session.exporting` makes it, without a record."""
    config = read_json_object(folder / "config.json")
    stub = config.pop("lbdsl")
    config.pop("auto_map", None)
    config["model_type"] = stub["base_model_type"]
    config["architectures"] = [FAMILIES[stub["base_model_type"]].architecture]
    return subject_of(config, facts, stub["layers"])
