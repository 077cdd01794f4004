"""Run by the engine's own Python: the groups and the capacity that vLLM's own code gives layers, without a model.

    vllm_capacity.py JOB RESULT

JOB: [{"layers": [[window or null, KV heads], ...], "head_size", "memory", "block_size", "max_model_len", "in_flight"}, ...]
RESULT: [{"capacity": tokens, "groups": [[layer, ...], ...], "block_tokens": [...]}, ...]
"""

import json
import sys
from types import SimpleNamespace

import torch
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec
from vllm.v1.kv_cache_layout import KVCacheLayout


def settings(case):
    """What those functions read of vLLM's configuration."""
    cache = SimpleNamespace(
        block_size=case["block_size"],
        num_gpu_blocks_override=None,
        prefix_cache_retention_interval=None,
        get_resolved_kv_cache_layout=lambda: KVCacheLayout.LBHNC,
    )
    return SimpleNamespace(
        cache_config=cache,
        scheduler_config=SimpleNamespace(disable_hybrid_kv_cache_manager=False),
        model_config=SimpleNamespace(max_model_len=case["max_model_len"], original_max_model_len=case["max_model_len"]),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1, tensor_parallel_size=1),
        attention_config=SimpleNamespace(hisparse_config=None),
        speculative_config=None,
        max_in_flight_tokens=case["in_flight"],
    )


def answer(case):
    config, specs = settings(case), {}
    for index, (window, kv_heads) in enumerate(case["layers"]):
        more = {} if window is None else {"sliding_window": window}
        specs[str(index)] = (FullAttentionSpec if window is None else SlidingWindowSpec)(
            block_size=case["block_size"],
            num_kv_heads=kv_heads,
            head_size=case["head_size"],
            dtype=torch.bfloat16,
            **more,
        )
    groups = kv_cache_utils.get_kv_cache_groups(config, specs)
    made = kv_cache_utils.get_kv_cache_config_from_groups(config, groups, case["memory"])
    return {
        "capacity": kv_cache_utils.get_kv_cache_capacity(config, made)[0],
        "groups": [[int(name) for name in group.layer_names] for group in groups],
        "block_tokens": [group.kv_cache_spec.block_size for group in groups],
    }


def main(job_path, result_path):
    with open(job_path) as stream:
        cases = json.load(stream)
    with open(result_path, "w") as stream:
        json.dump([answer(case) for case in cases], stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
