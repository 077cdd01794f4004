"""Every family through the pipeline: planned, changed and saved; what was planned is what is there, and it loads anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lbdsl.api.workbench import Workbench
from lbdsl.artifact.save import save_model
from lbdsl.execute.changes import apply_changes
from lbdsl.model.hybrid.lbdsl_cache import cache_storage_bytes
from lbdsl.plan.build import build
from lbdsl.plan.schema import Loss, ModelRef
from lbdsl.plan.select import select
from lbdsl.recipe import recipe_from_text
from tests.family_cases import FAMILY_NAMES, VOCAB, family_base
from tests.hybrid_cases import cache_of
from tests.tiny_model import byte_tokenizer

CONTEXT = 40
RECIPES = {
    "drop 0": "layers 0 drop\nelse keep",
    "swa 0": "layers 0 swa(window=5, sinks=3)\nelse keep",
    "drop + swa first": "layers 0 drop\nlayers 1 swa(window=5, sinks=3)\nelse keep",
    "no full layer": "layers 0, 2 swa(window=5, sinks=3)\nelse drop",
    "all kept": "else keep",
    "drop mlp": "layers 1, 3 drop(mlp)\nelse keep",
    "drop block": "layers 0, 2 drop(block)\nelse keep",
    "all at once": "layers 0 swa(window=5, sinks=3) + drop(mlp)\nlayers 2 drop(block)\nlayers 3 drop\nelse keep",
}

LOAD = """
import sys
sys.modules["lbdsl"] = None
import torch
from transformers import AutoModelForCausalLM
expected = torch.load("expected.pt")
for name, (ids, logits, tokens) in expected.items():
    model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True).eval()
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, logits), name
    assert torch.equal(model.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=0), tokens), name
"""


def planned(text: str, bench: Workbench):
    recipe = recipe_from_text(text + "\n").unwrap()
    selection = select(recipe, bench.facts, {}).unwrap()
    ref = ModelRef(source="tiny", digest="0" * 64, family=bench.facts.family, layers=bench.facts.layers,
                   dtype=bench.facts.dtype, facts={})
    return build(recipe, bench.facts, selection, {}, Loss(joint=0.0), ref, None, (CONTEXT,), "0").unwrap()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_planned_changed_saved_and_loaded(family: str, tmp_path: Path) -> None:
    family_base(family).save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    bench = Workbench(str(tmp_path / "base"))
    expected = {}
    for name, text in RECIPES.items():
        plan = planned(text, bench)
        model = bench.fresh_copy()
        apply_changes(model, plan, bench.facts)
        assert sum(p.numel() for p in model.parameters()) == plan.after.params
        for layer in plan.layers:
            kept = [key for key, _ in model.model.layers[layer.index].named_parameters()]
            assert not any(key.startswith(layer.removes) for key in kept)
        ids = torch.randint(1, VOCAB, (1, CONTEXT), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert cache_storage_bytes(cache_of(model(input_ids=ids, use_cache=True))) == plan.after.kv_bytes[str(CONTEXT)]
            logits = model(input_ids=ids, use_cache=False).logits
        tokens = model.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=0)
        save_model(model, bench.tokenizer, tmp_path / name)
        expected[name] = (ids, logits, tokens)
        saved = Workbench(str(tmp_path / name))
        assert saved.facts.params == plan.after.params
        assert [saved.facts.spec(layer) for layer in range(4)] == list(plan.specs)
    torch.save(expected, tmp_path / "expected.pt")
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
