"""`native` and `granite` exports in stock transformers classes, without lbdsl: the hybrid model's logits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lbdsl.export.granite import Granite
from lbdsl.export.native import Native
from lbdsl.parts.int_weights import Int
from tests.clean_process import CleanProcess
from tests.export_cases import base_model, changed_model
from tests.layer_changes import GONE, Layer, fewer, sized, swa
from tests.specs import LEARNED

TWO_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 9e5},
}
ONE_ROPE = {kind: {"rope_type": "default", "rope_theta": 50.0} for kind in TWO_ROPES}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 20}
QWEN = {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 2}

# name: (family, class that it loads as, changes, options)
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 50.0, "original_max_position_embeddings": 64}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
SMALLER = dict.fromkeys(range(4), sized(1, 64))
"""All layers with 1 of 2 KV heads and 64 of 96 MLP channels."""

CASES: dict[str, tuple[str, str, dict[int, Layer], dict[str, Any]]] = {
    "llama, unchanged": ("llama", "Llama", {}, {}),
    "llama, smaller": ("llama", "Llama", SMALLER, {"attention_bias": True, "mlp_bias": True}),
    "llama, smaller, blocks and windows": (
        "llama",
        "Ministral",
        {0: GONE, 1: sized(1, 64), 2: sized(1, 64, of=swa(9)), 3: sized(1, 64)},
        {},
    ),
    "mistral, smaller": ("mistral", "Mistral", SMALLER, {"sliding_window": None, "head_dim": 12}),
    "qwen2, smaller": ("qwen2", "Qwen2", SMALLER, {}),
    "qwen3, smaller": ("qwen3", "Qwen3", SMALLER, {"attention_bias": True}),
    "smollm3, smaller": ("smollm3", "SmolLM3", SMALLER, {}),
    "gemma2, smaller": ("gemma2", "Gemma2", dict.fromkeys(range(4), sized(1, 64, of=swa(9))), GEMMA),
    "gemma3, smaller": (
        "gemma3_text",
        "Gemma3",
        {0: sized(1, 64, of=swa(9)), 1: sized(1, 64), 2: sized(1, 64, of=swa(9)), 3: GONE},
        {**GEMMA, "sliding_window_pattern": 2, "rope_parameters": TWO_ROPES},
    ),
    "granite, smaller": ("granite", "Granite", SMALLER, {"attention_bias": True, "mlp_bias": True}),
    "phi3, smaller": ("phi3", "Phi3", SMALLER, {"sliding_window": None}),
    "olmo3, smaller": (
        "olmo3",
        "Olmo3",
        dict.fromkeys(range(4), sized(1, 64, of=swa(9))),
        {"rope_parameters": ONE_ROPE},
    ),
    "qwen3 with experts, fewer": (
        "qwen3_moe",
        "Qwen3Moe",
        {0: GONE, 1: sized(1, 64), 2: sized(1, of=fewer(3)), 3: sized(1, of=fewer(3))},
        {**EXPERTS, "mlp_only_layers": [1]},
    ),
    "qwen3 with experts, none left": ("qwen3_moe", "Qwen3Moe", {0: GONE, 2: GONE}, {**EXPERTS, "mlp_only_layers": [1, 3]}),
    "qwen3 with experts, in every other layer": (
        "qwen3_moe",
        "Qwen3Moe",
        {0: GONE},
        {**EXPERTS, "decoder_sparse_step": 2},
    ),
    "exaone4, smaller": (
        "exaone4",
        "Exaone4",
        {0: sized(1, 64, of=swa(7)), 1: sized(1, 64), 2: GONE, 3: sized(1, 64)},
        {"sliding_window_pattern": 2},
    ),
    "llama, blocks": ("llama", "Llama", {0: GONE, 2: GONE}, {"attention_bias": True, "mlp_bias": True}),
    "llama, windows": ("llama", "Ministral", {0: swa(9), 3: swa(9)}, {"tie_word_embeddings": True, "head_dim": 24}),
    "llama, all windowed": (
        "llama",
        "Ministral",
        {i: swa(9) for i in range(4)},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "llama, blocks and windows": ("llama", "Ministral", {0: GONE, 1: swa(7)}, {}),
    "mistral, its own window": ("mistral", "Mistral", {2: GONE}, {"sliding_window": 12}),
    "mistral, narrowed": ("mistral", "Mistral", {i: swa(5) for i in range(4)}, {"sliding_window": 12}),
    "mistral, windows": ("mistral", "Ministral", {1: swa(5)}, {"sliding_window": None}),
    "qwen2, blocks": ("qwen2", "Qwen2", {0: GONE}, QWEN),
    "qwen2, windows": ("qwen2", "Qwen2", {0: swa(9), 1: swa(9)}, {"sliding_window": None}),
    "qwen3, blocks and windows": ("qwen3", "Qwen3", {1: GONE, 2: swa(9), 3: swa(9)}, {**QWEN, "attention_bias": True}),
    "smollm3, blocks": ("smollm3", "SmolLM3", {1: GONE}, {}),
    "smollm3, blocks and windows": ("smollm3", "SmolLM3", {0: GONE, 1: swa(9)}, {"no_rope_layer_interval": 2}),
    "gemma2, blocks": ("gemma2", "Gemma2", {0: GONE, 2: GONE}, GEMMA),
    "gemma2, windows": ("gemma2", "Gemma2", {0: swa(9), 1: swa(9), 2: swa(9)}, GEMMA),
    "gemma3, narrowed": (
        "gemma3_text",
        "Gemma3",
        {0: swa(9), 1: GONE, 2: swa(9)},
        {**GEMMA, "sliding_window_pattern": 2, "rope_parameters": TWO_ROPES},
    ),
    "gemma3, windows, one rope": (
        "gemma3_text",
        "Gemma3",
        {i: swa(9) for i in range(4)},
        {**GEMMA, "sliding_window_pattern": 2, "rope_parameters": ONE_ROPE},
    ),
    "granite, blocks": (
        "granite",
        "Granite",
        {0: GONE, 2: GONE},
        {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.6, "logits_scaling": 1.7},
    ),
    "phi3, blocks": ("phi3", "Phi3", {3: GONE}, {"sliding_window": 11}),
    "phi3, all windowed": ("phi3", "Phi3", {i: swa(8) for i in range(4)}, {"sliding_window": None}),
    "llama, learned sinks": (
        "llama",
        "GraniteSWA",
        {0: swa(9, LEARNED), 2: swa(9), 3: swa(9, LEARNED)},
        {"attention_bias": True, "mlp_bias": True, "head_dim": 24, "tie_word_embeddings": True, "rope_parameters": YARN},
    ),
    "mistral, learned sinks, smaller, blocks": (
        "mistral",
        "GraniteSWA",
        {0: GONE, **{i: sized(1, 64, of=swa(9, LEARNED)) for i in (1, 2, 3)}},
        {"sliding_window": None, "head_dim": 12},
    ),
    "qwen2, no windows": ("qwen2", "GraniteSWA", {1: GONE}, {}),
    "qwen2, learned sinks": ("qwen2", "GraniteSWA", {0: swa(11, LEARNED), 1: swa(11)}, QWEN),
    "smollm3, learned sinks": (
        "smollm3",
        "GraniteSWA",
        {0: GONE, 1: swa(9, LEARNED), 2: swa(9, LEARNED)},
        {"no_rope_layer_interval": 2},
    ),
    "olmo3, narrowed": (
        "olmo3",
        "Olmo3",
        {0: swa(9), 1: GONE, 2: swa(9)},
        {
            "sliding_window": 20,
            "rope_parameters": {
                **ONE_ROPE,
                "full_attention": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "rope_theta": 50.0,
                    "original_max_position_embeddings": 64,
                },
            },
        },
    ),
}

LOAD = """
import importlib.abc, json, sys

