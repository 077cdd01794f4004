"""Exports to GGUF in real llama.cpp: the same logits, tokens and perplexity as the hybrid model in transformers."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lbdsl.bench.environments import LLAMA_CPP, clean_environment
from lbdsl.export.gguf import Gguf
from lbdsl.export.gguf_target import target_of
from tests.export_cases import DELTA_NETS, GPT_OSS, changed_model
from tests.layer_changes import GONE, NO_MLP, NONE, Layer, fewer, sized, swa
from tests.specs import LEARNED

pytestmark = pytest.mark.engine

SIDE = Path(__file__).with_name("llamacpp_side.py")


@pytest.fixture(scope="session")
def python() -> Path:
    return LLAMA_CPP.install()


def run_llamacpp(python: Path, place: Path, **task: Any) -> dict[str, Any]:
    """What `llamacpp_side.py` answers, and llama.cpp's `log`."""
    answer = place / "answer.json"
    done = subprocess.run(
        [str(python), str(SIDE), str(answer)],
        input=json.dumps(task),
        text=True,
        capture_output=True,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {**json.loads(answer.read_text()), "log": done.stderr}


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
TWO_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 9e5},
}
OLMO_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
    "full_attention": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5e5, "original_max_position_embeddings": 64},
}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 20}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2}
QWEN_MOE = {
    **EXPERTS,
    "use_sliding_window": False,
    "sliding_window": None,
    "mlp_only_layers": [],
    "attention_bias": False,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
}
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.6,
    "logits_scaling": 1.7,
}

