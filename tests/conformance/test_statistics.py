"""A statistic and an action from outside, in one file: taken on the base, the same from memory and from disk, named in the
plan, and refused where it is not what was planned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clean_process import CleanProcess, Done

pytestmark = pytest.mark.torch
PLUG_IN = Path(__file__).with_name("new_weights.py")
RECIPE = """measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
layers 0-1 test_loud_channels(n=32)
lowest 1 of rest by kl(test_loud_channels(n=16)) test_loud_channels(n=16)
else keep
"""
# What goes into the last map of each MLP, from a stock model, on the text that the plan says.
REFERENCE = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from lbdsl.session.options import RunOptions
from lbdsl.session.texts import score_blocks
from lbdsl.session.model import OpenModel
from lbdsl.plan.file import load_plan
plan = load_plan(Path("r.lbplan")).unwrap()
blocks = score_blocks(plan.measure, OpenModel("model", RunOptions()), Path("."))
model = AutoModelForCausalLM.from_pretrained("model").eval()
base, made = load_file("model/model.safetensors"), load_file(sys.argv[1] + "/model.safetensors")
sizes = {}
for i, layer in enumerate(model.model.layers):
    def seen(module, inputs, i=i): sizes[i] = sizes.get(i, 0) + inputs[0].double().abs().flatten(0, 1).sum(0)
    layer.mlp.down_proj.register_forward_pre_hook(seen)
with torch.no_grad():
    for row in blocks.ids:
        model(row.unsqueeze(0))
wrong = []
for i, layer in enumerate(plan.layers):
    width = layer.after.ffn.width
    kept = sizes[i].topk(width).indices.sort().values
    for name, axis in (("gate", 0), ("up", 0), ("down", 1)):
        full = f"model.layers.{i}.mlp.{name}_proj.weight"
        if not torch.equal(made[full], base[full].index_select(axis, kept)): wrong.append(full)
print(json.dumps(wrong))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, new_cache: Callable[[Path], Path]) -> Path:
    from tests.tiny_model import save_tiny_model

    folder = tmp_path_factory.mktemp("statistics")
    save_tiny_model(folder / "model")
    for cache in ("cache", "streamed"):
        new_cache(folder / cache)
    (folder / "r.lbr").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def lbdsl(place: Path, clean_process: CleanProcess) -> Callable[..., Done]:
    def run(*words: str, cache: str = "cache") -> Done:
        return clean_process.lbdsl(*words, cwd=place, LBDSL_CACHE_DIR=place / cache, LBDSL_PLUGINS=PLUG_IN)

    return run


@pytest.fixture(scope="module")
def plan(lbdsl: Callable[..., Done]) -> dict:
    done = lbdsl("plan", "r.lbr", "model", "-o", "r.lbplan", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_plan_names_it(plan: dict) -> None:
    assert list(plan["statistics"]) == ["test_loudness"]
    assert len(plan["statistics"]["test_loudness"]) == 64
    assert plan["measured_on"]["tokens"] == 256


def test_taken_from_disk_it_is_the_same(lbdsl: Callable[..., Done], plan: dict) -> None:
    streamed = json.loads(lbdsl("plan", "r.lbr", "model", "--json", "--low-memory", cache="streamed").stdout)
    for field in ("digest", "statistics", "layers", "loss"):
        assert streamed[field] == plan[field]


def test_the_right_channels_are_kept(
    place: Path, lbdsl: Callable[..., Done], plan: dict, clean_process: CleanProcess
) -> None:
    assert lbdsl("apply", "r.lbplan", "-o", "out", "--yes").returncode == 0
    done = clean_process.run(REFERENCE, "out", cwd=place, LBDSL_CACHE_DIR=place / "cache", LBDSL_PLUGINS=PLUG_IN)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_an_edited_or_missing_one_makes_the_plan_stale(place: Path, lbdsl: Callable[..., Done], plan: dict) -> None:
    from safetensors.torch import load_file, save_file

    kept = next((place / "cache" / "statistics").rglob("0.safetensors"))
    save_file({"value": -load_file(kept)["value"]}, kept)
    edited = lbdsl("apply", "r.lbplan", "-o", "other", "--yes")
    assert edited.returncode == 3
    assert "the calibration statistic test_loudness is another one than when planned" in " ".join(edited.stderr.split())
    kept.write_bytes(b"no such file")
    damaged = lbdsl("apply", "r.lbplan", "-o", "other", "--yes")
    assert damaged.returncode == 3
    assert "is not in the cache folder" in " ".join(damaged.stderr.split())
    kept.unlink()
    assert lbdsl("apply", "r.lbplan", "-o", "other", "--yes").returncode == 3
    again = json.loads(lbdsl("plan", "r.lbr", "model", "--json").stdout)
    assert again["digest"] == plan["digest"]
    assert not (place / "other").exists()
