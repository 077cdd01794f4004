"""The predicted cache against vLLM's own code, for many models without starting one."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lbdsl.bench.environments import clean_environment
from lbdsl.export.vllm_cache import CacheKind, Serving, cache_layout
from tests.engines.vllm_side import vllm_python

pytestmark = pytest.mark.engine

SCRIPT = Path(__file__).parent / "scripts" / "vllm_capacity.py"
HEAD_SIZE, DTYPE_BYTES = 64, 2
WINDOWS = ([None], [16], [None, 64], [None, 256, 1024], [64, 256])
KV_HEADS = ([3], [3, 1], [8, 4, 2, 1], [6, 3, 2], [3, 2], [5, 2])


def cases(count: int) -> list[dict[str, Any]]:
    chance = random.Random(1)
    found = []
    for _ in range(count):
        windows, heads = chance.choice(WINDOWS), chance.choice(KV_HEADS)
        found.append(
            {
                "layers": [(chance.choice(windows), chance.choice(heads)) for _ in range(chance.randint(1, 32))],
                "head_size": HEAD_SIZE,
                "memory": 2**28,
                "block_size": chance.choice([16, 128]),
                "max_model_len": chance.choice([512, 777, 2048, 8192]),
                "in_flight": chance.choice([512, 4096]),
            }
        )
    return found


def predicted(case: dict[str, Any]) -> dict[str, Any]:
    kinds = ((index, CacheKind(*layer)) for index, layer in enumerate(case["layers"]))
    layout = cache_layout(kinds, 2 * HEAD_SIZE * DTYPE_BYTES)
    serving = Serving(case["max_model_len"], case["block_size"], case["in_flight"], batches=1, memory=case["memory"])
    return {
        "capacity": layout.capacity(serving),
        "groups": [list(group.layers) for group in layout.groups],
        "block_tokens": [layout.block_tokens(group, serving) for group in layout.groups],
    }


def test_groups_blocks_and_capacity_are_vllms_own(tmp_path: Path) -> None:
    asked = cases(500)
    job, result = tmp_path / "job.json", tmp_path / "result.json"
    job.write_text(json.dumps(asked))
    done = subprocess.run(
        [str(vllm_python()), str(SCRIPT), str(job), str(result)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for case, answer in zip(asked, json.loads(result.read_text()), strict=True):
        assert predicted(case) == answer, case