CASES: dict[str, tuple[str, str, dict[int, Layer], dict[str, Any]]] = {
    "llama as it is": ("llama", "llama", {}, {}),
    "llama with biases, llama3 rope": (
        "llama",
        "llama",
        {},
        {"attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3},
    ),
    "llama with yarn": ("llama", "llama", {}, {"rope_parameters": YARN}),
    "llama with linear rope": (
        "llama",
        "llama",
        {},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
    ),
    "llama, attention dropped": ("llama", "deci", {1: NONE, 3: NONE}, {"attention_bias": True, "mlp_bias": True}),
    "llama, attention dropped, llama3 rope": ("llama", "deci", {2: NONE}, {"rope_parameters": LLAMA3, "head_dim": 24}),
    "llama, first attention dropped": ("llama", "deci", {0: NONE, 2: NONE}, {}),
    "llama, mlp dropped": ("llama", "deci", {1: NO_MLP, 3: NO_MLP}, {}),
    "llama, everything dropped somewhere": ("llama", "deci", {0: NONE, 1: GONE, 2: NO_MLP}, {}),
    "llama, blocks dropped": ("llama", "llama", {0: GONE, 2: GONE}, {}),
    "llama, 3 and 1 KV heads, three widths": (
        "llama",
        "deci",
        {1: sized(1, 64), 2: sized(9, 160), 3: sized(1)},
        {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 144, "attention_bias": True, "mlp_bias": True},
    ),
    "llama, sizes where parts are gone": (
        "llama",
        "deci",
        {0: sized(width=64, of=NONE), 1: sized(1, 160), 2: sized(1, of=NO_MLP), 3: sized(4)},
        {},
    ),
    "llama, smaller": ("llama", "llama", dict.fromkeys(range(4), sized(1, 64)), {"mlp_bias": True}),
    "llama, smaller, windows": (
        "llama",
        "granite_swa",
        {0: sized(1, 64), 1: sized(1, 64, of=swa(10)), 2: GONE, 3: sized(1, 64)},
        {},
    ),
    "llama, learned sinks": (
        "llama",
        "granite_swa",
        {0: swa(10, LEARNED), 1: GONE, 2: swa(10), 3: swa(10, LEARNED)},
        {"attention_bias": True},
    ),
    "smollm3, learned sinks": ("smollm3", "granite_swa", {0: swa(10, LEARNED), 3: swa(10, LEARNED)}, {}),
    "llama, windows": ("llama", "granite_swa", {0: swa(10), 2: swa(10)}, {"attention_bias": True, "mlp_bias": True}),
    "llama, windows, llama3 rope": ("llama", "granite_swa", {1: swa(10), 2: swa(10), 3: GONE}, {"rope_parameters": LLAMA3}),
    "mistral, attention dropped": ("mistral", "deci", {1: NONE}, {"sliding_window": None, "head_dim": 24}),
    "mistral, its own window": ("mistral", "granite_swa", {}, {"sliding_window": 12}),
    "qwen2 as it is": ("qwen2", "qwen2", {}, {}),
    "qwen2, attention dropped": ("qwen2", "deci", {2: NONE}, {}),
    "qwen2, sizes by layer": ("qwen2", "deci", {0: sized(1), 2: sized(4, 64), 3: GONE}, {}),
    "qwen3, smaller": ("qwen3", "qwen3", dict.fromkeys(range(4), sized(1, 64)), {"head_dim": 24}),
    "qwen2, windows": ("qwen2", "granite_swa", {2: swa(7)}, {"tie_word_embeddings": True}),
    "qwen3, blocks dropped": ("qwen3", "qwen3", {1: GONE}, {"head_dim": 24}),
    "smollm3 as it is": ("smollm3", "smollm3", {}, {}),
    "smollm3 with rotary embeddings in all layers": ("smollm3", "granite_swa", {}, {"no_rope_layers": [1] * 4}),
    "smollm3, blocks dropped": ("smollm3", "granite_swa", {1: GONE}, {}),
    "smollm3, windows": ("smollm3", "granite_swa", {0: swa(9), 3: swa(9)}, {"no_rope_layer_interval": 2}),
    "phi3 as it is": ("phi3", "phi3", {}, {"sliding_window": None}),
    "phi3, attention dropped": ("phi3", "deci", {1: NONE}, {"sliding_window": None}),
    "phi3, smaller": ("phi3", "phi3", dict.fromkeys(range(4), sized(1, 64)), {"sliding_window": None}),
    "phi3, sizes by layer": ("phi3", "deci", {0: sized(1, 64), 3: sized(4, 160)}, {"sliding_window": None}),
    "phi3, its own window": ("phi3", "granite_swa", {}, {"sliding_window": 11}),
    "gemma2, its own window": (
        "gemma2",
        "gemma2",
        {},
        {**GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    ),
    "gemma2, windows": ("gemma2", "gemma2", {0: swa(9), 1: swa(9), 2: swa(9)}, GEMMA),
    "gemma2, windows beyond its positions": ("gemma2", "gemma2", {}, {**GEMMA, "sliding_window": 512}),
    "gemma3, windows narrowed": (
        "gemma3_text",
        "gemma3",
        {0: swa(9), 2: swa(9), 3: GONE},
        {**GEMMA, "sliding_window_pattern": 2, "rope_parameters": TWO_ROPES},
    ),
    "gemma3, windows beyond its positions": (
        "gemma3_text",
        "gemma3",
        {1: GONE},
        {**GEMMA, "sliding_window": 600, "sliding_window_pattern": 2, "rope_parameters": TWO_ROPES},
    ),
    "granite, blocks dropped": ("granite", "granite", {1: GONE}, {**MULTIPLIERS, "attention_bias": True}),
    "granite, windows": ("granite", "granite_swa", {0: swa(9), 3: swa(9)}, MULTIPLIERS),
    "mixtral, fewer experts": ("mixtral", "llama", dict.fromkeys(range(4), fewer(4)), {"num_local_experts": 6}),
    "qwen3 with experts, as it is": ("qwen3_moe", "qwen3moe", {}, QWEN_MOE),
    "qwen3 with experts, smaller": (
        "qwen3_moe",
        "qwen3moe",
        {1: GONE, **dict.fromkeys((0, 2, 3), fewer(3, sized(1)))},
        QWEN_MOE,
    ),
    "olmoe, fewer experts": ("olmoe", "olmoe", dict.fromkeys(range(4), fewer(5)), {**EXPERTS, "num_key_value_heads": 4}),
    "granite with experts, fewer": (
        "granitemoe",
        "granitemoe",
        {1: GONE, **dict.fromkeys((0, 2, 3), fewer(4))},
        {**MULTIPLIERS, "num_local_experts": 6},
    ),
    "qwen3_5 as it is": ("qwen3_5_text", "qwen35", {}, DELTA_NETS),
    "qwen3_5, narrow heads": ("qwen3_5_text", "qwen35", {}, {**DELTA_NETS, "head_dim": 16}),
    "qwen3_5, layers gone": ("qwen3_5_text", "qwen35", {2: GONE, 3: GONE}, {**DELTA_NETS, "linear_num_value_heads": 2}),
    "qwen3_5 with experts, fewer": (
        "qwen3_5_moe_text",
        "qwen35moe",
        dict.fromkeys(range(4), fewer(4)),
        {**DELTA_NETS, **EXPERTS, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 96},
    ),
    "gpt_oss as it is": ("gpt_oss", "gpt-oss", {}, GPT_OSS),
    "gpt_oss, layers gone, fewer experts": ("gpt_oss", "gpt-oss", {1: GONE, 2: GONE, 0: fewer(4), 3: fewer(4)}, GPT_OSS),
    "gpt_oss, narrower windows, one more": ("gpt_oss", "gpt-oss", {0: swa(9), 1: swa(9), 2: swa(9)}, GPT_OSS),
    "gpt_oss, windows everywhere": ("gpt_oss", "gpt-oss", dict.fromkeys(range(4), swa(9, LEARNED)), GPT_OSS),
    "ministral3, smaller": (
        "ministral3",
        "mistral3",
        {1: GONE, **dict.fromkeys((0, 2, 3), sized(1, 64))},
        {"sliding_window": None},
    ),
    "exaone4 without windows, smaller": (
        "exaone4",
        "exaone4",
        {1: GONE, **dict.fromkeys((0, 2, 3), sized(1, 64))},
        {"sliding_window": None, "layer_types": ["full_attention"] * 4},
    ),
    "olmo3, windows narrowed": (
        "olmo3",
        "olmo2",
        {0: swa(9), 1: swa(9), 2: swa(9)},
        {"sliding_window": 20, "rope_parameters": OLMO_ROPES, "tie_word_embeddings": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_same(case, python, tmp_path):
    import torch

    family, architecture, changes, options = CASES[case]
    changed = changed_model(tmp_path, family, changes, **options)
    found = target_of(changed.subject)
    assert not any(d.is_error for d in found.diagnostics), found.diagnostics
    target = found.unwrap()
    assert target.graph.name == architecture
    Gguf.write(changed.folder, changed.subject, tmp_path)
    ids = torch.randint(0, 256, (1, 90), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = changed.model(input_ids=ids).logits[0]
    # The short batch makes the window slide over what is in the cache, as decoding does.
    for batch in (128, 8):
        answer = run_llamacpp(
            python,
            tmp_path,
            model=str(tmp_path / "model.gguf"),
            context=128,
            batch=batch,
            threads=1,
            logits=[ids[0].tolist()],
        )
        got = torch.tensor(answer["logits"][0], dtype=torch.float32)
        error = (got - expected).abs().max() / expected.std()
        # llama.cpp's GELU is a table of float16.
        assert error < (0.02 if "gemma" in family else 1e-3), (batch, float(error))


def test_the_cache_has_the_kv_heads_of_each_layer(python, tmp_path):
    """With flash attention; without it every layer has room for the values of the most KV heads."""
    changed = changed_model(tmp_path, "llama", {1: sized(1), 2: NONE, 3: sized(4)}, head_dim=32)
    Gguf.write(changed.folder, changed.subject, tmp_path)
    kv_heads, context, float32 = [2, 1, 0, 4], 1024, 4
    for flash, places in ((True, 2 * sum(kv_heads)), (False, sum(kv_heads) + max(kv_heads) * len(kv_heads))):
        answer = run_llamacpp(
            python,
            tmp_path,
            model=str(tmp_path / "model.gguf"),
            context=context,
            threads=1,
            flash=flash,
            logits=[[1, 2, 3]],
        )
        said = re.search(r"KV buffer size = +([0-9.]+) MiB", answer["log"])
        assert said is not None
        assert float(said[1]) == pytest.approx(places * 32 * float32 * context / 2**20, abs=0.01)
