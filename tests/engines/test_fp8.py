"""8-bit floats in vLLM on a CPU: weights and inputs map by map, and the cache, which it cuts off where we round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lbdsl.api.planning import Planned
from lbdsl.artifact.restore import load_artifact
from lbdsl.model.hybrid import lbdsl_fp8_cache
from lbdsl.session.exporting import export_artifact
from tests.engines.test_vllm import (
    SHAPE,
    check_capacity,
    check_that_windows_count,
    compare,
    layout_of,
    on_cpu,
    random_prompts,
)
from tests.engines.vllm_side import install_plugin, serve
from tests.family_cases import family_base
from tests.pipeline.test_quantize import applied
from tests.tiny_model import byte_tokenizer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800), pytest.mark.usefixtures("all_cores")]

MEASURE = 'measure { data = "builtin:pydoc"; tokens = 512; seq = 128 }\n'


def made(recipe: str, folder: Path) -> tuple[Planned, Path]:
    base = folder / "base"
    family_base("llama", **SHAPE).save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    planned, done = applied(MEASURE + recipe, base, folder)
    return planned, done.folder


def cut_off(states: torch.Tensor) -> torch.Tensor:
    """To the next number of E4M3 towards 0."""
    near = states.clamp(-448, 448).to(torch.float8_e4m3fn)
    beyond = near.to(states.dtype).abs() > states.abs()
    return (near.view(torch.uint8) - beyond.to(torch.uint8)).view(torch.float8_e4m3fn)


@contextmanager
def as_vllm_on_a_cpu() -> Iterator[None]:
    ours = lbdsl_fp8_cache.to_e4m3
    lbdsl_fp8_cache.to_e4m3 = cut_off
    try:
        yield
    finally:
        lbdsl_fp8_cache.to_e4m3 = ours


@pytest.mark.parametrize("to", ["granite", "vllm"])
def test_the_cache_is_as_planned(to: str, tmp_path: Path) -> None:
    """By the configuration alone: twice the capacity, and the tokens of a model that cuts off."""
    rules = "layers 1, 3, 4 swa(window=40, sinks=learned) + cache(fp8)\nelse cache(fp8)\n"
    planned, folder = made(rules, tmp_path)
    exported = export_artifact(folder, to, output=tmp_path / to).folder
    plugin = install_plugin(tmp_path / "plugin") if to == "vllm" else None
    prompts = random_prompts(3, 41, 90, 300)
    served = serve(exported, prompts, tmp_path, dtype="float32", max_model_len=512, plugin=plugin)
    check_capacity(f"fp8 cache, {to}", served, layout_of(folder), on_cpu(512))
    model = load_artifact(folder, planned.plan, device="cpu")
    with as_vllm_on_a_cpu():
        assert compare(f"fp8 cache, {to}", model, prompts, served, tie=1e-2) >= len(prompts) - 1
        check_that_windows_count(model, prompts, served)


def test_an_artifact_that_was_not_exported_is_refused_with_its_reason(tmp_path: Path) -> None:
    _, folder = made("layers all cache(fp8)\n", tmp_path)
    plugin = install_plugin(tmp_path / "plugin")
    served = serve(folder, [[1, 2, 3]], tmp_path, dtype="float32", max_model_len=512, plugin=plugin, expect=1)
    assert "its cache is of 8-bit floats: serve what `lbdsl export --to vllm` writes" in served.log
