"""A kind of storage from outside, and the action that sets it: planned by module, measured, healed, saved and loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clean_process import CleanProcess, Done

pytestmark = pytest.mark.torch
PLUG_IN = Path(__file__).with_name("scale_modules.py")

RECIPE = """measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
modules "*.MAP" in layers 1-3 test_scale(factor=0.25)
lowest 1 of rest by kl(test_scale(factor=0.5)) drop
else keep
eval { data = "builtin:pydoc"; tokens = 256; seq = 64 }
"""
MAPS = {"k_proj": "self_attn.k_proj", "down_proj": "mlp.down_proj"}
HEAL = 'heal { data = "builtin:pydoc"; tokens = 512; seq = 64; batch = 2; method = lora(rank=2, alpha=4) }\n'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, new_cache: Callable[[Path], Path]) -> Path:
    """A folder with a tiny model, and a recipe for each map."""
    from tests.tiny_model import save_tiny_model

    folder = tmp_path_factory.mktemp("storage")
    save_tiny_model(folder / "model")
    new_cache(folder / "cache")
    for name in MAPS:
        (folder / f"{name}.lbr").write_text(RECIPE.replace("MAP", name))
    return folder


@pytest.fixture(scope="module")
def lbdsl(place: Path, clean_process: CleanProcess) -> Callable[..., Done]:
    def run(*words: str, cache: str = "cache") -> Done:
        return clean_process.lbdsl(*words, cwd=place, LBDSL_CACHE_DIR=place / cache, LBDSL_PLUGINS=PLUG_IN)

    return run


@pytest.fixture(scope="module")
def plans(place: Path, lbdsl: Callable[..., Done]) -> dict[str, dict]:
    """The plan of each recipe, as JSON; saved as `<map>.lbplan`, too."""
    found = {}
    for name in MAPS:
        done = lbdsl("plan", f"{name}.lbr", "model", "-o", f"{name}.lbplan", "--json")
        assert done.returncode == 0, done.stderr
        found[name] = json.loads(done.stdout)
    return found


def test_plans_that_differ_only_in_their_modules_are_two(plans: dict[str, dict]) -> None:
    """One cache for both: the second joint loss is not that of the first."""
    one, other = plans.values()
    assert one["digest"] != other["digest"]
    assert one["loss"]["scores"]["nll"]["value"] != other["loss"]["scores"]["nll"]["value"]
    for name, plan in plans.items():
        stored = {MAPS[name]: {"kind": "test_scaled", "factor": 0.25}}
        assert [layer["after"]["weights"] for layer in plan["layers"]] == [{}, stored, stored, stored, {}, {}]
        assert plan["after"]["params"] < plan["before"]["params"]


def test_measured_from_disk_it_is_the_same(
    place: Path, lbdsl: Callable[..., Done], plans: dict[str, dict], new_cache: Callable[[Path], Path]
) -> None:
    new_cache(place / "streamed")
    done = lbdsl("plan", "k_proj.lbr", "model", "--json", "--low-memory", cache="streamed")
    assert done.returncode == 0, done.stderr
    streamed = json.loads(done.stdout)
    for field in ("digest", "layers", "loss"):
        assert streamed[field] == plans["k_proj"][field]


REFERENCE = """
import sys
sys.modules["lbdsl"] = None
import json, torch
from transformers import AutoModelForCausalLM
path, dropped = sys.argv[1], int(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained("model").eval()
layers = model.model.layers
for layer in layers[1:4]:
    layer.get_submodule(path).register_forward_hook(lambda _m, _i, out: 0.25 * out)
layers[dropped].self_attn.register_forward_hook(lambda _m, _i, out: (torch.zeros_like(out[0]), None))
loaded = AutoModelForCausalLM.from_pretrained("out", trust_remote_code=True).eval()
ids = torch.arange(60)[None]
with torch.no_grad():
    assert torch.equal(loaded(ids).logits, model(ids).logits)
loaded.save_pretrained("again")
with torch.no_grad():
    again = AutoModelForCausalLM.from_pretrained("again", trust_remote_code=True).eval()
    assert torch.equal(again(ids).logits, model(ids).logits)
"""


@pytest.mark.parametrize("name", MAPS)
def test_an_artifact_loads_without_lbdsl_and_gives_what_hooks_give(
    place: Path, lbdsl: Callable[..., Done], plans: dict[str, dict], clean_process: CleanProcess, name: str
) -> None:
    done = lbdsl("apply", f"{name}.lbplan", "-o", "out", "--force")
    assert done.returncode == 0, done.stderr
    assert "rewriting the checkpoint" in done.stderr
    assert (place / "out" / "lbdsl_part_test_scaled.py").is_file()
    dropped = next(layer["index"] for layer in plans[name]["layers"] if layer["after"]["mixer"] is None)
    shutil.rmtree(place / "again", ignore_errors=True)
    done = clean_process.run(REFERENCE, MAPS[name], dropped, cwd=place, HF_MODULES_CACHE=place / f"modules-{name}")
    assert done.returncode == 0, done.stderr[-3000:]
    judged = [lbdsl("eval", "out", "--json", *words) for words in ((), ("--low-memory",))]
    assert [found.returncode for found in judged] == [0, 0], judged[0].stderr
    assert json.loads(judged[0].stdout) == json.loads(judged[1].stdout)


@pytest.mark.slow
def test_an_artifact_is_changed_again(place: Path, lbdsl: Callable[..., Done]) -> None:
    (place / "first.lbr").write_text('modules "*.k_proj" in layers 1-3 test_scale(factor=0.25)\n')
    assert lbdsl("apply", "first.lbr", "model", "-o", "first", "--yes").returncode == 0
    (place / "second.lbr").write_text('modules "*.k_proj" in layers 3-4 test_scale(factor=0.5)\nlayers 2 drop\n')
    done = lbdsl("apply", "second.lbr", "first", "-o", "second", "--yes", "--again")
    assert done.returncode == 0, done.stderr
    layers = json.loads((place / "second" / "config.json").read_text())["lbdsl"]["layers"]
    factors = [layer["weights"].get("self_attn.k_proj", {}).get("factor") for layer in layers]
    assert factors == [None, 0.25, None, 0.5, 0.5, None]
    assert layers[2] == {**layers[0], "mixer": None}


HEALED = """
import sys, torch
from pathlib import Path
from lbdsl.core.diagnostic import LbdslError
from lbdsl.heal import heal
from lbdsl.heal.changed import segments
from lbdsl.heal.teacher import LoadedTeacher
from lbdsl.heal.text import HealingText
from lbdsl.recipe.schema import FullWeights, Lora
from lbdsl.recipe.schema_blocks import Stage
from tests.hybrid_cases import FULL, hybrid_of, tiny_base

stored = {"kind": "test_scaled", "factor": 0.25}
scaled = {**FULL, "weights": {"self_attn.k_proj": stored, "mlp.up_proj": stored}}
ids = torch.randint(1, 101, (8, 16), generator=torch.Generator().manual_seed(1))
merge, trained = heal.merged, []

def watched(model, dtype):
    with torch.no_grad():
        trained.append(model.eval()(input_ids=ids).logits)
    return merge(model, dtype)

heal.merged = watched

def healed(specs, method):
    student, teacher = hybrid_of(tiny_base(), specs), hybrid_of(tiny_base(), [FULL] * 4)
    block = Stage(tokens=8 * 16, seq=16, batch=2, lr=5e-3, method=method)
    folder = Path(sys.argv[1], type(method).__name__ + str(len(trained)))
    run = heal.HealRun(block, LoadedTeacher(teacher), HealingText(ids), segments(student, teacher), folder)
    model, _ = heal.heal_model(student, run, lambda *words: None)
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, trained[-1], atol=1e-4), "what was trained is not what is saved"
    before = dict(hybrid_of(tiny_base(), specs).named_parameters())
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}

