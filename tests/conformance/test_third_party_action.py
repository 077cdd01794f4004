"""An action from outside, with its own part and cache, is one file and its runtime file: `examples/meanpool`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lbdsl.actions import Action
from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.registry import discover
from tests.clean_process import CleanProcess, Done

EXAMPLE = Path(__file__).parents[2] / "examples" / "meanpool" / "meanpool.py"

IN_PROCESS = """
import sys, torch
from pathlib import Path
from lbdsl.actions import actions
from lbdsl.artifact.runtime_files import write_runtime
from lbdsl.cost.cost import LayerCost
from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME, cache_storage_bytes
from lbdsl.model.inspect import inspect_model
from lbdsl.model.source import resolve_source
from tests.hybrid_cases import cache_of, hybrid_of, tiny_base

base = tiny_base()
base.save_pretrained(sys.argv[1] + "/base")
facts = inspect_model(resolve_source(sys.argv[1] + "/base"), "float32").unwrap()
action = actions()["meanpool"]()
specs = [action.under(facts, i).spec if i in (0, 2) else spec for i, spec in enumerate(facts.layer_specs)]
model = hybrid_of(base, [spec.to_json() for spec in specs])
costs = [LayerCost.of(spec, facts) for spec in specs]
assert sum(p.numel() for p in model.parameters()) == facts.other_params + sum(cost.params for cost in costs)
assert costs[0].params < costs[1].params

ids = torch.randint(1, 101, (1, 40))
with torch.no_grad():
    whole = model(input_ids=ids, use_cache=False).logits
    cache, parts = {}, []
    for start in range(0, 40, 3):
        out = model(input_ids=ids[:, start:start + 3], use_cache=True, **cache)
        cache = {CACHE_NAME: cache_of(out)}
        parts.append(out.logits)
        seen = min(start + 3, 40)
        expected = sum(cost.kv_bytes(seen) for cost in costs)
        assert cache_storage_bytes(cache_of(out)) == expected, (seen, expected)
assert (torch.cat(parts, 1) - whole).abs().max() < 1e-4
# A row of a left-padded batch equals the row alone.
padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), ids], 1)
mask = torch.cat([torch.zeros(1, 5), torch.ones(1, 40)], 1).long()
with torch.no_grad():
    row = model(input_ids=padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_min(0)).logits[:, 5:]
assert (row - whole).abs().max() < 1e-4