class NoLbdsl(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "lbdsl":
            raise ImportError("there is no lbdsl here")

sys.meta_path.insert(0, NoLbdsl())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

answer = {}
for name, folder in json.load(open(sys.argv[1])).items():
    model, report = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    ids = torch.arange(40).unsqueeze(0) * 7 % 251
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits[0]
        first = model(input_ids=ids[:, :15])
        cache = first.cache if hasattr(first, "cache") else first.past_key_values
        key = "cache" if hasattr(first, "cache") else "past_key_values"
        rows = [first.logits[0]]
        for i in range(15, 40):
            rows.append(model(input_ids=ids[:, i : i + 1], **{key: cache}).logits[0])
    text = AutoTokenizer.from_pretrained(folder)("the end")["input_ids"]
    problems = [sorted(map(str, report[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")]
    answer[name] = {"class": type(model).__name__, "whole": whole.tolist(), "stepped": torch.cat(rows).tolist(),
                    "text": text, "problems": problems}
json.dump(answer, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, clean_process: CleanProcess) -> dict[str, dict[str, Any]]:
    """Every case, exported, and what a clean process makes of it."""
    home = tmp_path_factory.mktemp("native")
    folders, expected = {}, {}
    ids = torch.arange(40).unsqueeze(0) * 7 % 251
    for number, (name, (family, _, changes, options)) in enumerate(CASES.items()):
        changed = changed_model(home / str(number), family, changes, **options)
        exporter = Granite if CASES[name][1] == "GraniteSWA" else Native
        assert not [d for d in exporter.check(changed.subject) if d.is_error], exporter.check(changed.subject)
        folders[name] = home / str(number) / "native"
        folders[name].mkdir()
        exporter.write(changed.folder, changed.subject, folders[name])
        with torch.no_grad():
            expected[name] = changed.model(input_ids=ids).logits[0]
            base = base_model(family, **options)(input_ids=ids).logits[0]
        # Without this, a lost window would go unseen.
        assert not changes or (base - expected[name]).abs().max() > 0.05, name
    (home / "folders.json").write_text(json.dumps({name: str(folder) for name, folder in folders.items()}))
    done = clean_process.run(LOAD, "folders.json", "answer.json", cwd=home)
    assert done.returncode == 0, done.stderr[-4000:]
    answer = json.loads((home / "answer.json").read_text())
    return {name: {**answer[name], "expected": expected[name], "folder": folders[name]} for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_stock_classes_compute_the_same(loaded, name):
    case = loaded[name]
    assert case["class"] == f"{CASES[name][1]}ForCausalLM"
    assert case["problems"] == [[], [], []]
    for way in ("whole", "stepped"):
        assert torch.allclose(torch.tensor(case[way]), case["expected"], atol=1e-4), way
    assert len(case["text"]) == 5


@pytest.mark.parametrize("name", CASES)
def test_nothing_of_ours_is_left(loaded, name):
    folder: Path = loaded[name]["folder"]
    config = json.loads((folder / "config.json").read_text())
    assert "lbdsl" not in json.dumps(config)
    assert not list(folder.glob("*.py"))
    gone = sum(layer == GONE for layer in CASES[name][2].values())
    assert config["num_hidden_layers"] == 4 - gone
    weights = folder / "model.safetensors"
    moves = gone and any(CASES[name][2].get(i) == GONE for i in range(3))
    assert weights.stat().st_nlink == (1 if moves or CASES[name][1] == "GraniteSWA" else 2)


FULL = ["full_attention"] * 4
TYPES = ["sliding_attention", "full_attention"] * 2
NARROW = {0: swa(5), 2: swa(5)}
PROMISED = {
    "windows beside full layers without rotary embeddings": (
        "exaone4",
        {0: swa(5), 2: swa(5)},
        {"layer_types": TYPES},
        True,
    ),
    "only such full layers left": ("exaone4", {0: GONE, 2: GONE}, {"layer_types": TYPES}, False),
    "full layers of a model without windows": ("exaone4", {0: GONE}, {"sliding_window": None, "layer_types": FULL}, True),
    "experts": ("mixtral", {1: GONE}, {}, True),
    "experts under a window": ("mixtral", dict.fromkeys(range(4), swa(5)), {}, False),
    "another activation": ("mixtral", {1: GONE}, {"hidden_act": "gelu"}, False),
    "biases": ("qwen3_moe", {}, {**EXPERTS, "sliding_window": None, "attention_bias": True}, False),
    "no biases": ("qwen3_moe", {}, {**EXPERTS, "sliding_window": None, "attention_bias": False}, True),
}


@pytest.mark.parametrize(("family", "layers", "options", "promised"), PROMISED.values(), ids=PROMISED)
def test_vllm_is_promised_what_its_class_computes(
    family: str, layers: dict[int, Layer], options: dict, promised: bool, tmp_path: Path
) -> None:
    subject = changed_model(tmp_path, family, layers, **options).subject
    assert ("vllm" in Native.engines(subject)) is promised
    if promised:
        one = Int(bits=4, group=32)
        alone = [spec.replace(weights={"self_attn.q_proj": one}) if spec.mixer else spec for spec in subject.specs]
        assert "vllm" not in Native.engines(replace(subject, specs=tuple(alone)))
