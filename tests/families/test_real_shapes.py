"""Dense models, of experts, of gated delta nets, and beside an image model, as the hub has them: configurations and headers
of their real sizes, in files without data.

Sources: config.json and the index of the weights of Qwen/Qwen3-30B-A3B, Qwen/Qwen3-8B, mistralai/Mixtral-8x7B-v0.1,
mistralai/Ministral-3-8B-Base-2512, meta-llama/Llama-3.1-8B and google/gemma-3-4b-pt, whose fields that stand nowhere are
transformers' defaults; numbers of parameters from their cards. Of gpt-oss-20b those of openai/gpt-oss-20b, with experts
that are dequantized. Of Qwen3.5-9B and Qwen3.5-35B-A3B, transformers' defaults for the families, which are said to be their
sizes (configuration_qwen3_5.py, configuration_qwen3_5_moe.py), and rotary
embeddings as larger sisters have them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tables.models import MODELS
from lbdsl import check_recipe, inspect_model
from lbdsl.api.checked_model import CheckedModel
from lbdsl.api.estimating import estimate_recipe
from lbdsl.api.starting import starting_recipe
from lbdsl.cost.devices import devices_of
from lbdsl.cost.facts import ModelFacts
from lbdsl.export.base import subject_of
from lbdsl.model.source import resolve_source
from lbdsl.session.targets import base_config, check_target, engines
from tests.plan_cases import write_without_data

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "benchmarks" / "configurations"
Shapes = Iterator[tuple[str, list[int]]]


def of_layers(config: dict[str, Any], prefix: str) -> Shapes:
    hidden, dim = config["hidden_size"], config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    query, key_value = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    wide = config["intermediate_size"]
    gated = config["model_type"].startswith("qwen3_5")
    for layer in range(config["num_hidden_layers"]):
        of = f"{prefix}layers.{layer}."
        if gated and (layer + 1) % config["full_attention_interval"]:
            yield from delta_net(config, f"{of}linear_attn.")
        else:
            asks = 2 * query if gated else query
            attention = {"q": [asks, hidden], "k": [key_value, hidden], "v": [key_value, hidden], "o": [hidden, query]}
            yield from ((f"{of}self_attn.{name}_proj.weight", shape) for name, shape in attention.items())
            normed = gated or config["model_type"] in ("qwen3", "gemma3_text")
            yield from ((f"{of}self_attn.{name}_norm.weight", [dim]) for name in ("qk" if normed else ""))
        more = ("pre_feedforward", "post_feedforward") if config["model_type"] == "gemma3_text" else ()
        yield from ((f"{of}{name}_layernorm.weight", [hidden]) for name in ("input", "post_attention", *more))
        if config["model_type"] == "gpt_oss":
            yield from gpt_oss(config, of)
            continue
        if config["model_type"] == "qwen3_5_moe_text":
            yield from qwen35_experts(config, f"{of}mlp.")
            continue
        if config["model_type"] == "qwen3_moe":
            yield from ((f"{of}self_attn.{name}_norm.weight", [dim]) for name in "qk")
            yield f"{of}mlp.gate.weight", [config["num_experts"], hidden]
            small = config["moe_intermediate_size"]
            parts = {"gate_proj": [small, hidden], "up_proj": [small, hidden], "down_proj": [hidden, small]}
            names = (f"mlp.experts.{expert}" for expert in range(config["num_experts"]))
        elif config["model_type"] == "mixtral":
            yield f"{of}block_sparse_moe.gate.weight", [config["num_local_experts"], hidden]
            parts = {"w1": [wide, hidden], "w3": [wide, hidden], "w2": [hidden, wide]}
            names = (f"block_sparse_moe.experts.{expert}" for expert in range(config["num_local_experts"]))
        else:
            parts = {"gate_proj": [wide, hidden], "up_proj": [wide, hidden], "down_proj": [hidden, wide]}
            names = iter(["mlp"])
        for name in names:
            yield from ((f"{of}{name}.{part}.weight", shape) for part, shape in parts.items())


def delta_net(config: dict[str, Any], of: str) -> Shapes:
    heads, hidden = config["linear_num_value_heads"], config["hidden_size"]
    values = heads * config["linear_value_head_dim"]
    mixed = 2 * config["linear_num_key_heads"] * config["linear_key_head_dim"] + values
    inputs = {"qkv": mixed, "z": values, "b": heads, "a": heads}
    yield from ((f"{of}in_proj_{name}.weight", [rows, hidden]) for name, rows in inputs.items())
    yield f"{of}conv1d.weight", [mixed, 1, config["linear_conv_kernel_dim"]]
    yield from ((f"{of}{name}", [heads]) for name in ("dt_bias", "A_log"))
    yield f"{of}norm.weight", [config["linear_value_head_dim"]]
    yield f"{of}out_proj.weight", [hidden, values]


def qwen35_experts(config: dict[str, Any], of: str) -> Shapes:
    """All experts in one tensor, and one for all tokens."""
    experts, hidden, wide = config["num_experts"], config["hidden_size"], config["moe_intermediate_size"]
    yield f"{of}gate.weight", [experts, hidden]
    yield f"{of}experts.gate_up_proj", [experts, 2 * wide, hidden]
    yield f"{of}experts.down_proj", [experts, hidden, wide]
    shared = config["shared_expert_intermediate_size"]
    yield from ((f"{of}shared_expert.{name}_proj.weight", [shared, hidden]) for name in ("gate", "up"))
    yield f"{of}shared_expert.down_proj.weight", [hidden, shared]
    yield f"{of}shared_expert_gate.weight", [1, hidden]


def gpt_oss(config: dict[str, Any], of: str) -> Shapes:
    """What its layers have beside the matrices of attention."""
    heads, hidden, wide = config["num_attention_heads"], config["hidden_size"], config["intermediate_size"]
    sizes = {"q": 64 * heads, "k": 64 * config["num_key_value_heads"], "v": 64 * config["num_key_value_heads"], "o": hidden}
    yield from ((f"{of}self_attn.{name}_proj.bias", [size]) for name, size in sizes.items())
    yield f"{of}self_attn.sinks", [heads]
    experts = config["num_local_experts"]
    yield f"{of}mlp.router.weight", [experts, hidden]
    yield f"{of}mlp.router.bias", [experts]
    for name, rows, columns in (("gate_up", hidden, 2 * wide), ("down", wide, hidden)):
        yield f"{of}mlp.experts.{name}_proj", [experts, rows, columns]
        yield f"{of}mlp.experts.{name}_proj_bias", [experts, columns]


def shapes(config: dict[str, Any]) -> Shapes:
    text = config.get("text_config", config)
    prefix = "language_model.model." if "text_config" in config else "model."
    head = "language_model.lm_head.weight" if "text_config" in config else "lm_head.weight"
    if text["model_type"].startswith("qwen3_5"):
        prefix, head = "model.language_model.", "lm_head.weight"
        yield "mtp.fc.weight", [text["hidden_size"], 2 * text["hidden_size"]]
    yield f"{prefix}embed_tokens.weight", [text["vocab_size"], text["hidden_size"]]
    if text["model_type"] != "gemma3_text":
        yield head, [text["vocab_size"], text["hidden_size"]]
    yield f"{prefix}norm.weight", [text["hidden_size"]]
    yield from of_layers(text, prefix)
    if "text_config" in config:
        yield "vision_tower.patch_conv.weight", [1024, 3, 14, 14]


def write(config: dict[str, Any], folder: Path) -> str:
    """A checkpoint without data."""
    folder.mkdir()
    write_without_data(folder / "model.safetensors", dict(shapes(config)))
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("real")
    return {path.stem: write(json.loads(path.read_text()), place / path.stem) for path in CONFIGS.glob("*.json")}


def facts_of(folder: str) -> ModelFacts:
    return inspect_model(folder).facts


@pytest.mark.parametrize(
    ("name", "params", "active", "cache"),
    [
        # 30.5B in all and 3.3B for a token; 48 layers x 2 x 4 x 128 x 2 bytes of cache a token.
        ("qwen3-30b-a3b", 30_532_122_624, 3.35e9, 98304),
        ("mixtral-8x7b", 46_702_792_704, 12.88e9, 131072),
        ("ministral-3-8b", 8_489_553_920, 8.49e9, 139264),
        ("llama-3.1-8b", 8_030_261_248, 8.03e9, 131072),
        ("qwen3-8b", 8_190_735_360, 8.19e9, 147456),
        # Without the image model; the head is the embeddings.
        ("gemma-3-4b", 3_880_263_168, 4.55e9, 139264),
        # 2 x 1.017B outside the layers, 32 MLPs of 151.0M, 24 delta nets of 67.4M, 8 attentions of 58.7M. The first token's
        # cache: 8 x 2 x 4 x 256 x 2 bytes, and 24 states of 32 x 128 x 128 x 4 with 8192 x 4 x 2 bytes of inputs.
        ("qwen3.5-9b", 8_953_803_264, 8.95e9, 32768 + 24 * (2097152 + 65536)),
        # 40 x 256 experts of 3.146M, one more for all tokens, 30 delta nets of 33.7M, 10 attentions of 27.3M.
        ("qwen3.5-35b-a3b", 34_660_610_688, 3.454e9, 20480 + 30 * (2097152 + 65536)),
        # 20.9B in all; a token's 3.6B and the embeddings.
        ("gpt-oss-20b", 20_914_757_184, 4.186e9, 49152),
    ],
)
def test_sizes(folders: dict[str, str], name: str, params: int, active: float, cache: int) -> None:
    facts = facts_of(folders[name])
    assert facts.params == params
    outside_of_products = facts.vocab * facts.hidden
    assert facts.cost.matrix + outside_of_products == pytest.approx(active, rel=0.01)
    assert facts.kv_bytes_per_token == cache


RECIPES = {
    "qwen3-30b-a3b": "layers all experts(64)\nlayers 0-23 swa(window=1Ki, sinks=4)\nelse keep",
    "mixtral-8x7b": "layers all experts(50%)\nelse keep",
    "ministral-3-8b": "layers 0-16 swa(window=1Ki, sinks=4)\nelse keep",
    "gpt-oss-20b": "layers all experts(16)\nlayers every 2 from 1 swa(window=1Ki)\nelse keep",
    "qwen3.5-9b": "layers all quantize(bits=4)\nlayers every 4 from 3 swa(window=1Ki, sinks=4)",
    "qwen3.5-35b-a3b": "layers all experts(128)\nlayers every 4 from 3 swa(window=1Ki, sinks=4)\nelse keep",
}


SERVED = {
    "qwen3-30b-a3b": {"native", "gguf", "vllm"},
    "mixtral-8x7b": {"native", "gguf", "vllm"},
    "ministral-3-8b": set(),
    "qwen3.5-9b": {"native", "gguf"},
    "qwen3.5-35b-a3b": {"native", "gguf"},
    "gpt-oss-20b": {"native", "gguf"},
}
"""Formats of models all of whose layers are changed as the recipe's first rule says; of those with several kinds of layers
as they are."""


@pytest.mark.torch
@pytest.mark.parametrize("name", RECIPES)
def test_what_a_plan_will_take(folders: dict[str, str], name: str, tmp_path: Path) -> None:
    """`check --model`, `plan --estimate` and the engines' answers, from headers alone."""
    path = tmp_path / "r.lbr"
    path.write_text(f'lbr 1\nmeasure {{ data = "builtin:pydoc" }}\n{RECIPES[name]}\nheal {{ tokens = 1M }}\n')
    facts = facts_of(folders[name])
    checked = check_recipe(path, facts=CheckedModel(inspect_model(folders[name])))
    assert not [d for d in checked.diagnostics if d.is_error]
    estimated = estimate_recipe(path, folders[name], devices_of("8xH100"))
    assert 2 * facts.params < estimated.ways["whole"].device_bytes
    change = checked.unwrap().rules[0].actions[0].under(facts, 0)
    assert change is not None
    specs = [
        spec if name in ("qwen3.5-9b", "qwen3.5-35b-a3b", "gpt-oss-20b") else change.spec for spec in facts.layer_specs
    ]
    subject = subject_of(base_config(resolve_source(folders[name]), facts), facts, specs)
    assert {
        answer.kind for engine in engines() for answer in check_target(subject, engine).answers if answer.can
    } == SERVED[name]


@pytest.mark.parametrize(("name", "recipe"), MODELS.items())
def test_the_recipes_for_larger_models(folders: dict[str, str], name: str, recipe: str) -> None:
    """Each suits its model, and says no warning of it."""
    path = ROOT / "recipes" / f"{recipe}.lbr"
    assert not check_recipe(path, facts=CheckedModel(inspect_model(folders[name]))).diagnostics


@pytest.mark.large
@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "mixtral-8x7b", "ministral-3-8b"])
def test_a_goal_on_weights_may_take_experts(folders: dict[str, str], name: str) -> None:
    """Under both budgets at once; what the headers alone can refuse is not refused."""
    text = starting_recipe(folders[name], goals=("weights <= 60%", "kv(8Ki) <= 40%")).text
    assert "quantize(bits=8), quantize(bits=4)" in text
    among = "experts(75%), experts(50%), swa(window=$window) + experts(50%)" in " ".join(text.split())
    assert among == (name != "ministral-3-8b")
