"""Models of experts, as their files are on the hub: killed and resumed, and by two processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import lbdsl
from lbdsl.artifact.record import read_record
from lbdsl.model.safetensors_header import read_safetensors_header
from lbdsl.session.options import RunOptions
from tests.clean_process import LBDSL, CleanProcess
from tests.family_cases import family_base
from tests.pipeline.test_kill import APPLY, DRIVER, LESS, finish, nothing_or_whole
from tests.pipeline.test_processes import assert_alike, free_port, scores
from tests.tiny_model import byte_tokenizer

RECIPE = """lbr 1
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
lowest 1 by kl(swa(window=8, sinks=2)) swa(window=8, sinks=2)
layers 2 drop
layers all experts(4)
modules "*.experts.*" quantize(bits=4)
heal { data = "builtin:pydoc"; tokens = 1024; seq = 64; batch = 2; lr = 2e-3; method = lora(rank=4, alpha=8) }
eval { data = "builtin:pydoc"; tokens = 256; seq = 64 }
assert ppl_increase < 1000%
"""
FAMILIES = "qwen3_moe", "mixtral", "olmoe", "granitemoe"
MOMENTS = {
    "taking statistics": ("lbdsl.measure.statistics:keep_value", "after", 2),
    "writing a checkpoint": ("lbdsl.heal.loop:save_state", "before", 1),
    "quantizing": ("lbdsl.packing:packed", "after", 3),
}


def place_of(family: str, folder: Path) -> Path:
    sizes = {"vocab_size": 260, "initializer_range": 0.1, "intermediate_size": 64, "moe_intermediate_size": 64}
    family_base(family, **sizes).save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    names = read_safetensors_header(folder / "model" / "model.safetensors")
    assert any("experts.5." in info.name or "input_linear" in info.name for info in names), "as on the hub"
    (folder / "tiny.lbr").write_text(RECIPE)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_killed_and_resumed_and_by_two_processes(
    family: str, tmp_path: Path, clean_process: CleanProcess, new_cache: Callable[[Path], Path]
) -> None:
    assert_whole(place_of(family, tmp_path), MOMENTS.values(), clean_process, new_cache)


def assert_whole(
    place: Path,
    moments: Iterable[tuple[str, str, int]],
    clean_process: CleanProcess,
    new_cache: Callable[[Path], Path],
) -> None:
    """Killed at each of these moments and resumed, and by two processes, it gives what it gives undisturbed."""
    whole = {"LBDSL_CACHE_DIR": new_cache(place / "whole")}
    done = clean_process.run(LESS + LBDSL, *APPLY, cwd=place, **whole)
    assert done.returncode == 0, done.stderr[-3000:]
    unbroken = read_record(place / "out").unwrap().files
    (place / "out").rename(place / "one")

    cache = new_cache(place / "cache")
    for moment in moments:
        killed = clean_process.run(DRIVER, *moment, *APPLY, "--resume", cwd=place, LBDSL_CACHE_DIR=cache)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
        assert not nothing_or_whole(place)
    assert finish(place, cache, clean_process) == unbroken

    other = {"LBDSL_CACHE_DIR": new_cache(place / "other")}
    ranks = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    processes = [{**ranks, **other, "RANK": rank, "LOCAL_RANK": rank} for rank in range(2)]
    words = [word if word != "out" else "two" for word in APPLY]
    together = clean_process.together(LESS + LBDSL, *words, cwd=place, processes=processes)
    assert [done.returncode for done in together] == [0, 0], together
    assert scores(place / "one") == scores(place / "two")
    assert_alike(place / "one", str(place / "two"))


CHOOSE = """lbr 1
measure { data = "builtin:pydoc"; tokens = 256; seq = 64; tries = 6 }
choose for layers all among keep, swa(window=8), experts(3), swa(window=8) + experts(3), drop
  minimizing kl
  subject to weights <= 75%, kv(64) <= 60%
else keep
"""


@pytest.mark.torch
def test_experts_and_windows_are_chosen_under_both_budgets(tmp_path: Path, new_cache: Callable[[Path], Path]) -> None:
    """The plan keeps both, and is the best of those that were measured."""
    family_base("olmoe", vocab_size=260, initializer_range=0.1).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "r.lbr").write_text(CHOOSE)
    options = RunOptions(cache_dir=new_cache(tmp_path / "cache"))
    plan = lbdsl.plan_recipe(tmp_path / "r.lbr", str(tmp_path / "model"), options=options).plan
    assert plan.after.weights <= 0.75 * plan.before.weights
    assert plan.after.kv_bytes["64"] <= 0.6 * plan.before.kv_bytes["64"]
    taken = {action.kind for layer in plan.layers for action in layer.changing}
    assert {"experts", "swa"} <= taken
