"""An action from outside that makes weights of another shape from old ones is one file and its runtime file:
`examples/low_rank`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clean_process import CleanProcess, Done

pytestmark = pytest.mark.torch
EXAMPLE = Path(__file__).parents[2] / "examples" / "low_rank" / "low_rank.py"

# The same surgery on a stock model, whose maps stay whole; the artifact is loaded where lbdsl is not installed.
REFERENCE = """
import json, sys
sys.modules["lbdsl"] = None
import torch
from transformers import AutoModelForCausalLM
plan = json.load(open("out/lbdsl.json"))["plan"]
base = AutoModelForCausalLM.from_pretrained("model").eval()
made = AutoModelForCausalLM.from_pretrained("out", trust_remote_code=True).eval()
changed = [layer["index"] for layer in plan["layers"] if layer["after"]["ffn"]["kind"] == "low_rank_mlp"]
for i in changed:
    for name in ("gate_proj", "up_proj", "down_proj"):
        weight = getattr(base.model.layers[i].mlp, name).weight.data
        u, s, v = torch.linalg.svd(weight.double())
        getattr(base.model.layers[i].mlp, name).weight.data = ((u[:, :16] * s[:16]) @ v[:16]).float()
ids = torch.randint(0, 256, (2, 50), generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    difference = (base(input_ids=ids).logits - made(input_ids=ids).logits).abs().max().item()
generated = made.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0).shape[1]
print(json.dumps([changed, difference, sum(p.numel() for p in made.parameters()), plan["after"]["params"], generated]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, new_cache: Callable[[Path], Path]) -> Path:
    from tests.tiny_model import save_tiny_model

    folder = tmp_path_factory.mktemp("low_rank")
    save_tiny_model(folder / "model")
    new_cache(folder / "cache")
    return folder


@pytest.fixture(scope="module")
def lbdsl(place: Path, clean_process: CleanProcess) -> Callable[..., Done]:
    def run(*words: str) -> Done:
        return clean_process.lbdsl(*words, cwd=place, LBDSL_CACHE_DIR=place / "cache", LBDSL_PLUGINS=EXAMPLE)

    return run


def test_it_is_planned_applied_and_loaded(place: Path, lbdsl: Callable[..., Done], clean_process: CleanProcess) -> None:
    recipe = str(EXAMPLE.with_suffix(".lbr"))
    checked = lbdsl("check", recipe)
    assert checked.returncode == 0, checked.stderr
    planned = lbdsl("plan", recipe, "model", "-o", "x.lbplan", "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["changes"] == {"with low_rank_mlp": 2}
    applied = lbdsl("apply", "x.lbplan", "-o", "out", "--yes")
    assert applied.returncode == 0, applied.stderr
    done = clean_process.run(REFERENCE, cwd=place, HF_MODULES_CACHE=place / "modules")
    assert done.returncode == 0, done.stderr
    changed, difference, params, planned_params, generated = json.loads(done.stdout)
    assert len(changed) == 2
    assert difference < 1e-5
    assert params == planned_params
    assert generated == 55


@pytest.mark.parametrize("rule", ["else width(50%)", "lowest 2 by nll(width(50%)) width(50%)\nelse keep"])
def test_what_it_made_is_not_narrowed(place: Path, lbdsl: Callable[..., Done], rule: str) -> None:
    """`width` makes new weights of a gated MLP's matrices; a part of another kind with a field of that name has none."""
    if not (place / "out").exists():
        made = lbdsl("apply", str(EXAMPLE.with_suffix(".lbr")), "model", "-o", "out", "--yes")
        assert made.returncode == 0, made.stderr
    (place / "narrow.lbr").write_text(f"measure {{ tokens = 256; seq = 64 }}\n{rule}\n")
    done = lbdsl("plan", "narrow.lbr", "out", "--again")
    said = " ".join(done.stderr.split())
    assert done.returncode == 6, said
    assert "error[LB404]" in said
    assert "`width(channels=50%)` cannot change an MLP of the kind `low_rank_mlp`" in said
    plan = json.loads((place / "out" / "lbdsl.json").read_text())["plan"]
    whole = [str(layer["index"]) for layer in plan["layers"] if layer["after"]["ffn"]["kind"] == "gated_mlp"]
    (place / "whole.lbr").write_text(
        f"measure {{ tokens = 256; seq = 64 }}\nlayers {', '.join(whole)} width(50%)\nelse keep\n"
    )
    done = lbdsl("plan", "whole.lbr", "out", "--again", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["changes"] == {"narrower": len(whole)}


WINDOWED = """
import sys
from dataclasses import replace
from typing import ClassVar, Literal
from lbdsl.actions.swa import SlidingWindow
from lbdsl.model.inspect import inspect_model
from lbdsl.model.source import resolve_source
from lbdsl.parts import Part, Slot

class Recent(Part):
    slot: ClassVar[Slot] = Slot.MIXER
    kind: Literal["recent"] = "recent"
    window: int = 4

facts = inspect_model(resolve_source(sys.argv[1]), "float32").unwrap()
spec = facts.layer_specs[0].replace(mixer=Recent())
facts, action = replace(facts, layer_specs=(spec, *facts.layer_specs[1:])), SlidingWindow(window=8)
(found,) = action.check(facts, 0)
print(found.code, found.message)
assert action.change(spec, ()) == spec
assert not action.check(facts, 1)
"""


def test_what_has_a_window_of_its_own_gets_no_other(place: Path, clean_process: CleanProcess) -> None:
    done = clean_process.run(WINDOWED, place / "model", cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "LB404 `swa(window=8)` cannot change attention of the kind `recent`\n"


def test_a_rank_that_is_too_high_is_refused(place: Path, lbdsl: Callable[..., Done]) -> None:
    (place / "high.lbr").write_text("layers 1 low_rank(rank=33)\n")
    done = lbdsl("plan", "high.lbr", "model")
    assert (done.returncode, "more than the rank of the MLP's matrices, 32" in " ".join(done.stderr.split())) == (6, True)