prompt, options = ids[:, :9], {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
assert torch.equal(model.generate(prompt, cache_implementation="static", **options), model.generate(prompt, **options))

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
    assert {"lbdsl_part_meanpool.py", "lbdsl_part_attention.py"} <= copied
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["lbdsl"]["layers"][0]["mixer"] == {"kind": "meanpool", "heads": 4, "kv_heads": 2, "head_dim": 8}


def test_without_the_plug_in_it_does_not_exist() -> None:
    from lbdsl.actions import actions

    if os.environ.get("LBDSL_PLUGINS"):
        pytest.fail("tests run without plug-ins")
    assert "meanpool" not in actions()


@pytest.mark.parametrize("text", ["from lbdsl.actions import Aspect\n", "1 / 0\n", "(\n", None])
def test_a_plug_in_that_cannot_be_loaded_is_an_error_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    import lbdsl.actions as package

    if text is not None:
        (tmp_path / "broken.py").write_text(text)
    monkeypatch.setenv("LBDSL_PLUGINS", str(tmp_path / "broken.py"))
    for _ in range(2):
        with pytest.raises(LbdslError, match=r"broken\.py cannot be loaded") as caught:
            discover(package, Action, "lbdsl.actions")
        assert [d.code for d in caught.value.diagnostics] == ["LB483"]


def test_a_second_file_of_the_same_name_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lbdsl.actions as package

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same_name.py").write_text("")
    monkeypatch.setenv("LBDSL_PLUGINS", os.pathsep.join(str(tmp_path / name / "same_name.py") for name in "ab"))
    with pytest.raises(LbdslError, match="another one has that name"):
        discover(package, Action, "lbdsl.actions")


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
    assert [layer["after"]["mixer"]["kind"] for layer in json.loads(planned.stdout)["layers"]].count("meanpool") == 2
    applied = lbdsl("apply", "x.lbplan", "-o", "out")
    assert applied.returncode == 0, applied.stderr
    run(clean_process, LIVE, tmp_path)


@pytest.mark.torch
def test_a_part_that_counts_wrong_is_seen_before_anything_is_saved(
    tmp_path: Path, clean_process: CleanProcess, new_cache: Callable[[Path], Path]
) -> None:
    from tests.tiny_model import save_tiny_model

    text = EXAMPLE.read_text()
    wrong = text.replace("(model.hidden, self.heads * self.head_dim)", "(model.hidden, self.head_dim)")
    assert wrong != text
    (tmp_path / "wrong.py").write_text(wrong)
    shutil.copy(EXAMPLE.with_name("lbdsl_part_meanpool.py"), tmp_path)
    save_tiny_model(tmp_path / "model")
    new_cache(tmp_path / "cache")
    (tmp_path / "x.lbr").write_text("layers 1 meanpool\n")
    done = clean_process.lbdsl(
        *("apply", "x.lbr", "model", "-o", "out", "--yes"),
        cwd=tmp_path,
        LBDSL_CACHE_DIR=tmp_path / "cache",
        LBDSL_PLUGINS=tmp_path / "wrong.py",
    )
    assert (done.returncode, "LB475" in done.stderr) == (6, True), done.stderr[-3000:]
    assert not (tmp_path / "out").exists()


@pytest.mark.torch
def test_what_a_plug_in_was_is_measured_again_once_it_is_edited(
    tmp_path: Path, clean_process: CleanProcess, new_cache: Callable[[Path], Path]
) -> None:
    """Its file and its runtime file are in the key of scores and joint losses, and in saved plans."""
    from tests.tiny_model import save_tiny_model

    save_tiny_model(tmp_path / "model")
    for path in EXAMPLE.parent.glob("*.py"):
        shutil.copy(path, tmp_path)
    rule = "lowest 2 by nll(meanpool) meanpool\nelse keep\n"
    (tmp_path / "x.lbr").write_text(f'measure {{ data = "builtin:pydoc"; tokens = 256; seq = 64 }}\n{rule}')

    def lbdsl(*words: str, code: int = 0, cache: str = "cache") -> Done:
        plug_in, folder = tmp_path / "meanpool.py", tmp_path / cache
        done = clean_process.lbdsl(*words, cwd=tmp_path, LBDSL_CACHE_DIR=folder, LBDSL_PLUGINS=plug_in)
        assert done.returncode == code, done.stderr
        return done

    def planned(cache: str = "cache") -> tuple[Any, Any, dict[str, str]]:
        if not (tmp_path / cache).is_dir():
            new_cache(tmp_path / cache)
        plan = json.loads(lbdsl("plan", "x.lbr", "model", "-o", "x.lbplan", "--no-recall", "--json", cache=cache).stdout)
        return [layer["scores"] for layer in plan["layers"]], plan["loss"], plan["measured_on"]["versions"]

    *first, versions = planned()
    assert {"plug-in meanpool", "plug-in lbdsl_part_meanpool"} <= set(versions)
    runtime = tmp_path / "lbdsl_part_meanpool.py"
    runtime.write_text(runtime.read_text().replace("mean = (sums / count)", "mean = 3 * (sums / count)"))
    refused = lbdsl("apply", "x.lbplan", "-o", "out", code=3).stderr
    assert ("LB344" in refused, "the plug-in lbdsl_part_meanpool changed" in refused) == (True, True), refused
    *again, changed = planned()
    assert [name for name in versions if versions[name] != changed[name]] == ["plug-in lbdsl_part_meanpool"]
    assert again[0] != first[0]
    assert again == list(planned("new")[:2])
