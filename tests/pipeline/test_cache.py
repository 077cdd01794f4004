"""`cache(fp8)` from a recipe to what loads and serves it: one cache, as planned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lbdsl.api.planning import plan_recipe
from lbdsl.artifact.restore import load_artifact
from lbdsl.core.diagnostic import LbdslError
from lbdsl.export import exporters
from lbdsl.export.base import subject_of
from lbdsl.export.reasons import cache_words
from lbdsl.model.hybrid.lbdsl_cache import cache_storage_bytes
from lbdsl.session.exporting import export_artifact
from lbdsl.session.options import RunOptions
from lbdsl.session.targets import check_target
from tests.clean_process import CleanProcess
from tests.export_cases import small_tokenizer
from tests.hybrid_cases import cache_of
from tests.pipeline.test_quantize import HEAL, applied, saved
from tests.tiny_model import save_tiny_model

SCHEME = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
EVERYWHERE = """lbr 1
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
layers 1, 2 swa(window=24, sinks=learned) + cache(fp8)
layers all cache(fp8)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_model(tmp_path_factory.mktemp("cache") / "model")
    small_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, new_cache: Callable[[Path], Path]) -> None:
    new_cache(tmp_path / "cache")


ALONE = """
import sys
sys.modules["lbdsl"] = None
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("out", trust_remote_code=True).eval()
with torch.no_grad():
    torch.save(model(input_ids=torch.load("ids.pt")).logits, "logits.pt")
"""


@pytest.mark.parametrize("heal", ["", HEAL])
def test_from_a_recipe_to_what_loads_it(heal: str, model: Path, tmp_path: Path, clean_process: CleanProcess) -> None:
    from lbdsl.session.texts import joint_blocks

    weights = 'modules "*.mlp.*" quantize(form=fp8)\n'
    planned, done = applied(EVERYWHERE + weights + heal, model, tmp_path)
    plan = planned.plan
    assert {layer.marks["cache"].sign for layer in plan.layers} == {"f"}
    # Half or a quarter of each number: the tiny model is of float32.
    assert plan.after.kv_bytes["512"] == sum(2 * 2 * 8 * (24 if i in (1, 2) else 512) for i in range(6))
    ours = load_artifact(done.folder, plan, device="cpu")
    blocks = joint_blocks(plan.measure, planned.bench, tmp_path)
    with torch.no_grad():
        out = ours(input_ids=blocks.ids[:1], use_cache=True)
        assert cache_storage_bytes(cache_of(out)) == sum(2 * 2 * 8 * (24 if i in (1, 2) else 64) for i in range(6))
        torch.save(blocks.ids[:1], tmp_path / "ids.pt")
        alone = clean_process.run(ALONE, cwd=tmp_path, HF_MODULES_CACHE=tmp_path / "modules")
        assert alone.returncode == 0, alone.stderr[-2000:]
        assert torch.equal(torch.load(tmp_path / "logits.pt"), out.logits)
        if not heal:
            loss = ours(input_ids=blocks.ids, labels=blocks.ids).loss
            rise = loss - planned.bench.base(input_ids=blocks.ids, labels=blocks.ids).loss
            assert plan.loss.rise.value == pytest.approx(rise.item(), abs=1e-5)
            streamed = applied(EVERYWHERE + weights, model, tmp_path, "streamed", low_memory=True)[1].folder
            first, second = saved(done.folder), saved(streamed)
            assert first.keys() == second.keys()
            assert all(torch.equal(first[name].view(torch.uint8), second[name].view(torch.uint8)) for name in first)


def test_what_engines_are_told(model: Path, tmp_path: Path) -> None:
    _, done = applied(EVERYWHERE, model, tmp_path)
    assert "quantization_config" not in json.loads((done.folder / "config.json").read_text())
    for to in ("granite", "vllm"):
        folder = export_artifact(done.folder, to, output=tmp_path / to).folder
        entry = json.loads((folder / "config.json").read_text())["quantization_config"]
        assert (entry["kv_cache_scheme"], entry["config_groups"]) == (SCHEME, {})
    gguf = export_artifact(done.folder, "gguf", output=tmp_path / "gguf")
    assert any(d.code == "LB532" and "-ctk q8_0 -ctv q8_0" in " ".join(d.help) for d in gguf.diagnostics)
    _, plain = applied(EVERYWHERE.replace("swa(window=24, sinks=learned) + ", ""), model, tmp_path, "plain")
    with pytest.raises(LbdslError, match="keeps its cache in the model's dtype"):
        export_artifact(plain.folder, "native", output=tmp_path / "native")


def test_a_layer_with_a_cache_of_its_own_is_named(model: Path, tmp_path: Path) -> None:
    """Layers that are gone are not counted where the others are renumbered."""
    recipe = tmp_path / "r.lbr"
    recipe.write_text("layers 0 drop(block)\nlayers 2, 5 keep\nlayers all cache(fp8)\n")
    plan = plan_recipe(recipe, str(model), options=RunOptions(cache_dir=tmp_path / "cache")).plan
    config = json.loads((model / "config.json").read_text())
    for to, told in {"granite": "1 4", "vllm": "2 5"}.items():
        subject = subject_of(config, plan.model.facts, plan.specs)
        found = [d for d in exporters()[to].check(subject) if d.code == "LB532"]
        assert len(found) == 2
        assert f"--kv-cache-dtype-skip-layers {told}`" in " ".join(found[0].help)
        assert cache_words(subject, exporters()[to].layers(subject))[-2:] == told.split()
        assert not subject.quantization()
        # On a CPU vLLM computes one kind alone.
        on_cpu = [d for d in exporters()[to].check(replace(subject, capability=0.0)) if d.is_error]
        assert [d.code for d in on_cpu] == ["LB532"]
    assert check_target(subject, "vllm").cache is None


TOGETHER = """lbr 1
measure { data = "builtin:pydoc"; tokens = 512; seq = 64; tries = 12 }
choose for layers all
  among keep, swa(window=24, sinks=learned) + cache(fp8), swa(window=24, full_heads=1), kv_heads(1) + cache(fp8),
    quantize(form=fp8) + cache(fp8)
  minimizing kl
  subject to kv(512) <= 40%, weights <= 80%, serves("vllm+lbdsl")
"""


@pytest.mark.slow
def test_everything_is_chosen_together(model: Path, tmp_path: Path) -> None:
    """Under two budgets at once: what is planned is what the changed model takes, and the plug-in serves it."""
    planned, done = applied(TOGETHER, model, tmp_path)
    plan = planned.plan
    found = [spec.mixer for spec in plan.specs]
    assert any(mixer.cache for mixer in found)
    assert any(spec.weights for spec in plan.specs)
    assert plan.after.kv_bytes["512"] <= 0.4 * plan.before.kv_bytes["512"]
    assert plan.after.weights <= 0.8 * plan.before.weights
    assert sum(tensor.nbytes for tensor in saved(done.folder).values()) == plan.after.weights
    ours = load_artifact(done.folder, plan, device="cpu")
    with torch.no_grad():
        out = ours(input_ids=torch.arange(512)[None] % 260, use_cache=True)
    assert cache_storage_bytes(cache_of(out)) == plan.after.kv_bytes["512"]
    assert (export_artifact(done.folder, "vllm", output=tmp_path / "vllm").folder / "config.json").is_file()
