"""An action from outside, with its own mixer and cache, is one file and its runtime file: `examples/meanpool`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clean_process import CleanProcess, Done

EXAMPLE = Path(__file__).parents[2] / "examples" / "meanpool" / "meanpool.py"

IN_PROCESS = """
import sys, torch
from dataclasses import asdict
from pathlib import Path
from lbdsl.actions import actions, Aspect
from lbdsl.artifact.runtime_files import write_runtime
from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME, cache_storage_bytes
from lbdsl.model.inspect import inspect_model
from lbdsl.model.source import resolve_source
from tests.hybrid_cases import cache_of, hybrid_of, tiny_base

base = tiny_base()
base.save_pretrained(sys.argv[1] + "/base")
facts = inspect_model(resolve_source(sys.argv[1] + "/base"), "float32").unwrap()
action = actions()["meanpool"]()
specs = [{"attn": "full"}] * 4
for layer in (0, 2):
    specs[layer] = dict(action.changes(facts, layer)[0].spec)
model = hybrid_of(base, specs)

planned = facts.params - sum(facts.attention_params[i] - action.cost(facts, i)[Aspect.MIXER].params for i in (0, 2))
assert sum(p.numel() for p in model.parameters()) == planned

ids = torch.randint(1, 101, (1, 40))
with torch.no_grad():
    whole = model(input_ids=ids, use_cache=False).logits
    cache, parts = {}, []
    for start in range(0, 40, 3):
        out = model(input_ids=ids[:, start:start + 3], use_cache=True, **cache)
        cache = {CACHE_NAME: cache_of(out)}
        parts.append(out.logits)
        seen = min(start + 3, 40)
        expected = sum(action.cost(facts, i)[Aspect.MIXER].kv_bytes(seen) if i in (0, 2)
                       else facts.layer_kv_bytes_per_token * seen for i in range(4))
        assert cache_storage_bytes(cache_of(out)) == expected, (seen, expected)
assert (torch.cat(parts, 1) - whole).abs().max() < 1e-4
# A row of a left-padded batch equals the row alone.
padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), ids], 1)
mask = torch.cat([torch.zeros(1, 5), torch.ones(1, 40)], 1).long()
with torch.no_grad():
    row = model(input_ids=padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_min(0)).logits[:, 5:]
assert (row - whole).abs().max() < 1e-4

folder = Path(sys.argv[1]) / "saved"
model.save_pretrained(folder)
write_runtime(folder, model.config)
torch.save((ids, whole), sys.argv[1] + "/expected.pt")
"""

WITHOUT_LBDSL = """
import sys
sys.modules["lbdsl"] = None
import torch
from transformers import AutoModelForCausalLM
ids, expected = torch.load(sys.argv[1] + "/expected.pt")
model = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/saved", trust_remote_code=True).eval()
with torch.no_grad():
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, expected)
model.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=0)
"""


def run(clean_process: CleanProcess, script: str, folder: Path) -> None:
    done = clean_process.run(script, folder, cwd=folder, LBDSL_PLUGINS=EXAMPLE, HF_MODULES_CACHE=folder / "modules")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.torch
def test_costs_caches_and_saved_models_are_right(tmp_path: Path, clean_process: CleanProcess) -> None:
    run(clean_process, IN_PROCESS, tmp_path)
    run(clean_process, WITHOUT_LBDSL, tmp_path)
    copied = {path.name for path in (tmp_path / "saved").glob("*.py")}
    assert "lbdsl_mixer_meanpool.py" in copied
    assert "lbdsl_mixer_swa.py" not in copied
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["lbdsl"]["layers"][0] == {"attn": "meanpool"}


def test_without_the_plug_in_it_does_not_exist() -> None:
    from lbdsl.actions import actions

    if os.environ.get("LBDSL_PLUGINS"):
        pytest.fail("tests run without plug-ins")
    assert "meanpool" not in actions()


LIVE = """
import json, sys
sys.modules["lbdsl"] = None
import torch
from transformers import AutoModelForCausalLM
folder = sys.argv[1]
plan = json.load(open(folder + "/out/lbdsl.json"))["plan"]
model = AutoModelForCausalLM.from_pretrained(folder + "/out", trust_remote_code=True).eval()
assert sum(p.numel() for p in model.parameters()) == plan["after"]["params"]
with torch.no_grad():
    out = model(input_ids=torch.randint(0, 256, (1, 100)), use_cache=True)
cache = getattr(out, "cache", None) or out.past_key_values
held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for layer in cache.layers
        for t in vars(layer).values() if isinstance(t, torch.Tensor)}
assert sum(held.values()) == plan["after"]["kv_bytes"]["100"], (held, plan["after"]["kv_bytes"])
"""


@pytest.mark.torch
def test_it_goes_through_check_plan_apply_and_load(
    tmp_path: Path, clean_process: CleanProcess, new_cache: Callable[[Path], Path]
) -> None:
    from tests.tiny_model import save_tiny_model

    def lbdsl(*words: str, plug_in: object = EXAMPLE) -> Done:
        return clean_process.lbdsl(*words, cwd=tmp_path, LBDSL_CACHE_DIR=tmp_path / "cache", LBDSL_PLUGINS=plug_in)

    save_tiny_model(tmp_path / "model")
    new_cache(tmp_path / "cache")
    recipe = str(EXAMPLE.with_suffix(".lbr"))
    unknown = lbdsl("check", recipe, plug_in="")
    assert unknown.returncode == 1
    assert "meanpool" in unknown.stderr + unknown.stdout
    checked = lbdsl("check", recipe)
    assert checked.returncode == 0, checked.stderr + checked.stdout
    planned = lbdsl("plan", recipe, "model", "-o", "x.lbplan", "--ctx", "100", "--json")
    assert planned.returncode == 0, planned.stderr
    assert [layer["attn"] for layer in json.loads(planned.stdout)["layers"]].count("meanpool") == 2
    applied = lbdsl("apply", "x.lbplan", "-o", "out")
    assert applied.returncode == 0, applied.stderr
    run(clean_process, LIVE, tmp_path)
