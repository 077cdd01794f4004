"""Actions from outside that make weights from old ones: planned exactly, scored, applied in memory and by rewriting files,
healed, saved and loaded; bit for bit the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clean_process import CleanProcess, Done

pytestmark = pytest.mark.torch
PLUG_IN = Path(__file__).with_name("new_weights.py")

RECIPE = """measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
layers 0 test_mean_heads(n=1)
layers 1-2 test_mean_heads(n=1) + test_first_channels(n=32)
layers 2 swa(window=8)
layers 3 drop + test_first_channels(n=48)
layers 4 test_squared
lowest 1 of rest by kl(test_first_channels(n=16)) test_first_channels(n=16)
else keep
"""
HEAL = 'heal { data = "builtin:pydoc"; tokens = 512; seq = 64; batch = 2; method = lora(rank=2, alpha=4) }\n'
# A head of 8 rows; 32 of 64 channels.
REFERENCE = """
import json, sys
import torch
from safetensors.torch import load_file
base, made = load_file("model/model.safetensors"), load_file(sys.argv[1] + "/model.safetensors")
def layer(i, name): return f"model.layers.{i}.{name}.weight"
expected = dict(base)
for i in (0, 1, 2):
    for name in ("self_attn.k_proj", "self_attn.v_proj"):
        expected[layer(i, name)] = base[layer(i, name)].double().view(2, 8, 32).mean(0).float()
for i, width in ((1, 32), (2, 32), (3, 48), (5, 16)):
    for name in ("mlp.gate_proj", "mlp.up_proj"):
        expected[layer(i, name)] = base[layer(i, name)][:width]
    expected[layer(i, "mlp.down_proj")] = base[layer(i, "mlp.down_proj")][:, :width]
for name in list(expected):
    if name.startswith(("model.layers.3.self_attn", "model.layers.3.input_layernorm")): del expected[name]
o = base[layer(4, "self_attn.o_proj")].double()
expected[layer(4, "self_attn.o_proj")] = (o @ o).float()
assert set(made) == set(expected), set(made) ^ set(expected)
wrong = [name for name in made if made[name].shape != expected[name].shape or not torch.equal(made[name], expected[name])]
print(json.dumps([wrong, sum(t.numel() for t in made.values())]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, new_cache: Callable[[Path], Path]) -> Path:
    from tests.tiny_model import save_tiny_model

    folder = tmp_path_factory.mktemp("weights")
    save_tiny_model(folder / "model")
    for cache in ("cache", "streamed"):
        new_cache(folder / cache)
    (folder / "r.lbr").write_text(RECIPE)
    (folder / "healed.lbr").write_text(RECIPE + HEAL)
    return folder


@pytest.fixture(scope="module")
def lbdsl(place: Path, clean_process: CleanProcess) -> Callable[..., Done]:
    def run(*words: str, cache: str = "cache") -> Done:
        done = clean_process.lbdsl(*words, cwd=place, LBDSL_CACHE_DIR=place / cache, LBDSL_PLUGINS=PLUG_IN)
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def plan(lbdsl: Callable[..., Done]) -> dict:
    return json.loads(lbdsl("plan", "r.lbr", "model", "-o", "r.lbplan", "--json").stdout)


def test_the_plan_says_what_is_made(plan: dict) -> None:
    assert [layer["new_weights"] for layer in plan["layers"]][4] == ["self_attn.o_proj.weight"]
    assert plan["layers"][1]["changes"] == {"mixer.kv_heads": [2, 1], "ffn.width": [64, 32]}
    assert plan["layers"][4]["changes"] == {}
    assert plan["layers"][5]["after"]["ffn"]["width"] == 16


def test_written_without_loading_it_is_what_plain_torch_makes(
    place: Path, lbdsl: Callable[..., Done], plan: dict, clean_process: CleanProcess
) -> None:
    lbdsl("apply", "r.lbplan", "-o", "out", "--yes")
    done = clean_process.run(REFERENCE, "out", cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], plan["after"]["params"]]


def test_the_terminal_names_new_weights_that_change_nothing_else(lbdsl: Callable[..., Done], plan: dict) -> None:
    lines = lbdsl("plan", "r.lbr", "model", "--all").stdout.splitlines()
    assert [line for line in lines if "new weights of self_attn.o_proj" in line and "layer 4" in line]
    assert not [line for line in lines if "new weights of" in line and "layer 4" not in line]


def test_measured_from_disk_it_is_the_same(lbdsl: Callable[..., Done], plan: dict) -> None:
    streamed = json.loads(lbdsl("plan", "r.lbr", "model", "--json", "--low-memory", cache="streamed").stdout)
    for field in ("digest", "layers", "loss"):
        assert streamed[field] == plan[field]


def test_it_is_healed(place: Path, lbdsl: Callable[..., Done], plan: dict) -> None:
    lbdsl("apply", "healed.lbr", "model", "-o", "healed", "--yes")
    record = json.loads((place / "healed" / "lbdsl.json").read_text())
    assert record["heal"]["tokens"] == 512
    assert record["plan"]["after"]["params"] == plan["after"]["params"]
