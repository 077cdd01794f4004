"""Every family through the pipeline: what was planned is what is there, and what is saved loads anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from plan_cases import joint_loss

from lbdsl.api.workbench import Workbench
from lbdsl.artifact.save import save_model
from lbdsl.execute.changes import apply_changes
from lbdsl.layer.difference import window_size
from lbdsl.model.hybrid.lbdsl_cache import cache_storage_bytes
from lbdsl.plan.build import build
from lbdsl.plan.schema import ModelRef
from lbdsl.plan.select import select
from lbdsl.recipe import recipe_from_text
from tests.clean_process import CleanProcess
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
    ref = ModelRef(
        source="tiny",
        digest="0" * 64,
        family=bench.facts.family,
        layers=bench.facts.layers,
        dtype=bench.facts.dtype,
        facts=bench.facts,
    )
    return build(recipe, bench.facts, selection, {}, joint_loss(0.0), ref, None, (CONTEXT,), "0").unwrap()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_planned_changed_saved_and_loaded(family: str, tmp_path: Path, clean_process: CleanProcess) -> None:
    family_base(family).save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    bench = Workbench(str(tmp_path / "base"))
    expected = {}
    for name, text in RECIPES.items():
        plan = planned(text, bench)
        model = bench.fresh_copy()
        apply_changes(model, plan)
        assert sum(p.numel() for p in model.parameters()) == plan.after.params
        for layer, spec in zip(model.model.layers, plan.specs, strict=True):
            assert {key for key, _ in layer.named_parameters()} == {t.name for t in spec.tensors(bench.facts)}
        ids = torch.randint(1, VOCAB, (1, CONTEXT), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            cache = cache_of(model(input_ids=ids, use_cache=True))
            assert cache_storage_bytes(cache) == plan.after.kv_bytes[str(CONTEXT)]
            logits = model(input_ids=ids, use_cache=False).logits
        tokens = model.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=0)
        save_model(model, bench.tokenizer, tmp_path / name)
        expected[name] = (ids, logits, tokens)
        saved = Workbench(str(tmp_path / name))
        assert saved.facts.params == plan.after.params
        assert saved.facts.layer_specs == plan.specs
    torch.save(expected, tmp_path / "expected.pt")
    done = clean_process.run(LOAD, cwd=tmp_path, HF_MODULES_CACHE=tmp_path / "modules")
    assert done.returncode == 0, done.stderr[-3000:]


RECIPE = """lbr 1
measure { data = "builtin:pydoc"; tokens = 192; seq = 64 }
lowest 1 by influence drop
lowest 1 of rest by kl(swa(window=5, sinks=2)) swa(window=5, sinks=2)
lowest 1 of rest by nll(drop(mlp)) drop(mlp)
else keep
heal { data = "builtin:pydoc"; tokens = 1024; seq = 64; batch = 2; lr = 2e-3; method = lora(rank=4, alpha=8) }
eval { data = "builtin:pydoc"; tokens = 256; seq = 64 }
assert ppl_increase < 1000%
"""


@pytest.mark.parametrize("family", ["gemma2", "phi3", "olmo3", "granite"])
def test_measured_healed_and_judged(family: str, tmp_path: Path, new_cache: Callable[[Path], Path]) -> None:
    """The four that differ most: capped logits, fused projections, norms after the sub-blocks, multipliers."""
    import lbdsl
    from lbdsl.api.applying import ApplyOptions
    from lbdsl.api.options import RunOptions

    family_base(family, vocab_size=260, initializer_range=0.1).save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    (tmp_path / "r.lbr").write_text(RECIPE)
    planned_ = lbdsl.plan_recipe(
        tmp_path / "r.lbr", str(tmp_path / "base"), options=RunOptions(cache_dir=new_cache(tmp_path / "cache"))
    )
    assert planned_.plan.applyable, planned_.diagnostics
    specs = planned_.plan.specs
    assert [sum(spec.mixer is None for spec in specs), sum(spec.ffn is None for spec in specs)] == [1, 1]
    assert sum(window_size(spec) == 5 for spec in specs) == 1
    done = lbdsl.apply_plan(planned_, chosen=ApplyOptions(output=tmp_path / "out"))
    assert done.exit_code == 0, done.diagnostics
    assert done.record.evaluation is not None
    # The loss before healing, measured layer by layer, is that of the whole changed model.
    model = planned_.bench.fresh_copy()
    apply_changes(model, planned_.plan)
    from lbdsl.api.texts import joint_blocks

    ids = joint_blocks(planned_.plan.measure, planned_.bench, tmp_path).ids
    with torch.no_grad():
        rise = model(input_ids=ids, labels=ids).loss - planned_.bench.base(input_ids=ids, labels=ids).loss
    assert planned_.plan.loss.rise.value == pytest.approx(rise.item(), abs=1e-4)
