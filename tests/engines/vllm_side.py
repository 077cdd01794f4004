"""Running vLLM in its own environment: a job in, tokens and the log out."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lbdsl.bench.environments import VLLM, clean_environment, engines_folder

SCRIPT = Path(__file__).parent / "scripts" / "vllm_generate.py"
ROOT = Path(__file__).parents[2]
BLOCK = 128
"""Tokens of a cache block on a CPU."""
BATCHED = 4096
"""`max_num_batched_tokens` of the LLM class on a CPU."""


@dataclass(frozen=True)
class Served:
    """`tokens[p]` are the greedy tokens of prompt p, `again` those of a second round, from the cached prefixes;
    `top[p][t]` the logprobs of the likeliest tokens at step t; `scores[p]` those of the prompt's tokens but the first;
    `timed[n]` is how many seconds the first n prompts took once more."""

    tokens: list[list[int]]
    again: list[list[int]]
    top: list[list[dict[int, float]]]
    architecture: str
    log: str
    scores: list[list[float]] = field(default_factory=list)
    timed: dict[int, float] = field(default_factory=dict)

    @property
    def capacity(self) -> int:
        """The log's "KV cache size", in tokens."""
        found = re.search(r"KV cache size: ([\d,]+) tokens", self.log)
        assert found is not None, self.log[-3000:]
        return int(found[1].replace(",", ""))


def vllm_python() -> Path:
    return VLLM.install()


def serve(
    model: Path,
    prompts: list[list[int]],
    folder: Path,
    *,
    max_tokens: int = 64,
    max_model_len: int = 2048,
    dtype: str = "bfloat16",
    trust_remote_code: bool = False,
    plugin: Path | None = None,
    expect: int = 0,
    twice: bool = False,
    timed: tuple[int, ...] = (),
    score: bool = False,
    maps: Path | None = None,
    emulated: bool = False,
    environment: Mapping[str, str] = MappingProxyType({}),
    **options: Any,
) -> Served:
    """Greedy tokens from vLLM on a CPU, with 1 GiB of cache. `plugin` is a folder that holds an installed lbdsl; `maps` a
    file for the inputs and outputs of the linear maps on the first prompt; with it 4-bit floats can be `emulated`."""
    job, result = folder / "job.json", folder / "result.json"
    result.unlink(missing_ok=True)
    job.write_text(
        json.dumps(
            {
                "model": str(model),
                "prompts": prompts,
                "max_tokens": max_tokens,
                "max_model_len": max_model_len,
                "dtype": dtype,
                "trust_remote_code": trust_remote_code,
                "twice": twice,
                "timed": timed,
                "score": score,
                "maps": str(maps) if maps else None,
                "emulated": emulated,
                "options": options,
            }
        )
    )
    values = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HOME": str(engines_folder() / "hf-home"),
        **({"PYTHONPATH": str(plugin)} if plugin is not None else {}),
        **({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if maps else {}),
        **environment,
    }
    done = subprocess.run(
        [str(vllm_python()), str(SCRIPT), str(job), str(result)],
        cwd=folder,
        text=True,
        env=clean_environment(**values),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1200,
    )
    errors = [line for line in done.stdout.splitlines() if "Error: " in line]
    assert (done.returncode == 0) == (expect == 0), "\n".join([*errors, done.stdout[-6000:]])
    if expect:
        return Served([], [], [], "", done.stdout)
    found = json.loads(result.read_text())
    top = [[{int(token): value for token, value in step.items()} for step in steps] for steps in found["top"]]
    timed_seconds = {int(count): seconds for count, seconds in found["timed"].items()}
    return Served(found["tokens"], found["again"], top, found["architecture"], done.stdout, found["scores"], timed_seconds)


def install_plugin(target: Path) -> Path:
    """lbdsl alone, as `pip install --no-deps` does it, in a folder beside vLLM's environment: that stays unmodified."""
    subprocess.run(
        [str(vllm_python()), "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(ROOT)], check=True
    )
    return target
