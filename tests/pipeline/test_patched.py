"""`drop(patch=linear)` from a recipe to an artifact on a tiny model, by the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lbdsl.artifact.record import read_record
from lbdsl.data.written import NAME

pytestmark = pytest.mark.torch

MEASURE = 'lbr 1\nmeasure {{ data = "builtin:pydoc"; tokens = {}; seq = 64 }}\n'
DOWN = "model.layers.{}.mlp.down_proj.weight"


def recipe(place: Path, rules: str, tokens: int = 2048) -> str:
    (place / "patched.lbr").write_text(f"{MEASURE.format(tokens)}{rules}\n")
    return "patched.lbr"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_the_map_is_merged_into_the_layer_before(workplace: Path, lbdsl) -> None:
    name = recipe(workplace, "layers 2, 4 drop(patch=linear)\nelse keep")
    # From disk: then the text for checking is a built-in one, on which these patches certainly help.
    done = lbdsl("apply", name, "model", "-o", "out", "--yes", "--low-memory")
    assert done.code == 0, done.err
    record = read_record(workplace / "out").unwrap()
    plan = record.plan
    assert plan.measured_on is not None
    assert (plan.measured_on.check, bool(plan.measured_on.check_digest)) == ("builtin:docs", True)
    assert [layer.index for layer in plan.changed] == [1, 2, 3, 4]
    base, made = weights(workplace / "model"), weights(workplace / "out")
    left = {name: tensor for name, tensor in base.items() if name in made}
    changed = {name for name, tensor in left.items() if not torch.equal(tensor, made[name])}
    assert changed == {DOWN.format(1), DOWN.format(3)}
    gone = ("layers.2.self_attn", "layers.4.self_attn", "layers.2.input_layernorm", "layers.4.input_layernorm")
    assert base.keys() - made.keys() == {name for name in base if any(part in name for part in gone)}
    card = (workplace / "out" / "README.md").read_text()
    assert "| 1 | `patch for layer 2` |" in card
    # The same again: nothing is fitted again, and the weights are the same bits.
    again = lbdsl("apply", name, "model", "-o", "again", "--yes", "--low-memory")
    assert again.code == 0, again.err
    assert all(torch.equal(tensor, made[name]) for name, tensor in weights(workplace / "again").items())


def test_a_plan_shows_its_patches_and_goes_stale_without_them(
    workplace: Path, lbdsl, new_cache: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_dir = new_cache(workplace / "cache")
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(cache_dir))
    name = recipe(workplace, "layers 3 keep\nlayers 2, 4 drop(patch=linear)")
    shown = lbdsl("plan", name, "model", "-o", "x.lbplan", "--low-memory")
    assert shown.code == 0, shown.err
    assert "patch for layer 2" in shown.out
    assert "new weights of mlp.down_proj" in shown.out
    assert "patches: 1, fitted on builtin:pydoc, times" in " ".join(shown.out.split())
    assert "LB351" in shown.out
    assert "an earlier rule keeps the MLP of layer 3 as it is" in " ".join(shown.out.split())
    said = json.loads(lbdsl("plan", name, "model", "--json", "--low-memory").out)
    assert said["layers"][1]["new_weights"] == ["mlp.down_proj.weight"]
    assert said["measured_on"]["check"] == "builtin:docs"
    shutil.rmtree(cache_dir / "statistics")
    stale = lbdsl("apply", "x.lbplan", "-o", "out")
    assert stale.code == 3
    assert "LB347" in stale.err
    assert lbdsl("plan", name, "model", "--low-memory").code == 0
    assert lbdsl("apply", "x.lbplan", "-o", "out").code == 0


def test_a_patch_that_does_not_help_on_other_text_is_left_out(workplace: Path, lbdsl) -> None:
    done = lbdsl("apply", recipe(workplace, "layers 2, 4 drop(patch=linear)", 256), "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    (note,) = (f for f in read_record(workplace / "out").unwrap().plan.findings if f.code == "LB351")
    assert note.message == f"layers 2, 4 are dropped without a patch: it does not help on {NAME}"
    base, made = weights(workplace / "model"), weights(workplace / "out")
    assert all(torch.equal(tensor, base[name]) for name, tensor in made.items())
    plan = read_record(workplace / "out").unwrap().plan
    assert [layer.index for layer in plan.changed] == [2, 4]
    assert not plan.statistics
    assert plan.measured_on is not None
    assert plan.measured_on.patches is None
    assert "patch for" not in (workplace / "out" / "README.md").read_text()


def test_patched_drops_are_scored_with_their_patches(workplace: Path, lbdsl) -> None:
    name = recipe(workplace, "lowest 2 by kl(drop(patch=linear)) drop(patch=linear)")
    done = lbdsl("measure", name, "model", "--json")
    assert done.code == 0, done.err
    assert "LB352" in done.err
    patched = {row["layer"]: row["value"] for row in json.loads(done.out)["scores"] if row["metric"] == "kl"}
    name = recipe(workplace, "lowest 2 by kl(drop) drop")
    done = lbdsl("measure", name, "model", "--json")
    plain = {row["layer"]: row["value"] for row in json.loads(done.out)["scores"] if row["metric"] == "kl"}
    assert sorted(patched) == sorted(plain) == list(range(6))
    assert patched[0] == plain[0]  # nothing before it
    assert all(patched[layer] != plain[layer] for layer in range(1, 6))


def test_a_model_that_cannot_write_in_memory_is_checked_on_a_built_in_text(workplace: Path, lbdsl) -> None:
    name = recipe(workplace, "layers 2 drop(patch=linear)")
    said = lbdsl("plan", name, "model", "--json", "--low-memory")
    assert said.code == 0, said.err
    assert json.loads(said.out)["measured_on"]["check"] == "builtin:docs"
    in_memory = json.loads(lbdsl("plan", name, "model", "--json").out)
    assert in_memory["measured_on"]["check"] == NAME


def test_other_statistics_are_there_beside_scored_patches(workplace: Path, lbdsl) -> None:
    rules = "layers 5 width(32)\nlowest 1 of rest by kl(drop(patch=linear)) drop\nelse keep"
    done = lbdsl("apply", recipe(workplace, rules), "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    plan = read_record(workplace / "out").unwrap().plan
    assert list(plan.statistics) == ["channel_refit(keep=32)"]
