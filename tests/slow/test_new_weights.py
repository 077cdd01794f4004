"""`kv_heads` and `width` on SmolLM2-135M as mechanics: cost, weights and scores are what they should be, whatever the
quality."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lbdsl
from lbdsl.actions.kv_heads import KVHeads
from lbdsl.api.applying import ApplyOptions
from lbdsl.api.planning import Planned
from lbdsl.artifact.restore import load_artifact
from lbdsl.artifact.save import save_model
from lbdsl.measure.statistics import kept_statistics
from lbdsl.model.hybrid.lbdsl_cache import cache_storage_bytes
from lbdsl.model.load import load_base
from lbdsl.run.changes import apply_changes, made_from
from lbdsl.session.options import RunOptions
from lbdsl.session.texts import score_blocks
from tests.by_hand import inputs_of_down, kv_heads_by_hand, width_by_hand
from tests.hybrid_cases import cache_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("all_cores")]

CHANGED, CONTEXT = range(4, 28), 1100
RECIPE = """measure { data = "builtin:pydoc"; tokens = 2Ki; seq = 512 }
layers 4-27 kv_heads(1)
layers all width(75%)
"""
SCORED = """measure { data = "builtin:pydoc"; tokens = 1Ki; seq = 256 }
layers 0-8, 12-29 keep
lowest 1 of rest by kl(kv_heads(1)) kv_heads(1)
lowest 1 of rest by nll(width(75%)) width(75%)
else keep
"""


@pytest.fixture(scope="module")
def planned(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Planned:
    folder = tmp_path_factory.mktemp("mechanics")
    (folder / "r.lbr").write_text(RECIPE)
    options = RunOptions(dtype="float32", cache_dir=folder / "cache")
    return lbdsl.plan_recipe(folder / "r.lbr", smollm2, options=options, ctx=CONTEXT)


@pytest.fixture(scope="module")
def artifact(planned: Planned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rewritten from the base's files, without loading the model."""
    done = lbdsl.apply_plan(planned, chosen=ApplyOptions(output=tmp_path_factory.mktemp("artifact") / "out"))
    assert done.exit_code == 0, done.diagnostics
    return done.folder


def test_parameters_bytes_and_cache_are_as_planned(planned: Planned, artifact: Path) -> None:
    after = planned.plan.after
    tensors = [tensor for file in artifact.glob("*.safetensors") for tensor in load_file(file).values()]
    assert sum(tensor.nbytes for tensor in tensors) == after.weights
    model = load_artifact(artifact, device="cpu")
    assert sum(parameter.numel() for parameter in model.parameters()) == after.params
    ids = torch.randint(0, 49000, (1, CONTEXT), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    assert cache_storage_bytes(cache_of(out)) == after.kv_bytes[str(CONTEXT)]


def test_logits_are_those_of_the_same_surgery_in_plain_torch(planned: Planned, artifact: Path) -> None:
    stock = load_base(planned.bench.source, dtype="float32", device="cpu", cache_dir=planned.bench.cache_dir)
    ids = score_blocks(planned.plan.measure, planned.bench, Path()).ids
    inputs = inputs_of_down(stock, ids)
    by_hand = width_by_hand(kv_heads_by_hand(stock, KVHeads(n=1), ids, CHANGED), 1152, inputs, refit=True)
    model = load_artifact(artifact, device="cpu")
    with torch.no_grad():
        wanted, found = (it(input_ids=ids[:2], use_cache=False).logits for it in (by_hand, model))
    difference = (found - wanted).abs().max() / wanted.abs().max()
    print(f"largest difference of logits: {difference:.1e} of the largest logit {wanted.abs().max():.1f}")
    assert difference <= 1e-5


def test_rewritten_from_files_it_is_what_memory_makes(planned: Planned, artifact: Path, tmp_path: Path) -> None:
    plan, bench = planned.plan, planned.bench
    assert plan.measured_on is not None
    statistics = kept_statistics(bench.cache_dir, plan.measured_on.fingerprint, plan.used_statistics)
    model = bench.fresh_copy()
    apply_changes(model, plan, made_from(statistics))
    save_model(model, bench.tokenizer, tmp_path / "memory")
    one, other = (
        {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
        for folder in (artifact, tmp_path / "memory")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_scores_from_disk_are_those_from_memory(smollm2: str, tmp_path: Path) -> None:
    (tmp_path / "r.lbr").write_text(SCORED)
    plans = []
    # One thread: kernels share out the work as its size and the memory's alignment suggest, which rounds differently.
    torch.set_num_threads(1)
    for low_memory in (False, True):
        cache = tmp_path / f"cache-{low_memory}"
        options = RunOptions(dtype="float32", cache_dir=cache, low_memory=low_memory)
        plans.append(lbdsl.plan_recipe(tmp_path / "r.lbr", smollm2, options=options).plan)
    loaded, streamed = plans
    assert [len(layer.scores) for layer in loaded.layers] == [2 if 9 <= layer.index <= 11 else 0 for layer in loaded.layers]
    assert loaded.statistics == streamed.statistics
    assert loaded.layers == streamed.layers
    assert loaded.loss == streamed.loss