def of_scaled(names):
    return [name for name in names if "layers.1." in name and ("k_proj" in name or "up_proj" in name)]

specs = [FULL, scaled, FULL, FULL]
adapted = healed(specs, Lora(rank=2, alpha=4))
assert not of_scaled(adapted) and "model.layers.1.self_attn.q_proj.weight" in adapted, adapted
assert len(of_scaled(healed(specs, FullWeights()))) == 2
every = {**FULL, "weights": {name + "_proj": stored for name in
         ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")}}
try:
    healed([every] * 4, Lora(rank=2, alpha=4))
except LbdslError as problem:
    assert [d.code for d in problem.diagnostics] == ["LB484"]
else:
    raise SystemExit("LoRA found something to train")
"""


def test_healing_trains_what_is_saved(tmp_path: Path, clean_process: CleanProcess) -> None:
    done = clean_process.run(HEALED, tmp_path, cwd=tmp_path, LBDSL_PLUGINS=PLUG_IN)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_a_healed_artifact(place: Path, lbdsl: Callable[..., Done]) -> None:
    (place / "healed.lbr").write_text(RECIPE.replace("MAP", "k_proj") + HEAL)
    done = lbdsl("apply", "healed.lbr", "model", "-o", "healed", "--yes")
    assert done.returncode == 0, done.stderr
    assert lbdsl("eval", "healed").returncode == 0
